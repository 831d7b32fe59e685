import gzip
import json
import math
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from shapely import (
    MultiPolygon,
    Point,
    Polygon,
    box,
)

from wsplf_cli.errors import ProjectError
from wsplf_cli.qupath import geojson
from wsplf_cli.schema import Annotation, Plane

RING = [[0, 0], [10, 0], [10, 10], [0, 0]]

TRIANGLE = {"type": "Polygon", "coordinates": [RING]}


def _file(folder: Path, document: Any) -> Path:
    path = folder / "truth.geojson"
    path.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
    return path


def _feature(geometry: Any = TRIANGLE, **properties: Any) -> dict[str, Any]:
    return {"type": "Feature", "geometry": geometry, "properties": properties}


@pytest.mark.parametrize(
    "document",
    [
        {"type": "FeatureCollection", "features": [_feature()]},
        [_feature()],
        _feature(),
        TRIANGLE,
        {"type": "Feature", "geometry": TRIANGLE, "properties": None},
    ],
)
def test_every_form_of_a_file_is_read(tmp_path: Path, document: Any) -> None:
    (annotation,) = geojson.read(_file(tmp_path, document))
    assert annotation.shape.equals(Polygon(RING))
    assert (annotation.path_class, annotation.origin) == (None, "human")


@pytest.mark.parametrize("name", ["out.geojson", "out.geojson.gz"])
def test_annotations_survive_a_file(tmp_path: Path, name: str) -> None:
    holed = box(0, 0, 10, 10) - box(2, 2, 4, 4)
    values = {"wsplf: confidence": 0.25, "nan": float("nan")}
    marks = {"wsplf.origin": "prediction", "wsplf.review": "accepted", "wsplf.run": "r"}
    annotations = [
        Annotation(
            uuid4(), holed, "Tumor: Positive", "prediction", "accepted", "r", "größe", values, marks, locked=True
        ),
        Annotation(uuid4(), MultiPolygon([box(0, 0, 1, 1), box(2, 2, 3, 3)]), "Tumor"),
        Annotation(uuid4(), Point(1, 2), None),
    ]
    path = tmp_path / name
    geojson.write(path, annotations)
    assert (path.read_bytes()[:2] == b"\x1f\x8b") == name.endswith("gz")
    read = geojson.read(path)
    assert [one.shape.equals(other.shape) for one, other in zip(read, annotations, strict=True)] == [True] * 3
    assert repr([(a.id, a.path_class, a.origin, a.review, a.run_id, a.name, a.locked) for a in read]) == repr(
        [(a.id, a.path_class, a.origin, a.review, a.run_id, a.name, a.locked) for a in annotations]
    )
    assert read[0].measurements["wsplf: confidence"] == 0.25
    assert read[0].measurements["nan"] != read[0].measurements["nan"]


def test_forms_of_old_versions_are_read(tmp_path: Path) -> None:
    features = [
        {**_feature(classification={"name": "Tumor: Positive", "colorRGB": -1}), "id": "PathAnnotationObject"},
        {**_feature(measurements=[{"name": "Area", "value": 2.5}]), "id": "PathDetectionObject"},
        _feature(object_type="annotation", isLocked=True, measurements=[{"name": "Area", "value": 2.5}]),
        _feature(objectType="cell"),
        _feature(objectType="annotation", classification={"names": ["Tumor", "Negative"]}),
    ]
    old, middle, new = geojson.read(_file(tmp_path, features))
    assert old.path_class == "Tumor: Positive"
    assert (middle.locked, middle.measurements) == (True, {"Area": 2.5})
    assert new.path_class == "Tumor: Negative"


