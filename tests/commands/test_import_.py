"""wsplf import."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import pytest
from annotation_exchange import (
    DATA,
    HOLED,
    comparable,
    export_project,
    feature,
    feature_collection,
    import_into,
    opened,
    set_image,
    with_annotations,
)
from qupath_objects import Workbench
from shapely import MultiPolygon, Polygon, box, set_precision

from wsplf_cli import cli
from wsplf_cli.errors import ConfigError, ProjectError
from wsplf_cli.qupath import geojson
from wsplf_cli.qupath.create import Image, create_project
from wsplf_cli.qupath.shapes import ellipse
from wsplf_cli.schema import Annotation, Plane


def test_export_and_import_into_an_emptied_copy_give_the_same_annotations(tiny_project: Path, tmp_path: Path) -> None:
    before = with_annotations(tiny_project)
    export_project(tiny_project, tmp_path / "out")
    shutil.rmtree(tiny_project.parent / "data")
    (tiny_project.parent / "classifiers" / "classes.json").unlink()
    report = import_into(tiny_project, *(tmp_path / "out").iterdir())
    after = opened(tiny_project).annotations("1")
    assert comparable(after) == comparable(before)
    assert all(one.shape.equals_exact(other.shape, 0.006) for one, other in zip(after, before, strict=True))
    assert report.details["added"] == len(before)
    assert {one.name: one.rgb for one in opened(tiny_project).path_classes()} == {
        "Tumor": (200, 0, 0),
        "Tumor: Positive": (200, 50, 50),
        "Mine": (9, 8, 7),
        "Stroma": (150, 200, 150),
    }


@pytest.mark.parametrize("version", ["0.2.3", "0.3.2", "0.4.4"])
def test_projects_of_old_versions_survive_the_round_trip(tiny_slide: Path, tmp_path: Path, version: str) -> None:
    image = Image(tiny_slide, "positive.tif", 1024, 768, 0.5, [(1.0, 1024, 768)])
    path = create_project(tmp_path / "project", [image], classes=[], version=version)
    before = with_annotations(path)
    export_project(path, tmp_path / "out")
    assert import_into(path, *(tmp_path / "out").iterdir()).details["already there"] == len(before)
    shutil.rmtree(path.parent / "data")
    import_into(path, *(tmp_path / "out").iterdir())
    assert comparable(opened(path).annotations("1")) == comparable(before)


@pytest.mark.shared
@pytest.mark.parametrize("version", ["0.2.3", "0.4.4", "0.6.0"])
@pytest.mark.parametrize("name", ["rois", "hierarchy", "three_images"])
def test_what_qupath_wrote_survives_the_round_trip(shared_data: Path, tmp_path: Path, version: str, name: str) -> None:
    shutil.copytree(shared_data / "qupath-written" / version / name, tmp_path / "p", copy_function=shutil.copyfile)
    for folder in (tmp_path / "p").rglob("."):
        folder.chmod(0o755)
    path = tmp_path / "p" / "project.qpproj"
    before = {entry.id: opened(path).annotations(entry.id) for entry in opened(path).entries()}
    export_project(path, tmp_path / "out")
    assert import_into(path, *(tmp_path / "out").iterdir()).details["added"] == 0
    shutil.rmtree(path.parent / "data")
    set_image(path, sizeZ=9, sizeT=9)
    assert import_into(path, *(tmp_path / "out").iterdir()).failed == 0
    for entry_id, annotations in before.items():
        after = opened(path).annotations(entry_id)
        assert comparable(after) == comparable(annotations)
        pairs = zip(after, annotations, strict=True)
        assert all(one.shape.equals_exact(other.shape, 0.02, normalize=True) for one, other in pairs)


def test_kinds_of_rois_are_the_same_after_export_and_import(tiny_project: Path, tmp_path: Path) -> None:
    bench = Workbench()
    rois = [bench.corners(kind, 10.13, 20, 50, 40) for kind in ("EllipseROI", "RectangleROI", "LineROI")]
    rois += [bench.points("PointsROI", [(1, 2)]), bench.points("PointsROI", [(1, 2), (3, 4)])]
    rois += [
        bench.points("PolygonROI", [(0, 0), (9, 1), (5, 7)]),
        bench.points("PolylineROI", [(0, 0), (9, 1), (5, 7)]),
    ]
    rois += [bench.wkb(HOLED), bench.wkb(MultiPolygon([box(0, 0, 5, 5), box(9, 9, 12, 12)]))]
    (tiny_project.parent / DATA.format(1)).write_bytes(bench.put(*map(bench.node, rois)))
    before = opened(tiny_project).objects("1")
    features = []
    for out in (tmp_path / "first", tmp_path / "second"):
        export_project(tiny_project, out, images="positive")
        features.append(json.loads((out / "positive.tif.geojson").read_text(encoding="utf-8"))["features"])
        assert import_into(tiny_project, out).details["added"] == 0
        shutil.rmtree(tiny_project.parent / "data")
        import_into(tiny_project, out)
        after = opened(tiny_project).objects("1")
        assert [one.roi for one in after] == [one.roi for one in before]
        assert all(one.shape.equals_exact(other.shape, 0.006) for one, other in zip(after, before, strict=True))
    assert [feature["geometry"].get("isEllipse") for feature in features[0]] == [True] + [None] * 8
    assert features[0] == features[1]


def test_importing_twice_adds_nothing_and_writes_nothing(tiny_project: Path, tmp_path: Path) -> None:
    with_annotations(tiny_project)
    export_project(tiny_project, tmp_path / "out")
    before = (tiny_project.parent / DATA.format(1)).read_bytes()
    report = import_into(tiny_project, tmp_path / "out" / "positive.tif.geojson")
    assert report.entries[0].counts == {"added": 0, "already there": 11, "left out": 0}
    assert (tiny_project.parent / DATA.format(1)).read_bytes() == before


@pytest.mark.parametrize("version", ["0.2.3", "0.3.2"])
@pytest.mark.parametrize("ids", ["none", "new"])
def test_annotations_of_qupath_without_ids_are_not_doubled(
    tiny_slide: Path, tmp_path: Path, version: str, ids: str
) -> None:
    image = Image(tiny_slide, "positive.tif", 1024, 768, 0.5, [(1.0, 1024, 768)])
    project = create_project(tmp_path / "project", [image], classes=[], version=version)
    bench = Workbench(version=version)
    rois = [bench.corners(kind, 10.126, 20, 950, 740) for kind in ("EllipseROI", "RectangleROI")]
    rois += [bench.points("PointsROI", [(1, 2)]), bench.points("PolygonROI", [(0.123, 0), (9, 1), (5, 7)])]
    rois += [bench.wkb(HOLED), bench.corners("LineROI", 0, 0, 9, 4)]
    nodes = [bench.node(roi, name="n", path_class="Tumor: Positive", locked=True) for roi in rois]
    data = project.parent / DATA.format(1)
    data.parent.mkdir(parents=True, exist_ok=True)
    data.write_bytes(bench.put(*nodes, bench.node(rois[1])))
    before = data.read_bytes()
    written_by_qupath = []
    for annotation in opened(project).annotations("1"):
        bounds = annotation.shape.bounds
        shape = ellipse(bounds, vertices=100) if annotation.roi == "EllipseROI" else annotation.shape
        written = feature(set_precision(shape, 0.01).reverse(), classification={"name": annotation.path_class})
        written["properties"] |= {"name": annotation.name} if annotation.name else {}
        written_by_qupath.append({**written, "id": "PathAnnotationObject" if ids == "none" else str(uuid4())})
    written_by_qupath[-1]["properties"] = {}
    path = feature_collection(tmp_path / "positive.geojson", *written_by_qupath)
    assert import_into(project, path).entries[0].counts == {"added": 0, "already there": 7, "left out": 0}
    assert data.read_bytes() == before
    path = feature_collection(tmp_path / "positive.geojson", *written_by_qupath, feature(box(1, 1, 2, 2)))
    assert import_into(project, path).details["added"] == 1
    assert import_into(project, path).details["added"] == 0


def test_file_without_ids_is_not_doubled_where_qupath_gives_ids(tiny_project: Path, tmp_path: Path) -> None:
    features = [feature(box(n, n, 50, 50), id=None) for n in (0, 1, 1)]
    path = feature_collection(tmp_path / "positive.geojson", *features)
    opened(tiny_project).add("1", [Annotation(uuid4(), box(0, 0, 50, 50), None)])
    assert [import_into(tiny_project, path).details["added"] for _ in range(2)] == [2, 0]


def test_ids_that_qupath_gives_after_an_import_do_not_double_it(tiny_project: Path, tmp_path: Path) -> None:
    one = feature(box(5, 5, 50, 50))
    path = feature_collection(tmp_path / "positive.geojson", one)
    bench = Workbench()
    metadata = {"Object ID": str(uuid4()), "wsplf.id": one["id"]}
    node = bench.node(bench.corners("RectangleROI", 5, 5, 50, 50), metadata=metadata)
    (tiny_project.parent / DATA.format(1)).write_bytes(bench.put(node))
    assert import_into(tiny_project, path).details["added"] == 0


def test_shapes_far_from_the_origin_are_known_again(tiny_project: Path, tmp_path: Path) -> None:
    set_image(tiny_project, width=250_040, height=250_040)
    rng = np.random.default_rng(0)
    corners = rng.random((50, 2)) * 250_000
    shapes = [Polygon(corner + rng.random((12, 2)) * 40).convex_hull for corner in corners]
    path = feature_collection(tmp_path / "positive.geojson", *(feature(shape) for shape in shapes))
    assert import_into(tiny_project, path).details["added"] == 50
    assert import_into(tiny_project, path).details["already there"] == 50
    export_project(tiny_project, tmp_path / "out")
    assert import_into(tiny_project, tmp_path / "out" / "positive.tif.geojson").details["already there"] == 50


def test_what_is_there_stays_and_new_annotations_come_behind_it(tiny_project: Path, tmp_path: Path) -> None:
    before = with_annotations(tiny_project)
    path = feature_collection(tmp_path / "positive.geojson", feature(box(0, 0, 4, 4), classification={"name": "New"}))
    import_into(tiny_project, path)
    after = opened(tiny_project).annotations("1")
    assert comparable(after[:-1]) == comparable(before)
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
    set_image(tiny_project, sizeZ=2)
    there = Annotation(uuid4(), box(0, 0, 5, 5), "Tumor", measurements={"a": 1.0}, metadata={"k": "v"})
    opened(tiny_project).add("1", [there])
    before = (tiny_project.parent / DATA.format(1)).read_bytes()
    path = tmp_path / "positive.tif.geojson"
    geojson.write(path, [Annotation(uuid4(), box(0, 0, 1, 1), None), replace(there, **change)])
    report = import_into(tiny_project, path)
    assert report.failed == 1
    assert f"annotation {there.id} is in positive.tif already, with another {what}" in report.entries[0].reason
    assert (tiny_project.parent / DATA.format(1)).read_bytes() == before


def test_one_id_for_two_annotations_of_a_file_is_refused(tiny_project: Path, tmp_path: Path) -> None:
    same = str(UUID(int=7))
    path = feature_collection(
        tmp_path / "positive.geojson", feature(box(0, 0, 1, 1), id=same), feature(box(0, 0, 2, 2), id=same)
    )
    report = import_into(tiny_project, path)
    assert f"annotation {same} is in the file twice" in report.entries[0].reason


def test_a_malformed_feature_stops_its_file_only(tiny_project: Path, tmp_path: Path) -> None:
    two_points = {**feature(box(0, 0, 1, 1)), "geometry": {"type": "Polygon", "coordinates": [[[0, 0], [1, 1]]]}}
    bad = feature_collection(tmp_path / "positive.geojson", feature(box(0, 0, 1, 1)), two_points)
    good = feature_collection(tmp_path / "negative.geojson", feature(box(0, 0, 1, 1)))
    report = import_into(tiny_project, bad, good)
    assert [entry.status for entry in report.entries] == ["failed", "done"]
    assert "positive.geojson: feature 1: its geometry is malformed: each linear ring" in report.entries[0].reason
    assert "; nothing of it was added" in report.entries[0].reason
    assert opened(tiny_project).annotations("1") == []
    assert len(opened(tiny_project).annotations("2")) == 1


def test_a_file_without_an_entry_fails_and_the_others_are_imported(tiny_project: Path, tmp_path: Path) -> None:
    good = feature_collection(tmp_path / "negative.geojson", feature(box(0, 0, 1, 1)))
    lost = feature_collection(tmp_path / "negatiffe.geojson", feature(box(0, 0, 1, 1)))
    report = import_into(tiny_project, good, lost, tmp_path / "gone.geojson")
    assert [entry.status for entry in report.entries] == ["done", "failed", "failed"]
    assert "no entry is called 'negatiffe' (--image 'negative.tif'" in report.entries[1].reason
    assert "no such file" in report.entries[2].reason
    with pytest.raises(ProjectError, match="no entry is called 'negatiffe'"):
        import_into(tiny_project, lost)


def test_features_without_a_shape_do_not_keep_the_others_out(tiny_project: Path, tmp_path: Path, recorder: Any) -> None:
    without = [{**feature(box(0, 0, 1, 1)), "geometry": geometry} for geometry in (None, {}, {"type": "Point"})]
    without[2]["geometry"]["coordinates"] = []
    path = feature_collection(tmp_path / "positive.geojson", feature(box(0, 0, 1, 1)), *without)
    report = import_into(tiny_project, path, tracker=recorder)
    assert report.entries[0].counts == {"added": 1, "already there": 0, "left out": 3}
    assert "positive.tif: not imported: 3 annotations without a shape" in recorder.said


def test_folder_is_imported_file_by_file(tiny_project: Path, tmp_path: Path) -> None:
    with_annotations(tiny_project)
    opened(tiny_project).add("2", [Annotation(uuid4(), box(0, 0, 9, 9), "Tumor")])
    export_project(tiny_project, tmp_path / "out", compress=True)
    for name in ("._positive.tif.geojson.gz", "notes.txt", "labels.csv"):
        (tmp_path / "out" / name).write_bytes(b"\x00\x05")
    (tmp_path / "out" / "sub.json").mkdir()
    shutil.rmtree(tiny_project.parent / "data")
    report = import_into(tiny_project, tmp_path / "out")
    assert [(entry.name, entry.status, entry.counts["added"]) for entry in report.entries] == [
        ("positive.tif", "done", 11),
        ("negative.tif", "done", 1),
        ("unlabelled.tif", "done", 0),
    ]


def test_file_of_a_folder_that_cannot_be_imported_fails_by_itself(tiny_project: Path, tmp_path: Path) -> None:
    (folder := tmp_path / "in").mkdir()
    feature_collection(folder / "negative.json", feature(box(0, 0, 1, 1)))
    (folder / "positive.GEOJSON").write_text("[7]", encoding="utf-8")
    feature_collection(folder / "stranger.geojson", feature(box(0, 0, 1, 1)))
    report = import_into(tiny_project, folder)
    assert {entry.name: entry.status for entry in report.entries} == {
        "positive.tif": "failed",
        "negative.tif": "done",
        "stranger.geojson": "failed",
    }
    assert len(opened(tiny_project).annotations("2")) == 1


def test_folder_that_says_nothing_of_what_to_import_is_refused(tiny_project: Path, tmp_path: Path) -> None:
    (folder := tmp_path / "in").mkdir()
    with pytest.raises(ConfigError, match="no GeoJSON or XML file in this folder"):
        import_into(tiny_project, folder)
    feature_collection(folder / "a.geojson", feature(box(0, 0, 1, 1)))
    assert import_into(tiny_project, folder, image="positive").failed == 0
    feature_collection(folder / "b.geojson", feature(box(0, 0, 2, 2)))
    with pytest.raises(ConfigError, match=r"--image is one image, but .*in holds 2 files"):
        import_into(tiny_project, folder, image="positive")


def test_image_names_the_entry(tiny_project: Path, tmp_path: Path) -> None:
    path = feature_collection(tmp_path / "anything.json", feature(box(0, 0, 1, 1)))
    import_into(tiny_project, path, image="unlabelled")
    assert len(opened(tiny_project).annotations("3")) == 1


def test_dry_run_tells_and_writes_nothing(tiny_project: Path, tmp_path: Path, recorder: Any) -> None:
    before = {path: path.stat().st_mtime_ns for path in tiny_project.parent.rglob("*")}
    path = feature_collection(
        tmp_path / "positive.geojson", feature(box(0, 0, 1, 1)), feature(box(0, 0, 1, 1), objectType="cell")
    )
    report = import_into(tiny_project, path, tracker=recorder, dry_run=True)
    assert report.entries[0].counts == {"added": 1, "already there": 0, "left out": 1}
    assert "1 annotations would be added, 0 there already" in recorder.said
    assert "positive.tif: not imported: 1 cells" in recorder.said
    assert {path: path.stat().st_mtime_ns for path in tiny_project.parent.rglob("*")} == before


def test_annotations_of_wsplf_stay_its_own_and_others_are_a_persons(tiny_project: Path, tmp_path: Path) -> None:
    own = {"wsplf.origin": "pseudolabel", "wsplf.review": "rejected", "wsplf.run": "r9"}
    features = [feature(box(0, 0, 9, 9), metadata=own), feature(box(9, 9, 19, 19))]
    import_into(tiny_project, feature_collection(tmp_path / "positive.geojson", *features))
    mine, persons = opened(tiny_project).annotations("1")
    assert (mine.origin, mine.review, mine.run_id) == ("pseudolabel", "rejected", "r9")
    assert persons.origin == "human"


@pytest.mark.parametrize("packed", [False, True])
def test_annotations_of_another_slide_or_scale_are_refused(tiny_project: Path, tmp_path: Path, packed: bool) -> None:
    shapes = [box(4000, 3000, 4100, 3100), box(-500, -500, -1, -1), box(1024, 0, 1100, 768)]
    path = tmp_path / ("positive.geojson.gz" if packed else "positive.geojson")
    geojson.write(path, [Annotation(uuid4(), shape, "Tumor") for shape in shapes])
    report = import_into(tiny_project, path)
    assert report.failed == 1
    assert "none of its annotations lies in positive.tif; nothing of it was added" in report.entries[0].reason
    assert "full resolution" in report.entries[0].reason
    assert opened(tiny_project).annotations("1") == []
    assert cli.main(["import", str(tiny_project), str(path)]) == 1


def test_annotations_outside_are_left_out_and_those_at_the_border_are_counted(
    tiny_project: Path, tmp_path: Path, recorder: Any
) -> None:
    shapes = [box(0, 0, 9, 9), box(1000, 0, 1100, 100), box(-50, 700, 50, 800), box(2000, 0, 2100, 100)]
    path = feature_collection(tmp_path / "positive.geojson", *map(feature, shapes))
    report = import_into(tiny_project, path, tracker=recorder)
    assert report.entries[0].counts == {"added": 3, "already there": 0, "left out": 1}
    assert "positive.tif: not imported: 1 outside the image" in recorder.said
    assert any("2 of 4 annotations lie partly outside positive.tif" in said for said in recorder.said)
    whole = opened(tiny_project).annotations("1")[1].shape
    assert whole.equals(shapes[1])


@pytest.mark.parametrize("plane", [Plane(z=1), Plane(t=1), Plane(z=-1), Plane(c=3)], ids=str)
def test_a_plane_that_the_image_does_not_have_is_refused(tiny_project: Path, tmp_path: Path, plane: Plane) -> None:
    path = tmp_path / "positive.tif.geojson"
    annotations = [Annotation(uuid4(), box(0, 0, 9, 9), "Tumor", plane=each) for each in (Plane(), plane)]
    geojson.write(path, annotations)
    report = import_into(tiny_project, path)
    assert report.failed == 1
    assert "1 of 2 new annotations lie on a plane that positive.tif does not have" in report.entries[0].reason
    assert opened(tiny_project).annotations("1") == []


def test_planes_that_the_image_has_are_kept_from_file_to_file(
    tiny_project: Path, tmp_path: Path, recorder: Any
) -> None:
    set_image(tiny_project, sizeZ=4, sizeT=3)
    planes = [Plane(), Plane(c=1), Plane(z=3), Plane(c=2, z=1, t=2)]
    path = tmp_path / "positive.tif.geojson"
    geojson.write(path, [Annotation(uuid4(), box(0, 0, 9, 9), "Tumor", plane=plane) for plane in planes])
    assert import_into(tiny_project, path, tracker=recorder).details["added"] == 4
    assert any("2 of 4 annotations lie on another plane than the first" in said for said in recorder.said)
    export_project(tiny_project, tmp_path / "out")
    exported = geojson.read(tmp_path / "out" / "positive.tif.geojson")
    assert [annotation.plane for annotation in exported] == planes


def test_commands_export_and_import(tiny_project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with_annotations(tiny_project)
    assert cli.main(["export", str(tiny_project), "--out", str(tmp_path / "out"), "--images", "positive"]) == 0
    (path,) = (tmp_path / "out").iterdir()
    capsys.readouterr()
    assert cli.main(["import", str(tiny_project), str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["details"]["already there"] == 11
    assert cli.main(["import", str(tiny_project), str(path), "--image", "negative.tif"]) == 0
    assert len(opened(tiny_project).annotations("2")) == 11
    path.write_text("[7]")
    assert cli.main(["import", str(tiny_project), str(path)]) == 1
