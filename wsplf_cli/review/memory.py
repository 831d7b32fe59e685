"""The review of an entry, with the deletions that earlier runs found.

A deleted polygon leaves nothing behind in the project. wsplf finds it by comparing with what the last run wrote, and
remembers it in ``wsplf/removed/ENTRY.geojson``, because the next run replaces what that comparison needs. The file can
be opened in QuPath.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

from shapely.geometry.base import BaseGeometry

from wsplf_cli.backends import Project
from wsplf_cli.class_names import is_a
from wsplf_cli.errors import ProjectError
from wsplf_cli.geometry import polygonal, union
from wsplf_cli.qupath import geojson
from wsplf_cli.review.on_image import on_image
from wsplf_cli.review.regions import SLIVER_UM, ReviewRegions, outside, removed, review_regions
from wsplf_cli.runs.layout import removed_file, run_folder
from wsplf_cli.runs.written import keep, written
from wsplf_cli.schema import Annotation, Entry, Origin, Replaced, Tracker

ORIGINS: tuple[Origin, ...] = ("pseudolabel", "prediction")
#: Why a command writes nothing into an image that is marked as reviewed.
REVIEWED = "reviewed by a person: left as it is"


@dataclass(frozen=True, slots=True)
class Review:
    """The annotations of an entry, the regions that they decide for each class, and the deletions by class.

    Annotations on other planes than the first are left out, and the others are clipped to the image (``on_image``).

    ``complete``: the image is marked as reviewed. ``left_out``: how many annotations lie outside, for people.
    """

    entry_id: str = ""
    annotations: tuple[Annotation, ...] = ()
    regions: Mapping[str, ReviewRegions] = field(default_factory=dict)
    removed: Mapping[str, tuple[BaseGeometry, ...]] = field(default_factory=dict)
    complete: bool = False
    left_out: str = ""

    def of(self, path_class: str) -> ReviewRegions:
        """The regions of a class; empty ones for a class that was not asked for when the review was read."""
        return self.regions.get(path_class, ReviewRegions())


def read_review(project: Project, entry: Entry, classes: Sequence[str], tracker: Tracker) -> Review:
    """What a person's review says of an entry, for each of the classes.

    Raises:
        SlideError: The entry's data cannot be read.
        ProjectError: What earlier runs left cannot be read.
    """
    stored = project.annotations(entry.id)
    placed = on_image(stored, entry)
    if placed.left_out:
        tracker.say(f"{entry.name}: annotations left out: {placed.left_out}")
    annotations = placed.annotations
    # A polygon of wsplf that a person moved to another plane is not deleted.
    present = [annotation for annotation in stored if annotation.origin != "human" or annotation.plane.analysed]
    deletions: dict[str, list[BaseGeometry]] = defaultdict(list)
    for remembered in _remembered(removed_file(project.folder, entry.id)):
        deletions[remembered.path_class or ""].append(remembered.shape)
    for name, shapes in deletions.items():
        drawn_again = union(annotation.shape for annotation in annotations if is_a(annotation.path_class, name))
        deletions[name] = outside(shapes, drawn_again)
    for origin in ORIGINS:
        before = written(project.folder, entry.id, origin=origin) or []
        for name in {annotation.path_class or "" for annotation in before}:
            deleted = removed(before, present, name, reviewed=entry.reviewed, sliver_px0=_sliver_px0(entry))
            if deleted is None:
                tracker.say(_overwritten(entry, len(before)))
                break
            deletions[name] += deleted
    parts = {name: tuple(polygonal(union(shapes))) for name, shapes in deletions.items() if shapes}
    regions = {
        path_class: review_regions(
            annotations,
            path_class,
            removed=[part for name, of_name in parts.items() if is_a(name, path_class) for part in of_name],
            reviewed=entry.reviewed,
        )
        for path_class in classes
    }
    return Review(entry.id, annotations, regions, parts, entry.reviewed, placed.left_out)


def remember(folder: Path, review: Review) -> None:
    """Keep where a person deleted polygons. Call it before a run replaces what the deletions are known by.

    Raises:
        ProjectError: The file cannot be written.
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
    """Replace wsplf's pending polygons of an entry, and keep what later runs need to find deletions."""
    remember(project.folder, review)
    replaced = project.replace(review.entry_id, origin=origin, annotations=annotations)
    written_now = [
        annotation
        for annotation in project.annotations(review.entry_id)
        if annotation.origin == origin and annotation.run_id == run_id
    ]
    keep(run_folder(project.folder, run_id), review.entry_id, origin=origin, annotations=written_now)
    return replaced


def _remembered(path: Path) -> list[Annotation]:
    return geojson.read(path) if path.is_file() else []


def _sliver_px0(entry: Entry) -> float:
    return SLIVER_UM / 2 / (entry.mpp or 0.5)


def _overwritten(entry: Entry, count: int) -> str:
    return (
        f"{entry.name}: nothing is left of the {count} polygons that the last run wrote. wsplf takes this as an image"
        " that was open in QuPath and saved over them, not as a rejection (mark the image as reviewed if they were"
        " deleted on purpose)"
    )
