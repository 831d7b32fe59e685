import struct
from uuid import UUID, uuid4

import numpy as np
import pytest
import shapely
from own_annotations import made, new_qpdata, stored
from qupath_objects import DETECTION, Workbench
from shapely import LineString, MultiPolygon, Point, Polygon, box

from wsplf_cli.qupath import qpdata
from wsplf_cli.qupath.javaser.graph import Block, Instance, JavaStreamError
from wsplf_cli.qupath.qpdata import mark
from wsplf_cli.qupath.shapes import shape_hash, storable
from wsplf_cli.schema import (
    Annotation,
    is_pending,
)

HOLED = Polygon([(100, 100), (300, 100.12), (300, 300), (100, 300)], [[(150, 150), (150, 200), (200, 200), (200, 150)]])

ROI = "qupath.lib.objects.PathROIObject"

SQUARE = box(10, 20, 30, 40)


ROIS = {
    "rectangle": (lambda w: w.corners("RectangleROI", 30, 40, 10, 20), box(10, 20, 30, 40)),
    "line": (lambda w: w.corners("LineROI", 1, 2, 3, 4.5), LineString([(1, 2), (3, 4.5)])),
    "polygon": (lambda w: w.points("PolygonROI", [(0, 0), (4, 0), (4, 3)]), Polygon([(0, 0), (4, 0), (4, 3)])),
    "closed polygon": (
        lambda w: w.points("PolygonROI", [(0, 0), (4, 0), (4, 3), (0, 0)]),
        Polygon([(0, 0), (4, 0), (4, 3)]),
    ),
    "polygon of two points": (lambda w: w.points("PolygonROI", [(0, 0), (4, 0)]), LineString([(0, 0), (4, 0)])),
    "polyline": (lambda w: w.points("PolylineROI", [(0, 0), (4, 0), (4, 3)]), LineString([(0, 0), (4, 0), (4, 3)])),
    "point": (lambda w: w.points("PointsROI", [(5, 6)]), Point(5, 6)),
    "points": (lambda w: w.points("PointsROI", [(5, 6), (7, 8)]), shapely.MultiPoint([(5, 6), (7, 8)])),
    "no points": (lambda w: w.points("PointsROI", []), shapely.MultiPoint()),
    "hole": (lambda w: w.wkb(HOLED), HOLED),
    "little-endian": (lambda w: w.wkb(HOLED, byte_order=1), HOLED),
    "with z": (lambda w: w.wkb(shapely.force_3d(HOLED, 5)), HOLED),
    "parts": (
        lambda w: w.wkb(MultiPolygon([SQUARE, box(50, 50, 60, 60)])),
        MultiPolygon([SQUARE, box(50, 50, 60, 60)]),
    ),
    "old area": (
        lambda w: w.area([[(0, 0), (10, 0), (10, 10), (0, 10)], [(2, 2), (4, 2), (4, 4), (2, 4)]]),
        box(0, 0, 10, 10) - box(2, 2, 4, 4),
    ),
    "bow-tie": (
        lambda w: w.points("PolygonROI", [(0, 0), (4, 4), (4, 0), (0, 4)]),
        MultiPolygon([Polygon([(0, 0), (2, 2), (0, 4)]), Polygon([(4, 0), (4, 4), (2, 2)])]),
    ),
    "none": (lambda w: None, Polygon()),
}


@pytest.mark.parametrize("kind", ROIS)
def test_roi_is_read(kind: str) -> None:
    make, expected = ROIS[kind]
    bench = Workbench()
    (found,) = qpdata.loads(bench.put(bench.node(make(bench)))).annotation_nodes()
    shape = found.annotation.shape
    assert shape.is_valid
    assert shape.geom_type == expected.geom_type
    assert shape.equals(expected) or (shape.is_empty and expected.is_empty)


def test_ellipse_has_its_area() -> None:
    bench = Workbench()
    (found,) = qpdata.loads(bench.put(bench.node(bench.corners("EllipseROI", 10, 20, 50, 40)))).annotation_nodes()
    assert found.annotation.shape.area == pytest.approx(3.14159265 * 20 * 10, rel=1e-3)
    assert found.annotation.shape.bounds == pytest.approx((10, 20, 50, 40))


@pytest.mark.parametrize("kind", ["FloatList", "DoubleList"])
@pytest.mark.parametrize("wrapped", ["ArrayList", "UnmodifiableList", "CollSer"])
def test_numeric_measurements_are_read(kind: str, wrapped: str) -> None:
    bench = Workbench()
    values = bench.numeric(["Area µm^2", "Mean"], [1.5, float("nan")], kind=kind, wrapped=wrapped)
    node = bench.node(bench.corners("RectangleROI", 0, 0, 1, 1), measurements=values)
    (found,) = qpdata.loads(bench.put(node)).annotation_nodes()
    assert list(found.annotation.measurements) == ["Area µm^2", "Mean"]
    assert found.annotation.measurements["Area µm^2"] == 1.5
    assert found.annotation.measurements["Mean"] != found.annotation.measurements["Mean"]


