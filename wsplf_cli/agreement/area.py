"""How far readers agree on the area of a class: Dice on polygons, kappa on the tissue of a slide.

Where a reader left a polygon pending, or ignored it, nobody knows what the reader thinks. These areas are left out of
every comparison with that reader.

- Dice (between two readers, and of each with the majority) comes from exact intersections of polygons.
- Cohen's kappa of two readers (Cohen 1960, Educ Psychol Meas 20:37-46) and Fleiss' kappa of all (Fleiss 1971, Psychol
  Bull 76:378-382) come from the pixels of the tissue mask: 8 um wide, finer on small slides. A pixel is of the class
  where its centre lies in a polygon. Kappa is (P - E) / (1 - E), with P the observed agreement and E the agreement that
  chance would give; it is not defined where all say the same everywhere (E = 1), and None there.
- The majority is the area that more than half of the readers mark; of two readers, what both mark.

Areas are in um2, so the figures of several slides add up to pooled ones.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsplf_cli.agreement.parts import Parts, area, common_area, difference, intersection
from wsplf_cli.agreement.reading import Reading
from wsplf_cli.geometry import rasterise_disjoint
from wsplf_cli.metrics import Overlap
from wsplf_cli.schema import TissueMask

Pair = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Confusion:
    """The tissue area on which two readers decided, by what they say of it: both mark the class, one of them, none."""

    both: float = 0.0
    first: float = 0.0
    second: float = 0.0
    neither: float = 0.0

    def __add__(self, other: "Confusion") -> "Confusion":
        return Confusion(
            self.both + other.both, self.first + other.first, self.second + other.second, self.neither + other.neither
        )

    @property
    def kappa(self) -> float | None:
        """Cohen's kappa; None without area, or where both readers say the same thing everywhere."""
        total = self.both + self.first + self.second + self.neither
        if total == 0:
            return None
        first, second = (self.both + self.first) / total, (self.both + self.second) / total
        return _kappa((self.both + self.neither) / total, first * second + (1 - first) * (1 - second))


@dataclass(frozen=True, slots=True)
class Votes:
    """``area[k]``: the tissue area on which all readers decided and ``k`` of them mark the class."""

    area: tuple[float, ...] = ()

    def __add__(self, other: "Votes") -> "Votes":
        if not self.area or not other.area:
            return other if other.area else self
        return Votes(tuple(one + two for one, two in zip(self.area, other.area, strict=True)))

    @property
    def kappa(self) -> float | None:
        """Fleiss' kappa; None without area, or where all readers say the same thing everywhere."""
        total, readers = sum(self.area), len(self.area) - 1
        if total == 0 or readers < 2:
            return None
        positive = sum(count * area for count, area in enumerate(self.area)) / (readers * total)
        pairs = readers * (readers - 1)
        observed = sum(
            area * (count * (count - 1) + (readers - count) * (readers - count - 1))
            for count, area in enumerate(self.area)
        ) / (pairs * total)
        return _kappa(observed, positive**2 + (1 - positive) ** 2)


@dataclass(frozen=True, slots=True)
class AreaAgreement:
    """How far the readers agree on the area of a class; readers are indices, areas um2. Instances add up with ``+``.

    - ``pairs``: the overlap of each two readers, ``truth`` being the first. ``majority``: that of each reader
      (``predicted``) with the majority.
    - ``confusions`` and ``votes``: the same on the tissue; empty where the tissue is not known. ``votes`` holds only
      slides that all readers read.
    - ``marked``: what each reader marks. ``undecided``: what each left pending or ignored.
    """

    pairs: Mapping[Pair, Overlap] = field(default_factory=dict)
    majority: Mapping[int, Overlap] = field(default_factory=dict)
    confusions: Mapping[Pair, Confusion] = field(default_factory=dict)
    votes: Votes = field(default_factory=Votes)
    marked: Mapping[int, float] = field(default_factory=dict)
    undecided: Mapping[int, float] = field(default_factory=dict)

    def __add__(self, other: "AreaAgreement") -> "AreaAgreement":
        return AreaAgreement(
            _sums(self.pairs, other.pairs, Overlap()),
            _sums(self.majority, other.majority, Overlap()),
            _sums(self.confusions, other.confusions, Confusion()),
            self.votes + other.votes,
            _sums(self.marked, other.marked, 0.0),
            _sums(self.undecided, other.undecided, 0.0),
        )


