"""Parts of the networks that are not chosen by name."""
