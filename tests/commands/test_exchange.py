"""wsplf export and wsplf import."""

import gzip
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import pytest
from shapely import LineString, MultiLineString, MultiPoint, MultiPolygon, Point, Polygon, box

from wsplf_cli import cli
from wsplf_cli.backends import Project
from wsplf_cli.backends.embedded import open_project
from wsplf_cli.commands import exchange
from wsplf_cli.errors import ConfigError, ProjectError
from wsplf_cli.options import ExportOptions, ImportOptions, ProjectOptions
from wsplf_cli.qupath import geojson
from wsplf_cli.qupath.create import Image, create_project
from wsplf_cli.schema import Annotation, PathClass, Plane, Silent, StageReport, Step

HOLED = Polygon([(100, 100), (300, 100), (300, 300), (100, 300)], [[(150, 150), (150, 200), (200, 200), (200, 150)]])
DATA = "data/{}/data.qpdata"


def _open(path: Path) -> Project:
    return open_project(path, ProjectOptions())


def _export(path: Path, out: Path, **options: Any) -> StageReport:
    project = _open(path)
    return exchange.export(project, project.entries(), ExportOptions(out=out, **options), Silent())


def _import(path: Path, *files: Path, tracker: Any = None, **options: Any) -> StageReport:
    project = _open(path)
    return exchange.import_files(project, project.entries(), files, ImportOptions(**options), tracker or Silent())


def _persons() -> list[Annotation]:
    """A person's annotations of every kind of shape."""
    values = {"a": 1.5, "nan": math.nan, "inf": math.inf}
    return [
        Annotation(uuid4(), HOLED, "Tumor: Positive", name="größe", measurements=values, locked=True),
        Annotation(uuid4(), MultiPolygon([box(0, 0, 5, 5), box(9, 9, 12, 12)]), "Mine", metadata={"k": "v"}),
        Annotation(uuid4(), box(10.123, 10, 20.5, 20), None, rgb=(1, 2, 3), plane=Plane(0, 2, 1)),
        Annotation(uuid4(), Point(1.5, 2.25), "Stroma"),
        Annotation(uuid4(), MultiPoint([(1, 2), (3, 4)]), None),
        Annotation(uuid4(), LineString([(0, 0), (10, 10)]), None),
        Annotation(uuid4(), LineString([(0, 0), (10, 10), (20, 0)]), None, plane=Plane(-1, 1, 0)),
        Annotation(uuid4(), MultiLineString([[(0, 0), (1, 1)], [(2, 2), (3, 3)]]), None),
    ]


def _written(path: Path, *, entry_id: str = "1") -> list[Annotation]:
    """What an entry holds after a person's annotations and three of wsplf's were written into it."""
    project = _open(path)
    project.add(entry_id, _persons(), path_classes=[PathClass("Mine", (9, 8, 7))])
    run = {"run_id": "r1", "measurements": {"wsplf: confidence": 0.5}}
    own = [Annotation(uuid4(), box(n, n, n + 30.25, n + 30), "Tumor", **run) for n in (100, 200)]
    project.replace(entry_id, origin="pseudolabel", annotations=own)
    project.replace(entry_id, origin="prediction", annotations=[Annotation(uuid4(), HOLED, "Tumor", run_id="r2")])
    return _open(path).annotations(entry_id)


def _looks(annotations: list[Annotation]) -> list[tuple[object, ...]]:
    """All of each annotation but its shape, in a form that equals itself with NaN in it."""
    return [
        (
            *(one.id, one.path_class, one.origin, one.review, one.run_id, one.name, one.locked, one.edited),
            *(one.plane, one.rgb, repr(dict(one.measurements)), dict(one.metadata), one.shape.geom_type),
        )
        for one in annotations
    ]


def _feature(shape: Any, **properties: Any) -> dict[str, Any]:
    geometry = json.loads(json.dumps(shape.__geo_interface__))
    return {"type": "Feature", "id": properties.pop("id", str(uuid4())), "geometry": geometry, "properties": properties}


def _file(path: Path, *features: Any) -> Path:
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}), encoding="utf-8")
    return path


# export


