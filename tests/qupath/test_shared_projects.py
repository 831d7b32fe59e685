"""Projects written by QuPath 0.2.3, 0.4.4 and 0.6.0, and of other people, read and written without QuPath."""

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import PIL.Image
import pytest
import shapely
from shapely import Polygon, box
from shapely.geometry.base import BaseGeometry
from shared_folder import SHARED

from wsplf_cli.backends.embedded import EmbeddedProject, open_project
from wsplf_cli.errors import ProjectError
from wsplf_cli.options import ProjectOptions
from wsplf_cli.qupath import colours, geojson, gson, javaser, qpdata
from wsplf_cli.qupath.javaser.graph import Block, Enum, Instance, Text
from wsplf_cli.schema import Annotation, PathClass, PathObject
from wsplf_cli.slides.entry import slide_of

pytestmark = pytest.mark.shared

HOLED = Polygon([(100, 100), (300, 100.12), (300, 300), (100, 300)], [[(150, 150), (150, 200), (200, 200), (200, 150)]])


def _projects(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (SHARED / folder).rglob("project.qpproj"))


def _name(path: Path) -> str:
    return str(path.parent.relative_to(SHARED))


EVERY = _projects("qupath-written", "qupath-real", "glas-dev")
WITH_DATA = [path for path in EVERY if any(path.parent.glob("data/*/data.qpdata"))]
EXPECTED = [path for path in EVERY if (path.parent / "expected.json").is_file()]


@pytest.fixture
def copied(shared_data: Path, tmp_path: Path, request: pytest.FixtureRequest) -> EmbeddedProject:
    """A writable copy of a project."""
    source: Path = request.param
    folder = tmp_path / "project"
    shutil.copytree(source.parent, folder, copy_function=shutil.copyfile)
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    return open_project(folder, ProjectOptions())


