"""The tiles of a cohort as the MIL classifier takes them, and the folds in which slides are judged by others."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from wsplf_cli.errors import ProjectError
from wsplf_cli.review.memory import Review
from wsplf_cli.review.regions import known_cells
from wsplf_cli.schema import Entry, EntryResult, SlideLabel, TileGrid, TissueMask
from wsplf_cli.slides.entry import slide_of
from wsplf_cli.slides.grid import read_tiles
from wsplf_cli.slides.open import Slide

#: Tiles are kept in memory until so much is used; the rest is read anew each time.
KEPT_BYTES = 3 * 1024**3
#: Pixels of a tile in one cell of what is known of it: no network's map is much finer.
KNOWN_CELL_PX = 8


@dataclass(frozen=True, slots=True)
class CohortSlide:
    """One slide, ready to be looked at."""

    entry: Entry
    mpp_slide: float
    tissue: TissueMask
    grid: TileGrid
    review: Review = field(default_factory=Review)

    def slide(self) -> Slide:
        """The open slide; handles are shared and few, so ask anew for each piece of work."""
        return slide_of(self.entry)

    def of(self, path_class: str) -> "CohortSlide":
        """The slide as one class sees it: a label that names only others is negative, regions are those of the class."""
        held = frozenset[str]() if self.entry.label is None else self.entry.label.classes & {path_class}
        return replace(self, entry=replace(self.entry, label=SlideLabel(held)), review=self.review.of(path_class))

    @property
    def positive(self) -> bool:
        """Whether the slide label says that there is something to find."""
        return self.entry.label is not None and bool(self.entry.label.classes)

    @property
    def known(self) -> Callable[[NDArray[np.integer]], NDArray[np.float32]] | None:
        """Where in tiles a person has said what is there (see ``review.known_cells``); None where nobody has."""
        regions = self.review.regions
        if not (regions.positive or regions.negative or regions.complete):
            return None
        side_px = max(1, self.grid.tile_px // KNOWN_CELL_PX)
        return lambda indices: known_cells(regions, self.grid, indices, side_px=side_px)

    @property
    def group(self) -> str:
        """The patient where it is known, else the entry: slides of a group stay in one fold."""
        return self.entry.metadata.get("patient", "") or self.entry.id


class SlideTiles:
    """The tiles of one slide, kept in memory when ``keep`` is true."""

    def __init__(self, prepared: CohortSlide, *, keep: bool) -> None:
        self._prepared = prepared
        self._keep = keep
        self._tiles: NDArray[np.uint8] | None = None

    def __len__(self) -> int:
        """Number of tiles."""
        return len(self._prepared.grid.xy_px0)

    def read(self, indices: NDArray[np.integer]) -> NDArray[np.uint8]:
        """Tiles uint8 [len(indices), H, W, 3], RGB."""
        entry, grid = self._prepared.entry, self._prepared.grid
        if not self._keep:
            return read_tiles(entry, grid, indices)
        if self._tiles is None:
            self._tiles = read_tiles(entry, grid, np.arange(len(self)))
        chosen: NDArray[np.uint8] = self._tiles[indices]
        return chosen


def tile_sources(prepared: Sequence[CohortSlide]) -> dict[str, SlideTiles]:
    """The tiles of each slide by entry id; the first ones are kept in memory as far as the bound allows."""
    sources = {}
    used = 0
    for one in prepared:
        used += len(one.grid.xy_px0) * 3 * one.grid.tile_px**2
        sources[one.entry.id] = SlideTiles(one, keep=used <= KEPT_BYTES)
    return sources


def require_kinds(prepared: Sequence[CohortSlide], results: Sequence[EntryResult]) -> None:
    """Refuse to learn without a slide of each kind.

    Raises:
        ProjectError: there is none of one kind; says why the others in ``results`` cannot be used.
    """
    for positive, kind in ((True, "positive"), (False, "negative")):
        if not any(one.positive is positive for one in prepared):
            raise ProjectError(
                f"no {kind} slide can be used: " + "; ".join(one.reason for one in results if one.reason),
                hint="wsplf doctor PROJECT shows every entry",
            )


def folds_of(prepared: Sequence[CohortSlide], *, folds: int, rng: np.random.Generator) -> dict[str, int]:
    """The fold of each entry id, 0 to ``folds`` - 1; positives and negatives are dealt out evenly, groups together.

    Fewer folds where there are fewer than two groups of a class outside of each; a single fold where that cannot be.
    """
    groups: dict[str, list[CohortSlide]] = {}
    for one in prepared:
        groups.setdefault(one.group, []).append(one)
    positive = [group for group in groups.values() if any(one.positive for one in group)]
    negative = [group for group in groups.values() if not any(one.positive for one in group)]
    count = min(folds, len(positive), len(negative))
    if count < 2:
        return {one.entry.id: 0 for one in prepared}
    fold_of: dict[str, int] = {}
    for kind in (positive, negative):
        for place, index in enumerate(rng.permutation(len(kind))):
            fold_of |= {one.entry.id: place % count for one in kind[index]}
    return fold_of
