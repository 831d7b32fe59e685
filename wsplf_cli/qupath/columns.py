"""What packed objects hold, read from all objects of a layout at once: a column of values after the other.

A layout whose form is not known here, and an object in which something is not as usual, give nothing: such objects are
then read from their graphs (records.held), with the same result.
"""

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import GEOSException

from wsplf_cli.qupath.javaser.graph import SIZES, Array, Instance, JavaStreamError, Text, decode_text, get
from wsplf_cli.qupath.javaser.layout import Layout, Link, Place, Spot
from wsplf_cli.qupath.javaser.pack import Ints, Packs, batches
from wsplf_cli.qupath.pathobjects import METADATA_MAP, kind_of
from wsplf_cli.qupath.records import Held, rgb_of
from wsplf_cli.qupath.rois import FIRST_PLANE, POLYGON, WKB, check_wkb, roi_kind
from wsplf_cli.qupath.values import Values
from wsplf_cli.schema import Plane

UNKNOWN = object()

_LISTS = "qupath.lib.measurements."


@dataclass(slots=True)
class _Form:
    """Where the parts of an object lie in its layout."""

    name: Any
    colour: Place | None
    keys: list[Any]
    texts: list[Any]
    names: list[Any]
    numbers: list[Place]
    array: tuple[Link, Spot] | None
    count: Place
    locked: Link
    path_class: Link | None
    roi: Instance
    probability: Place
    usual: bool
    """Whether the shape is a polygon or WKB and nothing follows: all is read from columns, not only the class."""


def _form(tree: Instance) -> _Form | None:
    """The form of a layout, None for one that is not among the usual."""
    try:
        (items,) = tree.values
        if not isinstance(items, list):
            return None
        name, colour, third, *rest = items
        metadata = third if isinstance(third, Instance) and third.desc.name == METADATA_MAP else None
        measurements = rest.pop(0) if metadata else third
        count, locked, path_class, roi, probability, *more = rest
        keys, texts = _metadata(metadata)
        names, numbers, array = _measurements(measurements)
    except ValueError:
        return None
    known = (
        _is_text(name) or name is None,
        colour is None or isinstance(colour, Instance),
        all(isinstance(one, Place) and one.block for one in (count, probability)),
        isinstance(locked, Link),
        path_class is None or isinstance(path_class, Link),
        roi is None or isinstance(roi, Instance),
    )
    if not all(known) or (count.size, probability.size) != (4, 8):
        return None
    tint = None if colour is None else _integer(colour)
    if colour is not None and tint is None:
        return None
    usual = isinstance(roi, Instance) and roi.desc.name in {POLYGON, WKB} and not more
    return _Form(name, tint, keys, texts, names, numbers, array, count, locked, path_class, roi, probability, usual)


def _is_text(node: Any) -> bool:
    return isinstance(node, Link) or (isinstance(node, Spot) and node.desc is None)


def _field(node: Any, name: str, kind: str) -> Place:
    """Where a primitive field of a type lies; ValueError when it does not."""
    at, offset, found = node.desc.slots.get(name, (0, 0, "")) if isinstance(node, Instance) else (0, 0, "")
    if found != kind:
        raise ValueError(name)
    place = node.values[at]
    return Place(place.segment, place.offset + offset, SIZES[kind])


def _integer(node: Instance) -> Place | None:
    try:
        return _field(node, "value", "I")
    except ValueError:
        return None


def _held(node: Any, name: str) -> Any:
    """An object field; ValueError when there is none."""
    if not isinstance(node, Instance) or name not in node.desc.slots:
        raise ValueError(name)
    return node.values[node.desc.slots[name][0]]


def _metadata(node: Instance | None) -> tuple[list[Any], list[Any]]:
    if node is None:
        return [], []
    (items,) = node.values
    keys, texts = (one.values for one in items if isinstance(one, Array)) if isinstance(items, list) else (None, None)
    if keys is None or texts is None or not all(map(_is_text, [*keys, *texts])) or len(keys) != len(texts):
        raise ValueError("metadata")
    return keys, texts


def _measurements(node: Any) -> tuple[list[Any], list[Place], tuple[Link, Spot] | None]:
    if node is None:
        return [], [], None
    if isinstance(node, Instance) and node.desc.name == _LISTS + "DefaultMeasurementList":
        held = _held(node, "list")
        if not isinstance(held, Instance) or held.desc.name != "java.util.ArrayList":
            raise ValueError("list")
        if not held.values or not isinstance(held.values[-1], list):
            raise ValueError("list")
        items = [one for one in held.values[-1] if not (isinstance(one, Place) and one.block)]
        names = [_held(one, "name") for one in items]
        if not all(map(_is_text, names)):
            raise ValueError("names")
        return names, [_field(one, "value", "D") for one in items], None
    names, values = _held(node, "names"), _held(node, "values")
    if not isinstance(names, Link) or not isinstance(values, Spot):
        raise ValueError("values")
    return [], [], (names, values)