def test_everything_of_an_annotation_is_read_at_any_depth() -> None:
    bench = Workbench()
    identity = uuid4()
    inner = bench.node(
        bench.corners("RectangleROI", 0, 0, 1, 1),
        name="größe 😀",
        path_class="Tumor: Positive",
        locked=True,
        metadata={"Object ID": str(identity), "key": "värde"},
    )
    outer = bench.node(bench.corners("RectangleROI", 0, 0, 9, 9), children=[bench.node(None, kind=DETECTION), inner])
    first, second = (node.annotation for node in qpdata.loads(bench.put(outer)).annotation_nodes())
    assert (first.path_class, first.name, first.locked, first.origin) == (None, "", False, "human")
    assert (second.id, second.name, second.path_class, second.locked) == (identity, "größe 😀", "Tumor: Positive", True)
    assert second.metadata == {"key": "värde"}


def test_annotations_without_ids_get_stable_different_ones() -> None:
    bench = Workbench()
    nodes = [bench.node(bench.corners("RectangleROI", 0, 0, 1, 1), name="same") for _ in range(2)]
    raw = bench.put(*nodes)
    ids = [node.annotation.id for node in qpdata.loads(raw).annotation_nodes()]
    assert len(set(ids)) == 2
    assert ids == [node.annotation.id for node in qpdata.loads(raw).annotation_nodes()]


def test_changed_shape_or_class_counts_as_edited() -> None:
    for change in ({"shape": box(10, 20, 30, 41)}, {"path_class": "Stroma"}):
        (part,) = mark([made(SQUARE)], origin="pseudolabel")
        fields = {"shape": part.shape, "path_class": part.path_class} | change
        data = new_qpdata()
        data.add([Annotation(part.id, metadata=part.metadata, name=part.name, **fields)], colours={})
        (found,) = qpdata.loads(data.dumps()).annotation_nodes()
        assert found.annotation.edited
        assert not is_pending(found.annotation)


def test_renamed_locked_noted_accepted_or_rejected_is_decided() -> None:
    (part,) = stored(made(SQUARE, name="a"))
    assert is_pending(part)
    fields = {"id": part.id, "shape": part.shape, "path_class": "Tumor", "origin": "pseudolabel", "name": "a"}
    for change in (
        {"name": "b"},
        {"locked": True},
        {"review": "accepted"},
        {"review": "rejected"},
        {"metadata": {**part.metadata, "ANNOTATION_DESCRIPTION": "look here"}},
    ):
        assert not is_pending(Annotation(**({"metadata": part.metadata} | fields | change)))


def test_counts_are_those_of_summary_json() -> None:
    bench = Workbench()
    rectangle = bench.corners("RectangleROI", 0, 0, 1, 1)
    outer = bench.node(rectangle, path_class="Tumor", children=[bench.node(rectangle, kind=DETECTION)])
    assert qpdata.loads(bench.put(outer)).counts() == {
        "nObjects": 3,
        "objectTypeCounts": {"Root objects": 1, "Annotations": 1, "Detections": 1},
        "annotationClassificationCounts": {"Tumor": 1},
        "detectionClassificationCounts": {"Unclassified": 1},
    }


def test_truncated_file_is_refused_in_one_line() -> None:
    raw = new_qpdata().dumps()
    for cut in range(0, len(raw) - 1, 7):
        with pytest.raises(JavaStreamError) as caught:
            qpdata.loads(raw[:cut])
        assert "\n" not in caught.value.message


def test_object_that_is_its_own_child_is_refused() -> None:
    bench = Workbench()
    node = bench.node(bench.corners("RectangleROI", 0, 0, 1, 1))
    node.values[0][3:4] = [type(node.values[0][3])(b"\0\0\0\1"), node]
    with pytest.raises(JavaStreamError, match="twice"):
        qpdata.loads(bench.put(node)).annotation_nodes()


def test_many_empty_blocks_do_not_recurse() -> None:
    bench = Workbench()
    node = bench.node(bench.corners("RectangleROI", 0, 0, 1, 1))
    node.values[0][1:1] = [Block(b"") for _ in range(5_000)]
    assert len(qpdata.loads(bench.put(node)).annotation_nodes()) == 1
    node.values[0][1:1] = [Block(b"?")]
    with pytest.raises(JavaStreamError, match="not laid out"):
        qpdata.loads(bench.put(node)).annotation_nodes()