@pytest.mark.parametrize(
    ("feature", "reason"),
    [
        ("nonsense", "not an object"),
        ({"type": "Circle"}, "not 'Feature'"),
        ({"type": "Polygon"}, "no coordinates"),
        (_feature([]), "no geometry"),
        (_feature({"coordinates": [1, 2]}), "no geometry"),
        (_feature({"type": "Circle", "coordinates": [0, 0]}), "no geometry 'Circle'"),
        (_feature({"type": "Polygon"}), "coordinates"),
        (_feature({"type": "GeometryCollection"}), "list of geometries"),
        (_feature({"type": "Polygon", "coordinates": [[[0, 0], [1, 1], [1, 0]]]}), "at least 4 positions"),
        (_feature({"type": "Polygon", "coordinates": [[["a", 0], [1, 1], [1, 0], ["a", 0]]]}), ""),
        (_feature({"type": "Polygon", "coordinates": [[[float("nan"), 0], [1, 1], [1, 0], [float("nan"), 0]]]}), ""),
        (_feature({"type": "MultiPolygon", "coordinates": [[[0, 0], [1, 1], [1, 0], [0, 0]]]}), ""),
        (_feature(classification="{'name': 'Tumor'}"), "not an object with a name"),
        (_feature(classification={"name": 7}), "not a text"),
        (_feature(measurements={"a": "many"}), "many"),
        ({"type": "Feature", "geometry": TRIANGLE, "properties": [1]}, "not an object"),
    ],
)
def test_malformed_feature_is_named_by_its_index(tmp_path: Path, feature: Any, reason: str) -> None:
    with pytest.raises(ProjectError, match=f"feature 1: .*{reason}") as caught:
        geojson.read(_file(tmp_path, [_feature(), feature]))
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "7", '{"type": "Topology"}', '{"type":"FeatureCollection"}'])
def test_file_that_is_no_geojson_is_one_clear_line(tmp_path: Path, text: str) -> None:
    with pytest.raises(ProjectError, match=r"not (JSON|GeoJSON)") as caught:
        geojson.read(_file(tmp_path, text))
    assert "\n" not in caught.value.message


def test_missing_and_damaged_files_are_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match="no such file"):
        geojson.read(tmp_path / "gone.geojson")
    path = tmp_path / "cut.geojson.gz"
    path.write_bytes(gzip.compress(b"[" + b" " * 1000 + b"]")[:-12])
    with pytest.raises(ProjectError, match="cannot be read"):
        geojson.read(path)


def test_bow_tie_is_repaired(tmp_path: Path) -> None:
    bow = {"type": "Polygon", "coordinates": [[[0, 0], [4, 4], [4, 0], [0, 4], [0, 0]]]}
    (annotation,) = geojson.read(_file(tmp_path, [_feature(bow)]))
    assert annotation.shape.is_valid
    assert annotation.shape.area == pytest.approx(8)


def test_features_inside_others_and_lists_in_lists_are_read(tmp_path: Path) -> None:
    inner = _feature(name="inner")
    outer = _feature(
        name="outer", childObjects=[inner, _feature(objectType="detection", children=[_feature(name="c")])]
    )
    nested = [[{"type": "FeatureCollection", "features": [outer]}], TRIANGLE]
    assert [annotation.name for annotation in geojson.read(_file(tmp_path, nested))] == ["outer", "inner", "c", ""]


def test_malformed_child_is_named(tmp_path: Path) -> None:
    document = [_feature(), _feature(childObjects=[_feature(), _feature([])])]
    with pytest.raises(ProjectError, match=r"^truth.geojson: feature 1, child 1: it has no geometry"):
        geojson.read(_file(tmp_path, document))


def test_what_is_no_annotation_is_left_out_and_counted(tmp_path: Path) -> None:
    cell = {**_feature(objectType="cell"), "nucleusGeometry": TRIANGLE}
    empty = {**_feature(objectType="annotation"), "geometry": {}}
    flat = {"type": "Polygon", "coordinates": [[[0, 0], [5, 5], [9, 9], [0, 0]]]}
    kinds = ["detection", "tile", "tmaCore", "tma_core", "root", "PathTileObject"]
    contents = geojson.load(
        _file(tmp_path, [cell, empty, _feature(flat), *(_feature(objectType=one) for one in kinds)])
    )
    assert contents.annotations == []
    assert +contents.left_out == {
        "cells": 1,
        "detections": 1,
        "tiles": 2,
        "TMA cores": 2,
        "annotations without a shape": 1,
        "annotations without area": 1,
    }


