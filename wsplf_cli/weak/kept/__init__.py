"""What a run keeps of its fit, and the tissue that is most alike in it."""
