"""What a person's review says of an entry, with what earlier runs wrote and with what is remembered of deletions.

Deletions are remembered in ``wsplf/removed/ENTRY.geojson`` beside the project: the next run replaces what it wrote,
and with it the trace of what a person deleted. The file can be looked at in QuPath.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

from shapely.geometry.base import BaseGeometry

from wsplf_cli.backends import Project
from wsplf_cli.errors import ProjectError
from wsplf_cli.geometry import polygonal, union
from wsplf_cli.qupath import geojson
from wsplf_cli.review import SLIVER_UM, Marks, is_a, marks_of, outside, removed
from wsplf_cli.schema import Annotation, Entry, Origin, Tracker
from wsplf_cli.stages._written import keep, written

ORIGINS: tuple[Origin, ...] = ("pseudolabel", "prediction")
REVIEWED = "reviewed by a person: left as it is"
"""Why a stage writes nothing into an image that is marked as reviewed."""


@dataclass(frozen=True, slots=True)
class Review:
    """``annotations`` of an entry, what they are for a class, and where a person ``removed`` wsplf's polygons."""

    annotations: tuple[Annotation, ...] = ()
    marks: Marks = field(default_factory=Marks)
    removed: tuple[BaseGeometry, ...] = ()


def read_review(project: Project, entry: Entry, path_class: str, tracker: Tracker) -> Review:
    """What a person's review says of an entry, for one class.

    Raises:
        SlideError: the entry's data cannot be read.
        ProjectError: what earlier runs left cannot be read.
    """
    annotations = project.annotations(entry.id)
    gone = [one.shape for one in _stored(_path(project.folder, entry.id)) if one.path_class == path_class]
    if gone:
        there = union(one.shape for one in annotations if is_a(one.path_class, path_class))
        gone = outside(gone, there)
    for origin in ORIGINS:
        before = written(project.folder, entry.id, origin=origin)
        found = removed(
            before or [],
            annotations,
            path_class,
            reviewed=entry.reviewed,
            sliver_px0=SLIVER_UM / 2 / (entry.mpp or 0.5),
        )
        if found is None:
            tracker.say(
                f"{entry.name}: nothing is left of the {len(before or [])} polygons that the last run wrote; taken as"
                " written over by an image that was open in QuPath, not as rejected (mark the image as reviewed if"
                " they were deleted on purpose)"
            )
        gone += found or []
    parts = polygonal(union(gone)) if gone else []
    marks = marks_of(annotations, path_class, removed=parts, reviewed=entry.reviewed)
    return Review(tuple(annotations), marks, tuple(parts))


def remember(folder: Path, entry_id: str, path_class: str, shapes: Sequence[BaseGeometry]) -> None:
    """Keep where a person removed polygons of a class; call it before a run replaces what that is known by.

    Raises:
        ProjectError: the file cannot be written.
    """
    path = _path(folder, entry_id)
    if not shapes and not path.exists():
        return
    others = [one for one in _stored(path) if one.path_class != path_class]
    mine = [Annotation(uuid5(NAMESPACE_URL, part.wkt), part, path_class, name="removed in review") for part in shapes]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ProjectError(f"cannot make the folder {path.parent}: {error.strerror}") from error
    geojson.write(path, [*others, *mine])


def keep_written(project: Project, entry_id: str, *, origin: Origin, run_id: str) -> None:
    """Keep what the run that just wrote into an entry has written, so that deletions are noticed later."""
    mine = [one for one in project.annotations(entry_id) if one.origin == origin and one.run_id == run_id]
    keep(project.folder / "wsplf" / "runs" / run_id, entry_id, origin=origin, annotations=mine)


def _stored(path: Path) -> list[Annotation]:
    return geojson.read(path) if path.is_file() else []


def _path(folder: Path, entry_id: str) -> Path:
    return folder / "wsplf" / "removed" / f"{entry_id}.geojson"