def read(packs: Packs, rows: Ints, values: Values) -> list[Held | None]:
    """What objects hold, in the order of ``rows`` (int64 [N]); None for those to be read from their graphs."""
    found = np.empty(len(rows), object)
    numbers = packs.layout_of[rows]
    for number in np.unique(numbers).tolist():
        layout = packs.layouts[number]
        form = _form(layout.tree)
        if form is not None and form.usual:
            for part in batches(np.flatnonzero(numbers == number)):
                found[part] = _Table(packs, layout, rows[part], values).held(form)
    listed: list[Held | None] = found.tolist()
    return listed


def classes(packs: Packs, rows: Ints, values: Values) -> list[Any]:
    """Only the class of each object, in the order of ``rows``; UNKNOWN for those to be read from their graphs."""
    found = np.empty(len(rows), object)
    found[:] = UNKNOWN
    numbers = packs.layout_of[rows]
    for number in np.unique(numbers).tolist():
        layout = packs.layouts[number]
        form = _form(layout.tree)
        if form is not None:
            for part in batches(np.flatnonzero(numbers == number)):
                table = _Table(packs, layout, rows[part], values)
                none: list[Any] = [None] * len(part)
                found[part] = table.linked(form.path_class, values.path_class) if form.path_class else none
                found[part[table.numbers(form.count, ">i4") > 0]] = UNKNOWN
    listed: list[Any] = found.tolist()
    return listed


