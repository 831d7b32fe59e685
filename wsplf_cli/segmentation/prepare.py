"""From the entries of a project to slides to train on: what their annotations and labels teach of each class."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from shapely.geometry.base import BaseGeometry

from wsplf_cli.backends import Project
from wsplf_cli.cohort.run import Skipped
from wsplf_cli.errors import ProjectError
from wsplf_cli.options import TrainOptions
from wsplf_cli.review.memory import read_review
from wsplf_cli.review.regions import ReviewRegions
from wsplf_cli.schema import Entry, TileGrid, TissueMask, Tracker
from wsplf_cli.segmentation.appearance import Appearance, describe_slide
from wsplf_cli.segmentation.likeness import TrainingAppearance, learn_appearance
from wsplf_cli.segmentation.sampling import ClassTargets, TrainingSlide, has_pixels_in_tissue
from wsplf_cli.slides.entry import entry_slide
from wsplf_cli.slides.grid import make_grid, read_tiles
from wsplf_cli.slides.tissue import ink_polygons, tissue_mask

#: Side of a block in tiles: crops are taken at random positions in it, and it is still read from the slide in one go.
BLOCK_TILES = 2
#: A block needs less tissue than a tile, because the glass at the edge of the tissue must be learned as well.
BLOCK_TISSUE = 0.05


@dataclass(slots=True)
class TrainingCohort:
    """The slides to train on, gathered entry by entry."""

    project: Project
    classes: tuple[str, ...]
    options: TrainOptions
    tracker: Tracker
    slides: list[TrainingSlide] = field(default_factory=list)
    #: For each of these slides what describes its appearance; called once the training begins.
    appearances: list[Callable[[], Appearance]] = field(default_factory=list)
    #: Of each class the slides whose polygons teach nothing, with the reason.
    unusable: dict[str, dict[str, str]] = field(default_factory=dict)

    def add(self, entry: Entry) -> Mapping[str, float] | Skipped:
        """Add the slide of an entry and count its polygons, or say why it is left out.

        Raises:
            SlideError: The entry's data or its slide cannot be read.
        """
        if entry.held_out:
            return Skipped(f"held out (split: {entry.split})")
        review = read_review(self.project, entry, self.classes, self.tracker)
        targets = tuple(class_targets(entry, review.of(path_class), path_class) for path_class in self.classes)
        if review.left_out:
            for path_class, of_class in zip(self.classes, targets, strict=True):
                if not of_class.has_polygons:
                    self.unusable.setdefault(path_class, {})[entry.name] = f"annotations left out: {review.left_out}"
        if not any(of_class.known for of_class in targets):
            return Skipped("no polygon to learn from: without one, nothing says where its background is")
        slide, pixel_size = entry_slide(entry, mpp_override=self.options.project.mpp_override)
        tissue = tissue_mask(slide, mpp_slide=pixel_size.mpp)
        targets = tuple(without_ink(of_class, ink_polygons(tissue)) for of_class in targets)
        grid = make_grid(
            entry.id,
            tissue,
            tile_px=BLOCK_TILES * self.options.tiles.tile_px,
            mpp=self.options.tiles.mpp,
            mpp_slide=pixel_size.mpp,
            min_tissue=BLOCK_TISSUE,
        )
        targets = tuple(
            self._in_tissue(entry, path_class, of_class, grid, tissue)
            for path_class, of_class in zip(self.classes, targets, strict=True)
        )
        if not any(of_class.known for of_class in targets):
            return Skipped("no pixel of its polygons lies in tissue")
        self.slides.append(
            TrainingSlide(
                name=entry.name,
                group=entry.patient or entry.id,
                grid=grid,
                read=partial(read_tiles, entry, grid, mask=tissue),
                classes=targets,
            )
        )
        self.appearances.append(
            partial(describe_slide, entry, tissue, mpp=self.options.tiles.mpp, mpp_slide=pixel_size.mpp)
        )
        return {
            "blocks": len(grid.xy_px0),
            "positive": sum(len(of_class.regions.positive) for of_class in targets),
            "pending": sum(len(of_class.regions.pending) for of_class in targets),
            "negative": sum(len(of_class.regions.negative) for of_class in targets),
            "reviewed": int(entry.reviewed),
        }

    def _in_tissue(
        self, entry: Entry, path_class: str, targets: ClassTargets, grid: TileGrid, tissue: TissueMask
    ) -> ClassTargets:
        """The targets of a class; without its polygons where no pixel of them lies in tissue, which is said.

        Such polygons belong to another slide, and what lies outside of them is no background.
        """
        if not targets.has_polygons or has_pixels_in_tissue(targets.regions, grid, tissue):
            return targets
        reason = f"no pixel of its {path_class} polygons lies in tissue"
        self.unusable.setdefault(path_class, {})[entry.name] = reason
        self.tracker.say(f"warning: {entry.name}: {reason}; nothing is learned from them")
        return class_targets(entry, replace(targets.regions, positive=(), pending=()), path_class)

    def learn_appearance(self) -> TrainingAppearance:
        """What the slides look like, for ``segment`` to compare others with."""
        appearances = []
        self.tracker.start("appearance of the slides", len(self.slides))
        for slide, describe in zip(self.slides, self.appearances, strict=True):
            appearances.append(describe())
            self.tracker.advance(1, message=slide.name)
        return learn_appearance(appearances, [slide.group for slide in self.slides])

    def require_polygons(self) -> None:
        """Refuse to train without a polygon of each class that holds a pixel of tissue.

        Raises:
            ProjectError: Names the class, and the slides whose polygons cannot be used.
        """
        for index, path_class in enumerate(self.classes):
            if not any(slide.classes[index].has_polygons for slide in self.slides):
                unusable = [f"{name}: {reason}" for name, reason in self.unusable.get(path_class, {}).items()]
                raise ProjectError(
                    "; ".join([f"no polygon of class {path_class!r} to learn from", *unusable]),
                    hint="make some with: wsplf pseudolabel PROJECT (or draw them in QuPath, or name another"
                    " --path-class)",
                )


def class_targets(entry: Entry, regions: ReviewRegions, path_class: str) -> ClassTargets:
    """What a slide teaches of one class.

    The background is known where a person or the slide label has spoken, or where there are polygons of the class.
    """
    labelled_negative = entry.label is not None and not entry.label.holds(path_class)
    if labelled_negative:
        regions = replace(regions, pending=())
    has_polygons = bool(regions.positive or regions.pending)
    return ClassTargets(
        has_polygons and not labelled_negative,
        regions,
        known=has_polygons or labelled_negative or regions.complete,
    )


def without_ink(targets: ClassTargets, ink: Sequence[BaseGeometry]) -> ClassTargets:
    """The same targets, but nothing is learned under marker ink (shapes in level-0 pixels)."""
    if not ink:
        return targets
    return replace(targets, regions=replace(targets.regions, ignored=(*targets.regions.ignored, *ink)))


def describe_targets(targets: Sequence[ClassTargets]) -> str:
    """What is learned from, in one line: slides and polygons by their role."""
    counts = Counter[str]()
    for of_slide in targets:
        if of_slide.known:
            counts["slides with polygons" if of_slide.positive else "negative slides"] += 1
        counts["polygons a person decided on"] += len(of_slide.regions.positive)
        counts["pending pseudo-labels"] += len(of_slide.regions.pending)
        counts["areas of background by a person"] += len(of_slide.regions.negative)
        counts["slides reviewed as a whole"] += of_slide.regions.complete
    return "learning from: " + ", ".join(f"{count} {role}" for role, count in counts.items() if count)