def test_hash_stays_when_qupath_closes_turns_and_rounds_a_shape() -> None:
    shape = storable([Polygon(HOLED.exterior.coords, [HOLED.interiors[0].coords])])[0][0]
    turned = Polygon(
        [*shape.exterior.coords[2:], *shape.exterior.coords[1:3]],
        [list(reversed(shape.interiors[0].coords))],
    )
    single = shapely.transform(shape, lambda points: points.astype("float32").astype("float64"))
    rounded = shapely.transform(single, lambda points: points.round(2))
    assert {shape_hash(one) for one in (shape, turned, single, rounded)} == {shape_hash(shape)}
    assert shape_hash(shapely.transform(shape, lambda points: np.add(points, (0.02, 0)))) != shape_hash(shape)


def test_ids_keep_to_what_the_file_says() -> None:
    bench = Workbench()
    text = "12345678-1234-1234-1234-123456789abc"
    (found,) = qpdata.loads(bench.put(bench.node(None, metadata={"Object ID": text}))).annotation_nodes()
    assert found.annotation.id == UUID(text)
    (found,) = qpdata.loads(bench.put(bench.node(None, metadata={"Object ID": "not an id"}))).annotation_nodes()
    assert found.annotation.id != UUID(text)


def test_every_kind_of_object_is_read_with_its_place_in_the_hierarchy() -> None:
    bench = Workbench()
    rectangle = bench.corners("RectangleROI", 0, 0, 9, 9)
    cell = bench.desc("qupath.lib.objects.PathCellObject", flags=12, parent=bench.desc(DETECTION, flags=12, parent=ROI))
    tile = bench.desc("qupath.lib.objects.PathTileObject", flags=12, parent=DETECTION)
    core = bench.desc("qupath.lib.objects.TMACoreObject", flags=12, parent=ROI)
    inner = bench.node(rectangle, kind=cell, path_class="Tumor")
    inner.values[0][-1] = Block(struct.pack(">d", 0.75))
    inner.values[0].append(bench.corners("RectangleROI", 2, 2, 4, 4))
    cores = [bench.node(rectangle, kind=core, name=name, children=[inner] * (name == "A")) for name in "AB"]
    for place, node in enumerate(cores):
        node.values[0][-1] = Block(struct.pack(">d?", float("nan"), place == 1))
    cores[0].values[0][1] = bench.maker.integer(-256)
    raw = bench.put(*cores, bench.node(rectangle, kind=tile))
    grid = bench.desc("qupath.lib.objects.hierarchy.DefaultTMAGrid", [("I", "gridWidth", ""), ("L", "cores", "L")])
    hierarchy = next(
        item for item in bench.stream.contents if isinstance(item, Instance) and "Hierarchy" in item.desc.name
    )
    hierarchy.values[1] = bench.maker.object(grid, gridWidth=1, cores=bench.maker.list(cores))
    assert raw != bench.data.dumps()
    root, first, one, second, last = qpdata.loads(bench.data.dumps()).objects()
    assert [item.kind for item in (root, first, one, second, last)] == ["root", "tma_core", "cell", "tma_core", "tile"]
    assert [item.parent for item in (root, first, one, second, last)] == [None, root.id, first.id, root.id, root.id]
    assert [(item.grid, item.missing) for item in (first, second)] == [((0, 0), False), ((1, 0), True)]
    assert (first.rgb, second.rgb, first.roi) == ((255, 255, 0), None, "RectangleROI")
    assert (one.probability, one.path_class, last.probability) == (0.75, "Tumor", None)
    assert one.nucleus is not None
    assert one.nucleus.equals(box(2, 2, 4, 4))


def test_object_of_version_4_is_read() -> None:
    bench = Workbench()
    fields = [("J", "leastSigBits", ""), ("J", "mostSigBits", "")]
    uuid = UUID("12345678-1234-1234-1234-123456789abc")
    bench.desc("java.util.UUID", fields)
    signed = [value - (1 << 64) if value >> 63 else value for value in (uuid.int & (1 << 64) - 1, uuid.int >> 64)]
    own = bench.maker.object("java.util.UUID", leastSigBits=signed[0], mostSigBits=signed[1])
    for metadata in (None, {"key": "value"}):
        node = bench.node(bench.corners("RectangleROI", 0, 0, 1, 1), metadata=metadata)
        held = [value for value in node.values[0][2 : 3 + (metadata is not None)] if value is not None]
        blocks = [Block(struct.pack(">i", len(held))), *held, Block(b"\0\0\0\0")]
        node.values[0][2 : 4 + (metadata is not None)] = [own, *blocks]
        (found,) = qpdata.loads(bench.put(node)).annotation_nodes()
        assert (found.annotation.id, found.annotation.metadata) == (uuid, metadata or {})
