"""What is read and written by columns is what the graphs give."""

import struct
from random import Random
from uuid import UUID, uuid4

import pytest
import shapely
from shapely import Polygon, box
from streams import small_project_file

from wsplf_cli.qupath import javaser, qpdata
from wsplf_cli.qupath.compose import NewAnnotation
from wsplf_cli.qupath.javaser.graph import JavaStreamError
from wsplf_cli.qupath.pathobjects import tree
from wsplf_cli.qupath.qpdata import QpData, mark
from wsplf_cli.qupath.shapes import ellipse
from wsplf_cli.schema import Annotation, Plane

HOLED = Polygon([(100, 100), (300, 100.12), (300, 300), (100, 300)], [[(150, 150), (150, 200), (200, 200), (200, 150)]])
SQUARE = box(10, 20, 30, 40)


def _own(shape: shapely.Geometry, *, name: str = "", path_class: str | None = "Tumor") -> Annotation:
    return Annotation(uuid4(), shape, path_class, run_id="run-1", name=name, measurements={"wsplf: confidence": 0.5})


def _fresh(version: str = "0.6.0") -> QpData:
    return qpdata.create(version=version, server="{}", path="/slide.tif", properties={})


def _graphs(raw: bytes) -> QpData:
    """The file read without leaving anything packed."""
    return QpData(javaser.loads(raw), size=len(raw))


def _alike(one: object, other: object) -> bool:
    """Equal records; the repr also holds NaN equal to itself, and shows every coordinate."""
    return repr(one) == repr(other)


@pytest.mark.parametrize("seed", range(40))
def test_packed_objects_are_read_counted_and_written_as_their_graphs_are(seed: int) -> None:
    random = Random(seed)
    raw = small_project_file(random)
    packed, plain = qpdata.loads(raw), _graphs(raw)
    for ask in (lambda data: [node.annotation for node in data.annotation_nodes()], QpData.objects, QpData.counts):
        assert _alike(ask(packed), ask(plain))
    doomed = [place for place in range(len(plain.annotation_nodes())) if random.random() < 0.5]
    for data in (packed, plain):
        found = data.annotation_nodes()
        data.remove([found[place].node for place in doomed])
        data.add(mark([Annotation(UUID(int=9), HOLED, "Own")], origin="prediction"), colours={})
    assert packed.dumps() == plain.dumps()
    assert _alike(packed.counts(), plain.counts())


@pytest.mark.parametrize("version", ["0.2.3", "0.4.4", "0.6.0"])
def test_annotations_composed_as_bytes_are_those_of_their_graphs(version: str) -> None:
    random = Random(0)
    own = [
        Annotation(
            UUID(int=place),
            random.choice([SQUARE, HOLED, box(0, 0, 3, 3)]),
            random.choice([None, "Tumor", "Tumor: Positive"]),
            run_id="run",
            name=random.choice(["", "größe 😀"]),
            measurements=random.choice([{}, {"a": 1.5}, {"a": float("nan"), "b": 2.0}]),
            metadata=random.choice([{}, {"note": "x" * place}]),
            locked=random.random() < 0.3,
            plane=random.choice([Plane(), Plane(0, 1, 2)]),
            rgb=random.choice([None, (1, 2, 3)]),
        )
        for place in range(300)
    ]
    own += [Annotation(UUID(int=1_000 + place), HOLED, "Tumor", name="x" * (place % 3)) for place in range(30)]
    own += [Annotation(UUID(int=2_000 + place), SQUARE, None) for place in range(30)]
    marked = qpdata.mark(own, origin="pseudolabel")
    composed, graphs = _fresh(version), _fresh(version)
    for data in (composed, graphs):
        data.add(marked, colours={"Tumor": -3670016})
    root = graphs._root()
    assert root is not None
    for node, _, _ in tree(root):
        if isinstance(node, NewAnnotation):
            node.open()
    assert composed.dumps() == graphs.dumps()
    read = [node.annotation for node in qpdata.loads(composed.dumps()).annotation_nodes()]
    for one, other in zip(read, marked, strict=True):
        assert (one.id, one.name, one.path_class, one.locked, one.plane, one.rgb, dict(one.metadata), one.edited) == (
            other.id,
            other.name,
            other.path_class,
            other.locked,
            other.plane,
            other.rgb,
            dict(other.metadata),
            False,
        )
        assert one.shape.normalize().equals_exact(other.shape.normalize(), 1e-5)
        assert _alike(one.measurements, other.measurements)


