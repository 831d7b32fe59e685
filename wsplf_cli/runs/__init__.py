"""What runs leave in a project's folder beside QuPath's files: who writes now, what was written, how to put it back."""
