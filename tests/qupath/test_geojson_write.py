import json
import math
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import geojson as library
import numpy as np
import pytest
import shapely
from shapely import (
    GeometryCollection,
    LineString,
    MultiLineString,
    MultiPoint,
    MultiPolygon,
    Point,
    Polygon,
    box,
)
from shapely.geometry import shape as to_shape

from wsplf_cli.errors import ProjectError
from wsplf_cli.qupath import geojson
from wsplf_cli.qupath.qpdata import mark
from wsplf_cli.qupath.shapes import ellipse
from wsplf_cli.schema import Annotation, PathClass, Plane


def test_single_part_is_written_as_a_polygon(tmp_path: Path) -> None:
    path = tmp_path / "a.geojson"
    geojson.write(path, [Annotation(uuid4(), MultiPolygon([box(0, 0, 1, 1)]), "Tumor")])
    assert json.loads(path.read_text(encoding="utf-8"))["features"][0]["geometry"]["type"] == "Polygon"


def test_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.geojson"
    geojson.write(path, [])
    before = path.read_bytes()

    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(ProjectError, match="No space left"):
        geojson.write(path, [Annotation(uuid4(), box(0, 0, 1, 1), "Tumor")])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_many_features_are_read_and_written_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(geojson, "BLOCK", 3)
    annotations = [Annotation(uuid4(), box(n, n, n + 2, n + 2), "Tumor") for n in range(10)]
    path = tmp_path / "a.geojson"
    assert geojson.write(path, annotations) == 10
    assert [annotation.id for annotation in geojson.read(path)] == [annotation.id for annotation in annotations]


def test_a_class_is_always_written_with_its_colour(tmp_path: Path) -> None:
    path = tmp_path / "a.geojson"
    names = ["Tumor", "Stroma", "Mine", "Tumor: Positive", "Never seen"]
    known = [PathClass("Mine", (1, 2, 3)), PathClass("Stroma", (4, 5, 6)), PathClass("Tumor")]
    geojson.write(path, [Annotation(uuid4(), box(0, 0, 1, 1), name) for name in names], path_classes=known)
    written = [one["properties"]["classification"] for one in json.loads(path.read_text())["features"]]
    assert [annotation["color"] for annotation in written][:4] == [[200, 0, 0], [4, 5, 6], [1, 2, 3], [200, 50, 50]]
    assert len(written[4]["color"]) == 3
    assert written[3]["names"] == ["Tumor", "Positive"]


def test_numbers_that_are_not_finite_are_written_in_the_form_that_every_version_reads(tmp_path: Path) -> None:
    path = tmp_path / "a.geojson"
    geojson.write(path, [Annotation(uuid4(), Point(1, 2), None, measurements={"a": math.nan, "b": math.inf, "c": 1.5})])
    (feature,) = json.loads(path.read_text(), parse_constant=pytest.fail)["features"]
    pairs = [("a", "NaN"), ("b", "Infinity"), ("c", 1.5)]
    assert feature["properties"]["measurements"] == [{"name": name, "value": value} for name, value in pairs]


def test_unknown_measurement_of_ours_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.geojson"
    values = [{"wsplf: SAM IoU": math.nan, "wsplf: CAM": 0.5}, {"wsplf: SAM IoU": math.nan}]
    geojson.write(path, [Annotation(uuid4(), Point(1, 2), None, measurements=value) for value in values])
    first, second = json.loads(path.read_text())["features"]
    assert first["properties"]["measurements"] == {"wsplf: CAM": 0.5}
    assert "measurements" not in second["properties"]


def test_what_is_written_is_valid_on_the_grid_of_qupath(tmp_path: Path) -> None:
    shapes = [
        box(0, 0, 10.0049, 10),
        Polygon([(0, 0), (100, 0), (100, 50), (50, 0.004), (0, 50)]),  # plain rounding makes it touch itself
        Polygon([(0, 0), (4, 4), (4, 0), (0, 4)]),
        GeometryCollection([Point(0, 0), box(0, 0, 5, 5)]),
        MultiPolygon([box(0, 0, 3, 3), box(2, 2, 5, 5)]),
        box(0, 0, 0.001, 0.001),
    ]
    path = tmp_path / "a.geojson"
    assert geojson.write(path, [Annotation(uuid4(), shape, None) for shape in shapes]) == 5
    found = [to_shape(one["geometry"]) for one in json.loads(path.read_text())["features"]]
    assert all(shape.is_valid for shape in found)
    assert all((shapely.get_coordinates(shape) == np.round(shapely.get_coordinates(shape), 2)).all() for shape in found)
    assert [shape.geom_type for shape in found] == [
        "Polygon",
        "MultiPolygon",
        "MultiPolygon",
        "Polygon",
        "Polygon",
    ]
    assert [shape.area for shape in found] == pytest.approx([100, 2500, 8, 25, 17], rel=1e-3)