def test_metadata_that_stands_twice_is_merged(tmp_path: Path) -> None:
    metadata = '"metadata": {"a": "1", "b": "2"}, "metadata": {"b": "3", "c": true, "d": null}'
    feature = json.dumps(_feature()).replace('"properties": {}', f'"properties": {{{metadata}}}')
    (annotation,) = geojson.read(_file(tmp_path, feature))
    assert annotation.metadata == {"a": "1", "b": "3", "c": "true"}


def test_type_and_other_members_may_stand_behind_the_features(tmp_path: Path) -> None:
    text = '{"bbox": [0, 0, 1, 1], "features": [%s], "crs": {"type": "name"}, "type": "FeatureCollection"}'
    assert len(geojson.read(_file(tmp_path, text % json.dumps(_feature())))) == 1


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_byte_order_marks_are_taken(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.geojson"
    path.write_bytes(json.dumps(_feature(name="größe"), ensure_ascii=False).encode(encoding))
    assert geojson.read(path)[0].name == "größe"


def test_compressed_file_is_known_by_its_content(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(gzip.compress(json.dumps(_feature()).encode()))
    assert len(geojson.read(path)) == 1


def test_planes_colours_and_locks_are_read(tmp_path: Path) -> None:
    on_plane = {**TRIANGLE, "plane": {"c": -1, "z": 3, "t": 2}}
    first, second = geojson.read(
        _file(tmp_path, [_feature(on_plane, color=[1, 2, 3], isLocked="true"), _feature(color=-16711165)])
    )
    assert (first.plane, first.rgb, first.locked) == (Plane(-1, 3, 2), (1, 2, 3), True)
    assert (second.plane, second.rgb, second.locked) == (Plane(), (1, 2, 3), False)


def test_every_form_of_a_class_is_read(tmp_path: Path) -> None:
    forms: list[Any] = [
        "Tumor: Positive",
        {"name": "Tumor", "color": [9, 8, 7]},
        {"names": ["Tumor", "Positive"], "color": [1, 2, 3, 128]},
        {"name": "Positive", "colorRGB": -1, "parentClass": {"name": "Stroma", "colorRGB": -3670016}},
        {},
        None,
    ]
    contents = geojson.load(_file(tmp_path, [_feature(classification=one) for one in forms]))
    assert [annotation.path_class for annotation in contents.annotations] == [
        "Tumor: Positive",
        "Tumor",
        "Tumor: Positive",
        "Stroma: Positive",
        None,
        None,
    ]
    assert contents.rgb == {"Tumor": (9, 8, 7), "Tumor: Positive": (1, 2, 3), "Stroma: Positive": (255, 255, 255)}


def test_measurements_that_are_no_finite_numbers_are_read(tmp_path: Path) -> None:
    text = json.dumps(_feature(measurements="HERE")).replace(
        '"HERE"', '{"a": NaN, "b": "NaN", "c": -Infinity, "d": "Infinity", "e": "2.5", "f": null, "g": 3}'
    )
    (one,) = geojson.read(_file(tmp_path, text))
    assert repr(one.measurements) == "{'a': nan, 'b': nan, 'c': -inf, 'd': inf, 'e': 2.5, 'g': 3.0}"


def test_ellipse_of_qupath_is_the_ellipse_in_its_bounds(tmp_path: Path) -> None:
    rough = {"type": "Polygon", "isEllipse": True, "coordinates": [[[0, 5], [10, 0], [20, 5], [10, 10], [0, 5]]]}
    (one,) = geojson.read(_file(tmp_path, _feature(rough)))
    assert one.shape.area == pytest.approx(math.pi * 10 * 5, rel=1e-3)
    assert one.shape.bounds == (0, 0, 20, 10)


@pytest.mark.parametrize(
    "geometry",
    [
        None,
        {},
        *({"type": kind, "coordinates": []} for kind in ("Point", "MultiPoint", "LineString", "MultiLineString")),
        *({"type": kind, "coordinates": []} for kind in ("Polygon", "MultiPolygon")),
        {"type": "MultiPolygon", "coordinates": [[], []]},
        {"type": "GeometryCollection", "geometries": []},
        {"type": "GeometryCollection", "geometries": [{"type": "Polygon", "coordinates": []}, None]},
    ],
)
def test_feature_without_a_shape_is_left_out_and_counted(tmp_path: Path, geometry: Any) -> None:
    contents = geojson.load(_file(tmp_path, [_feature(), _feature(geometry), _feature(geometry, name="b")]))
    assert len(contents.annotations) == 1
    assert +contents.left_out == {"annotations without a shape": 2}


def test_feature_that_lacks_its_geometry_is_left_out_and_what_is_inside_it_is_read(tmp_path: Path) -> None:
    outer = {"type": "Feature", "properties": {"childObjects": [_feature()]}}
    contents = geojson.load(_file(tmp_path, [outer]))
    assert len(contents.annotations) == 1
    assert +contents.left_out == {"annotations without a shape": 1}


def test_parts_without_coordinates_are_passed_over(tmp_path: Path) -> None:
    several = {"type": "MultiPolygon", "coordinates": [[], [RING]]}
    collection = {"type": "GeometryCollection", "geometries": [{"type": "LineString", "coordinates": []}, TRIANGLE]}
    for geometry in (several, collection):
        (annotation,) = geojson.read(_file(tmp_path, _feature(geometry)))
        assert annotation.shape.equals(Polygon(RING))


SLANTED = [[0, 0], [10, 0.02], [10, 5], [0, 5], [0, 0]]
BOX = [[0, 0], [10, 0], [10, 5], [0, 5], [0, 0]]


def _polygon(*rings: list[list[float]], **members: Any) -> dict[str, Any]:
    return {"type": "Polygon", "coordinates": rings, **members}


@pytest.mark.parametrize(
    ("geometry", "roi"),
    [
        (_polygon(BOX), "RectangleROI"),
        (_polygon(BOX[::-1]), "RectangleROI"),
        (_polygon([*BOX[2:], *BOX[1:3]]), "RectangleROI"),
        (_polygon([*BOX[:2], *BOX[1:]]), "RectangleROI"),
        (_polygon([[0, 0.001], *BOX[1:4], [0, 0.001]]), "RectangleROI"),
        ({"type": "MultiPolygon", "coordinates": [[BOX]]}, "RectangleROI"),
        ({"type": "GeometryCollection", "geometries": [_polygon(BOX)]}, "RectangleROI"),
        (_polygon(BOX, isEllipse=False), "RectangleROI"),
        (_polygon(BOX, isEllipse=None), "RectangleROI"),
        (_polygon([*BOX[:3], [4, 5], *BOX[3:]]), ""),
        (_polygon(SLANTED), ""),
        (_polygon([[5, 0], [10, 5], [5, 10], [0, 5], [5, 0]]), ""),
        (_polygon([[0, 0], [10, 5], [10, 0], [0, 5], [0, 0]]), ""),
        (_polygon(BOX, [[2, 2], [3, 2], [3, 3], [2, 3], [2, 2]]), ""),
        (_polygon(RING), ""),
        (_polygon(RING, isEllipse=True), "EllipseROI"),
        (_polygon(BOX, isEllipse="TRUE"), "EllipseROI"),
        ({"type": "MultiPolygon", "coordinates": [[RING], [BOX]], "isEllipse": True}, "EllipseROI"),
        ({"type": "LineString", "coordinates": [[0, 0], [4, 8]], "isEllipse": True}, "EllipseROI"),
        ({"type": "LineString", "coordinates": [[0, 0], [4, 0]], "isEllipse": True}, ""),
        ({"type": "Point", "coordinates": [0, 0], "isEllipse": True}, ""),
    ],
)
def test_rectangles_and_ellipses_are_those_of_qupaths_reader(tmp_path: Path, geometry: Any, roi: str) -> None:
    (annotation,) = geojson.read(_file(tmp_path, _feature(geometry)))
    assert annotation.roi == roi


def test_collection_gives_the_kind_of_most_dimensions(tmp_path: Path) -> None:
    point, line = {"type": "Point", "coordinates": [1, 1]}, {"type": "LineString", "coordinates": [[0, 0], [1, 1]]}
    collections: list[list[dict[str, Any]]] = [[point, line, TRIANGLE], [point, line], [point, point]]
    features = [_feature({"type": "GeometryCollection", "geometries": one}) for one in collections]
    kinds = [annotation.shape.geom_type for annotation in geojson.read(_file(tmp_path, features))]
    assert kinds == ["Polygon", "LineString", "MultiPoint"]


def test_positions_of_two_and_three_numbers_may_be_mixed(tmp_path: Path) -> None:
    mixed = {"type": "Polygon", "coordinates": [[[0, 0, 7], [10, 0], [10, 10, 7, 8], [0, 0]]]}
    (one,) = geojson.read(_file(tmp_path, _feature(mixed)))
    assert one.shape.equals(Polygon(RING))


@pytest.mark.parametrize(
    ("ring", "reason"),
    [
        ([[0, 0], [1, 1]], "its geometry is malformed: each linear ring must contain at least 4 positions"),
        ([[0, 0], [1, 1], [0, 0]], "its geometry is malformed: each linear ring must contain at least 4 positions"),
        ([[0, 0]], "its geometry is malformed: each linear ring must contain at least 4 positions"),
        ([], "its geometry is malformed: each linear ring must contain at least 4 positions"),
        ([["1", "2"], ["3", "4"], ["5", "7"], ["1", "2"]], 'a coordinate is "1", not a number'),
        ([[0, None], [1, 1], [2, 0], [0, None]], "a coordinate is null, not a number"),
        ([[0], [1], [2], [0]], r"\[0\] stands where a point \[x, y\] should be"),
        ([0, 0, 1, 1], "its geometry is malformed: each linear ring must end where it started"),
        ([0, 0, 1, 0], r"0 stands where a point \[x, y\] should be"),
        ([[0, 0], [1, 1], [1, 0], [0, 1]], "its geometry is malformed: each linear ring must end where it started"),
        ([[0, 0], [1, 1], [1e999, 0], [0, 0]], "a coordinate is not a number"),
        ([[0, 0], [1, 1], [10**400, 0], [0, 0]], "int too large"),
        ([[0, 0], [1, 1], [1e200, 0], [0, 0]], r"a coordinate is 1e\+200, far outside any image"),
        ("abc", '"abc" stands where a list of points should be'),
    ],
)
def test_malformed_ring_is_one_line_with_the_index_and_the_reason(tmp_path: Path, ring: Any, reason: str) -> None:
    bad = _feature({"type": "Polygon", "coordinates": [ring]})
    with pytest.raises(ProjectError, match=f"^truth.geojson: feature 12: {reason}"):
        geojson.read(_file(tmp_path, [_feature()] * 12 + [bad]))


def test_a_feature_without_an_id_always_gets_the_same_one(tmp_path: Path) -> None:
    other = {"type": "Polygon", "coordinates": [[[0, 0], [5, 0], [5, 5], [0, 0]]]}
    first = geojson.read(_file(tmp_path, [_feature(), _feature(other), _feature()]))
    second = geojson.read(_file(tmp_path, [_feature(other), _feature(), _feature(), _feature(name="n")]))
    assert len({one.id for one in first}) == 3
    assert {one.id for one in first} < {one.id for one in second}


@pytest.mark.parametrize("kind", [{}, [], 7, None])
def test_type_of_any_kind_is_one_clear_line(tmp_path: Path, kind: Any) -> None:
    for document in ({"type": kind}, [{"type": kind}], [_feature({"type": kind, "coordinates": []})]):
        with pytest.raises(ProjectError):
            geojson.read(_file(tmp_path, document))


def test_name_that_is_no_unicode_is_read_without_an_id(tmp_path: Path) -> None:
    assert geojson.read(_file(tmp_path, json.dumps(_feature(name="\ud800"))))[0].name == "\ud800"
