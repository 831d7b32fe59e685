"""Which annotations of a file an entry does not have yet."""

import math
from collections.abc import Iterator, Mapping, Sequence
from uuid import UUID

import numpy as np
import shapely
from scipy.spatial import cKDTree
from shapely.geometry.base import BaseGeometry

from wsplf_cli.class_names import same_class
from wsplf_cli.errors import SlideError
from wsplf_cli.qupath.shapes import ellipse, shape_hash
from wsplf_cli.schema import Annotation, Entry

#: Two vertices count as the same within this: QuPath's single precision and its grid move them by less.
TOLERANCE_PX0 = 0.03
#: QuPath gives the polygon of an ellipse so many vertices where it writes GeoJSON.
QUPATH_ELLIPSE_VERTICES = 100


def new_annotations(incoming: Sequence[Annotation], existing: Sequence[Annotation], entry: Entry) -> list[Annotation]:
    """The annotations of ``incoming`` that ``existing`` lacks.

    An annotation is known by its id. Where QuPath has given no id to the incoming or to the existing annotation (0.2,
    0.3 and other programs give none), one of another id is known by its shape, class, name and plane. Each existing
    annotation stands for one incoming at most, so that of two equal ones in a file both are added.

    Raises:
        SlideError: one with the same id exists and differs. A person may have changed it, so it is left as it is.
    """
    by_id: dict[UUID, list[Annotation]] = {}
    for annotation in existing:
        by_id.setdefault(annotation.id, []).append(annotation)
    incoming_ids = {annotation.id for annotation in incoming}
    known_by_content = _known_by_content(
        [annotation for annotation in incoming if annotation.id not in by_id],
        [annotation for annotation in existing if annotation.id not in incoming_ids],
    )
    new: list[Annotation] = []
    for annotation in incoming:
        same_id = by_id.get(annotation.id, [])
        if not same_id:
            by_id[annotation.id] = [annotation]
            if annotation.id not in known_by_content:
                new.append(annotation)
            continue
        differences = [_difference(annotation, other) for other in same_id]
        if all(differences):
            twice = any(other is same_id[0] for other in new)
            where = "in the file twice" if twice else f"in {entry.name} already"
            raise SlideError(
                f"{entry.name}: annotation {annotation.id} is {where}, with another {differences[0]}; "
                "nothing was added",
                hint="remove one of the two, then import again",
            )
    return new


def _known_by_content(incoming: Sequence[Annotation], existing: Sequence[Annotation]) -> set[UUID]:
    """The ids of the incoming annotations whose content one of the existing ones has, each of these for one only."""
    known: set[UUID] = set()
    taken: set[int] = set()
    for annotation, candidates in _of_same_bounds(incoming, existing):
        for index in candidates:
            if index not in taken and _same_content(annotation, existing[index]):
                known.add(annotation.id)
                taken.add(index)
                break
    return known


def _same_content(annotation: Annotation, other: Annotation) -> bool:
    """Whether two annotations of different ids, one of which is not QuPath's, are one."""
    return (
        not (annotation.has_id and other.has_id)
        and same_class(annotation.path_class, other.path_class)
        and annotation.name == other.name
        and annotation.plane == other.plane
        and _same_shape(annotation, other)
    )


def _of_same_bounds(
    incoming: Sequence[Annotation], existing: Sequence[Annotation]
) -> Iterator[tuple[Annotation, list[int]]]:
    """Each incoming annotation with the indices of the existing ones whose bounds are its own, within the tolerance."""
    corners, others = (
        np.array([annotation.shape.bounds for annotation in annotations]).reshape(-1, 4)
        for annotations in (incoming, existing)
    )
    searched, indices = (np.flatnonzero(np.isfinite(bounds).all(axis=1)) for bounds in (corners, others))
    if not len(searched) or not len(indices):
        return
    tree = cKDTree(others[indices])
    found = tree.query_ball_point(corners[searched], TOLERANCE_PX0, p=np.inf, return_sorted=True)
    for place, neighbours in zip(searched.tolist(), found, strict=True):
        yield incoming[place], indices[neighbours].tolist()


def _difference(annotation: Annotation, other: Annotation) -> str:
    """What differs between two annotations, in a word; empty when nothing does."""
    words = {
        "class": not same_class(annotation.path_class, other.path_class),
        "name": annotation.name != other.name,
        "lock": annotation.locked != other.locked,
        "plane": annotation.plane != other.plane,
        "colour": annotation.rgb != other.rgb,
        "metadata": dict(annotation.metadata) != dict(other.metadata),
        "measurement": not _same_values(annotation.measurements, other.measurements),
    }
    same_shape = _same_shape(annotation, other)
    return next((word for word, differs in words.items() if differs), "" if same_shape else "shape")


def _same_values(values: Mapping[str, float], other: Mapping[str, float]) -> bool:
    return values.keys() == other.keys() and all(
        math.isclose(value, other[key], rel_tol=1e-6) or (math.isnan(value) and math.isnan(other[key]))
        for key, value in values.items()
    )


def _same_shape(annotation: Annotation, other: Annotation) -> bool:
    shape, other_shape = annotation.shape, other.shape
    if shapely.equals_exact(shape, other_shape, tolerance=TOLERANCE_PX0) or shape_hash(shape) == shape_hash(
        other_shape
    ):
        return True
    if _same_outline(shape, other_shape):
        return True
    if (annotation.roi == "EllipseROI") == (other.roi == "EllipseROI"):
        return False
    # before 0.4 QuPath wrote an ellipse without saying that it is one
    marked, polygon = (shape, other_shape) if annotation.roi == "EllipseROI" else (other_shape, shape)
    return _same_outline(ellipse(marked.bounds, vertices=QUPATH_ELLIPSE_VERTICES), polygon)


def _same_outline(shape: BaseGeometry, other: BaseGeometry) -> bool:
    """Whether the outlines are within the tolerance of each other, whatever their vertices are."""
    if shape.geom_type != other.geom_type and {shape.geom_type, other.geom_type} != {"Polygon", "MultiPolygon"}:
        return False
    distances_px0 = np.abs(np.subtract(shape.bounds, other.bounds))
    if shape.is_empty or other.is_empty or distances_px0.max() > TOLERANCE_PX0:
        return bool(shape.is_empty and other.is_empty)
    lines = [part.boundary if part.geom_type.endswith("Polygon") else part for part in (shape, other)]
    return bool(shapely.hausdorff_distance(*lines) <= TOLERANCE_PX0)
