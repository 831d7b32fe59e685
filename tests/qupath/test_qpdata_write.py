import json
from pathlib import Path
from typing import Literal
from uuid import uuid4

import pytest
from own_annotations import made, new_qpdata, stored
from qupath_objects import DETECTION, Workbench
from shapely import LineString, MultiPolygon, Polygon, box

from wsplf_cli.qupath import javaser, qpdata
from wsplf_cli.qupath.javaser.graph import Block, Instance, Stream, content, get
from wsplf_cli.qupath.pathobjects import tree
from wsplf_cli.qupath.qpdata import QpData, mark
from wsplf_cli.qupath.shapes import ellipse
from wsplf_cli.schema import (
    CLASS_KEY,
    NAME_KEY,
    ORIGIN_KEY,
    REVIEW_KEY,
    RUN_KEY,
    SHAPE_KEY,
    Annotation,
    Plane,
)

HOLED = Polygon([(100, 100), (300, 100.12), (300, 300), (100, 300)], [[(150, 150), (150, 200), (200, 200), (200, 150)]])

SQUARE = box(10, 20, 30, 40)


def _bytes_of(node: Instance) -> bytes:
    return javaser.dumps(Stream([node], {}))


@pytest.mark.parametrize("version", ["0.2.3", "0.3.2", "0.4.4", "0.6.0-rc3"])
def test_polygon_with_hole_is_written_and_read_back(version: str) -> None:
    own = made(HOLED, name="pseudo", path_class="Tumor:Positive")
    (read,) = stored(own, version=version)
    assert read.id == own.id
    assert read.shape.equals_exact(HOLED.normalize(), 1e-9) or read.shape.equals(HOLED)
    assert len(read.shape.interiors) == 1
    assert (read.path_class, read.name, read.measurements) == ("Tumor: Positive", "pseudo", {"wsplf: confidence": 0.5})
    assert (read.origin, read.review, read.run_id, read.edited, read.locked) == (
        "pseudolabel",
        "pending",
        "run-1",
        False,
        False,
    )
    assert set(read.metadata) == {ORIGIN_KEY, RUN_KEY, REVIEW_KEY, SHAPE_KEY, CLASS_KEY, NAME_KEY}


def test_new_file_has_the_form_of_the_projects_version() -> None:
    old, new = new_qpdata("0.2.3").dumps(), new_qpdata("0.6.0").dumps()
    assert old[6:].startswith(b"\x00\x13Data file version 2")
    assert b"Image path: /slide.tif" in old
    assert new[6:].startswith(b"\x00\x13Data file version 3")
    header = javaser.loads(new).contents[1].value
    assert json.loads(header) == {"dataVersion": 3, "qupathVersion": "0.6.0", "server": {}}
    assert qpdata.loads(new).image_type == "UNSET"


def _paths(data: QpData) -> tuple[str | None, dict[str, str]]:
    """The path in the header, and the properties of the image."""
    (properties,) = (item for item in data._stream.contents if isinstance(item, Instance) and "Map" in item.desc.name)
    texts = [item.value for item in content(properties)[1:]]
    head = data._stream.contents[1].value
    return json.loads(head).get("id") if head.startswith("{") else None, dict(zip(texts[::2], texts[1::2], strict=True))


@pytest.mark.parametrize(
    ("version", "path", "path_after"),
    [
        ("0.6.0", "/tmp/wsplf-x1/data/2/data.qpdata", str(Path("/study/data/2/data.qpdata"))),
        ("0.6.0", "/private/tmp/wsplf-x1/data/2/data.qpdata", str(Path("/study/data/2/data.qpdata"))),
        ("0.6.0", "/tmp/wsplf-x12/data/2/data.qpdata", "/tmp/wsplf-x12/data/2/data.qpdata"),
        ("0.5.1", "OpenslideImageServer: file:/slides/a.svs", "OpenslideImageServer: file:/slides/a.svs"),
        ("0.6.0", None, None),
        ("0.2.3", None, None),
    ],
)
def test_location_of_a_file_that_was_saved_elsewhere_is_set(
    version: str, path: str | None, path_after: str | None
) -> None:
    properties = {"a": qpdata.ENTRY_KEY, qpdata.ENTRY_KEY: "/tmp/wsplf-x1/project.qpproj::2", "b": "c"}
    data = qpdata.create(version=version, server='{"a":"\\u003d"}', path="/slide.tif", properties=properties)
    if path is not None:
        data._stream.contents[1] = data._maker.text(data._stream.contents[1].value[:-1] + f',"id":"{path}"}}')
    data.add(mark([made(SQUARE)], origin="pseudolabel"), colours={})
    before = qpdata.loads(data.dumps())
    moved = qpdata.loads(data.dumps())
    project = Path("/study/project.qpproj")
    moved.set_location(project=project, entry_id="2", moved_from=Path("/tmp/wsplf-x1"))
    moved = qpdata.loads(moved.dumps())
    assert _paths(moved) == (path_after, properties | {qpdata.ENTRY_KEY: f"{project}::2"})
    assert repr(moved.objects()) == repr(before.objects())


