"""Which annotations of a file are not in an entry yet."""

import math
from collections.abc import Mapping, Sequence
from uuid import UUID

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from wsplf_cli.errors import SlideError
from wsplf_cli.qupath.shapes import shape_hash
from wsplf_cli.schema import Annotation, Entry

#: Two vertices are the same within this: QuPath's single precision and its grid move them by less.
TOLERANCE_PX0 = 0.03


def missing(incoming: Sequence[Annotation], there: Sequence[Annotation], entry: Entry) -> list[Annotation]:
    """The annotations of ``incoming`` that are not there already; an equal one with the same id is.

    Raises:
        SlideError: an annotation with the same id is there and differs: it may be a person's, so it is not changed.
    """
    known: dict[UUID, list[Annotation]] = {}
    for one in there:
        known.setdefault(one.id, []).append(one)
    new: list[Annotation] = []
    for one in incoming:
        same_id = known.get(one.id, [])
        if not same_id:
            known[one.id] = [one]
            new.append(one)
            continue
        differences = [_difference(one, other) for other in same_id]
        if all(differences):
            whose = "in the file twice" if any(other is same_id[0] for other in new) else f"in {entry.name} already"
            raise SlideError(
                f"{entry.name}: annotation {one.id} is {whose}, with another {differences[0]}; nothing was added",
                hint="remove one of the two, then import again",
            )
    return new


def _difference(one: Annotation, other: Annotation) -> str:
    """What differs between two annotations, in a word; empty when nothing does."""
    words = {
        "class": one.path_class != other.path_class,
        "name": one.name != other.name,
        "lock": one.locked != other.locked,
        "plane": one.plane != other.plane,
        "colour": one.rgb != other.rgb,
        "metadata": dict(one.metadata) != dict(other.metadata),
        "measurement": not _same_values(one.measurements, other.measurements),
    }
    return next((word for word, differs in words.items() if differs), "" if _same_shape(one, other) else "shape")


def _same_values(one: Mapping[str, float], other: Mapping[str, float]) -> bool:
    return one.keys() == other.keys() and all(
        math.isclose(one[key], other[key], rel_tol=1e-6) or (math.isnan(one[key]) and math.isnan(other[key]))
        for key in one
    )


def _same_shape(one: Annotation, other: Annotation) -> bool:
    first, second = one.shape, other.shape
    if shapely.equals_exact(first, second, tolerance=TOLERANCE_PX0) or shape_hash(first) == shape_hash(second):
        return True
    return _aligned(first, second)


def _aligned(first: BaseGeometry, second: BaseGeometry) -> bool:
    """Whether the outlines are within the tolerance of each other, whatever their vertices are."""
    if first.geom_type != second.geom_type and {first.geom_type, second.geom_type} != {"Polygon", "MultiPolygon"}:
        return False
    corners = np.abs(np.subtract(first.bounds, second.bounds))
    if first.is_empty or second.is_empty or corners.max() > TOLERANCE_PX0:
        return bool(first.is_empty and second.is_empty)
    edges = [one.boundary if one.geom_type.endswith("Polygon") else one for one in (first, second)]
    return bool(shapely.hausdorff_distance(*edges) <= TOLERANCE_PX0)
