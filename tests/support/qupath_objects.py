"""Objects of QuPath's hierarchy as QuPath writes them, for tests; not wsplf's own writing code."""

import struct
from collections.abc import Collection, Mapping, Sequence
from typing import Any
from uuid import UUID

import numpy as np
import shapely

from wsplf_cli.qupath.javaclasses import Maker
from wsplf_cli.qupath.javaser.graph import Array, Block, ClassDesc, Field, Instance, Stream, Text, encode_text
from wsplf_cli.qupath.qpdata import QpData, create

S, FA = "Ljava/lang/String;", "[F"
PLANE = (("I", "c", ""), ("I", "t", ""))
CORNERS = (*PLANE, ("D", "x", ""), ("D", "x2", ""), ("D", "y", ""), ("D", "y2", ""), ("I", "z", ""), ("L", "name", S))
POINTS = (*PLANE, ("I", "z", ""), ("L", "name", S), ("[", "x", FA), ("[", "y", FA))
LINES = (*PLANE, ("I", "z", ""), ("[", "x", FA), ("[", "y", FA))
AREA = (*PLANE, ("I", "z", ""), ("L", "name", S), ("L", "stats", S), ("[", "x", "[[F"), ("[", "y", "[[F"))
NUMERIC = "qupath.lib.measurements.NumericMeasurementList$"
DETECTION = "qupath.lib.objects.PathDetectionObject"


def delete_annotations(project: Any, entry_id: str, ids: Collection[UUID]) -> None:
    """Delete annotations from an entry of an open EmbeddedProject, as a person does in QuPath."""
    stored = project.read(entry_id)
    project.edit(entry_id, stored.data, remove=[node for node in stored.nodes if node.annotation.id in ids], add=[])


class Workbench:
    """Makes objects for one data file."""

    def __init__(self, *, version: str = "0.6.0") -> None:
        self.data: QpData = create(version=version, server=None, path="", properties={"my property": "value"})
        self.stream: Stream = self.data._stream
        self.maker = Maker(self.stream.descs)

    def desc(self, name: str, fields: Sequence[tuple[str, str, str]] = (), *, flags: int = 2, parent: str = "") -> str:
        if name not in self.stream.descs:
            made = tuple(Field(kind, one, Text(encode_text(sign)) if sign else None) for kind, one, sign in fields)
            above = self.maker.desc(parent) if parent else None
            self.stream.descs[name] = ClassDesc(name, 1, flags, made, above)
        return name

    def floats(self, values: Sequence[float]) -> Array:
        return self.maker.raw("[F", np.asarray(values, ">f4").tobytes())

    def corners(self, kind: str, x: float, y: float, x2: float, y2: float) -> Instance:
        name = self.desc(f"qupath.lib.roi.{kind}$SerializationProxy", CORNERS)
        return self.maker.object(name, c=-1, t=0, z=0, name=None, x=x, y=y, x2=x2, y2=y2)

    def points(self, kind: str, points: Sequence[tuple[float, float]]) -> Instance:
        xs, ys = self.floats([x for x, _ in points]), self.floats([y for _, y in points])
        if kind == "PolygonROI":
            name = "qupath.lib.roi.PolygonROI$SerializationProxy"
            return self.maker.object(name, c=-1, t=0, z=0, name=None, stats=None, x=xs, y=ys)
        name = self.desc(f"qupath.lib.roi.{kind}$SerializationProxy", POINTS if kind == "PointsROI" else LINES)
        extra = {"name": None} if kind == "PointsROI" else {}
        return self.maker.object(name, c=-1, t=0, z=0, x=xs, y=ys, **extra)

    def wkb(self, shape: Any, *, byte_order: int = 0) -> Instance:
        raw = self.maker.raw("[B", shapely.to_wkb(shape, byte_order=byte_order))
        name = "qupath.lib.roi.GeometryROI$WKBSerializationProxy"
        return self.maker.object(name, c=-1, t=0, z=0, stats=None, wkb=raw)

    def area(self, rings: Sequence[Sequence[tuple[float, float]]]) -> Instance:
        lists = self.desc("[[F")
        arrays = [
            Array(self.maker.desc(lists), values=[self.floats([point[axis] for point in ring]) for ring in rings])
            for axis in (0, 1)
        ]
        name = self.desc("qupath.lib.roi.AreaROI$SerializationProxy", AREA)
        return self.maker.object(name, c=-1, t=0, z=0, name=None, stats=None, x=arrays[0], y=arrays[1])

    def numeric(self, names: Sequence[str | Text], values: Sequence[float], *, kind: str, wrapped: str) -> Instance:
        """A FloatList or DoubleList whose names are in an ArrayList, UnmodifiableList or CollSer."""
        texts: list[Any] = [self.maker.text(name) if isinstance(name, str) else name for name in names]
        held = self.maker.list(texts)
        if wrapped == "CollSer":
            name = self.desc("java.util.CollSer", [("I", "tag", "")], flags=3)
            held = self.maker.object(name, tag=1)
            held.values.append([Block(struct.pack(">i", len(texts))), *texts])
        elif wrapped == "UnmodifiableList":
            base = self.desc("java.util.Collections$UnmodifiableCollection", [("L", "c", "Ljava/util/Collection;")])
            name = self.desc(f"java.util.Collections${wrapped}", [("L", "list", "Ljava/util/List;")], parent=base)
            held = self.maker.object(name, c=held, list=held)
        fields = (("Z", "isClosed", ""), ("L", "map", "Ljava/util/Map;"), ("L", "names", "Ljava/util/List;"))
        base = self.desc(NUMERIC + "AbstractNumericMeasurementList", fields)
        array, code = ("[F", ">f4") if kind == "FloatList" else (self.desc("[D"), ">f8")
        name = self.desc(NUMERIC + kind, [("[", "values", array)], parent=base)
        raw = self.maker.raw(array, np.asarray(values, code).tobytes())
        return self.maker.object(name, isClosed=True, map=None, names=held, values=raw)

    def node(
        self,
        roi: Instance | None,
        *,
        kind: str = "qupath.lib.objects.PathAnnotationObject",
        name: str = "",
        path_class: str | None = None,
        locked: bool = False,
        metadata: Mapping[str, str] | None = None,
        measurements: Instance | None = None,
        children: Sequence[Instance] = (),
    ) -> Instance:
        if kind == DETECTION:
            self.desc(kind, flags=12, parent="qupath.lib.objects.PathROIObject")
        content: list[Any] = [self.maker.text(name) if name else None, None]
        if metadata is not None:
            content.append(self.maker.metadata(metadata))
        content += [measurements, Block(struct.pack(">i", len(children))), *children]
        content += [self.maker.boolean(locked), self.maker.path_class(path_class, None) if path_class else None, roi]
        return self.maker.external(kind, [*content, Block(struct.pack(">d", float("nan")))])

    def put(self, *nodes: Instance) -> bytes:
        """The file with these objects under its root."""
        root = self.data._root()
        assert root is not None
        root.values[0][3:] = [Block(struct.pack(">i", len(nodes))), *nodes]
        return self.data.dumps()
