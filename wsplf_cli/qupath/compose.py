"""Writes new annotations as bytes, without a graph of each: the same bytes as the graph would give.

The new objects refer to what they share (classes, keys, names of measurements). The first object of a form is written
as a graph, which puts these into the stream.
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
from wsplf_cli.qupath.javaser.tags import BASE_HANDLE
from wsplf_cli.qupath.pathobjects import ANNOTATION, METADATA_MAP
from wsplf_cli.qupath.rois import POLYGON, RECTANGLE, WKB, write_roi
from wsplf_cli.schema import Annotation

_NO_CHILDREN = b"\x77\x04" + struct.pack(">i", 0)
_NAN = b"\x77\x08" + struct.pack(">d", math.nan)
_LIST = "qupath.lib.measurements.DefaultMeasurementList"
_MEASUREMENT = "qupath.lib.measurements.DoubleMeasurement"

Coordinates = tuple[str, tuple[bytes, ...]]
"""The class of a ROI, and the bytes of its coordinates: x and y of a polygon, WKB, or the bounds of a rectangle."""


class NewAnnotation:
    """One new annotation. See graph.Deferred."""

    __slots__ = ("annotation", "group", "opened")

    def __init__(self, group: "AnnotationWriter", annotation: Annotation) -> None:
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


class AnnotationWriter:
    """Writes new annotations into one file.

    ``id_key`` is the metadata key of the id, ``colours`` the packed ARGB by class name.
    """

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
                write_roi(maker, annotation.shape, plane=annotation.plane, bounds_roi=annotation.roi),
                Block(struct.pack(">d", math.nan)),
            ],
        )

    def metadata(self, annotation: Annotation) -> dict[str, str]:
        """The metadata to write, the id first."""
        return {self.id_key: str(annotation.id), **annotation.metadata}

    def path_class(self, name: str | None) -> Instance | None:
        """The object of a class name."""
        if name is None:
            return None
        return self.maker.path_class(name, self.colours.get(name), all_parts=self.colour_all_parts)

    def write(self, writer: Any, nodes: Sequence[NewAnnotation]) -> None:
        """Write annotations that nobody opened, one after another."""
        templates: dict[Any, _Template] = {}
        coordinates = _coordinate_bytes(nodes)
        for node, stored in zip(nodes, coordinates, strict=True):
            annotation = node.annotation
            form = (
                tuple(annotation.metadata),
                tuple(annotation.measurements),
                annotation.path_class,
                annotation.locked,
                annotation.plane,
                annotation.rgb,
                stored is not None and stored[0],
            )
            template = None if stored is None else templates.get(form)
            if stored is None or template is None or not template.sure:
                begin, before = len(writer.out), writer.next
                writer.put([node.open()])
                if stored is not None and template is None:
                    templates[form] = _Template(self, writer, annotation, roi=stored[0])
                elif stored is not None and template is not None:
                    # the second of a form shows whether the stream's own classes are laid out as the template has it
                    template.sure = bytes(writer.out[begin:]) == template.fill(
                        annotation, self.metadata(annotation), stored[1]
                    )
                    template.sure &= writer.next - before == template.handles + (annotation.name != "")
                continue
            writer.out += template.fill(annotation, self.metadata(annotation), stored[1])
            writer.next += template.handles + (annotation.name != "")


def _coordinate_bytes(nodes: Sequence[NewAnnotation]) -> list[Coordinates | None]:
    """What QuPath stores of each shape: a polygon, WKB if it has holes, or a rectangle; None for other shapes."""
    coordinates: list[Coordinates | None] = []
    for at in range(0, len(nodes), 20_000):
        annotations = [node.annotation for node in nodes[at : at + 20_000]]
        shapes = np.empty(len(annotations), object)
        shapes[:] = [annotation.shape for annotation in annotations]
        rois = np.array([annotation.roi for annotation in annotations])
        plain = (
            (shapely.get_type_id(shapes) == 3)
            & (shapely.get_num_interior_rings(shapes) == 0)
            & ~shapely.is_empty(shapes)
            & (rois == "")
        )
        coords, owner = shapely.get_coordinates(shapes, return_index=True)
        sizes = np.bincount(owner, minlength=len(shapes)) * 4
        ends = np.cumsum(sizes)
        x, y = (np.ascontiguousarray(coords[:, axis].astype(">f4")).tobytes() for axis in (0, 1))
        batch: list[Coordinates | None] = [
            (POLYGON, (x[begin : end - 4], y[begin : end - 4])) if simple else None
            for begin, end, simple in zip((ends - sizes).tolist(), ends.tolist(), plain.tolist(), strict=True)
        ]
        for index in np.flatnonzero(shapely.get_num_interior_rings(shapes) > 0).tolist():
            batch[index] = WKB, (shapely.to_wkb(shapes[index], output_dimension=2, byte_order=0),)
        rectangles = np.flatnonzero((rois == "RectangleROI") & ~shapely.is_empty(shapes))
        bounds = shapely.bounds(shapes[rectangles])[:, [0, 2, 1, 3]].astype(
            ">f8"
        )  # Java sorts the fields: x, x2, y, y2
        for index, corners in zip(rectangles.tolist(), bounds, strict=True):
            batch[index] = RECTANGLE, (corners.tobytes(),)
        coordinates += batch
    return coordinates


class _Template:
    """The bytes that annotations of one form share: those with the same keys, names, class, lock, plane and colour.

    ``roi`` is the class of their ROI: POLYGON, WKB or RECTANGLE.
    """

    def __init__(self, group: AnnotationWriter, writer: Any, annotation: Annotation, *, roi: str) -> None:
        maker = group.maker
        self.sure = False

        def refer(node: Any) -> bytes:
            handle: int = writer.handle(node)
            return b"\x71" + (handle + BASE_HANDLE).to_bytes(4, "big")

        def class_reference(name: str) -> bytes:
            return refer(maker.desc(name))

        keys, names = list(group.metadata(annotation)), list(annotation.measurements)
        strings = b"\x75" + class_reference("[Ljava.lang.Object;") + len(keys).to_bytes(4, "big")
        packed = pack_rgb(annotation.rgb)
        self.start = b"\x73" + class_reference(ANNOTATION)
        self.metadata = (
            (b"\x70" if packed is None else refer(maker.integer(packed))) + b"\x73" + class_reference(METADATA_MAP)
        )
        named = b"".join(refer(maker.shared(key)) for key in keys)
        self.metadata += refer(maker.integer(1)) + strings + named + strings
        self.measurements = b"\x78"
        self.names: list[bytes] = []
        path_class = group.path_class(annotation.path_class)
        self.after = _NO_CHILDREN + refer(maker.boolean(annotation.locked))
        self.after += b"\x70" if path_class is None else refer(path_class)
        self.after += b"\x73" + class_reference(roi) + struct.pack(">ii", annotation.plane.c, annotation.plane.t)
        z_and_nulls = struct.pack(">i", annotation.plane.z) + (b"\x70\x70" if roi == POLYGON else b"\x70")
        # a polygon has neither name nor statistics, WKB no statistics, a rectangle no name, behind its corners
        self.after += b"" if roi == RECTANGLE else z_and_nulls
        self.end = z_and_nulls if roi == RECTANGLE else b""
        self.array = b"" if roi == RECTANGLE else b"\x75" + class_reference("[B" if roi == WKB else "[F")
        self.unit = 1 if roi == WKB else 4
        if names:
            count = len(names).to_bytes(4, "big")
            self.measurements += (
                b"\x73"
                + class_reference(_LIST)
                + b"\x73"
                + class_reference("java.util.ArrayList")
                + count
                + b"\x77\x04"
                + count
            )
            self.number = b"\x73" + class_reference(_MEASUREMENT)
            self.names = [refer(maker.shared(name)) for name in names]
            self.after = b"\x78" + self.after
        else:
            self.after = b"\x70" + self.after
        # the object, its metadata with two arrays and the values, two lists and the measurements, the ROI with its
        # arrays
        roi_handles = {POLYGON: 3, WKB: 2, RECTANGLE: 1}[roi]
        self.handles = 1 + 3 + len(keys) + (2 + len(names) if names else 0) + roi_handles

    def fill(self, annotation: Annotation, metadata: Mapping[str, str], coordinates: tuple[bytes, ...]) -> bytes:
        """The bytes of one annotation."""
        parts = [self.start, _string(annotation.name) if annotation.name else b"\x70", self.metadata]
        parts += map(_string, metadata.values())
        parts.append(self.measurements)
        for name, value in zip(self.names, annotation.measurements.values(), strict=True):
            parts += (self.number, struct.pack(">d", value), name)
        parts.append(self.after)
        for raw in coordinates:
            parts += (self.array, (len(raw) // self.unit).to_bytes(4, "big"), raw) if self.array else (raw,)
        parts += (self.end, _NAN, b"\x78")
        return b"".join(parts)


def _string(text: str) -> bytes:
    raw = encode_text(text)
    if len(raw) > 0xFFFF:
        return b"\x7c" + len(raw).to_bytes(8, "big") + raw
    return b"\x74" + len(raw).to_bytes(2, "big") + raw
