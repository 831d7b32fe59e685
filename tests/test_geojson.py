import gzip
import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from shapely import MultiPolygon, Point, Polygon, box

from wsplf_cli.errors import ProjectError
from wsplf_cli.qupath import geojson
from wsplf_cli.schema import Annotation

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


def test_single_part_is_written_as_a_polygon(tmp_path: Path) -> None:
    path = tmp_path / "a.geojson"
    geojson.write(path, [Annotation(uuid4(), MultiPolygon([box(0, 0, 1, 1)]), "Tumor")])
    assert json.loads(path.read_text(encoding="utf-8"))["features"][0]["geometry"]["type"] == "Polygon"


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
        (_feature(None), "no geometry"),
        (_feature({"type": "Circle", "coordinates": [0, 0]}), "no geometry 'Circle'"),
        (_feature({"type": "Polygon"}), "coordinates"),
        (_feature({"type": "Polygon", "coordinates": []}), ""),
        (_feature({"type": "Polygon", "coordinates": [[[0, 0], [1, 1], [1, 0]]]}), "not closed"),
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
