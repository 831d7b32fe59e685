"""The objects of a data file as plain values, and the records made of them: Annotation and PathObject."""

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
    ObjectKind,
    Origin,
    PathObject,
    Plane,
    Review,
)

#: The id where the file's version of QuPath has none of its own (before 0.4).
OWN_ID_KEY = "wsplf.id"

_BATCH = 20_000


@dataclass(slots=True)
class Held:
    """What one object holds. ``shape`` is as it is stored, not repaired; ``metadata`` includes the id."""

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
    own_id: UUID | None = None
    missing: bool = False
    nucleus: BaseGeometry | None = None


def held(node: Instance, parts: Body, values: Values) -> Held:
    """What an object holds, from its graph.

    Raises:
        JavaStreamError: it is not laid out as QuPath does, or holds too much.
    """
    kind = kind_of(node)[1]
    last = tail(parts, kind) if kind != "root" else Tail(None, None, None, None)
    return Held(
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
        own_id=parts.own_id,
        missing=last.missing,
        nucleus=None if last.nucleus is None else values.roi(last.nucleus),
    )


def rgb_of(packed: object) -> tuple[int, int, int]:
    """(r, g, b) of a packed colour."""
    if not isinstance(packed, int):
        raise JavaStreamError("the colour of an object is not laid out as QuPath does")
    return packed >> 16 & 255, packed >> 8 & 255, packed & 255


def annotations(found: Sequence[Held]) -> list[Annotation]:
    """The annotations, in order; equal ones without ids are told apart by their order."""
    records: list[Annotation] = []
    times: Counter[str] = Counter()
    for at in range(0, len(found), _BATCH):
        batch = found[at : at + _BATCH]
        ids = [_identity(one, times) for one in batch]
        hashes = _own_hashes(batch)
        for one, identity, usable, stored in zip(batch, ids, _usable(batch), hashes, strict=True):
            metadata = one.metadata
            origin: Any = metadata.get(ORIGIN_KEY)
            review: Any = metadata.get(REVIEW_KEY)
            own: Origin = origin if origin in _ORIGINS else "human"
            edited = stored is not None and (
                metadata.get(SHAPE_KEY) != stored or metadata.get(CLASS_KEY, "") != (one.path_class or "")
            )
            run_id = metadata.get(RUN_KEY, "")
            metadata.pop(ID_KEY, None)
            metadata.pop(OWN_ID_KEY, None)
            records.append(
                Annotation(
                    identity,
                    usable,
                    one.path_class,
                    own,
                    review if review in _REVIEWS else "pending",
                    run_id,
                    one.name,
                    one.measurements,
                    metadata,
                    one.locked,
                    edited,
                    one.plane,
                    one.rgb,
                )
            )
    return records


_ORIGINS = frozenset(get_args(Origin))
_REVIEWS = frozenset(get_args(Review))


def path_objects(
    found: Sequence[Held], parents: Sequence[int], grid: Mapping[int, tuple[int, int]]
) -> list[PathObject]:
    """The objects, in order. ``parents`` [N] is the place of each one's parent (-1 for none), before its own."""
    times: Counter[str] = Counter()
    ids = [_identity(one, times) for one in found]
    shapes = _usable(found)
    return [
        PathObject(
            id=ids[place],
            kind=one.kind,
            shape=shapes[place],
            parent=None if parents[place] < 0 else ids[parents[place]],
            path_class=one.path_class,
            probability=one.probability,
            name=one.name,
            rgb=one.rgb,
            locked=one.locked,
            roi=one.roi,
            plane=one.plane,
            nucleus=None if one.nucleus is None else repaired(one.nucleus),
            missing=one.missing,
            grid=grid.get(place),
            measurements=one.measurements,
            metadata={key: value for key, value in one.metadata.items() if key not in {ID_KEY, OWN_ID_KEY}},
        )
        for place, one in enumerate(found)
    ]


def _shapes(found: Sequence[Held]) -> NDArray[np.object_]:
    array = np.empty(len(found), object)
    array[:] = [one.shape for one in found]
    return array


def _usable(found: Sequence[Held]) -> list[BaseGeometry]:
    """Shapes, repaired where they cross themselves."""
    shapes = _shapes(found)
    for place in np.flatnonzero(~shapely.is_valid(shapes)).tolist():
        shapes[place] = repaired(shapes[place])
    usable: list[BaseGeometry] = shapes.tolist()
    return usable


def _own_hashes(found: Sequence[Held]) -> list[str | None]:
    """The hash of each shape of wsplf's own, None for a person's."""
    own = [one.metadata.get(ORIGIN_KEY, "human") in _ORIGINS - {"human"} for one in found]
    hashes = iter(shape_hashes(_shapes([one for one, mine in zip(found, own, strict=True) if mine])))
    return [next(hashes) if mine else None for mine in own]


_UUID = re.compile(r"[0-9a-fA-F]{8}-?(?:[0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}").fullmatch


def _identity(one: Held, times: Counter[str]) -> UUID:
    """The object's id; where it has none, one that stays the same as long as the object does."""
    if one.own_id is not None:
        return one.own_id
    text = one.metadata.get(ID_KEY, "")
    if not _UUID(text):
        text = one.metadata.get(OWN_ID_KEY, "")
    if _UUID(text):
        return UUID(int=int(text.replace("-", ""), 16))
    seed = f"{shapely.to_wkb(one.shape, hex=True)} {one.name} {one.path_class}"
    times[seed] += 1
    return uuid5(NAMESPACE_URL, f"wsplf:{times[seed]}:{seed}")
