"""Reads the values of packed objects by columns: one value from all the objects of a layout at once.

A layout whose form is not known here gives nothing, nor does an object in which something is not as usual. Such objects
are then read from their graphs (records.read_object), with the same result.
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
from wsplf_cli.qupath.javaser.layout import FixedBytes, Layout, Reference, VariableBytes
from wsplf_cli.qupath.javaser.table import Ints, Table, batches
from wsplf_cli.qupath.pathobjects import METADATA_MAP, kind_of
from wsplf_cli.qupath.records import StoredObject, rgb_of
from wsplf_cli.qupath.rois import FIRST_PLANE, POLYGON, RECTANGLE, WKB, check_wkb, roi_kind
from wsplf_cli.qupath.values import Values
from wsplf_cli.schema import Plane

UNKNOWN = object()

_LISTS = "qupath.lib.measurements."


@dataclass(slots=True)
class _Form:
    """Where the values of an object lie in its layout."""

    name: Any
    colour: FixedBytes | None
    keys: list[Any]
    texts: list[Any]
    names: list[Any]
    numbers: list[FixedBytes]
    array: tuple[Reference, VariableBytes] | None
    count: FixedBytes
    locked: Reference
    path_class: Reference | None
    roi: Instance
    probability: FixedBytes
    usual: bool
    """Whether the shape is a polygon, a rectangle or WKB, and nothing follows: then all is read from columns."""


def _form(template: Instance) -> _Form | None:
    """The form of a layout; None for an unusual one."""
    try:
        (items,) = template.values
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
        all(isinstance(part, FixedBytes) and part.block for part in (count, probability)),
        isinstance(locked, Reference),
        path_class is None or isinstance(path_class, Reference),
        roi is None or isinstance(roi, Instance),
    )
    if not all(known) or (count.size, probability.size) != (4, 8):
        return None
    tint = None if colour is None else _integer(colour)
    if colour is not None and tint is None:
        return None
    usual = isinstance(roi, Instance) and roi.desc.name in {POLYGON, RECTANGLE, WKB} and not more
    return _Form(name, tint, keys, texts, names, numbers, array, count, locked, path_class, roi, probability, usual)


def _is_text(node: Any) -> bool:
    return isinstance(node, Reference) or (isinstance(node, VariableBytes) and node.desc is None)


def _field(node: Any, name: str, kind: str) -> FixedBytes:
    """Where a primitive field of a type lies; ValueError when it does not."""
    index, offset, field_kind = node.desc.slots.get(name, (0, 0, "")) if isinstance(node, Instance) else (0, 0, "")
    if field_kind != kind:
        raise ValueError(name)
    fixed = node.values[index]
    return FixedBytes(fixed.segment, fixed.offset + offset, SIZES[kind])


def _integer(node: Instance) -> FixedBytes | None:
    try:
        return _field(node, "value", "I")
    except ValueError:
        return None


def _object_field(node: Any, name: str) -> Any:
    """An object field; ValueError when there is none."""
    if not isinstance(node, Instance) or name not in node.desc.slots:
        raise ValueError(name)
    return node.values[node.desc.slots[name][0]]


def _metadata(node: Instance | None) -> tuple[list[Any], list[Any]]:
    if node is None:
        return [], []
    (items,) = node.values
    keys, texts = (
        (item.values for item in items if isinstance(item, Array)) if isinstance(items, list) else (None, None)
    )
    if keys is None or texts is None or not all(map(_is_text, [*keys, *texts])) or len(keys) != len(texts):
        raise ValueError("metadata")
    return keys, texts


def _measurements(node: Any) -> tuple[list[Any], list[FixedBytes], tuple[Reference, VariableBytes] | None]:
    if node is None:
        return [], [], None
    if isinstance(node, Instance) and node.desc.name == _LISTS + "DefaultMeasurementList":
        array_list = _object_field(node, "list")
        if not isinstance(array_list, Instance) or array_list.desc.name != "java.util.ArrayList":
            raise ValueError("list")
        if not array_list.values or not isinstance(array_list.values[-1], list):
            raise ValueError("list")
        items = [item for item in array_list.values[-1] if not (isinstance(item, FixedBytes) and item.block)]
        names = [_object_field(item, "name") for item in items]
        if not all(map(_is_text, names)):
            raise ValueError("names")
        return names, [_field(item, "value", "D") for item in items], None
    names, values = _object_field(node, "names"), _object_field(node, "values")
    if not isinstance(names, Reference) or not isinstance(values, VariableBytes):
        raise ValueError("values")
    return [], [], (names, values)


def read(table: Table, rows: Ints, values: Values) -> list[StoredObject | None]:
    """The objects in the order of ``rows`` (int64 [N]); None for those to be read from their graphs."""
    objects = np.empty(len(rows), object)
    layouts = table.layout_of[rows]
    for index in np.unique(layouts).tolist():
        layout = table.layouts[index]
        form = _form(layout.template)
        if form is not None and form.usual:
            for part in batches(np.flatnonzero(layouts == index)):
                objects[part] = _Columns(table, layout, rows[part], values).objects(form)
    object_list: list[StoredObject | None] = objects.tolist()
    return object_list


def classes(table: Table, rows: Ints, values: Values) -> list[Any]:
    """The class of each object in the order of ``rows``; UNKNOWN for those to be read from their graphs."""
    names = np.empty(len(rows), object)
    names[:] = UNKNOWN
    layouts = table.layout_of[rows]
    for index in np.unique(layouts).tolist():
        layout = table.layouts[index]
        form = _form(layout.template)
        if form is not None:
            for part in batches(np.flatnonzero(layouts == index)):
                columns = _Columns(table, layout, rows[part], values)
                no_class: list[Any] = [None] * len(part)
                names[part] = columns.linked(form.path_class, values.path_class) if form.path_class else no_class
                names[part[columns.numbers(form.count, ">i4") > 0]] = UNKNOWN
    name_list: list[Any] = names.tolist()
    return name_list


class _Columns:
    """The values of rows of one layout; ``odd`` bool [N] marks the objects that must be read from their graphs."""

    def __init__(self, table: Table, layout: Layout, rows: Ints, values: Values) -> None:
        self.table = table
        self.layout = layout
        self.values = values
        self.size = len(rows)
        self.odd = np.zeros(len(rows), bool)
        begins, sizes = table.spans(layout, rows)
        self.begins, self.ends = begins, begins + sizes
        self.bases = np.column_stack([table.starts[rows], self.ends])
        self.handles = table.targets(layout, rows)

    def objects(self, form: _Form) -> NDArray[np.object_]:
        """Object array [N] of StoredObject, None where something is odd."""
        self.odd |= self.numbers(form.count, ">i4") > 0
        names = self.texts(form.name) if form.name is not None else [""] * self.size
        keys = [self.texts(part) for part in form.keys]
        texts = [self.texts(part) for part in form.texts]
        metadata = self.dicts(form.keys, keys, texts)
        measurements = self.measurements(form)
        locked = self.linked(form.locked, lambda node: isinstance(node, Instance) and bool(get(node, "value")))
        classes = self.linked(form.path_class, self.values.path_class) if form.path_class else [None] * self.size
        probabilities = self.numbers(form.probability, ">f8").tolist()
        tints = [None] * self.size if form.colour is None else self.numbers(form.colour, ">i4").tolist()
        planes = self.planes(form.roi)
        read_shapes = {POLYGON: self.polygons, RECTANGLE: self.rectangles, WKB: self.geometries}
        shapes = read_shapes[form.roi.desc.name](form.roi)
        kind, roi = kind_of(self.layout.template)[1], roi_kind(form.roi)
        objects = np.empty(self.size, object)
        objects[:] = [
            StoredObject(
                kind,
                shape,
                name,
                path_class,
                lock,
                data,
                values,
                plane,
                None if tint is None else rgb_of(tint),
                None if math.isnan(probability) else probability,
                roi,
            )
            for shape, name, path_class, lock, data, values, plane, tint, probability in zip(
                shapes, names, classes, locked, metadata, measurements, planes, tints, probabilities, strict=True
            )
        ]
        objects[self.odd] = None
        return objects

    def numbers(self, fixed: FixedBytes, code: str) -> NDArray[Any]:
        """The primitives of a field: [N]."""
        offsets = self.bases[:, fixed.segment] + fixed.offset
        values: NDArray[Any] = self.table.raw[offsets[:, None] + np.arange(fixed.size)].view(code)[:, 0]
        return values

    def linked(self, reference: Reference, read: Any) -> list[Any]:
        """For each object what ``read`` makes of the node that it refers to; called once for each node."""
        handles, indices = np.unique(self.handles[:, reference.index], return_inverse=True)
        values = [read(self.table.node(handle)) for handle in handles.tolist()]
        return [values[index] for index in indices.tolist()]

    def texts(self, item: Any) -> list[str]:
        """The string of each object; where there is something else, the object is odd."""
        if isinstance(item, Reference):
            handles, indices = np.unique(self.handles[:, item.index], return_inverse=True)
            shared_texts = [self.linked_text(handle) for handle in handles.tolist()]
            self.odd |= np.array([text is None for text in shared_texts])[indices]
            return [shared_texts[index] or "" for index in indices.tolist()]
        spans = zip(self.begins[:, item.index].tolist(), self.ends[:, item.index].tolist(), strict=True)
        stream = self.table.stream
        raws = [stream[begin:end] for begin, end in spans]
        distinct = set(raws[:100])
        if len(distinct) < 50:
            # texts that many objects share are decoded once
            distinct.update(raws)
            texts = {raw: decode_text(raw) for raw in distinct}
            return [texts[raw] for raw in raws]
        return [raw.decode("ascii") if raw.isascii() else decode_text(raw) for raw in raws]

    def linked_text(self, handle: int) -> str | None:
        """The string with a handle, None when the handle is of something else."""
        raw = self.table.inner_text(handle)
        if raw is not None:
            self.values.spend(len(raw))
            return decode_text(raw)
        node = self.table.node(handle)
        return self.values.text(node) if isinstance(node, Text) else None

    def dicts(self, items: list[Any], keys: list[list[str]], columns: Sequence[list[Any]]) -> list[dict[str, Any]]:
        """A dictionary for each object."""
        if not items:
            return [{} for _ in range(self.size)]
        fixed = [column[0] for column in keys] if all(column.count(column[0]) == self.size for column in keys) else None
        rows = zip(*columns, strict=True)
        if fixed is not None:
            return [dict(zip(fixed, row, strict=True)) for row in rows]
        return [dict(zip(names, row, strict=True)) for names, row in zip(zip(*keys, strict=True), rows, strict=True)]

    def measurements(self, form: _Form) -> list[dict[str, Any]]:
        """Name -> value for each object."""
        if form.array is None:
            names = [self.texts(part) for part in form.names]
            return self.dicts(form.names, names, [self.numbers(part, ">f8").tolist() for part in form.numbers])
        reference, part = form.array
        lists = self.linked(reference, self.values.names)
        desc = part.desc
        code = {"[F": ">f4", "[D": ">f8"}.get(desc.name if desc is not None else "")
        if code is None:
            self.odd[:] = True
            return [{}] * self.size
        spans = zip(self.begins[:, part.index].tolist(), self.ends[:, part.index].tolist(), lists, strict=True)
        stream = self.table.stream
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
        arrays: list[Any] = [roi.values[slots[name][0]] if name in slots else None for name in "xy"]
        x, y = arrays
        if not all(
            isinstance(array, VariableBytes) and array.desc is not None and array.desc.name == "[F" for array in (x, y)
        ):
            self.odd[:] = True
            return [None] * self.size
        sizes = (self.ends - self.begins)[:, x.index] // 4
        self.odd |= sizes != (self.ends - self.begins)[:, y.index] // 4
        columns = [self.floats(array) for array in (x, y)]
        if len(columns[0]) != len(columns[1]) or self.odd.any():
            good = np.flatnonzero(~self.odd)
            columns = [self.floats(array, good) for array in (x, y)]
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

    def rectangles(self, roi: Instance) -> list[Any]:
        """The shapes of rectangle ROIs; odd where a corner is not a finite number."""
        try:
            x, y, x2, y2 = (self.numbers(_field(roi, name, "D"), ">f8") for name in ("x", "y", "x2", "y2"))
        except ValueError:
            self.odd[:] = True
            return [None] * self.size
        bounds = np.minimum(x, x2), np.minimum(y, y2), np.maximum(x, x2), np.maximum(y, y2)
        self.odd |= ~np.isfinite(bounds).all(axis=0)
        boxes: list[Any] = shapely.box(*(side.astype(np.float64) for side in bounds)).tolist()
        return boxes

    def geometries(self, roi: Instance) -> list[Any]:
        """The shapes of ROIs stored as WKB; all are odd where one is."""
        slots = roi.desc.slots
        part = roi.values[slots["wkb"][0]] if "wkb" in slots else None
        if not isinstance(part, VariableBytes) or part.desc is None or part.desc.name != "[B":
            self.odd[:] = True
            return [None] * self.size
        stream = self.table.stream
        spans = zip(self.begins[:, part.index].tolist(), self.ends[:, part.index].tolist(), strict=True)
        raws = [stream[begin:end] for begin, end in spans]
        try:
            for raw in raws:
                check_wkb(raw)
            with np.errstate(invalid="ignore"):
                shapes: list[Any] = shapely.force_2d(shapely.from_wkb(np.array(raws, object))).tolist()
        except (JavaStreamError, struct.error, GEOSException):
            self.odd[:] = True
            return [None] * self.size
        return shapes

    def floats(self, part: VariableBytes, chosen: Ints | None = None) -> NDArray[np.float32]:
        """The float arrays of all objects, or of those at the indices ``chosen``, joined: float32 [sum of sizes]."""
        begins, ends = self.begins[:, part.index], self.ends[:, part.index]
        if chosen is not None:
            begins, ends = begins[chosen], ends[chosen]
        stream = self.table.stream
        spans = zip(begins.tolist(), ends.tolist(), strict=True)
        return np.frombuffer(b"".join([stream[begin:end] for begin, end in spans]), ">f4")
