"""A file whose objects share huge things, or hold hostile ones, is refused soon or read as it is."""

import numpy as np
import pytest
from qupath_objects import Workbench
from shapely import Polygon

from wsplf_cli.qupath import qpdata
from wsplf_cli.qupath.javaser.graph import Instance, JavaStreamError

HOLED = Polygon([(100, 100), (300, 100.12), (300, 300), (100, 300)], [[(150, 150), (150, 200), (200, 200), (200, 150)]])


@pytest.mark.parametrize(
    "wkb",
    [
        b"\0\0\0\0\3\xff\xff\xff\xff",
        b"\0\0\0\0\6\xff\xff\xff\xff",
        b"\0\0\0\0\7\0\0\0\1" * 10_000,
        b"\0\0\0\0\1",
        b"",
        b"\1",
    ],
)
def test_hostile_wkb_is_refused(wkb: bytes) -> None:
    bench = Workbench()
    roi = bench.wkb(HOLED)
    roi.values[-1].raw = wkb
    with pytest.raises(JavaStreamError, match=r"GeometryROI|geometry"):
        qpdata.loads(bench.put(bench.node(roi))).annotation_nodes()


def test_huge_list_shared_by_many_objects_is_refused_soon() -> None:
    bench = Workbench()
    values = bench.numeric([f"{place}" for place in range(3_000)], [1.0] * 3_000, kind="FloatList", wrapped="ArrayList")
    shared = values.values
    nodes = [bench.node(None, measurements=Instance(values.desc, list(shared))) for _ in range(3_000)]
    with pytest.raises(JavaStreamError, match="many times its size"):
        qpdata.loads(bench.put(*nodes)).annotation_nodes()


def test_huge_shape_shared_by_many_objects_is_refused_soon() -> None:
    bench = Workbench()
    angles = np.linspace(0, 6, 3_000)
    roi = bench.points("PolygonROI", np.column_stack([np.cos(angles), np.sin(angles)]).tolist())
    nodes = [bench.node(Instance(roi.desc, list(roi.values))) for _ in range(3_000)]
    with pytest.raises(JavaStreamError, match="many times its size"):
        qpdata.loads(bench.put(*nodes)).annotation_nodes()


def test_huge_name_shared_by_many_objects_is_one_string() -> None:
    bench = Workbench()
    name = bench.maker.text("n" * 60_000)
    nodes = [bench.node(None) for _ in range(3_000)]
    for node in nodes:
        node.values[0][0] = name
    found = qpdata.loads(bench.put(*nodes)).annotation_nodes()
    assert len({id(node.annotation.name) for node in found}) < 5


def test_class_with_very_many_parents_is_refused() -> None:
    bench = Workbench()
    node = None
    for _ in range(200):
        node = bench.maker.object(
            "qupath.lib.objects.classes.PathClass", colorRGB=None, name=bench.maker.text("A"), parentClass=node
        )
    one = bench.node(None)
    one.values[0][5] = node
    with pytest.raises(JavaStreamError, match="parts"):
        qpdata.loads(bench.put(one)).annotation_nodes()


def test_scribble_that_crosses_itself_all_over_is_read_as_it_is() -> None:
    bench = Workbench()
    points = np.random.default_rng(0).random((400, 2)).astype("float32") * 1_000
    (found,) = qpdata.loads(bench.put(bench.node(bench.points("PolygonROI", points.tolist())))).annotation_nodes()
    assert len(found.annotation.shape.exterior.coords) == 401
