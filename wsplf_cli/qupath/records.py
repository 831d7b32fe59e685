"""The objects of a data file as plain values, and the records that are made of them: Annotation and PathObject."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args
from uuid import NAMESPACE_URL, UUID, uuid5

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import Polygon
from shapely.geometry.base import BaseGeometry

from wsplf_cli.qupath.javaser.graph import Instance, JavaStreamError, get
from wsplf_cli.qupath.pathobjects import ID_KEY, Body, Tail, kind_of, tail
from wsplf_cli.qupath.rois import FIRST_PLANE, read_plane, roi_kind
from wsplf_cli.qupath.shapes import repaired, shape_hashes
from wsplf_cli.qupath.values import Values
from wsplf_cli.schema import (
    CLASS_KEY,
    ORIGIN_KEY,
    REVIEW_KEY,
    RUN_KEY,
    SHAPE_KEY,
    Annotation,
    BoundsRoi,
    ObjectKind,
    Origin,
    PathObject,
    Plane,
    Review,
)

#: The metadata key of the id where the file's version of QuPath gives objects no id (before 0.4).
FALLBACK_ID_KEY = "wsplf.id"

_BATCH = 20_000


@dataclass(slots=True)
class StoredObject:
    """One object as it is stored: ``shape`` is not repaired, ``metadata`` includes the id."""

    kind: ObjectKind = "annotation"
    shape: BaseGeometry = field(default_factory=Polygon)
    name: str = ""
    path_class: str | None = None
    locked: bool = False
    metadata: dict[str, str] = field(default_factory=dict)
    measurements: dict[str, float] = field(default_factory=dict)
    plane: Plane = FIRST_PLANE
    rgb: tuple[int, int, int] | None = None
    probability: float | None = None
    roi: str = ""
    id: UUID | None = None
    has_id: bool = True
    missing: bool = False
    nucleus: BaseGeometry | None = None


def read_object(node: Instance, parts: Body, values: Values) -> StoredObject:
    """The object of a graph.

    Raises:
        JavaStreamError: it is not laid out as QuPath does, or is too large.
    """
    kind = kind_of(node)[1]
    last = tail(parts, kind) if kind != "root" else Tail(None, None, None, None)
    return StoredObject(
        kind=kind,
        shape=values.roi(last.roi),
        name=values.text(parts.name) or "",
        path_class=values.path_class(last.path_class),
        locked=isinstance(last.locked, Instance) and bool(get(last.locked, "value")),
        metadata=values.metadata(parts.metadata),
        measurements=values.measurements(parts.measurements),
        plane=read_plane(last.roi),
        rgb=rgb_of(get(parts.colour, "value")) if isinstance(parts.colour, Instance) else None,
        probability=last.probability,
        roi=roi_kind(last.roi),
        id=parts.stored_id,
        missing=last.missing,
        nucleus=None if last.nucleus is None else values.roi(last.nucleus),
    )


def rgb_of(packed: object) -> tuple[int, int, int]:
    """(r, g, b) of a packed colour."""
    if not isinstance(packed, int):
        raise JavaStreamError("the colour of an object is not laid out as QuPath does")
    return packed >> 16 & 255, packed >> 8 & 255, packed & 255


def annotations(objects: Sequence[StoredObject]) -> list[Annotation]:
    """The annotations, in order; equal ones without ids get ids by their order."""
    records: list[Annotation] = []
    times: Counter[str] = Counter()
    for at in range(0, len(objects), _BATCH):
        batch = objects[at : at + _BATCH]
        ids = [_identity(stored, times) for stored in batch]
        hashes = _wsplf_hashes(batch)
        for stored, identity, shape, shape_hash in zip(batch, ids, _usable(batch), hashes, strict=True):
            metadata = stored.metadata
            origin: Any = metadata.get(ORIGIN_KEY)
            review: Any = metadata.get(REVIEW_KEY)
            known_origin: Origin = origin if origin in _ORIGINS else "human"
            edited = shape_hash is not None and is_edited(metadata, stored.path_class, shape_hash)
            run_id = metadata.get(RUN_KEY, "")
            has_id = stored.has_id and _has_id(stored)
            metadata.pop(ID_KEY, None)
            metadata.pop(FALLBACK_ID_KEY, None)
            records.append(
                Annotation(
                    identity,
                    shape,
                    stored.path_class,
                    known_origin,
                    review if review in _REVIEWS else "pending",
                    run_id,
                    stored.name,
                    stored.measurements,
                    metadata,
                    stored.locked,
                    edited,
                    stored.plane,
                    stored.rgb,
                    _BOUNDS_ROIS.get(stored.roi, ""),
                    has_id,
                )
            )
    return records


def is_edited(metadata: Mapping[str, str], path_class: str | None, shape_hash: str) -> bool:
    """Whether one of wsplf's annotations has another shape or class than wsplf wrote.

    The spelling of the class counts, too: to change it is a person's work.
    """
    return metadata.get(SHAPE_KEY) != shape_hash or metadata.get(CLASS_KEY, "") != (path_class or "")


_ORIGINS = frozenset(get_args(Origin))
_REVIEWS = frozenset(get_args(Review))
_BOUNDS_ROIS: dict[str, BoundsRoi] = {"EllipseROI": "EllipseROI", "RectangleROI": "RectangleROI"}


def path_objects(
    objects: Sequence[StoredObject], parents: Sequence[int], grid: Mapping[int, tuple[int, int]]
) -> list[PathObject]:
    """The objects, in order. ``parents`` [N] is the index of each object's parent (-1: none), before its own."""
    times: Counter[str] = Counter()
    ids = [_identity(stored, times) for stored in objects]
    shapes = _usable(objects)
    return [
        PathObject(
            id=ids[index],
            kind=stored.kind,
            shape=shapes[index],
            parent=None if parents[index] < 0 else ids[parents[index]],
            path_class=stored.path_class,
            probability=stored.probability,
            name=stored.name,
            rgb=stored.rgb,
            locked=stored.locked,
            roi=stored.roi,
            plane=stored.plane,
            nucleus=None if stored.nucleus is None else repaired(stored.nucleus),
            missing=stored.missing,
            grid=grid.get(index),
            measurements=stored.measurements,
            metadata={key: value for key, value in stored.metadata.items() if key not in {ID_KEY, FALLBACK_ID_KEY}},
        )
        for index, stored in enumerate(objects)
    ]


