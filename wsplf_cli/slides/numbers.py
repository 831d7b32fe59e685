"""Reads numbers from the texts in slide files."""

import math


def number(text: str | None) -> float | None:
    """The text as a number of at least 0, or None for anything else."""
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None
