"""Class activation maps for a slide, and sliding-window masks for a slide."""
