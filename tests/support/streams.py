"""Java serialization streams of all kinds, and damaged ones, from a random generator."""

import struct
from random import Random
from typing import Any
from uuid import UUID

import shapely
from qupath_objects import DETECTION, Workbench

from wsplf_cli.qupath import javaser, qpdata
from wsplf_cli.qupath.javaser.graph import (
    Array,
    Block,
    ClassDesc,
    ClassObject,
    Enum,
    Failure,
    Field,
    Instance,
    JavaStreamError,
    Reset,
    Stream,
    Text,
    encode_text,
)
from wsplf_cli.schema import Annotation, Plane


def any_stream(random: Random) -> bytes:
    """A stream with any of the tags that Java knows, many of them in odd places."""
    return javaser.dumps(Stream(_Maker(random).contents(), {}))


class _Maker:
    def __init__(self, random: Random) -> None:
        self.random = random
        self.nodes: list[Any] = []
        self.left = 60
        base = ClassDesc("a.Base", 7, 2, (Field("I", "n", None), Field("Z", "flag", None)))
        text = Text(b"Ljava/lang/Object;")
        self.descs = [
            base,
            ClassDesc("a.Own", -1, 3, (Field("J", "l", None), Field("L", "x", text), Field("[", "y", text)), base),
            ClassDesc("a.Outer", 1, 12),
            ClassDesc("", 0, 2, interfaces=("a.B", "c.D")),
            ClassDesc("a.Marked", 1, 2, (Field("L", "x", text),), annotation=(Block(b"xy"), text, None)),
        ]
        held = Instance(base, [b"\0\0\0\1\1"])
        self.descs.append(ClassDesc("a.Deep", 1, 2, annotation=(held, Instance(self.descs[4], [held])), parent=base))

    def contents(self) -> list[Any]:
        found = [self.item() for _ in range(self.random.randrange(6))]
        if self.random.random() < 0.2:
            found.insert(self.random.randrange(len(found) + 1), Reset())
        if self.random.random() < 0.1:
            found.append(Failure([Instance(self.descs[0], [b"\0\0\0\1\1"])]))
            found.append(self.item())
        return found

    def item(self) -> Any:
        random = self.random
        if random.random() < 0.2:
            size = random.choice([0, 1, 8, 255, 256, 1024, 1500])
            return Block(random.randbytes(size), wide=size > 255 or random.random() < 0.1)
        return self.value()

    def value(self) -> Any:
        random = self.random
        self.left -= 1
        if self.left < 0 or random.random() < 0.15:
            return None
        if self.nodes and random.random() < 0.25:
            return random.choice(self.nodes)
        node = random.choice([self.text, self.array, self.objects, self.enum, self.type, self.instance])()
        self.nodes.append(node)
        return node

    def text(self) -> Text:
        text = "".join(self.random.choices("ab\0ü€😀", k=self.random.randrange(5)))
        return Text(encode_text(text), wide=self.random.random() < 0.1)

    def array(self) -> Array:
        kind = self.random.choice("BCDFIJSZ")
        size = struct.calcsize({"Z": "?", "C": "H", "J": "q"}.get(kind, kind.lower() if kind in "BDFIS" else kind))
        size = {"D": 8, "F": 4, "I": 4, "S": 2, "B": 1}.get(kind, size)
        return Array(ClassDesc(f"[{kind}", 1, 2), self.random.randbytes(size * self.random.randrange(4)))

    def objects(self) -> Array:
        return Array(ClassDesc("[Ljava.lang.Object;", 3, 2), values=[self.value() for _ in range(3)])

    def enum(self) -> Enum:
        return Enum(ClassDesc("a.Kind", 0, 18, parent=ClassDesc("java.lang.Enum", 0, 18)), Text(b"ONE"))

    def type(self) -> Any:
        return self.random.choice([ClassObject(self.random.choice(self.descs)), self.random.choice(self.descs)])

    def instance(self) -> Instance:
        desc = self.random.choice(self.descs)
        node = Instance(desc)
        self.nodes.append(node)
        for step in desc.steps:
            if step > 0:
                node.values.append(self.random.randbytes(step))
            else:
                held = self.value() if step == 0 else [self.item() for _ in range(self.random.randrange(4))]
                node.values.append(held)
        return node


