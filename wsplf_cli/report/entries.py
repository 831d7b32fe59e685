"""What the report says of one entry: size, label, tissue, annotations by origin and class, scores and pictures."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wsplf_cli.backends import Project
from wsplf_cli.class_names import is_a
from wsplf_cli.cohort.labels import classes_of, display_names, label_word
from wsplf_cli.errors import SlideError
from wsplf_cli.geometry import union
from wsplf_cli.options import ProjectOptions
from wsplf_cli.pages.pictures import Pictures, draw_pictures
from wsplf_cli.report.runs import RunView
from wsplf_cli.report.scores import ORIGINS, title
from wsplf_cli.review.on_image import OnImage, on_image
from wsplf_cli.review.roles import CONFIDENCE
from wsplf_cli.runs.layout import cam_files
from wsplf_cli.schema import Annotation, Entry, Origin, Tracker, is_pending, without_name
from wsplf_cli.slides.entry import entry_slide
from wsplf_cli.slides.tissue import ink_polygons, ink_um2, tissue_mask, tissue_um2

#: Longer side of a thumbnail for up to so many slides. With more it shrinks, so that the page stays small.
THUMBNAIL_PX, FULL_SIZE_SLIDES, LEAST_THUMBNAIL_PX = 700, 50, 200

#: Annotations by origin and class; the class is empty where the project has one, and for other classes.
Groups = Mapping[tuple[Origin, str], Sequence[Annotation]]


@dataclass(frozen=True, slots=True)
class Count:
    """The annotations of one origin and class on a slide; areas are of those that nobody rejected.

    ``pending``: those on which no person has decided; none in an image that is marked as reviewed. ``path_class`` is
    empty where the project has one class, and for annotations of a class that is none of the project's.
    """

    origin: Origin
    path_class: str
    number: int
    pending: int
    accepted: int
    rejected: int
    area_mm2: float | None
    tissue_share: float | None

    @property
    def title(self) -> str:
        """The name under which scores of these annotations are kept."""
        return title(self.origin, self.path_class)


@dataclass(frozen=True, slots=True)
class EntryView:
    """One entry as the page shows it. ``problem`` says why there are no pictures, ``note`` is a warning.

    ``failed``: its annotations cannot be read, so the page does not say how many there are.
    ``polygons`` are wsplf's own, the least certain first.
    """

    entry: Entry
    label: str
    mpp: float | None = None
    mpp_source: str = ""
    tissue_mm2: float | None = None
    ink_mm2: float = 0.0
    counts: tuple[Count, ...] = ()
    scores: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    pictures: Pictures | None = None
    polygons: tuple[Annotation, ...] = ()
    note: str = ""
    problem: str = ""
    failed: bool = False

    @property
    def number(self) -> dict[str, int]:
        """The number of annotations by origin; empty where it is not known."""
        if not self.counts:
            return {}
        return {origin: sum(count.number for count in self.counts if count.origin == origin) for origin in ORIGINS}

    @property
    def titles(self) -> set[str]:
        """The titles of ``counts``."""
        return {count.title for count in self.counts}


def thumbnail_px(slides: int) -> int:
    """Longer side of the thumbnails for so many slides."""
    scale = math.sqrt(min(1.0, FULL_SIZE_SLIDES / max(slides, 1)))
    return max(LEAST_THUMBNAIL_PX, round(THUMBNAIL_PX * scale))


@dataclass(frozen=True, slots=True)
class StoredEntry:
    """What the project holds of an entry: its annotations or why they cannot be read, scores by title, CAMs by class.

    The entry's label is resolved.
    """

    entry: Entry
    annotations: Sequence[Annotation] | SlideError
    rows: Mapping[str, Mapping[str, Any]]
    cams: Mapping[str, Path]


def read_entry(
    project: Project, entry: Entry, runs: Sequence[RunView], rows: Mapping[str, Mapping[str, Any]]
) -> StoredEntry:
    """What the project holds of an entry; ``runs`` are those of the project, the newest first, for the CAM."""
    annotations: Sequence[Annotation] | SlideError
    try:
        annotations = project.annotations(entry.id)
    except SlideError as error:
        annotations = error
    return StoredEntry(entry, annotations, rows, _newest_cams(entry, runs))


@dataclass(frozen=True, slots=True)
class ShowSlide:
    """Shows a slide on the page; ``max_px`` is the longer side of the thumbnail."""

    options: ProjectOptions
    max_px: int

    def __call__(self, stored: StoredEntry, tracker: Tracker) -> EntryView:
        """As ``show_entry``."""
        return show_entry(stored, options=self.options, max_px=self.max_px)


def show_entry(stored: StoredEntry, *, options: ProjectOptions, max_px: int) -> EntryView:
    """What the page shows of one entry; a SlideError becomes its ``problem``.

    Args:
        stored: What the project holds of it.
        options: How the project was reached.
        max_px: Longer side of the thumbnail.
    """
    entry, rows = stored.entry, stored.rows
    label = label_word(entry, options)
    failed = True
    try:
        if isinstance(stored.annotations, SlideError):
            raise stored.annotations
        placed = on_image(stored.annotations, entry)
        groups = _group(placed.annotations, classes_of(options))
        failed = False
        slide, pixel_size = entry_slide(entry, mpp_override=options.mpp_override)
        mpp = pixel_size.mpp
        mask = tissue_mask(slide, mpp_slide=mpp)
        tissue = tissue_um2(mask, mpp_slide=mpp)
        not_rejected = {
            key: [annotation for annotation in annotations if annotation.review != "rejected"]
            for key, annotations in groups.items()
        }
        return EntryView(
            entry,
            label,
            mpp=mpp,
            mpp_source=pixel_size.source,
            tissue_mm2=tissue / 1e6,
            ink_mm2=ink_um2(mask, mpp_slide=mpp) / 1e6,
            counts=tuple(_count(entry, key, groups[key], mpp=mpp, tissue_um2=tissue) for key in groups),
            scores=rows,
            pictures=draw_pictures(slide, not_rejected, cams=stored.cams, ink=ink_polygons(mask), max_px=max_px),
            note="; ".join(filter(None, (pixel_size.warning, _left_out(placed)))),
            polygons=_by_confidence(groups),
        )
    except SlideError as error:
        return EntryView(
            entry,
            label,
            mpp=entry.mpp,
            mpp_source=entry.mpp_source,
            scores=rows,
            problem=without_name(error.message, entry.name),
            failed=failed,
        )


def _group(annotations: Sequence[Annotation], classes: Sequence[str]) -> Groups:
    """The annotations by origin and, where the project has several, by class; those of other classes come last."""
    names = [*display_names(classes), ""] if len(classes) > 1 else [""]

    def class_of(annotation: Annotation) -> str:
        return next((name for name in names if name and is_a(annotation.path_class, name)), "")

    return {
        (origin, name): [one for one in annotations if one.origin == origin and class_of(one) == name]
        for origin in ORIGINS
        for name in names
    }


def _by_confidence(groups: Groups) -> tuple[Annotation, ...]:
    """The annotations that wsplf made, those without a confidence first, then the least certain."""
    polygons = [annotation for group in groups.values() for annotation in group if annotation.origin != "human"]
    return tuple(sorted(polygons, key=lambda annotation: annotation.measurements.get(CONFIDENCE, -1.0)))


def _count(
    entry: Entry, key: tuple[Origin, str], annotations: Sequence[Annotation], *, mpp: float, tissue_um2: float
) -> Count:
    origin, path_class = key
    area_um2 = union(one.shape for one in annotations if one.review != "rejected").area * mpp**2
    return Count(
        origin=origin,
        path_class=path_class,
        number=len(annotations),
        pending=0 if entry.reviewed else sum(is_pending(annotation) for annotation in annotations),
        accepted=sum(annotation.review == "accepted" for annotation in annotations),
        rejected=sum(annotation.review == "rejected" for annotation in annotations),
        area_mm2=area_um2 / 1e6,
        tissue_share=area_um2 / tissue_um2 if tissue_um2 > 0 else None,
    )


def _left_out(placed: OnImage) -> str:
    return f"annotations left out: {placed.left_out}" if placed.left_out else ""


def _newest_cams(entry: Entry, runs: Sequence[RunView]) -> dict[str, Path]:
    """The CAM files of the newest run that has some of the entry, by class; empty name where the run had one class."""
    files_by_run = (cam_files(run.folder, entry.id) for run in runs)
    return next((files for files in files_by_run if files), {})