def compare_areas(
    readings: Mapping[int, Reading], *, readers: int, unit_um2: float, tissue: TissueMask | None
) -> AreaAgreement:
    """How far the readers of one slide agree.

    Args:
        readings: What each reader says, by the reader's index.
        readers: The number of all readers. ``votes`` is empty where one of them has not read the slide.
        unit_um2: The area of a level-0 pixel.
        tissue: The tissue; None where it is not known, and there is no kappa then.
    """
    marked = {reader: reading.positive for reader, reading in readings.items()}
    undecided = {reader: reading.undecided for reader, reading in readings.items()}
    # what a reader marks is never undecided for the same reader
    outside = {
        (one, other): difference(marked[one], undecided[other]) for one, other in permutations(sorted(readings), 2)
    }
    pairs = {
        (one, other): _overlap(outside[one, other], outside[other, one], unit_um2=unit_um2)
        for one, other in combinations(sorted(readings), 2)
    }
    decided_by_all = dict(marked)
    for one, other in outside:
        decided_by_all[one] = difference(decided_by_all[one], undecided[other])
    confusions: dict[Pair, Confusion] = {}
    votes = Votes()
    if tissue is not None:
        in_class = {reader: _on_tissue(parts, tissue) for reader, parts in marked.items()}
        unknown = {reader: _on_tissue(parts, tissue) for reader, parts in undecided.items()}
        pixel_um2 = unit_um2 * tissue.downsample**2
        confusions = {
            (first, second): _confusion(
                in_class[first], in_class[second], decided=~(unknown[first] | unknown[second]), pixel_um2=pixel_um2
            )
            for first, second in pairs
        }
        if len(readings) == readers:
            votes = _votes(list(in_class.values()), list(unknown.values()), pixel_um2=pixel_um2)
    return AreaAgreement(
        pairs,
        _with_majority(decided_by_all, unit_um2=unit_um2),
        confusions,
        votes,
        {reader: area(parts) * unit_um2 for reader, parts in marked.items()},
        {reader: area(parts) * unit_um2 for reader, parts in undecided.items()},
    )


def _kappa(observed: float, by_chance: float) -> float | None:
    return None if by_chance >= 1 - 1e-12 else (observed - by_chance) / (1 - by_chance)


def _sums(one: Mapping[Any, Any], other: Mapping[Any, Any], zero: Any) -> dict[Any, Any]:
    return {key: one.get(key, zero) + other.get(key, zero) for key in sorted({*one, *other})}


def _overlap(one: Parts, other: Parts, *, unit_um2: float) -> Overlap:
    return Overlap(area(one) * unit_um2, area(other) * unit_um2, common_area(one, other) * unit_um2)


def _with_majority(marked: Mapping[int, Parts], *, unit_um2: float) -> dict[int, Overlap]:
    """The overlap of each reader (``predicted``) with the area that more than half of the readers mark (``truth``).

    By inclusion and exclusion from the areas that all readers of each group mark: so no outline is cut by another one
    that nearly runs along it, which is slow. There are few readers.
    """
    common = _common_areas(marked)
    needed = len(marked) // 2 + 1
    majority = _covered_by(needed, common)
    overlaps = {}
    for reader, parts in marked.items():
        with_reader = {group - {reader}: common[group] for group in common if reader in group}
        both = area(parts) if needed == 1 else _covered_by(needed - 1, with_reader)
        overlaps[reader] = Overlap(majority * unit_um2, area(parts) * unit_um2, both * unit_um2)
    return overlaps


def _common_areas(marked: Mapping[int, Parts]) -> dict[frozenset[int], float]:
    """The area that all readers of a group mark, for each group of readers."""
    parts_of: dict[frozenset[int], Parts] = {}
    for reader, parts in marked.items():
        with_reader = {group | {reader}: intersection(common, parts) for group, common in parts_of.items()}
        parts_of |= {frozenset({reader}): parts} | with_reader
    return {group: area(parts) for group, parts in parts_of.items()}


def _covered_by(least: int, common: Mapping[frozenset[int], float]) -> float:
    """The area that at least so many readers mark, from the areas that all readers of each group mark.

    It is the sum over groups of k >= least readers of (-1)^(k - least) binomial(k - 1, least - 1) times their area.
    """
    return math.fsum(
        (-1) ** (len(group) - least) * math.comb(len(group) - 1, least - 1) * size
        for group, size in common.items()
        if len(group) >= least
    )


def _on_tissue(parts: Parts, tissue: TissueMask) -> NDArray[np.bool_]:
    """Whether the centre of each pixel of the tissue lies in an area, bool [N]."""
    rows, columns = tissue.mask.shape
    inside = rasterise_disjoint(parts, downsample=tissue.downsample, size_px=(columns, rows))
    return inside[tissue.mask]


def _confusion(
    first: NDArray[np.bool_], second: NDArray[np.bool_], *, decided: NDArray[np.bool_], pixel_um2: float
) -> Confusion:
    cells = np.bincount(2 * first[decided] + second[decided], minlength=4) * pixel_um2
    return Confusion(both=float(cells[3]), first=float(cells[2]), second=float(cells[1]), neither=float(cells[0]))


def _votes(in_class: Sequence[NDArray[np.bool_]], unknown: Sequence[NDArray[np.bool_]], *, pixel_um2: float) -> Votes:
    decided = ~np.any(unknown, axis=0)
    counts = np.sum(in_class, axis=0)[decided]
    return Votes(tuple(float(count) * pixel_um2 for count in np.bincount(counts, minlength=len(in_class) + 1)))