def _shapes(objects: Sequence[StoredObject]) -> NDArray[np.object_]:
    array = np.empty(len(objects), object)
    array[:] = [stored.shape for stored in objects]
    return array


def _usable(objects: Sequence[StoredObject]) -> list[BaseGeometry]:
    """The shapes; those that cross themselves are repaired."""
    shapes = _shapes(objects)
    for index in np.flatnonzero(~shapely.is_valid(shapes)).tolist():
        shapes[index] = repaired(shapes[index])
    repaired_shapes: list[BaseGeometry] = shapes.tolist()
    return repaired_shapes


def _wsplf_hashes(objects: Sequence[StoredObject]) -> list[str | None]:
    """The hash of each shape that wsplf made, None for a person's."""
    by_wsplf = [stored.metadata.get(ORIGIN_KEY, "human") in _ORIGINS - {"human"} for stored in objects]
    hashes = iter(shape_hashes(_shapes([stored for stored, ours in zip(objects, by_wsplf, strict=True) if ours])))
    return [next(hashes) if ours else None for ours in by_wsplf]


_UUID = re.compile(r"[0-9a-fA-F]{8}-?(?:[0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}").fullmatch


def _has_id(stored: StoredObject) -> bool:
    """Whether QuPath gave the object its id, and not after wsplf had given it another in a file without ids."""
    if FALLBACK_ID_KEY in stored.metadata:
        return False
    return stored.id is not None or _UUID(stored.metadata.get(ID_KEY, "")) is not None


def _identity(stored: StoredObject, times: Counter[str]) -> UUID:
    """The object's id; where it has none, one that stays the same as long as the object does not change."""
    if stored.id is not None:
        return stored.id
    text = stored.metadata.get(ID_KEY, "")
    if not _UUID(text):
        text = stored.metadata.get(FALLBACK_ID_KEY, "")
    if _UUID(text):
        return UUID(int=int(text.replace("-", ""), 16))
    seed = f"{shapely.to_wkb(stored.shape, hex=True)} {stored.name} {stored.path_class}"
    times[seed] += 1
    return uuid5(NAMESPACE_URL, f"wsplf:{times[seed]}:{seed}")