def test_file_without_properties_has_no_location_to_set() -> None:
    data = new_qpdata()
    raw = data.dumps()
    data.set_location(project=Path("p.qpproj"), entry_id="1", moved_from=Path("x"))
    assert data.dumps() == raw


def test_hole_free_polygon_is_stored_in_single_precision_without_a_closing_point() -> None:
    data = new_qpdata()
    data.add(mark([made(Polygon([(0.1, 0.2), (7, 0), (7, 7)]))], origin="prediction"), colours={})
    proxy = b"qupath.lib.roi.PolygonROI$SerializationProxy"
    assert proxy in data.dumps()
    assert b"WKB" not in data.dumps()
    (found,) = qpdata.loads(data.dumps()).annotation_nodes()
    assert len(found.annotation.shape.exterior.coords) == 4


@pytest.mark.parametrize("kind", ["EllipseROI", "RectangleROI"])
def test_ellipses_and_rectangles_are_stored_by_their_bounds(kind: Literal["EllipseROI", "RectangleROI"]) -> None:
    bounds = (0.1, 20.25, 100_000.3, 41)
    shape = ellipse(bounds) if kind == "EllipseROI" else box(*bounds)
    data = new_qpdata()
    data.add([Annotation(uuid4(), shape, None, roi=kind, plane=Plane(0, 1, 2))], colours={})
    read = qpdata.loads(data.dumps())
    (node,) = read.annotation_nodes()
    assert isinstance(node.node, Instance)
    roi = node.node.values[0][7]
    assert roi.desc.name == f"qupath.lib.roi.{kind}$SerializationProxy"
    assert [field.name for field in roi.desc.fields] == ["c", "t", "x", "x2", "y", "y2", "z", "name"]
    assert [get(roi, name) for name in ("x", "y", "x2", "y2")] == pytest.approx(bounds, abs=1e-9)
    assert [get(roi, name) for name in ("c", "z", "t", "name")] == [0, 1, 2, None]
    assert node.annotation.roi == read.objects()[1].roi == kind
    assert node.annotation.shape.equals_exact(shape, 1e-9)


def test_box_of_a_run_stays_a_polygon() -> None:
    (read,) = stored(made(SQUARE))
    assert read.roi == ""


def test_parts_of_a_shape_become_annotations_of_their_own() -> None:
    two = made(MultiPolygon([SQUARE, box(50, 50, 60, 60)]))
    first, second = stored(two)
    assert first.id == two.id
    assert second.id not in (two.id, None)
    assert {first.shape.area, second.shape.area} == {400, 100}
    assert not first.edited
    assert not second.edited


def test_lines_and_empty_shapes_are_not_written() -> None:
    assert mark([made(LineString([(0, 0), (5, 5)]))], origin="pseudolabel") == []
    assert mark([made(Polygon())], origin="pseudolabel") == []


def test_bow_tie_is_repaired_before_writing() -> None:
    shapes = [annotation.shape for annotation in stored(made(Polygon([(0, 0), (4, 4), (4, 0), (0, 4)])))]
    assert sorted(shape.area for shape in shapes) == pytest.approx([4, 4])


def test_human_annotation_gets_no_marks() -> None:
    (part,) = mark([made(SQUARE)], origin="human")
    assert not any(key.startswith("wsplf") for key in part.metadata)


def test_removing_an_annotation_moves_its_children_up_and_keeps_their_bytes() -> None:
    bench = Workbench()
    rectangle = bench.corners("RectangleROI", 0, 0, 1, 1)
    grandchild = bench.node(rectangle, name="grandchild")
    middle = bench.node(rectangle, name="middle", children=[grandchild, bench.node(None, kind=DETECTION)])
    other = bench.node(rectangle, name="other")
    outer = bench.node(rectangle, name="outer", children=[middle, other])
    data = qpdata.loads(bench.put(outer, bench.node(rectangle, name="last")))
    before = {node.annotation.name: _bytes_of(node.node) for node in data.annotation_nodes()}
    data.remove([node.node for node in data.annotation_nodes() if node.annotation.name in {"outer", "middle"}])
    after = qpdata.loads(data.dumps())
    assert [node.annotation.name for node in after.annotation_nodes()] == ["grandchild", "other", "last"]
    assert {node.annotation.name: _bytes_of(node.node) for node in data.annotation_nodes()} == {
        name: before[name] for name in ("grandchild", "other", "last")
    }
    root = after._root()
    assert root is not None
    assert [node.desc.name.rpartition(".")[2] for node, _, _ in tree(root)] == [
        "PathRootObject",
        "PathAnnotationObject",
        "PathDetectionObject",
        "PathAnnotationObject",
        "PathAnnotationObject",
    ]


