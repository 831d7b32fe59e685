"""Which annotations of a file an entry does not have yet."""

import math
from collections.abc import Mapping, Sequence
from uuid import UUID

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from wsplf_cli.errors import SlideError
from wsplf_cli.qupath.shapes import shape_hash
from wsplf_cli.schema import Annotation, Entry

#: Two vertices count as the same within this: QuPath's single precision and its grid move them by less.
TOLERANCE_PX0 = 0.03


def new_annotations(incoming: Sequence[Annotation], existing: Sequence[Annotation], entry: Entry) -> list[Annotation]:
    """The annotations of ``incoming`` that ``existing`` lacks: those without an equal one of the same id.

    Raises:
        SlideError: one with the same id exists and differs. A person may have changed it, so it is left as it is.
    """
    by_id: dict[UUID, list[Annotation]] = {}
    for annotation in existing:
        by_id.setdefault(annotation.id, []).append(annotation)
    new: list[Annotation] = []
    for annotation in incoming:
        same_id = by_id.get(annotation.id, [])
        if not same_id:
            by_id[annotation.id] = [annotation]
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


def _difference(annotation: Annotation, other: Annotation) -> str:
    """What differs between two annotations, in a word; empty when nothing does."""
    words = {
        "class": annotation.path_class != other.path_class,
        "name": annotation.name != other.name,
        "lock": annotation.locked != other.locked,
        "plane": annotation.plane != other.plane,
        "colour": annotation.rgb != other.rgb,
        "metadata": dict(annotation.metadata) != dict(other.metadata),
        "measurement": not _same_values(annotation.measurements, other.measurements),
    }
    same_shape = _same_shape(annotation.shape, other.shape)
    return next((word for word, differs in words.items() if differs), "" if same_shape else "shape")


def _same_values(values: Mapping[str, float], other: Mapping[str, float]) -> bool:
    return values.keys() == other.keys() and all(
        math.isclose(value, other[key], rel_tol=1e-6) or (math.isnan(value) and math.isnan(other[key]))
        for key, value in values.items()
    )


def _same_shape(shape: BaseGeometry, other: BaseGeometry) -> bool:
    if shapely.equals_exact(shape, other, tolerance=TOLERANCE_PX0) or shape_hash(shape) == shape_hash(other):
        return True
    return _same_outline(shape, other)


def _same_outline(shape: BaseGeometry, other: BaseGeometry) -> bool:
    """Whether the outlines are within the tolerance of each other, whatever their vertices are."""
    if shape.geom_type != other.geom_type and {shape.geom_type, other.geom_type} != {"Polygon", "MultiPolygon"}:
        return False
    distances_px0 = np.abs(np.subtract(shape.bounds, other.bounds))
    if shape.is_empty or other.is_empty or distances_px0.max() > TOLERANCE_PX0:
        return bool(shape.is_empty and other.is_empty)
    lines = [one.boundary if one.geom_type.endswith("Polygon") else one for one in (shape, other)]
    return bool(shapely.hausdorff_distance(*lines) <= TOLERANCE_PX0)
