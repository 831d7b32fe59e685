"""What a person's review says of an entry, with what earlier runs wrote and with what is remembered of deletions.

Deletions are remembered in ``wsplf/removed/ENTRY.geojson`` beside the project: the next run replaces what it wrote,
and with it the trace of what a person deleted. The file can be looked at in QuPath.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

from shapely.geometry.base import BaseGeometry

from wsplf_cli.backends import Project
from wsplf_cli.class_names import is_a
from wsplf_cli.errors import ProjectError
from wsplf_cli.geometry import polygonal, union
from wsplf_cli.qupath import geojson
from wsplf_cli.review.regions import ReviewRegions, outside, removed, review_regions
from wsplf_cli.review.roles import SLIVER_UM
from wsplf_cli.runs.layout import removed_file, run_folder
from wsplf_cli.runs.written import keep, written
from wsplf_cli.schema import Annotation, Entry, Origin, Replaced, Tracker

ORIGINS: tuple[Origin, ...] = ("pseudolabel", "prediction")
REVIEWED = "reviewed by a person: left as it is"
"""Why a stage writes nothing into an image that is marked as reviewed."""


@dataclass(frozen=True, slots=True)
class Review:
    """``annotations`` of an entry, what they are for a class, and where a person removed wsplf's polygons, by class.

    ``complete``: the image is marked as reviewed. ``path_class``: the class that ``regions`` are for.
    """

    entry_id: str = ""
    annotations: tuple[Annotation, ...] = ()
    regions: ReviewRegions = field(default_factory=ReviewRegions)
    removed: Mapping[str, tuple[BaseGeometry, ...]] = field(default_factory=dict)
    complete: bool = False
    path_class: str | None = None

    def of(self, path_class: str) -> "Review":
        """The same review with what it is for that class."""
        if path_class == self.path_class:
            return self
        gone = self.removed.get(path_class, ())
        regions = review_regions(self.annotations, path_class, removed=gone, reviewed=self.complete)
        return replace(self, regions=regions, path_class=path_class)


def read_review(project: Project, entry: Entry, path_class: str, tracker: Tracker) -> Review:
    """What a person's review says of an entry, for one class.

    Raises:
        SlideError: the entry's data cannot be read.
        ProjectError: what earlier runs left cannot be read.
    """
    annotations = project.annotations(entry.id)
    gone: dict[str, list[BaseGeometry]] = defaultdict(list)
    for one in _stored(removed_file(project.folder, entry.id)):
        gone[one.path_class or ""].append(one.shape)
    for name, shapes in gone.items():
        gone[name] = outside(shapes, union(one.shape for one in annotations if is_a(one.path_class, name)))
    for origin in ORIGINS:
        before = written(project.folder, entry.id, origin=origin) or []
        for name in {one.path_class or "" for one in before}:
            found = removed(before, annotations, name, reviewed=entry.reviewed, sliver_px0=_sliver_px0(entry))
            if found is None:
                tracker.say(_overwritten(entry, len(before)))
                break
            gone[name] += found
    parts = {name: tuple(polygonal(union(shapes))) for name, shapes in gone.items() if shapes}
    return Review(entry.id, tuple(annotations), removed=parts, complete=entry.reviewed).of(path_class)


def _sliver_px0(entry: Entry) -> float:
    return SLIVER_UM / 2 / (entry.mpp or 0.5)


def _overwritten(entry: Entry, count: int) -> str:
    return (
        f"{entry.name}: nothing is left of the {count} polygons that the last run wrote; taken as written over by an"
        " image that was open in QuPath, not as rejected (mark the image as reviewed if they were deleted on purpose)"
    )


def remember(folder: Path, review: Review) -> None:
    """Keep where a person removed polygons; call it before a run replaces what that is known by.

    Raises:
        ProjectError: the file cannot be written.
    """
    path = removed_file(folder, review.entry_id)
    if not review.removed and not path.exists():
        return
    areas = [
        Annotation(uuid5(NAMESPACE_URL, part.wkt), part, name or None, name="removed in review")
        for name, parts in sorted(review.removed.items())
        for part in parts
    ]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ProjectError(f"cannot make the folder {path.parent}: {error.strerror}") from error
    geojson.write(path, areas)


def write_polygons(
    project: Project, review: Review, *, annotations: Sequence[Annotation], origin: Origin, run_id: str
) -> Replaced:
    """Replace wsplf's pending polygons of an entry, and keep what is needed to know later what a person deleted."""
    remember(project.folder, review)
    replaced = project.replace(review.entry_id, origin=origin, annotations=annotations)
    mine = [one for one in project.annotations(review.entry_id) if one.origin == origin and one.run_id == run_id]
    keep(run_folder(project.folder, run_id), review.entry_id, origin=origin, annotations=mine)
    return replaced


def _stored(path: Path) -> list[Annotation]:
    return geojson.read(path) if path.is_file() else []