def test_adding_and_removing_gives_the_bytes_of_before() -> None:
    bench = Workbench()
    raw = bench.put(bench.node(bench.corners("RectangleROI", 0, 0, 1, 1), path_class="Tumor"))
    data = qpdata.loads(raw)
    data.add(mark([made(HOLED)], origin="pseudolabel"), colours={})
    changed = qpdata.loads(data.dumps())
    assert len(changed.annotation_nodes()) == 2
    changed.remove([node.node for node in changed.annotation_nodes() if node.annotation.origin == "pseudolabel"])
    assert changed.dumps() == raw


def test_file_without_hierarchy_can_be_written_to() -> None:
    data = new_qpdata()
    data._stream.contents[6] = None
    assert qpdata.loads(data.dumps()).annotation_nodes() == []
    data.add(mark([made(SQUARE)], origin="pseudolabel"), colours={})
    assert len(qpdata.loads(data.dumps()).annotation_nodes()) == 1


def test_object_opened_after_it_was_found_is_still_removed() -> None:
    data = new_qpdata()
    data.add(mark([made(SQUARE, name=f"name {place}") for place in range(9)], origin="prediction"), colours={})
    read = qpdata.loads(data.dumps())
    found = read.annotation_nodes()
    node = found[-1].node
    assert not isinstance(node, Instance)
    node.open()
    read.remove([node.node for node in found[4:]])
    assert [node.annotation.name for node in qpdata.loads(read.dumps()).annotation_nodes()] == [
        f"name {n}" for n in range(4)
    ]


def test_colour_of_a_derived_class_goes_to_all_parts_until_0_4() -> None:
    for version, colours in (("0.4.4", [True, True]), ("0.5.1", [True, False])):
        data = new_qpdata(version)
        data.add([Annotation(uuid4(), SQUARE, "Tumor: Positive")], colours={"Tumor: Positive": -3670016})
        (node,) = (node.node for node in qpdata.loads(data.dumps()).annotation_nodes())
        path_class = node.open().values[0][6] if not isinstance(node, Instance) else node.values[0][6]
        parent = get(path_class, "parentClass")
        assert [get(one, "colorRGB") is not None for one in (path_class, parent)] == colours


def test_number_of_children_may_lie_across_two_blocks() -> None:
    bench = Workbench()
    node = bench.node(bench.corners("RectangleROI", 0, 0, 1, 1), children=[bench.node(None)])
    node.values[0][3:4] = [Block(b"\0\0"), Block(b"\0\1")]
    data = qpdata.loads(bench.put(node))
    assert len(data.annotation_nodes()) == 2
    data.remove([data.annotation_nodes()[1].node])
    assert len(qpdata.loads(data.dumps()).annotation_nodes()) == 1


def test_planes_are_kept() -> None:
    plane = Plane(c=-1, z=3, t=2)
    for shape in (SQUARE, HOLED):
        (part,) = mark([Annotation(uuid4(), shape, None, plane=plane)], origin="human")
        data = new_qpdata()
        data.add([part], colours={})
        assert [node.annotation.plane for node in qpdata.loads(data.dumps()).annotation_nodes()] == [plane]


@pytest.mark.shared
@pytest.mark.parametrize("image_type", ["BRIGHTFIELD_H_E", "BRIGHTFIELD_H_DAB"])
def test_the_default_stains_are_those_that_qupath_writes(shared_data, image_type):
    files = (shared_data / "qupath-written" / "0.6.0").rglob("data.qpdata")
    written = next(raw for raw in map(Path.read_bytes, files) if qpdata.loads(raw).image_type == image_type)
    new = qpdata.create(version="0.6.0", server="{}", path="", properties={}, image_type=image_type).dumps()
    start, end = b"ColorDeconvolutionStains", b'255"}'
    ours, theirs = (raw[raw.index(start) : raw.index(end)] for raw in (new, written))
    assert ours == theirs