def _annotations(objects: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The annotations of expected.json at any depth, parents first."""
    for one in objects:
        if one["kind"] == "annotation":
            yield one
        yield from _annotations(one["children"])


def _shape(kind: str, arguments: Any) -> BaseGeometry:
    if kind == "geometry":
        return shapely.from_wkt(arguments)
    if kind in {"rectangle", "ellipse"}:
        x, y, width, height = arguments
        return box(x, y, x + width, y + height)
    if kind == "line":
        return shapely.LineString([arguments[:2], arguments[2:]])
    makers = {"polygon": Polygon, "polyline": shapely.LineString, "points": shapely.MultiPoint}
    return makers[kind](arguments)


@pytest.mark.parametrize("path", EXPECTED, ids=_name)
def test_project_holds_what_qupath_put_into_it(shared_data: Path, path: Path) -> None:
    expected = json.loads((path.parent / "expected.json").read_text(encoding="utf-8"))
    project = open_project(path, ProjectOptions())
    assert project.version == expected["qupath_version"]
    assert project.path_classes() == [
        PathClass(one["name"], colours.unpack_rgb(one["color"])) for one in expected["path_classes"]
    ]
    entries = project.entries()
    assert len(entries) == len(expected["images"])
    for entry, image in zip(entries, expected["images"], strict=True):
        assert (entry.id, entry.name) == (image["id"], image["name"])
        assert (entry.width_px0, entry.height_px0) == (image["width"], image["height"])
        assert entry.metadata == image["metadata"]
        assert project.version < "0.6" or list(entry.tags) == image["tags"]
        annotations = project.annotations(entry.id)
        wanted = list(_annotations(image["objects"]))
        assert len(annotations) == len(wanted)
        for annotation, one in zip(annotations, wanted, strict=True):
            _same(annotation, one, old=project.version < "0.5")


@pytest.mark.parametrize("path", EXPECTED, ids=_name)
def test_objects_are_those_that_qupath_made(shared_data: Path, path: Path) -> None:
    expected = json.loads((path.parent / "expected.json").read_text(encoding="utf-8"))
    project = open_project(path, ProjectOptions())
    for image in expected["images"]:
        wanted = list(_flat(image["objects"], None))
        found = project.objects(image["id"])
        if image.get("no_data_file"):
            assert found == []
            continue
        root, *objects = found
        assert (root.kind, root.parent, root.shape.is_empty) == ("root", None, True)
        assert len(objects) == len(wanted)
        ids = [item.id for item in objects]
        assert len({root.id, *ids}) == len(found)
        for one, (want, parent) in zip(objects, wanted, strict=True):
            assert one.parent == (root.id if parent is None else ids[parent])
            _same_object(one, want, old=project.version < "0.5")
        _same_grid(objects, image.get("tma_grid"))
        data = path.parent / "data" / image["id"] / "data.qpdata"
        assert qpdata.loads(data.read_bytes()).image_type == image["image_type"]


def _flat(objects: list[dict[str, Any]], parent: int | None) -> Iterator[tuple[dict[str, Any], int | None]]:
    """The objects of expected.json, parents first, with the place of each one's parent among them."""
    rest = [(item, parent) for item in reversed(objects)]
    place = -1
    while rest:
        one, above = rest.pop()
        place += 1
        yield one, above
        rest.extend((child, place) for child in reversed(one["children"]))


def _same_object(one: PathObject, want: dict[str, Any], *, old: bool) -> None:
    assert (one.kind, one.name or None, one.path_class) == (want["kind"], want["name"], want["class"])
    assert (one.locked, one.missing) == (want["locked"], want.get("missing", False))
    assert one.rgb == (None if want["color"] is None else colours.unpack_rgb(want["color"]))
    assert one.probability == want.get("class_probability")
    assert one.roi == f"{want['roi_type']}ROI"
    assert (one.plane.c, one.plane.z, one.plane.t) == (want.get("c", -1), want.get("z", 0), want.get("t", 0))
    assert list(one.measurements) == list(want["measurements"])
    single = want.get("measurement_storage") is not None  # put() rounds a DoubleList to float too
    for name, value in one.measurements.items():
        exact = float(want["measurements"][name])
        assert value == pytest.approx(exact, rel=1e-6 if single else 0, abs=0, nan_ok=True)
    if "metadata" in want and not old:
        assert one.metadata == want["metadata"]
    if want.get("description"):
        assert one.metadata["ANNOTATION_DESCRIPTION"] == want["description"]
    _same_shape(one.shape, want["roi_kind"], want["roi_args"])
    assert one.shape.area == pytest.approx(want["area"], rel=1e-3, abs=1e-9)
    assert (one.nucleus is None) == (want.get("nucleus") is None)
    if one.nucleus is not None:
        _same_shape(one.nucleus, *want["nucleus"])


def _same_shape(shape: BaseGeometry, kind: str, arguments: Any) -> None:
    wanted = _shape(kind, arguments)
    assert shape.bounds == pytest.approx(wanted.bounds, abs=1e-3)
    if kind != "ellipse":
        assert shape.hausdorff_distance(wanted) < 1e-2


def _same_grid(objects: list[PathObject], grid: dict[str, Any] | None) -> None:
    cores = {item.grid: item.name for item in objects if item.grid is not None}
    if grid is None:
        assert not cores
        return
    places = [divmod(place, grid["width"]) for place in range(grid["width"] * grid["height"])]
    assert cores == dict(zip(places, grid["cores"], strict=True))


def _same(annotation: Annotation, wanted: dict[str, Any], *, old: bool) -> None:
    assert (annotation.name or None, annotation.path_class) == (wanted["name"], wanted["class"])
    assert (annotation.locked, annotation.origin, annotation.edited) == (wanted["locked"], "human", False)
    values = {name: float(value) for name, value in wanted["measurements"].items()}
    assert list(annotation.measurements) == list(values)
    for name, value in annotation.measurements.items():
        assert value == values[name] or (math.isnan(value) and math.isnan(values[name]))
    if not old:  # the API for metadata came with 0.5
        assert annotation.metadata == wanted["metadata"]
    if wanted["description"]:
        assert annotation.metadata["ANNOTATION_DESCRIPTION"] == wanted["description"]
    shape = _shape(wanted["roi_kind"], wanted["roi_args"])
    assert annotation.shape.area == pytest.approx(wanted["area"], rel=1e-3, abs=1e-9)
    assert annotation.shape.bounds == pytest.approx(shape.bounds, abs=1e-3)
    if wanted["roi_kind"] != "ellipse":
        assert annotation.shape.hausdorff_distance(shape) < 1e-2


@pytest.mark.parametrize("path", sorted(SHARED.rglob("data.qpdata")), ids=lambda path: str(path.relative_to(SHARED)))
def test_data_is_written_back_to_the_same_bytes(shared_data: Path, path: Path) -> None:
    raw = path.read_bytes()
    assert javaser.dumps(javaser.loads(raw)) == raw
    data = qpdata.loads(raw)
    summary = json.loads(path.with_name("summary.json").read_text(encoding="utf-8"))
    assert data.counts() == summary["hierarchy"]
    assert data.image_type == summary["imageType"]


@pytest.mark.parametrize("path", sorted(SHARED.rglob("data.qpdata")), ids=lambda path: str(path.relative_to(SHARED)))
def test_columns_give_what_graphs_give(shared_data: Path, path: Path) -> None:
    raw = path.read_bytes()
    packed, plain = qpdata.loads(raw), qpdata.QpData(javaser.loads(raw), size=len(raw))
    assert packed.dumps() == raw
    assert repr([node.annotation for node in packed.annotation_nodes()]) == repr(
        [node.annotation for node in plain.annotation_nodes()]
    )
    assert repr(packed.objects()) == repr(plain.objects())
    assert packed.counts() == plain.counts()
    for data in (packed, plain):
        data.remove([node.node for node in data.annotation_nodes()[::2]])
    assert packed.dumps() == plain.dumps()


@pytest.mark.parametrize("path", EVERY, ids=_name)
def test_project_files_are_written_back_to_the_same_bytes(shared_data: Path, path: Path) -> None:
    for one in [path, *path.parent.rglob("classes.json"), *path.parent.rglob("summary.json")]:
        text = one.read_text(encoding="utf-8")
        assert gson.dumps(gson.loads(text), indent=one.name != "summary.json") == text


def _plain(value: Any) -> Any:
    """A graph as plain values, without what depends on where handles fall."""
    value = value.open() if hasattr(value, "peek") else value
    if isinstance(value, Instance):
        return value.desc.name, [_plain(one) for one in value.values]
    if isinstance(value, Text | Block):
        return value.raw
    if isinstance(value, Enum):
        return value.desc.name, value.constant.raw
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if value is None or isinstance(value, bytes):
        return value
    return value.desc.name, value.raw, _plain(value.values)


def _graph(raw: bytes) -> Any:
    return _plain(javaser.loads(raw).contents)


@pytest.mark.parametrize("copied", WITH_DATA, ids=_name, indirect=True)
def test_polygon_with_hole_is_written_and_all_else_stays(copied: EmbeddedProject) -> None:
    classes = copied.path_classes()
    project_bytes = copied.path.read_bytes()
    for entry in copied.entries():
        path = copied.folder / "data" / entry.id / "data.qpdata"
        raw = path.read_bytes() if path.exists() else None
        before = copied.annotations(entry.id)
        own = Annotation(uuid4(), HOLED, "Tumor", run_id="run-1", name="own", measurements={"wsplf: confidence": 0.5})
        assert copied.replace(entry.id, origin="pseudolabel", annotations=[own]).added == 1

        *others, read = open_project(copied.path, ProjectOptions()).annotations(entry.id)
        assert repr(others) == repr(before)
        assert read.shape.equals(HOLED)
        assert (read.id, read.path_class, read.name, read.edited) == (own.id, "Tumor", "own", False)
        assert read.measurements == own.measurements
        if raw is not None:
            data = qpdata.loads(path.read_bytes())
            data.remove([node.node for node in data.annotation_nodes() if node.annotation.id == own.id])
            assert _plain(data._stream.contents) == _graph(raw)

        assert copied.replace(entry.id, origin="pseudolabel", annotations=[]).removed == 1
        assert repr(copied.annotations(entry.id)) == repr(before)
        if raw is not None:
            assert path.read_bytes() == raw
    assert copied.path.read_bytes() == project_bytes
    assert copied.path_classes()[: len(classes)] == classes


@pytest.mark.parametrize("copied", WITH_DATA[:1] + WITH_DATA[-1:], ids=_name, indirect=True)
def test_truncated_data_never_hangs_and_is_never_overwritten(copied: EmbeddedProject) -> None:
    entry = copied.entries()[0]
    path = copied.folder / "data" / entry.id / "data.qpdata"
    raw = path.read_bytes()
    for cut in np.linspace(0, len(raw) - 4, 12).astype(int):
        path.write_bytes(raw[:cut])
        with pytest.raises(ProjectError):
            qpdata.loads(raw[:cut]).annotation_nodes()
        assert path.read_bytes() == raw[:cut]


def test_moved_cohort_finds_its_slides(shared_data: Path) -> None:
    entries = open_project(shared_data / "glas-dev" / "qupath", ProjectOptions()).entries()
    assert [entry.problem for entry in entries] == [""] * 12
    assert all(entry.slide_path == shared_data / "glas-dev" / "slides" / entry.name for entry in entries)
    assert {entry.mpp for entry in entries} == {0.62}


@pytest.mark.parametrize("version", ["0.2.3", "0.4.4", "0.6.0"])
def test_derived_images_are_read_as_qupath_shows_them(shared_data: Path, version: str) -> None:
    project = open_project(shared_data / "qupath-written" / version / "derived_servers", ProjectOptions())
    for entry in project.entries():
        assert len(project.annotations(entry.id)) == 1
        shown = PIL.Image.open(project.folder / "data" / entry.id / "thumbnail.jpg").convert("L")
        slide = slide_of(entry)
        assert (slide.width_px0, slide.height_px0) == (entry.width_px0, entry.height_px0)
        pixels = slide.read(0, 0, size_px=shown.size, downsample=slide.width_px0 / shown.width)
        scores = []
        for turns in range(8):
            turned = np.rot90(pixels if turns < 4 else pixels[:, ::-1], turns % 4)
            grey = PIL.Image.fromarray(np.ascontiguousarray(turned)).convert("L").resize(shown.size)
            scores.append(np.corrcoef(np.asarray(grey).ravel(), np.asarray(shown).ravel())[0, 1])
        assert scores[0] > 0.98
        assert max(scores[1:]) < scores[0] - 0.03  # one of the images is nearly the same mirrored


def test_own_annotations_are_known_again_in_files_without_ids(shared_data: Path) -> None:
    raw = (shared_data / "qupath-written" / "0.2.3" / "rois" / "data" / "1" / "data.qpdata").read_bytes()
    data = qpdata.loads(raw)
    assert not data.has_ids
    own = qpdata.mark([Annotation(uuid4(), HOLED, "Tumor")], origin="prediction")
    data.add(own, colours={})
    assert b"Object ID" not in data.dumps()
    assert qpdata.loads(data.dumps()).annotation_nodes()[-1].annotation.id == own[0].id


def test_truth_and_exports_are_read(shared_data: Path) -> None:
    for path in (shared_data / "glas-dev" / "truth").glob("*.geojson"):
        assert {annotation.path_class for annotation in geojson.read(path)} <= {"Tumor"}
    for path in (shared_data / "geojson").glob("test_geojson*.geojson"):
        assert geojson.read(path)
    for name in ("missing_classification", "multipolygon"):
        with pytest.raises(ProjectError, match="feature 0: its classification is"):
            geojson.read(shared_data / "geojson" / f"tests_data_test_{name}.geojson")
