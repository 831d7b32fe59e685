"""QuPath's colours: how it packs them, and the colours of classes to which the project gives none."""

import math
from collections.abc import Mapping
from typing import Any

from wsplf_cli.class_names import spelling_of

Rgb = tuple[int, int, int]

#: The colours of QuPath's default classes.
STANDARD: Mapping[str, Rgb] = {
    "Tumor": (200, 0, 0),
    "Stroma": (150, 200, 150),
    "Immune cells": (160, 90, 160),
    "Necrosis": (50, 50, 50),
    "Other": (255, 200, 0),
    "Region*": (0, 0, 180),
    "Ignore*": (180, 180, 180),
    "Positive": (250, 62, 62),
    "Negative": (112, 112, 225),
}

#: Factors by which a last component such as "Positive" changes the colour of the class before it.
_SCALES = {"1+": 0.9, "2+": 0.6, "3+": 0.4, "Positive": 0.75, "Negative": 1.25}
_OF_TUMOR = {
    "1+": (255, 215, 0),
    "2+": (225, 150, 50),
    "3+": (200, 50, 50),
    "Positive": (200, 50, 50),
    "Negative": (90, 90, 180),
}
_DARK = 40


def pack_rgb(rgb: Rgb | None) -> int | None:
    """QuPath's signed 32-bit colour of (r, g, b)."""
    return None if rgb is None else ((rgb[0] << 16) | (rgb[1] << 8) | rgb[2]) - (1 << 24)


def unpack_rgb(packed: Any) -> Rgb | None:
    """(r, g, b) of QuPath's signed 32-bit colour; None for no colour."""
    if isinstance(packed, bool) or not isinstance(packed, int | float) or not math.isfinite(packed):
        return None
    argb = int(packed)
    return (argb >> 16) & 255, (argb >> 8) & 255, argb & 255


def read_rgb(value: Any) -> Rgb | None:
    """(r, g, b) of a JSON value: a list of three or four numbers, or a packed number; None of anything else."""
    if isinstance(value, list) and len(value) in (3, 4) and all(isinstance(channel, int | float) for channel in value):
        red, green, blue = (min(255, max(0, int(channel))) for channel in value[:3])
        return red, green, blue
    return unpack_rgb(value)


def class_rgb(name: str, *, known: Mapping[str, Rgb]) -> Rgb:
    """The colour of a class: the project's (``known``, by full name), else the one that QuPath 0.4 to 0.7 chooses."""
    if name in known:
        return known[name]
    if (spelling := spelling_of(name, known)) in known:
        return known[spelling]
    if name in STANDARD:
        return STANDARD[name]
    parent, _, last = name.rpartition(": ")
    if parent == "Tumor" and last in _OF_TUMOR:
        return _OF_TUMOR[last]
    if parent and last in _SCALES:
        red, green, blue = (min(255, int(part * _SCALES[last])) for part in class_rgb(parent, known=known))
        return red, green, blue
    return _drawn(name)


def _drawn(name: str) -> Rgb:
    """The colour that QuPath draws for an unknown name: always the same for one name, never very dark."""
    seed = 0
    units = name.encode("utf-16-be", "surrogatepass")
    for offset in range(0, len(units), 2):
        seed = (31 * seed + int.from_bytes(units[offset : offset + 2], "big")) & 0xFFFFFFFF
    if seed >= 1 << 31:
        seed -= 1 << 32
    # java.util.Random: a linear congruential generator of 48 bits, of which nextInt(256) gives the upper 8
    state = (seed ^ 0x5DEECE66D) & ((1 << 48) - 1)
    while True:
        drawn = []
        for _ in range(3):
            state = (state * 0x5DEECE66D + 0xB) & ((1 << 48) - 1)
            drawn.append(state >> 40)
        if max(drawn) >= _DARK:
            return drawn[0], drawn[1], drawn[2]
