"""One slide of a cohort, prepared for learning: its tissue, its tiles, its label and what a review says of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from wsplf_cli.backends import Project
from wsplf_cli.cohort.run import SlideStep, finished_entries, for_each_slide
from wsplf_cli.errors import ProjectError
from wsplf_cli.executors.workers import IN_PROCESS, Workers
from wsplf_cli.options import PseudolabelOptions
from wsplf_cli.review.memory import Review, read_review
from wsplf_cli.review.regions import ReviewRegions, known_cells
from wsplf_cli.schema import Annotation, Entry, EntryResult, PromptedMask, TileGrid, TissueMask, Tracker
from wsplf_cli.slides.entry import entry_slide, slide_of
from wsplf_cli.slides.grid import make_grid, read_tiles
from wsplf_cli.slides.map import SlideMap
from wsplf_cli.slides.open import Slide
from wsplf_cli.slides.tissue import ink_um2, tissue_mask, tissue_um2

#: Tiles overlap by half, so that what one tile cuts lies in the middle of another.
TILE_OVERLAP = 0.5
#: Tiles are kept in memory up to this; the others are read from the slide again each time.
KEPT_BYTES = 3 * 1024**3
#: Pixels of a tile per cell of the known layers: few networks have a finer map.
KNOWN_CELL_PX = 8


@dataclass(frozen=True, slots=True)
class CohortSlide:
    """One slide of a cohort. ``mpp`` is micrometres per pixel at level 0; ``grid`` are the tiles over the tissue."""

    entry: Entry
    mpp: float
    tissue: TissueMask
    grid: TileGrid
    review: Review = field(default_factory=Review)

    def open(self) -> Slide:
        """The open slide. Handles are shared and few, so call this for each piece of work and do not keep the slide."""
        return slide_of(self.entry)

    def is_positive(self, path_class: str) -> bool:
        """Whether the slide label names the class. A label that names only other classes is negative for it."""
        return self.entry.label is not None and self.entry.label.holds(path_class)

    def regions(self, path_class: str) -> ReviewRegions:
        """Where a person has decided what is there, for the class."""
        return self.review.of(path_class)

    def known_tiles(self, path_class: str, indices: NDArray[np.integer]) -> NDArray[np.float32] | None:
        """Where in tiles a person has decided, float32 [n, 2, s, s] (see ``known_cells``); None if nowhere."""
        regions = self.regions(path_class)
        if not regions.teaches:
            return None
        return known_cells(regions, self.grid, indices, side_px=max(1, self.grid.tile_px // KNOWN_CELL_PX))

    @property
    def patient(self) -> str:
        """The patient where the project names one, else the entry. Slides of one patient stay in one fold."""
        return self.entry.patient or self.entry.id


class SlideTiles:
    """The tiles of one slide, kept in memory when ``keep`` is true."""

    def __init__(self, slide: CohortSlide, *, keep: bool) -> None:
        self.slide = slide
        self._keep = keep
        self._tiles: NDArray[np.uint8] | None = None

    def __len__(self) -> int:
        """Number of tiles."""
        return len(self.slide.grid.xy_px0)

    def read(self, indices: NDArray[np.integer]) -> NDArray[np.uint8]:
        """Tiles uint8 [len(indices), H, W, 3], RGB, white where marker ink lies."""
        entry, grid, tissue = self.slide.entry, self.slide.grid, self.slide.tissue
        if not self._keep:
            return read_tiles(entry, grid, indices, mask=tissue)
        if self._tiles is None:
            self._tiles = read_tiles(entry, grid, np.arange(len(self)), mask=tissue)
        chosen: NDArray[np.uint8] = self._tiles[indices]
        return chosen


def tiles_of(cohort: Sequence[CohortSlide]) -> list[SlideTiles]:
    """The tiles of each slide. The first slides are kept in memory as far as ``KEPT_BYTES`` allows."""
    tiles = []
    used_bytes = 0
    for slide in cohort:
        used_bytes += len(slide.grid.xy_px0) * 3 * slide.grid.tile_px**2
        tiles.append(SlideTiles(slide, keep=used_bytes <= KEPT_BYTES))
    return tiles


@dataclass(frozen=True, slots=True)
class PrepareSlide:
    """Finds the tissue of a slide and lays tiles over it."""

    options: PseudolabelOptions

    def __call__(self, item: tuple[Entry, Review], tracker: Tracker) -> CohortSlide:
        """The prepared slide of an entry with its review."""
        entry, review = item
        recipe = self.options.recipe
        slide, pixel_size = entry_slide(entry, mpp_override=self.options.project.mpp_override)
        if pixel_size.warning:
            tracker.say(pixel_size.warning)
        tissue = tissue_mask(slide, mpp_slide=pixel_size.mpp)
        grid = make_grid(
            entry.id,
            tissue,
            tile_px=recipe.tile_px,
            mpp=self.options.mpp,
            mpp_slide=pixel_size.mpp,
            min_tissue=recipe.min_tissue,
            overlap=TILE_OVERLAP,
        )
        return CohortSlide(entry, pixel_size.mpp, tissue, grid, review)


def prepare_cohort(
    project: Project,
    entries: Sequence[Entry],
    classes: Sequence[str],
    options: PseudolabelOptions,
    tracker: Tracker,
    *,
    workers: Workers = IN_PROCESS,
) -> "PreparedCohort":
    """Find tissue, lay tiles and read the review of every entry."""
    slides: dict[str, CohortSlide] = {}

    def read(entry: Entry) -> tuple[Entry, Review]:
        return entry, read_review(project, entry, classes, tracker)

    def receive(entry: Entry, slide: CohortSlide) -> Mapping[str, float]:
        slides[entry.id] = slide
        counts = {"tiles": len(slide.grid.xy_px0), "tissue mm2": tissue_um2(slide.tissue, mpp_slide=slide.mpp) / 1e6}
        ink_mm2 = ink_um2(slide.tissue, mpp_slide=slide.mpp) / 1e6
        return counts | ({"ink mm2": ink_mm2} if ink_mm2 > 0 else {})

    step = SlideStep("tissue", read, PrepareSlide(options), receive)
    results = for_each_slide(entries, step, tracker=tracker, workers=workers)
    inked = sum("ink mm2" in result.counts for result in results)
    if inked:
        slides_show = "1 slide shows" if inked == 1 else f"{inked} slides show"
        tracker.say(f"{slides_show} marker ink, which is left out (column ink mm2; wsplf report shows where)")
    return PreparedCohort([slides[entry.id] for entry in finished_entries(entries, results)], results)


def require_both_labels(cohort: Sequence[CohortSlide], path_class: str, results: Sequence[EntryResult]) -> None:
    """Refuse to learn a class without a positive and a negative slide.

    Raises:
        ProjectError: There is no slide of one label; says why the others in ``results`` cannot be used.
    """
    for positive, label in ((True, "positive"), (False, "negative")):
        if not any(slide.is_positive(path_class) is positive for slide in cohort):
            raise ProjectError(
                f"no {label} slide can be used: " + "; ".join(result.reason for result in results if result.reason),
                hint="wsplf doctor PROJECT shows every entry",
            )


@dataclass(frozen=True, slots=True)
class PreparedCohort:
    """The slides that can be used, and one result per entry."""

    slides: list[CohortSlide]
    results: list[EntryResult]


@dataclass(frozen=True, slots=True)
class SlideResult:
    """What was made of one slide: annotations to write, counts for the report, and the map of each class.

    ``prompted`` holds SAM's masks for each annotation that has some, by its id. ``pictures`` are the maps as grey PNGs
    by class, which workers return in place of the maps. ``embedded``: how many of SAM's embeddings were computed.
    ``unlike``: the aspects in which the slide is unlike all slides that a model learned from (see
    ``segmentation.likeness``).
    """

    entry_id: str
    annotations: tuple[Annotation, ...]
    counts: Mapping[str, float]
    maps: Mapping[str, SlideMap] = field(default_factory=dict)
    prompted: Mapping[UUID, Sequence[PromptedMask]] = field(default_factory=dict)
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    embedded: int = 0
    unlike: Mapping[str, float] = field(default_factory=dict)