def small_project_file(random: Random) -> bytes:
    """A data file of a few objects of every kind, some of them alike, as a QuPath version or wsplf writes it."""
    bench = Workbench(version=random.choice(["0.2.3", "0.3.2", "0.4.4", "0.6.0"]))
    square = [(0.0, 0.0), (4.0, 0.0), (4.0, 3.0)]
    holed = shapely.box(0, 0, 9, 9) - shapely.box(2, 2, 4, 4)
    makers = [
        lambda: bench.corners(random.choice(["RectangleROI", "EllipseROI", "LineROI"]), 1, 2, 30, 40),
        lambda: bench.points(random.choice(["PolygonROI", "PolylineROI", "PointsROI"]), square),
        lambda: bench.wkb(holed, byte_order=random.randrange(2)),
        lambda: bench.area([square, [(1.0, 1.0), (2.0, 1.0), (2.0, 2.0)]]),
        lambda: None,
    ]
    names = [bench.maker.shared(name) for name in ("Area", "Mean")]

    def node(depth: int) -> Instance:
        lists = [
            lambda: None,
            lambda: bench.maker.measurements({"Area": 1.5, "Mean": float("nan")}),
            lambda: bench.numeric(names, [1.0, 2.0], kind="FloatList", wrapped="CollSer"),
            lambda: bench.numeric(names, [1.0, 2.0], kind="DoubleList", wrapped="UnmodifiableList"),
        ]
        children = [node(depth + 1) for _ in range(random.randrange(3 - depth))] if depth < 2 else []
        return bench.node(
            random.choice(makers)(),
            kind=random.choice(["qupath.lib.objects.PathAnnotationObject", DETECTION]),
            name=random.choice(["", "größe"]),
            path_class=random.choice([None, "Tumor", "Tumor: Positive"]),
            metadata=random.choice([None, {"Object ID": str(UUID(int=random.getrandbits(128))), "key": "värde"}]),
            measurements=random.choice(lists)(),
            children=children,
        )

    alike = [bench.node(makers[1](), path_class="Tumor", metadata={"key": str(place)}) for place in range(4)]
    data = qpdata.loads(bench.put(*(node(0) for _ in range(3)), *alike))
    own = [
        Annotation(UUID(int=random.getrandbits(128)), holed if place == 3 else shapely.Polygon(square), "Tumor")
        for place in range(5)
    ]
    own.append(Annotation(UUID(int=1), shapely.box(1, 1, 9, 9), "A: B", plane=Plane(0, 1, 2), rgb=(1, 2, 3)))
    data.add(qpdata.mark(own, origin="pseudolabel"), colours={})
    return data.dumps()


_ODD = [b"\0", b"\xff", b"\x7f\xff\xff\xff", b"\xff\xff", b"\0\0\0\0", *(bytes([tag]) for tag in range(0x70, 0x7F))]


def damaged(raw: bytes, other: bytes, random: Random) -> bytes:
    """A stream with a few bytes flipped, put in or taken out, cut, or spliced with another."""
    stream = bytearray(raw)
    for _ in range(random.choice([1, 1, 2, 5, 20])):
        if not stream:
            break
        at = random.randrange(len(stream))
        deed = random.randrange(8)
        if deed <= 2:
            stream[at] ^= 1 << random.randrange(8)
        elif deed == 3:
            odd = random.choice(_ODD)
            stream[at : at + len(odd)] = odd
        elif deed == 4:
            del stream[at : at + random.choice([1, 4, 50])]
        elif deed == 5:
            stream[at:at] = stream[at : at + random.choice([1, 5, 200])]
        elif deed == 6 and other:
            begin = random.randrange(len(other))
            stream[at:] = other[begin:]
        elif deed == 7 and random.random() < 0.3:
            # another handle in a reference
            at = stream.find(b"\x71\0\x7e", at)
            if at >= 0 and at + 5 <= len(stream):
                stream[at + 3 : at + 5] = random.choice([b"\0\0", random.randbytes(1) + b"\x01", bytes([0, at & 255])])
    if random.random() < 0.1:
        del stream[random.randrange(len(stream) + 1) :]
    return bytes(stream)


def exercise(raw: bytes) -> str:
    """Read and write a stream in every way: "same" or "refused"; any error but ours goes through."""

    try:
        assert javaser.dumps(javaser.loads(raw)) == raw, "it is written differently"
        result = "same"
    except JavaStreamError:
        result = "refused"
    try:
        data = qpdata.loads(raw)
        found = data.annotation_nodes()
        data.objects()
        data.counts()
        again = data.dumps()
        assert again == raw, "read with packed objects it is written differently"
        data.remove([node.node for node in found[::2]])
        data.add(
            qpdata.mark([Annotation(UUID(int=5), shapely.box(0, 0, 9, 9), "Own")], origin="prediction"), colours={}
        )
        qpdata.loads(data.dumps()).annotation_nodes()
    except JavaStreamError:
        return result
    return result
