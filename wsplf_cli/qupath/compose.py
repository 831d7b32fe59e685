"""New annotations, written as bytes without a graph of each: the same bytes as the graph would give.

What the new objects share (classes, keys, names of measurements) is in the stream before them: the first object of its
kind is written as a graph, which puts it there.
"""

import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import shapely

from wsplf_cli.qupath.colours import pack_rgb
from wsplf_cli.qupath.javaclasses import Maker
from wsplf_cli.qupath.javaser.graph import Block, ClassDesc, Instance, encode_text
from wsplf_cli.qupath.javaser.read import BASE_HANDLE
from wsplf_cli.qupath.pathobjects import ANNOTATION, METADATA_MAP
from wsplf_cli.qupath.rois import POLYGON, WKB, write_roi
from wsplf_cli.schema import Annotation

_NO_CHILDREN = b"\x77\x04" + struct.pack(">i", 0)
_NAN = b"\x77\x08" + struct.pack(">d", math.nan)
_LIST = "qupath.lib.measurements.DefaultMeasurementList"
_MEASUREMENT = "qupath.lib.measurements.DoubleMeasurement"


class New:
    """One new annotation. See javagraph.Deferred."""

    __slots__ = ("annotation", "group", "opened")

    def __init__(self, group: "News", annotation: Annotation) -> None:
        self.group = group
        self.annotation = annotation
        self.opened: Instance | None = None

    @property
    def desc(self) -> ClassDesc:
        """The object's class."""
        return self.group.maker.desc(ANNOTATION)

    def open(self) -> Instance:
        """The graph, which from now on stands for the object."""
        if self.opened is None:
            self.opened = self.peek()
        return self.opened

    def peek(self) -> Instance:
        """The graph to look at; changes to it are lost."""
        return self.opened or self.group.graph(self.annotation)


class News:
    """Writes new annotations. ``id_key`` is where a file of its version keeps ids, ``colours`` packed ARGB by class."""

    def __init__(self, maker: Maker, *, id_key: str, colours: Mapping[str, int], colour_all_parts: bool) -> None:
        self.maker = maker
        self.id_key = id_key
        self.colours = colours
        self.colour_all_parts = colour_all_parts

    def graph(self, annotation: Annotation) -> Instance:
        """The object of an annotation."""
        maker = self.maker
        packed = pack_rgb(annotation.rgb)
        return maker.external(
            ANNOTATION,
            [
                maker.text(annotation.name) if annotation.name else None,
                None if packed is None else maker.integer(packed),
                maker.metadata(self.metadata(annotation)),
                maker.measurements(annotation.measurements),
                Block(struct.pack(">i", 0)),
                maker.boolean(annotation.locked),
                self.path_class(annotation.path_class),
                write_roi(maker, annotation.shape, plane=annotation.plane),
                Block(struct.pack(">d", math.nan)),
            ],
        )

    def metadata(self, annotation: Annotation) -> dict[str, str]:
        """The metadata as it is written: the id first."""
        return {self.id_key: str(annotation.id), **annotation.metadata}

    def path_class(self, name: str | None) -> Instance | None:
        """The object of a class name."""
        if name is None:
            return None
        return self.maker.path_class(name, self.colours.get(name), all_parts=self.colour_all_parts)

    def write(self, writer: Any, nodes: Sequence[New]) -> None:
        """Write annotations that nobody opened, one after another."""
        known: dict[Any, _Template] = {}
        points = _stored(nodes)
        for node, ring in zip(nodes, points, strict=True):
            one = node.annotation
            form = (
                tuple(one.metadata),
                tuple(one.measurements),
                one.path_class,
                one.locked,
                one.plane,
                one.rgb,
                ring is not None and len(ring),
            )
            template = None if ring is None else known.get(form)
            if ring is None or template is None or not template.sure:
                begin, before = len(writer.out), writer.next
                writer.put([node.open()])
                if ring is not None and template is None:
                    known[form] = _Template(self, writer, one, wkb=len(ring) == 1)
                elif ring is not None and template is not None:
                    # the second of a form shows whether the stream's own classes are laid out as the template has it
                    template.sure = bytes(writer.out[begin:]) == template.fill(one, self.metadata(one), ring)
                    template.sure &= writer.next - before == template.handles + (one.name != "")
                continue
            writer.out += template.fill(one, self.metadata(one), ring)
            writer.next += template.handles + (one.name != "")


