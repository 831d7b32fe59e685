"""What one reader says of a slide for a class: where the class is, and where the reader has decided nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from shapely.geometry.base import BaseGeometry

from wsplf_cli.agreement.match import Reader
from wsplf_cli.agreement.parts import Parts, difference, disjoint_parts
from wsplf_cli.review.memory import ORIGINS
from wsplf_cli.review.on_image import on_image
from wsplf_cli.review.roles import Role, role_of
from wsplf_cli.runs.written import written
from wsplf_cli.schema import Annotation, Entry, is_pending


@dataclass(frozen=True, slots=True)
class ReadEntry:
    """The entry of one reader: its annotations, and which polygons of wsplf the reader deleted.

    ``shapes`` holds by id the part of each annotation that lies on the image (see ``on_image``).
    ``reviewed``: the image is marked as reviewed. ``read`` is false where the reader left every polygon as wsplf wrote
    it: such an entry says nothing of what the reader thinks. ``written`` are the polygons that the last runs wrote, by
    id, and ``saved_over`` is true where none of them is left: the image was then saved in an older state.
    """

    annotations: tuple[Annotation, ...]
    shapes: Mapping[UUID, BaseGeometry]
    reviewed: bool
    read: bool
    written: dict[UUID, Annotation] = field(default_factory=dict)
    saved_over: bool = False


@dataclass(frozen=True, slots=True)
class Reading:
    """What one reader says of one slide for one class, in level-0 pixels.

    ``positive`` is the union of what the reader accepted, edited or drew. ``undecided`` is that of pending and ignored
    polygons outside of it. ``roles`` has the role of each annotation of the entry, in its order.
    """

    entry: ReadEntry
    roles: tuple[Role, ...]
    positive: Parts
    undecided: Parts


def read_entry(reader: Reader, entry: Entry, classes: Sequence[str]) -> ReadEntry:
    """The annotations of a reader's entry, and what is known of the reader's work on it.

    A reader has read an entry that is marked as reviewed, from which polygons of wsplf were deleted, in which one of
    them was decided on or a polygon with a role for one of ``classes`` was drawn, or in which nothing is pending.

    Raises:
        SlideError: the entry's data cannot be read.
        ProjectError: what earlier runs left cannot be read.
    """
    annotations = reader.project.annotations(entry.id)
    shapes = {annotation.id: annotation.shape for annotation in on_image(annotations, entry).annotations}
    before = {
        annotation.id: annotation
        for origin in ORIGINS
        for annotation in written(reader.project.folder, entry.id, origin=origin) or []
    }
    present = {annotation.id for annotation in annotations}
    saved_over = bool(before) and not entry.reviewed and not present & before.keys()
    deleted = not saved_over and bool(before.keys() - present)
    untouched = any(is_pending(annotation) for annotation in annotations) and not any(
        _is_decision(annotation, classes) for annotation in annotations
    )
    read = entry.reviewed or deleted or not untouched
    return ReadEntry(tuple(annotations), shapes, entry.reviewed, read, before, saved_over)


def read_class(entry: ReadEntry, path_class: str) -> Reading:
    """What a reader says of a slide for one class.

    In an image that is marked as reviewed, pending polygons are positive.
    """
    roles = tuple(_role(entry, annotation, path_class) for annotation in entry.annotations)
    positive = _area(entry, roles, ("positive",))
    undecided = _area(entry, roles, ("pending", "ignored"))
    return Reading(entry, roles, positive, difference(undecided, positive))


def _is_decision(annotation: Annotation, classes: Sequence[str]) -> bool:
    if annotation.origin != "human":
        return not is_pending(annotation)
    return any(role_of(annotation, path_class) for path_class in classes)


def _role(entry: ReadEntry, annotation: Annotation, path_class: str) -> Role:
    role = role_of(annotation, path_class) if annotation.id in entry.shapes else ""
    return "positive" if entry.reviewed and role == "pending" else role


def _area(entry: ReadEntry, roles: Sequence[Role], wanted: Sequence[Role]) -> Parts:
    roles_by_annotation = zip(entry.annotations, roles, strict=True)
    return disjoint_parts(entry.shapes[annotation.id] for annotation, role in roles_by_annotation if role in wanted)