class _Table:
    """Objects of one layout."""

    def __init__(self, packs: Packs, layout: Layout, rows: Ints, values: Values) -> None:
        self.packs = packs
        self.layout = layout
        self.values = values
        self.size = len(rows)
        self.odd = np.zeros(len(rows), bool)
        begins, sizes = packs.spans(layout, rows)
        self.begins, self.ends = begins, begins + sizes
        self.bases = np.column_stack([packs.starts[rows], self.ends])
        self.links = packs.targets(layout, rows)

    def held(self, form: _Form) -> NDArray[np.object_]:
        """Object array [N] of Held, None where something is odd."""
        self.odd |= self.numbers(form.count, ">i4") > 0
        names = self.texts(form.name) if form.name is not None else [""] * self.size
        keys = [self.texts(one) for one in form.keys]
        texts = [self.texts(one) for one in form.texts]
        metadata = self.dicts(form.keys, keys, texts)
        measurements = self.measurements(form)
        locked = self.linked(form.locked, lambda node: isinstance(node, Instance) and bool(get(node, "value")))
        classes = self.linked(form.path_class, self.values.path_class) if form.path_class else [None] * self.size
        probabilities = self.numbers(form.probability, ">f8").tolist()
        tints = [None] * self.size if form.colour is None else self.numbers(form.colour, ">i4").tolist()
        planes = self.planes(form.roi)
        shapes = self.polygons(form.roi) if form.roi.desc.name == POLYGON else self.geometries(form.roi)
        kind, roi = kind_of(self.layout.tree)[1], roi_kind(form.roi)
        found = np.empty(self.size, object)
        found[:] = [
            Held(
                kind,
                shape,
                name,
                path_class,
                lock,
                data,
                values,
                plane,
                None if tint is None else rgb_of(tint),
                None if math.isnan(number) else number,
                roi,
            )
            for shape, name, path_class, lock, data, values, plane, tint, number in zip(
                shapes, names, classes, locked, metadata, measurements, planes, tints, probabilities, strict=True
            )
        ]
        found[self.odd] = None
        return found

    def numbers(self, place: Place, code: str) -> NDArray[Any]:
        """Primitives at a place: [N]."""
        at = self.bases[:, place.segment] + place.offset
        found: NDArray[Any] = self.packs.raw[at[:, None] + np.arange(place.size)].view(code)[:, 0]
        return found

    def linked(self, link: Link, read: Any) -> list[Any]:
        """For each object what ``read`` makes of the node that it refers to; asked once for each node."""
        handles, places = np.unique(self.links[:, link.index], return_inverse=True)
        found = [read(self.packs.node(handle)) for handle in handles.tolist()]
        return [found[place] for place in places.tolist()]

    def texts(self, item: Any) -> list[str]:
        """Strings; where there is something else, the object is odd."""
        if isinstance(item, Link):
            handles, places = np.unique(self.links[:, item.index], return_inverse=True)
            found = [self.linked_text(handle) for handle in handles.tolist()]
            self.odd |= np.array([text is None for text in found])[places]
            return [found[place] or "" for place in places.tolist()]
        spans = zip(self.begins[:, item.index].tolist(), self.ends[:, item.index].tolist(), strict=True)
        stream = self.packs.stream
        raws = [stream[begin:end] for begin, end in spans]
        known = set(raws[:100])
        if len(known) < 50:
            # what many objects have in common is kept once
            known.update(raws)
            texts = {raw: decode_text(raw) for raw in known}
            return [texts[raw] for raw in raws]
        return [raw.decode("ascii") if raw.isascii() else decode_text(raw) for raw in raws]

    def linked_text(self, handle: int) -> str | None:
        raw = self.packs.inner_text(handle)
        if raw is not None:
            self.values.spend(len(raw))
            return decode_text(raw)
        node = self.packs.node(handle)
        return self.values.text(node) if isinstance(node, Text) else None

    def dicts(self, items: list[Any], keys: list[list[str]], columns: Sequence[list[Any]]) -> list[dict[str, Any]]:
        """A dictionary for each object."""
        if not items:
            return [{} for _ in range(self.size)]
        fixed = [one[0] for one in keys] if all(one.count(one[0]) == self.size for one in keys) else None
        rows = zip(*columns, strict=True)
        if fixed is not None:
            return [dict(zip(fixed, row, strict=True)) for row in rows]
        return [dict(zip(own, row, strict=True)) for own, row in zip(zip(*keys, strict=True), rows, strict=True)]

    def measurements(self, form: _Form) -> list[dict[str, Any]]:
        """Name -> value for each object."""
        if form.array is None:
            names = [self.texts(one) for one in form.names]
            return self.dicts(form.names, names, [self.numbers(one, ">f8").tolist() for one in form.numbers])
        link, spot = form.array
        lists = self.linked(link, self.values.names)
        desc = spot.desc
        code = {"[F": ">f4", "[D": ">f8"}.get(desc.name if desc is not None else "")
        if code is None:
            self.odd[:] = True
            return [{}] * self.size
        spans = zip(self.begins[:, spot.index].tolist(), self.ends[:, spot.index].tolist(), lists, strict=True)
        stream = self.packs.stream
        return [
            dict(zip(names, np.frombuffer(stream[begin:end], code).tolist(), strict=False))
            for begin, end, names in spans
        ]

    def planes(self, roi: Instance) -> list[Plane]:
        """The planes of the ROIs."""
        try:
            c, z, t = (self.numbers(_field(roi, name, "I"), ">i4") for name in "czt")
        except ValueError:
            self.odd[:] = True
            return [FIRST_PLANE] * self.size
        if (c == -1).all() and not z.any() and not t.any():
            return [FIRST_PLANE] * self.size
        return [Plane(*plane) for plane in zip(c.tolist(), z.tolist(), t.tolist(), strict=True)]

    def polygons(self, roi: Instance) -> list[Any]:
        """The shapes of polygon ROIs; odd where there are less than three corners."""
        slots = roi.desc.slots
        found: list[Any] = [roi.values[slots[name][0]] if name in slots else None for name in "xy"]
        x, y = found
        if not all(isinstance(one, Spot) and one.desc is not None and one.desc.name == "[F" for one in (x, y)):
            self.odd[:] = True
            return [None] * self.size
        sizes = (self.ends - self.begins)[:, x.index] // 4
        self.odd |= sizes != (self.ends - self.begins)[:, y.index] // 4
        columns = [self.floats(one) for one in (x, y)]
        if len(columns[0]) != len(columns[1]) or self.odd.any():
            good = np.flatnonzero(~self.odd)
            columns = [self.floats(one, good) for one in (x, y)]
        else:
            good = np.arange(self.size)
        points = np.column_stack(columns).astype(np.float64)
        sizes = sizes[good]
        starts = np.cumsum(sizes) - sizes
        short = sizes < 4
        if len(points):
            ends = np.minimum(starts + sizes - 1, len(points) - 1)
            closed = (points[np.minimum(starts, len(points) - 1)] == points[ends]).all(axis=1)
            short &= (sizes < 3) | closed
        self.odd[good[short]] = True
        keep = np.repeat(~short, sizes)
        shapes = np.empty(self.size, object)
        good, sizes = good[~short], sizes[~short]
        if len(good):
            with np.errstate(invalid="ignore"):
                rings = shapely.linearrings(points[keep], indices=np.repeat(np.arange(len(good)), sizes))
                shapes[good] = shapely.polygons(rings)
        listed: list[Any] = shapes.tolist()
        return listed

    def geometries(self, roi: Instance) -> list[Any]:
        """The shapes of ROIs stored as WKB; all are odd where one is."""
        slots = roi.desc.slots
        spot = roi.values[slots["wkb"][0]] if "wkb" in slots else None
        if not isinstance(spot, Spot) or spot.desc is None or spot.desc.name != "[B":
            self.odd[:] = True
            return [None] * self.size
        stream = self.packs.stream
        spans = zip(self.begins[:, spot.index].tolist(), self.ends[:, spot.index].tolist(), strict=True)
        raws = [stream[begin:end] for begin, end in spans]
        try:
            for raw in raws:
                check_wkb(raw)
            with np.errstate(invalid="ignore"):
                found: list[Any] = shapely.force_2d(shapely.from_wkb(np.array(raws, object))).tolist()
        except (JavaStreamError, struct.error, GEOSException):
            self.odd[:] = True
            return [None] * self.size
        return found

    def floats(self, spot: Spot, chosen: Ints | None = None) -> NDArray[np.float32]:
        """The arrays of all objects, or of those chosen, one after another."""
        begins, ends = self.begins[:, spot.index], self.ends[:, spot.index]
        if chosen is not None:
            begins, ends = begins[chosen], ends[chosen]
        stream = self.packs.stream
        spans = zip(begins.tolist(), ends.tolist(), strict=True)
        return np.frombuffer(b"".join([stream[begin:end] for begin, end in spans]), ">f4")