def _stored(nodes: Sequence[New]) -> list[tuple[bytes, ...] | None]:
    """The x and the y of each polygon as QuPath stores them, the WKB of one with holes; None for other shapes."""
    found: list[tuple[bytes, ...] | None] = []
    for at in range(0, len(nodes), 20_000):
        shapes = np.empty(len(nodes[at : at + 20_000]), object)
        shapes[:] = [node.annotation.shape for node in nodes[at : at + 20_000]]
        plain = (
            (shapely.get_type_id(shapes) == 3)
            & (shapely.get_num_interior_rings(shapes) == 0)
            & ~shapely.is_empty(shapes)
        )
        coords, owner = shapely.get_coordinates(shapes, return_index=True)
        sizes = np.bincount(owner, minlength=len(shapes)) * 4
        ends = np.cumsum(sizes)
        x, y = (np.ascontiguousarray(coords[:, axis].astype(">f4")).tobytes() for axis in (0, 1))
        part: list[tuple[bytes, ...] | None] = [
            (x[begin : end - 4], y[begin : end - 4]) if simple else None
            for begin, end, simple in zip((ends - sizes).tolist(), ends.tolist(), plain.tolist(), strict=True)
        ]
        for place in np.flatnonzero(shapely.get_num_interior_rings(shapes) > 0).tolist():
            part[place] = (shapely.to_wkb(shapes[place], output_dimension=2, byte_order=0),)
        found += part
    return found


class _Template:
    """The bytes of annotations with the same keys, names, class and plane, but for what differs from one to another."""

    def __init__(self, news: News, writer: Any, one: Annotation, *, wkb: bool) -> None:
        maker = news.maker
        self.sure = False

        def refer(node: Any) -> bytes:
            handle: int = writer.handle(node)
            return b"\x71" + (handle + BASE_HANDLE).to_bytes(4, "big")

        def of(name: str) -> bytes:
            return refer(maker.desc(name))

        keys, names = list(news.metadata(one)), list(one.measurements)
        strings = b"\x75" + of("[Ljava.lang.Object;") + len(keys).to_bytes(4, "big")
        packed = pack_rgb(one.rgb)
        self.start = b"\x73" + of(ANNOTATION)
        self.metadata = (b"\x70" if packed is None else refer(maker.integer(packed))) + b"\x73" + of(METADATA_MAP)
        named = b"".join(refer(maker.shared(key)) for key in keys)
        self.metadata += refer(maker.integer(1)) + strings + named + strings
        self.measurements = b"\x78"
        self.names: list[bytes] = []
        path_class = news.path_class(one.path_class)
        self.after = _NO_CHILDREN + refer(maker.boolean(one.locked))
        self.after += b"\x70" if path_class is None else refer(path_class)
        self.after += b"\x73" + of(WKB if wkb else POLYGON)
        self.after += struct.pack(">iii", one.plane.c, one.plane.t, one.plane.z)
        self.after += b"\x70" if wkb else b"\x70\x70"  # no name, no statistics
        self.array = b"\x75" + of("[B" if wkb else "[F")
        self.unit = 1 if wkb else 4
        if names:
            count = len(names).to_bytes(4, "big")
            self.measurements += b"\x73" + of(_LIST) + b"\x73" + of("java.util.ArrayList") + count + b"\x77\x04" + count
            self.number = b"\x73" + of(_MEASUREMENT)
            self.names = [refer(maker.shared(name)) for name in names]
            self.after = b"\x78" + self.after
        else:
            self.after = b"\x70" + self.after
        # the object, its metadata with two arrays and the values, two lists and the measurements, the ROI with its
        # arrays
        self.handles = 1 + 3 + len(keys) + (2 + len(names) if names else 0) + (2 if wkb else 3)

    def fill(self, one: Annotation, metadata: Mapping[str, str], arrays: tuple[bytes, ...]) -> bytes:
        """The bytes of one annotation."""
        parts = [self.start, _string(one.name) if one.name else b"\x70", self.metadata]
        parts += map(_string, metadata.values())
        parts.append(self.measurements)
        for name, value in zip(self.names, one.measurements.values(), strict=True):
            parts += (self.number, struct.pack(">d", value), name)
        parts.append(self.after)
        for raw in arrays:
            parts += (self.array, (len(raw) // self.unit).to_bytes(4, "big"), raw)
        parts += (_NAN, b"\x78")
        return b"".join(parts)


def _string(text: str) -> bytes:
    raw = encode_text(text)
    if len(raw) > 0xFFFF:
        return b"\x7c" + len(raw).to_bytes(8, "big") + raw
    return b"\x74" + len(raw).to_bytes(2, "big") + raw
