"""In which order a person reviews polygons: that of the review sheet, and others that a benchmark compares with it.

The confidence of a polygon is the mean probability inside it. Polygons are drawn where the probability is at least one
half, so the lowest confidence is nearest to a coin flip.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np


class Reviewable(Protocol):
    """A polygon to review."""

    @property
    def entry_id(self) -> str:
        """The entry that the polygon is on."""

    @property
    def confidence(self) -> float | None:
        """The confidence 0..1; None where the polygon has none."""

    @property
    def area_um2(self) -> float | None:
        """The area; None where it is not known."""


Order = Callable[[Sequence[Reviewable], np.random.Generator], list[int]]
"""Gives the indices of the polygons in the order in which they are reviewed."""


def least_certain(polygons: Sequence[Reviewable], rng: np.random.Generator | None = None) -> list[int]:
    """The lowest confidence first, and of equal ones the largest. Polygons without confidence come before all others.

    This is the order of the review sheet.
    """
    return sorted(range(len(polygons)), key=lambda index: _certainty(polygons[index]))


def largest_gain(polygons: Sequence[Reviewable], rng: np.random.Generator) -> list[int]:
    """The largest area that is expected to be wrong first: the area times one minus the confidence."""

    def gain(polygon: Reviewable) -> float:
        return (1.0 - (polygon.confidence or 0.0)) * (polygon.area_um2 or 0.0)

    return sorted(range(len(polygons)), key=lambda index: -gain(polygons[index]))


def spread_over_slides(polygons: Sequence[Reviewable], rng: np.random.Generator) -> list[int]:
    """The least certain polygon of every slide first, then the second of every slide, and so on."""
    before = Counter[str]()
    turn: dict[int, int] = {}
    for index in least_certain(polygons):
        turn[index] = before[polygons[index].entry_id]
        before[polygons[index].entry_id] += 1
    return sorted(turn, key=lambda index: (turn[index], _certainty(polygons[index])))


def at_random(polygons: Sequence[Reviewable], rng: np.random.Generator) -> list[int]:
    """A random order."""
    return [int(index) for index in rng.permutation(len(polygons))]


#: The orders by name.
ORDERS: Mapping[str, Order] = {
    "uncertain": least_certain,
    "gain": largest_gain,
    "spread": spread_over_slides,
    "random": at_random,
}


def _certainty(polygon: Reviewable) -> tuple[float, float]:
    """What the least certain polygon has least of: the confidence, then the area, negated."""
    return -1.0 if polygon.confidence is None else polygon.confidence, -(polygon.area_um2 or 0.0)