def test_shapes_with_holes_are_read_by_columns_as_from_graphs_and_refused_alike() -> None:
    shapes = [HOLED if place % 3 else shapely.affinity.translate(HOLED, place) for place in range(30)]
    data = _fresh()
    data.add(mark([_own(shape) for shape in shapes], origin="prediction"), colours={})
    raw = data.dumps()
    assert len(qpdata.loads(raw)._stream.packs) > 25
    assert _alike(qpdata.loads(raw).objects(), _graphs(raw).objects())
    at = raw.rindex(b"\0\0\0\0\3\0\0\0\2")
    for damage in (b"\0\0\0\0\3\x7f\0\0\2", b"\0\0\0\0\x63\0\0\0\2"):
        damaged = raw[:at] + damage + raw[at + len(damage) :]
        reasons = []
        for read in (qpdata.loads(damaged), _graphs(damaged)):
            with pytest.raises(JavaStreamError) as caught:
                read.annotation_nodes()
            reasons.append(caught.value.message)
        assert reasons[0] == reasons[1]


@pytest.mark.parametrize("version", ["0.2.3", "0.6.0"])
def test_rectangles_and_ellipses_are_written_and_read_by_columns_as_by_graphs(version: str) -> None:
    random = Random(0)
    annotations = [
        Annotation(
            UUID(int=index + 1),
            ellipse((index, 5, index + 100_000.125, 90)) if index % 7 == 0 else box(index, 5, index + 100_000.125, 90),
            "Tumor",
            name=random.choice(["", "a"]),
            plane=random.choice([Plane(), Plane(0, 1, 2)]),
            roi="EllipseROI" if index % 7 == 0 else "RectangleROI",
        )
        for index in range(100)
    ]
    composed, graphs = _fresh(version), _fresh(version)
    for data in (composed, graphs):
        data.add(annotations, colours={})
    root = graphs._root()
    assert root is not None
    for node, _, _ in tree(root):
        if isinstance(node, NewAnnotation):
            node.open()
    raw = composed.dumps()
    assert raw == graphs.dumps()
    assert _alike(qpdata.loads(raw).objects(), _graphs(raw).objects())
    read = [node.annotation for node in qpdata.loads(raw).annotation_nodes()]
    assert [(one.roi, one.plane, one.name) for one in read] == [(one.roi, one.plane, one.name) for one in annotations]
    assert all(one.shape.equals_exact(other.shape, 0) for one, other in zip(read, annotations, strict=True))


def test_rectangle_whose_corner_is_no_number_is_read_as_its_graph_is() -> None:
    data = _fresh()
    data.add([Annotation(UUID(int=n), box(n, 5, 77, 90), None, roi="RectangleROI") for n in range(1, 9)], colours={})
    raw = data.dumps()
    end = raw.rindex(struct.pack(">d", 77))
    damaged = raw[:end] + struct.pack(">d", float("nan")) + raw[end + 8 :]
    assert _alike(qpdata.loads(damaged).objects(), _graphs(damaged).objects())


def test_text_that_is_no_utf8_in_a_packed_object_is_refused() -> None:
    data = _fresh()
    data.add(mark([_own(SQUARE, name=f"name {place}") for place in range(9)], origin="prediction"), colours={})
    raw = data.dumps()
    assert len(qpdata.loads(raw)._stream.packs) > 5
    with pytest.raises(JavaStreamError, match="UTF-8"):
        qpdata.loads(raw.replace(b"name 7", b"name \xff")).annotation_nodes()