def test_export_writes_a_file_for_each_entry_with_all_annotations(tiny_project: Path, tmp_path: Path) -> None:
    before = _written(tiny_project)
    report = _export(tiny_project, tmp_path / "out")
    names = ["negative.tif.geojson", "positive.tif.geojson", "unlabelled.tif.geojson"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    read = geojson.read(tmp_path / "out" / "positive.tif.geojson")
    assert [one.id for one in read] == [one.id for one in before]
    assert [entry.counts for entry in report.entries] == [{"annotations": 11}, {"annotations": 0}, {"annotations": 0}]
    assert geojson.load(tmp_path / "out" / "positive.tif.geojson").rgb["Mine"] == (9, 8, 7)
    assert report.failed == 0


@pytest.mark.parametrize(("origin", "count"), [(("human",), 8), (("pseudolabel", "prediction"), 3), ((), 11)])
def test_export_chooses_by_origin(tiny_project: Path, tmp_path: Path, origin: tuple[str, ...], count: int) -> None:
    _written(tiny_project)
    _export(tiny_project, tmp_path, origin=origin)
    assert len(geojson.read(tmp_path / "positive.tif.geojson")) == count


def test_unknown_origin_is_refused_before_anything_is_written(tiny_project: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--origin must be one of: human, pseudolabel, prediction, not mine"):
        _export(tiny_project, tmp_path / "out", origin=("mine",))
    assert not (tmp_path / "out").exists()


def test_folder_that_is_a_file_is_one_clear_line(tiny_project: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(ConfigError, match="the folder cannot be made"):
        _export(tiny_project, tmp_path / "out")


def test_entry_that_cannot_be_read_fails_and_the_others_are_exported(tiny_project: Path, tmp_path: Path) -> None:
    _written(tiny_project)
    data = tiny_project.parent / DATA.format(1)
    data.write_bytes(data.read_bytes()[:-40])
    report = _export(tiny_project, tmp_path / "out")
    assert [entry.status for entry in report.entries] == ["failed", "done", "done"]
    assert report.failed == 1
    assert not (tmp_path / "out" / "positive.tif.geojson").exists()


def test_export_twice_gives_the_same_bytes_and_changes_nothing(tiny_project: Path, tmp_path: Path) -> None:
    _written(tiny_project)
    before = (tiny_project.parent / DATA.format(1)).read_bytes()
    for name in ("a", "b"):
        _export(tiny_project, tmp_path / name, compress=True)
    first, second = (tmp_path / name / "positive.tif.geojson.gz" for name in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()
    assert gzip.decompress(first.read_bytes()).startswith(b'{"type":"FeatureCollection"')
    assert (tiny_project.parent / DATA.format(1)).read_bytes() == before


# import


def test_export_and_import_into_an_emptied_copy_give_the_same_annotations(tiny_project: Path, tmp_path: Path) -> None:
    before = _written(tiny_project)
    _export(tiny_project, tmp_path / "out")
    shutil.rmtree(tiny_project.parent / "data")
    (tiny_project.parent / "classifiers" / "classes.json").unlink()
    report = _import(tiny_project, *(tmp_path / "out").iterdir())
    after = _open(tiny_project).annotations("1")
    assert _looks(after) == _looks(before)
    assert all(one.shape.equals_exact(other.shape, 0.006) for one, other in zip(after, before, strict=True))
    assert report.details["added"] == len(before)
    assert {one.name: one.rgb for one in _open(tiny_project).path_classes()} == {
        "Tumor": (200, 0, 0),
        "Tumor: Positive": (200, 50, 50),
        "Mine": (9, 8, 7),
        "Stroma": (150, 200, 150),
    }


@pytest.mark.parametrize("version", ["0.2.3", "0.3.2", "0.4.4"])
def test_projects_of_old_versions_survive_the_round_trip(tiny_slide: Path, tmp_path: Path, version: str) -> None:
    image = Image(tiny_slide, "positive.tif", 1024, 768, 0.5, [(1.0, 1024, 768)])
    path = create_project(tmp_path / "project", [image], classes=[], version=version)
    before = _written(path)
    _export(path, tmp_path / "out")
    assert _import(path, *(tmp_path / "out").iterdir()).details["already there"] == len(before)
    shutil.rmtree(path.parent / "data")
    _import(path, *(tmp_path / "out").iterdir())
    assert _looks(_open(path).annotations("1")) == _looks(before)


@pytest.mark.shared
@pytest.mark.parametrize("version", ["0.2.3", "0.4.4", "0.6.0"])
@pytest.mark.parametrize("name", ["rois", "hierarchy", "three_images"])
def test_what_qupath_wrote_survives_the_round_trip(shared_data: Path, tmp_path: Path, version: str, name: str) -> None:
    shutil.copytree(shared_data / "qupath-written" / version / name, tmp_path / "p", copy_function=shutil.copyfile)
    for folder in (tmp_path / "p").rglob("."):
        folder.chmod(0o755)
    path = tmp_path / "p" / "project.qpproj"
    before = {entry.id: _open(path).annotations(entry.id) for entry in _open(path).entries()}
    _export(path, tmp_path / "out")
    assert _import(path, *(tmp_path / "out").iterdir()).details["added"] == 0
    shutil.rmtree(path.parent / "data")
    assert _import(path, *(tmp_path / "out").iterdir()).failed == 0
    for entry_id, annotations in before.items():
        after = _open(path).annotations(entry_id)
        assert _looks(after) == _looks(annotations)
        assert all(one.shape.equals_exact(other.shape, 0.02) for one, other in zip(after, annotations, strict=True))


def test_importing_twice_adds_nothing_and_writes_nothing(tiny_project: Path, tmp_path: Path) -> None:
    _written(tiny_project)
    _export(tiny_project, tmp_path / "out")
    before = (tiny_project.parent / DATA.format(1)).read_bytes()
    report = _import(tiny_project, tmp_path / "out" / "positive.tif.geojson")
    assert report.entries[0].counts == {"added": 0, "already there": 11, "left out": 0}
    assert (tiny_project.parent / DATA.format(1)).read_bytes() == before


def test_shapes_far_from_the_origin_are_known_again(tiny_project: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    corners = rng.random((50, 2)) * 250_000
    shapes = [Polygon(corner + rng.random((12, 2)) * 40).convex_hull for corner in corners]
    path = _file(tmp_path / "positive.geojson", *(_feature(shape) for shape in shapes))
    assert _import(tiny_project, path).details["added"] == 50
    assert _import(tiny_project, path).details["already there"] == 50
    _export(tiny_project, tmp_path / "out")
    assert _import(tiny_project, tmp_path / "out" / "positive.tif.geojson").details["already there"] == 50


def test_what_is_there_stays_and_new_annotations_come_behind_it(tiny_project: Path, tmp_path: Path) -> None:
    before = _written(tiny_project)
    path = _file(tmp_path / "positive.geojson", _feature(box(0, 0, 4, 4), classification={"name": "New"}))
    _import(tiny_project, path)
    after = _open(tiny_project).annotations("1")
    assert _looks(after[:-1]) == _looks(before)
    assert (after[-1].path_class, after[-1].origin) == ("New", "human")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"shape": box(0, 0, 5, 5.5)}, "shape"),
        ({"path_class": "Stroma"}, "class"),
        ({"name": "other"}, "name"),
        ({"locked": True}, "lock"),
        ({"measurements": {"a": 2.0}}, "measurement"),
        ({"metadata": {"k": "w"}}, "metadata"),
        ({"plane": Plane(0, 1, 0)}, "plane"),
        ({"rgb": (1, 2, 3)}, "colour"),
    ],
)
def test_another_state_of_an_annotation_is_refused_and_nothing_is_written(
    tiny_project: Path, tmp_path: Path, change: dict[str, Any], what: str
) -> None:
    there = Annotation(uuid4(), box(0, 0, 5, 5), "Tumor", measurements={"a": 1.0}, metadata={"k": "v"})
    _open(tiny_project).add("1", [there])
    before = (tiny_project.parent / DATA.format(1)).read_bytes()
    path = tmp_path / "positive.tif.geojson"
    geojson.write(path, [Annotation(uuid4(), box(0, 0, 1, 1), None), replace(there, **change)])
    report = _import(tiny_project, path)
    assert report.failed == 1
    assert f"annotation {there.id} is in positive.tif already, with another {what}" in report.entries[0].reason
    assert (tiny_project.parent / DATA.format(1)).read_bytes() == before


def test_one_id_for_two_annotations_of_a_file_is_refused(tiny_project: Path, tmp_path: Path) -> None:
    same = str(UUID(int=7))
    path = _file(tmp_path / "positive.geojson", _feature(box(0, 0, 1, 1), id=same), _feature(box(0, 0, 2, 2), id=same))
    report = _import(tiny_project, path)
    assert f"annotation {same} is in the file twice" in report.entries[0].reason


def test_a_malformed_feature_stops_its_file_only(tiny_project: Path, tmp_path: Path) -> None:
    two_points = {**_feature(box(0, 0, 1, 1)), "geometry": {"type": "Polygon", "coordinates": [[[0, 0], [1, 1]]]}}
    bad = _file(tmp_path / "positive.geojson", _feature(box(0, 0, 1, 1)), two_points)
    good = _file(tmp_path / "negative.geojson", _feature(box(0, 0, 1, 1)))
    report = _import(tiny_project, bad, good)
    assert [entry.status for entry in report.entries] == ["failed", "done"]
    assert "positive.geojson: feature 1: its polygon has 2 points; nothing of it was added" in report.entries[0].reason
    assert _open(tiny_project).annotations("1") == []
    assert len(_open(tiny_project).annotations("2")) == 1


def test_a_file_without_an_entry_fails_and_the_others_are_imported(tiny_project: Path, tmp_path: Path) -> None:
    good = _file(tmp_path / "negative.geojson", _feature(box(0, 0, 1, 1)))
    lost = _file(tmp_path / "negatiffe.geojson", _feature(box(0, 0, 1, 1)))
    report = _import(tiny_project, good, lost, tmp_path / "gone.geojson")
    assert [entry.status for entry in report.entries] == ["done", "failed", "failed"]
    assert "no entry is called 'negatiffe' (--image 'negative.tif'" in report.entries[1].reason
    assert "no such file" in report.entries[2].reason
    with pytest.raises(ProjectError, match="no entry is called 'negatiffe'"):
        _import(tiny_project, lost)


def test_image_names_the_entry(tiny_project: Path, tmp_path: Path) -> None:
    path = _file(tmp_path / "anything.json", _feature(box(0, 0, 1, 1)))
    _import(tiny_project, path, image="unlabelled")
    assert len(_open(tiny_project).annotations("3")) == 1


def test_dry_run_tells_and_writes_nothing(tiny_project: Path, tmp_path: Path, recorder: Any) -> None:
    before = {path: path.stat().st_mtime_ns for path in tiny_project.parent.rglob("*")}
    path = _file(tmp_path / "positive.geojson", _feature(box(0, 0, 1, 1)), _feature(box(0, 0, 1, 1), objectType="cell"))
    report = _import(tiny_project, path, tracker=recorder, dry_run=True)
    assert report.entries[0].counts == {"added": 1, "already there": 0, "left out": 1}
    assert "1 annotations would be added, 0 there already" in recorder.said
    assert "positive.tif: not imported: 1 cells" in recorder.said
    assert {path: path.stat().st_mtime_ns for path in tiny_project.parent.rglob("*")} == before


def test_annotations_of_wsplf_stay_its_own_and_others_are_a_persons(tiny_project: Path, tmp_path: Path) -> None:
    own = {"wsplf.origin": "pseudolabel", "wsplf.review": "rejected", "wsplf.run": "r9"}
    features = [_feature(box(0, 0, 9, 9), metadata=own), _feature(box(9, 9, 19, 19))]
    _import(tiny_project, _file(tmp_path / "positive.geojson", *features))
    mine, persons = _open(tiny_project).annotations("1")
    assert (mine.origin, mine.review, mine.run_id) == ("pseudolabel", "rejected", "r9")
    assert persons.origin == "human"


# ASAP

OUTLINE = '<Annotation Name="{}" Type="{}" PartOfGroup="{}"><Coordinates>{}</Coordinates></Annotation>'


def _asap(path: Path, *outlines: tuple[str, tuple[float, float, float, float]], kind: str = "Polygon") -> Path:
    body = ""
    for number, (group, (left, top, right, bottom)) in enumerate(outlines):
        corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
        points = "".join(f'<Coordinate Order="{i}" X="{x}" Y="{y}"/>' for i, (x, y) in enumerate(corners))
        body += OUTLINE.format(f"A{number}", kind, group, points)
    path.write_text(f"<ASAP_Annotations><Annotations>{body}</Annotations></ASAP_Annotations>", encoding="utf-8")
    return path


def test_asap_groups_of_camelyon_become_tumour_with_holes(tiny_project: Path, tmp_path: Path, recorder: Any) -> None:
    path = _asap(tmp_path / "positive.xml", ("_0", (0, 0, 100, 100)), ("_2", (10, 10, 20, 20)), ("None", (0, 0, 5, 5)))
    report = _import(tiny_project, path, tracker=recorder)
    tumour, other = _open(tiny_project).annotations("1")
    assert (tumour.path_class, tumour.name, tumour.origin) == ("Tumor", "A0", "human")
    assert tumour.shape.equals(box(0, 0, 100, 100) - box(10, 10, 20, 20))
    assert other.path_class is None
    assert "positive.xml: groups: _0 -> Tumor, _2 -> cut out of the others" in recorder.said
    assert report.entries[0].counts == {"added": 2, "already there": 0, "left out": 1}
    assert _import(tiny_project, path).entries[0].counts == {"added": 0, "already there": 2, "left out": 1}


def test_asap_groups_are_mapped_by_option(tiny_project: Path, tmp_path: Path, recorder: Any) -> None:
    boxes = [(group, (n * 50, 0, n * 50 + 40, 40)) for n, group in enumerate(["_2", "metastases", "lymph"])]
    path = _asap(tmp_path / "positive.xml", *boxes, ("mark", (5, 5, 9, 9)))
    options = ("_2=Stroma", "metastases=Tumor:Positive", "LYMPH=", "mark=-", "typo=x")
    _import(tiny_project, path, tracker=recorder, asap_class=options)
    assert [one.path_class for one in _open(tiny_project).annotations("1")] == ["Stroma", "Tumor: Positive"]
    assert _open(tiny_project).annotations("1")[0].shape.area == pytest.approx(1600 - 16)
    assert "warning: --asap-class: no file has the group typo" in recorder.said


@pytest.mark.parametrize("pair", ["Tumor", "=Tumor", " =x"])
def test_mapping_that_is_none_is_refused(tiny_project: Path, tmp_path: Path, pair: str) -> None:
    path = _asap(tmp_path / "positive.xml", ("_0", (0, 0, 100, 100)))
    with pytest.raises(ConfigError, match="must be GROUP=CLASS"):
        _import(tiny_project, path, asap_class=(pair,))


def test_mapping_without_an_asap_file_is_refused(tiny_project: Path, tmp_path: Path) -> None:
    path = _file(tmp_path / "positive.geojson", _feature(box(0, 0, 1, 1)))
    with pytest.raises(ConfigError, match="no file is one"):
        _import(tiny_project, path, asap_class=("_0=Tumor",))


def test_asap_file_of_another_slide_is_refused(tiny_project: Path, tmp_path: Path) -> None:
    report = _import(tiny_project, _asap(tmp_path / "positive.xml", ("_0", (90_000, 0, 90_100, 100))))
    assert "none of its annotations lies in positive.tif" in report.entries[0].reason


def test_malformed_asap_file_is_one_clear_line(tiny_project: Path, tmp_path: Path) -> None:
    report = _import(tiny_project, _asap(tmp_path / "positive.xml", ("_0", (5, 5, 5, 5))))
    assert "positive.xml: annotation 0 ('A0'): its polygon has 1 point" in report.entries[0].reason


def test_asap_needs_the_slide_where_its_bounds_matter(tiny_slide: Path, tmp_path: Path) -> None:
    slide = tmp_path / "copy.tif"
    shutil.copy(tiny_slide, slide)
    image = Image(slide, "copy.tif", 1024, 768, 0.5, [(1.0, 1024, 768)])
    project = create_project(tmp_path / "project", [image], classes=[])
    slide.unlink()
    report = _import(project, _asap(tmp_path / "copy.xml", ("_0", (0, 0, 100, 100))))
    assert report.failed == 1
    assert "only the slide says where the image begins" in report.entries[0].reason
    assert _open(project).annotations("1") == []


def test_asap_coordinates_are_turned_with_the_image(tiny_project: Path, tmp_path: Path) -> None:
    project = _open(tiny_project)
    (entry, *_) = project.entries()
    turned = replace(entry, width_px0=768, height_px0=1024, steps=(Step("rotated", (1,)),))
    path = _asap(tmp_path / "positive.xml", ("_0", (0, 0, 100, 50)))
    exchange.import_files(project, [turned], [path], ImportOptions(), Silent())
    (one,) = _open(tiny_project).annotations("1")
    assert one.shape.bounds == pytest.approx((768 - 50, 0, 768, 100))


# the command line


def test_commands_export_and_import(tiny_project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _written(tiny_project)
    assert cli.main(["export", str(tiny_project), "--out", str(tmp_path / "out"), "--images", "positive"]) == 0
    (path,) = (tmp_path / "out").iterdir()
    capsys.readouterr()
    assert cli.main(["import", str(tiny_project), str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["details"]["already there"] == 11
    assert cli.main(["import", str(tiny_project), str(path), "--image", "negative.tif"]) == 0
    assert len(_open(tiny_project).annotations("2")) == 11
    path.write_text("[7]")
    assert cli.main(["import", str(tiny_project), str(path)]) == 1
