"""The training loops, each readable aloud, and the checkpoint that rebuilds itself."""