@pytest.mark.filterwarnings("ignore:invalid value encountered")
@pytest.mark.parametrize("number", [math.nan, math.inf, 1e300])
def test_shapes_of_impossible_numbers_are_left_out(tmp_path: Path, number: float) -> None:
    broken = Polygon([(0, 0), (1, number), (2, 2)])
    shapes = [broken, MultiPolygon([broken, box(0, 0, 1, 1)]), LineString([(0, 0), (number, 3)]), Polygon()]
    path = tmp_path / "a.geojson"
    assert geojson.write(path, [Annotation(uuid4(), one, None) for one in [*shapes, box(0, 0, 1, 1)]]) == 1
    assert len(geojson.read(path)) == 1


def test_a_line_of_no_length_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.geojson"
    assert geojson.write(path, [Annotation(uuid4(), LineString([(1, 1), (1, 1)]), None)]) == 1
    assert geojson.read(path)[0].shape.geom_type == "LineString"


def test_library_of_geojson_finds_nothing_wrong_with_what_is_written(tmp_path: Path) -> None:
    holed = box(0, 0, 10, 10) - box(2, 2, 4, 4)
    shapes = [holed, MultiPolygon([holed, box(20, 20, 30, 30)]), Point(0, 0), MultiPoint([(0, 0), (1, 1)])]
    shapes += [LineString([(0, 0), (1, 1)]), MultiLineString([[(0, 0), (1, 1)], [(2, 2), (3, 3)]])]
    path = tmp_path / "a.geojson"
    geojson.write(path, [Annotation(uuid4(), shape, "Tumor", plane=Plane(0, 1, 2)) for shape in shapes])
    collection = library.loads(path.read_text(encoding="utf-8"))
    assert [feature["geometry"]["type"] for feature in collection.features] == [shape.geom_type for shape in shapes]
    assert collection.is_valid, collection.errors()
    assert {str(feature["geometry"]["plane"]) for feature in collection.features} == {"{'c': 0, 'z': 1, 't': 2}"}


def test_ellipses_alone_have_qupaths_mark_behind_the_plane(tmp_path: Path) -> None:
    path = tmp_path / "a.geojson"
    annotations = [
        Annotation(uuid4(), ellipse((1.25, 2, 300.5, 40)), None, roi="EllipseROI", plane=Plane(0, 1, 2)),
        Annotation(uuid4(), box(0, 0, 1, 1), None, roi="RectangleROI"),
        Annotation(uuid4(), ellipse((0, 0, 9, 9)), None),
    ]
    geojson.write(path, annotations)
    marked, rectangle, polygon = (feature["geometry"] for feature in json.loads(path.read_text())["features"])
    assert list(marked) == ["type", "coordinates", "plane", "isEllipse"]
    assert marked["isEllipse"] is True
    assert to_shape(marked).bounds == (1.25, 2, 300.5, 40)
    assert list(rectangle) == list(polygon) == ["type", "coordinates"]
    assert [annotation.roi for annotation in geojson.read(path)] == ["EllipseROI", "RectangleROI", ""]


@pytest.mark.parametrize("name", ["a.geojson", "a.geojson.gz"])
def test_equal_annotations_give_equal_bytes(tmp_path: Path, name: str) -> None:
    annotation = Annotation(uuid4(), box(0, 0, 1, 1), "Tumor", name="\ud800 broken", metadata={"k": "v"})
    (tmp_path / "1").mkdir()
    paths = [tmp_path / name, tmp_path / "1" / name]
    for path in paths:
        geojson.write(path, [annotation])
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert geojson.read(paths[0])[0].name == "\ud800 broken"


@pytest.mark.parametrize("name", ["a.geojson", "a.geojson.gz"])
@pytest.mark.parametrize("streamed", [False, True])
def test_the_mark_of_a_reviewed_image_is_kept_beside_the_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, *, streamed: bool
) -> None:
    monkeypatch.setattr(geojson.features, "SMALL_CHARACTERS", 10 if streamed else 10_000)
    annotations = [Annotation(uuid4(), box(0, 0, 1, 1), "Tumor")]
    path = tmp_path / name
    for reviewed, is_reviewed in {"": False, '2026-01-31 \u00c4. "Person"': True, "no": False}.items():
        assert geojson.write(path, annotations, reviewed=reviewed) == 1
        assert geojson.load(path).reviewed == is_reviewed
        assert [annotation.id for annotation in geojson.read(path)] == [annotations[0].id]


def test_a_polygon_of_wsplf_is_edited_where_its_shape_or_class_is_not_as_wsplf_wrote_it(tmp_path: Path) -> None:
    (written,) = mark([Annotation(uuid4(), box(0, 0, 10.3, 10), "Tumor", run_id="r1")], origin="pseudolabel")
    changed = [replace(written, shape=box(0, 0, 10.4, 10)), replace(written, path_class="Stroma")]
    drawn = Annotation(uuid4(), box(0, 0, 5, 5), "Tumor")
    path = tmp_path / "a.geojson"
    geojson.write(path, [written, *changed, drawn])
    assert [annotation.edited for annotation in geojson.read(path)] == [False, True, True, False]
