"""The contract of backends.Project, for every file in backends/."""

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import shapely
from qupath_objects import DETECTION, Workbench
from shapely import LineString, MultiPoint, MultiPolygon, Point, Polygon, box

from wsplf_cli.backends import Project
from wsplf_cli.errors import ConfigError, ProjectError, SlideError
from wsplf_cli.qupath import qpdata
from wsplf_cli.qupath.javaclasses import Maker
from wsplf_cli.qupath.rois import write_roi
from wsplf_cli.qupath.shapes import ellipse
from wsplf_cli.qupath.values import Values
from wsplf_cli.schema import Annotation, PathClass, Plane, Replaced

HOLED = Polygon([(100, 100), (300, 100.12), (300, 300), (100, 300)], [[(150, 150), (150, 200), (200, 200), (200, 150)]])
Open = Callable[..., Project]


def _own(shape: object = HOLED, *, run_id: str = "r1", name: str = "", path_class: str = "Tumor") -> Annotation:
    return Annotation(uuid4(), shape, path_class, run_id=run_id, name=name, measurements={"wsplf: confidence": 0.5})


def _data(tiny_project: Path, number: int = 1) -> Path:
    return tiny_project.parent / "data" / str(number) / "data.qpdata"


def _persons_work(path: Path) -> None:
    """Save a person's annotations, a detection and image properties, as QuPath would."""
    bench = Workbench()
    rectangle = bench.corners("RectangleROI", 5, 5, 50, 50)
    inner = bench.node(rectangle, name="inner", metadata={"Object ID": str(uuid4())}, path_class="Stroma")
    detection = bench.node(rectangle, kind=DETECTION, metadata={"Object ID": str(uuid4())})
    own = {"Object ID": str(uuid4())}
    outer = bench.node(rectangle, name="outer", locked=True, metadata=own, children=[detection, inner])
    points = bench.points("PointsROI", [(1, 2), (3, 4)])
    path.write_bytes(bench.put(outer, bench.node(points, name="points", metadata={"Object ID": str(uuid4())})))


def test_entries_are_listed_with_their_slides(open_: Open, tiny_slide: Path) -> None:
    project = open_()
    entries = project.entries()
    assert [entry.name for entry in entries] == ["positive.tif", "negative.tif", "unlabelled.tif"]
    assert [entry.id for entry in entries] == ["1", "2", "3"]
    assert {entry.slide_path for entry in entries} == {tiny_slide}
    assert {(entry.width_px0, entry.height_px0, entry.mpp) for entry in entries} == {(1024, 768, 0.5)}
    assert entries[0].metadata == {"label": "tumor"}
    assert project.path_classes() == [PathClass("Tumor", (200, 0, 0))]
    assert (project.version, project.path.name, project.folder) == ("0.6.0", "project.qpproj", project.path.parent)


def test_slides_folder_that_is_not_there_is_refused(open_: Open, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        open_(slides=tmp_path / "gone")


def test_annotations_survive_a_round_trip(open_: Open) -> None:
    own = _own(name="p", path_class="Tumor: Positive")
    assert open_().annotations("1") == []
    assert open_().replace("1", origin="pseudolabel", annotations=[own]) == Replaced(added=1, removed=0, kept=0)
    (read,) = open_().annotations("1")
    assert read.shape.equals_exact(HOLED, 1e-4, normalize=True)  # QuPath rounds to single precision
    assert (read.id, read.path_class, read.name, read.run_id) == (own.id, "Tumor: Positive", "p", "r1")
    assert (read.origin, read.review, read.edited, read.measurements) == (
        "pseudolabel",
        "pending",
        False,
        {"wsplf: confidence": 0.5},
    )
    assert open_().annotations("2") == []
    assert [path_class.name for path_class in open_().path_classes()] == ["Tumor", "Tumor: Positive"]


def test_same_run_again_writes_nothing_and_another_run_replaces(open_: Open, tiny_project: Path) -> None:
    shapes = [HOLED, MultiPolygon([box(400, 400, 450, 450), box(500, 500, 600, 600)])]
    open_().replace("1", origin="pseudolabel", annotations=[_own(shape) for shape in shapes])
    before = _data(tiny_project).read_bytes()
    again = open_().replace("1", origin="pseudolabel", annotations=[_own(shape) for shape in shapes])
    assert again == Replaced(added=0, removed=0, kept=0)
    assert _data(tiny_project).read_bytes() == before
    other = open_().replace("1", origin="pseudolabel", annotations=[_own(shape, run_id="r2") for shape in shapes])
    assert other == Replaced(added=3, removed=3, kept=0)
    assert len(open_().annotations("1")) == 3


def test_measurement_that_is_no_number_does_not_make_a_run_write_again(open_: Open) -> None:
    one = Annotation(uuid4(), HOLED, "Tumor", measurements={"wsplf: score": float("nan")})
    assert open_().replace("1", origin="pseudolabel", annotations=[one]).added == 1
    assert open_().replace("1", origin="pseudolabel", annotations=[one]) == Replaced(0, 0, 0)


def test_nothing_to_write_makes_no_data_file(open_: Open, tiny_project: Path) -> None:
    assert open_().replace("1", origin="pseudolabel", annotations=[]) == Replaced(0, 0, 0)
    assert not _data(tiny_project).exists()


def test_replacing_touches_only_its_own(open_: Open, content: Callable[[Path], object], tiny_project: Path) -> None:
    path = _data(tiny_project)
    _persons_work(path)
    untouched = content(path)
    people = open_().annotations("1")
    open_().replace("1", origin="prediction", annotations=[_own(box(600, 600, 700, 700))])
    open_().replace("1", origin="pseudolabel", annotations=[_own()])
    assert [annotation.origin for annotation in open_().annotations("1")] == ["human"] * 3 + [
        "prediction",
        "pseudolabel",
    ]
    assert open_().annotations("1")[:3] == people
    open_().replace("1", origin="pseudolabel", annotations=[])
    open_().replace("1", origin="prediction", annotations=[])
    assert content(path) == untouched


def test_objects_come_with_the_root_first_and_know_their_parents(open_: Open, tiny_project: Path) -> None:
    assert open_().objects("1") == []
    _persons_work(_data(tiny_project))
    found = open_().objects("1")
    assert [(path_object.kind, path_object.name, path_object.path_class) for path_object in found] == [
        ("root", "", None),
        ("annotation", "outer", None),
        ("detection", "", None),
        ("annotation", "inner", "Stroma"),
        ("annotation", "points", None),
    ]
    root, outer = found[0].id, found[1].id
    assert [path_object.parent for path_object in found] == [None, root, outer, outer, root]
    assert [path_object.shape.area for path_object in found] == [0, 2025, 2025, 2025, 0]
    assert [path_object.id for path_object in found if path_object.kind == "annotation"] == [
        annotation.id for annotation in open_().annotations("1")
    ]


def _metadata(maker: Maker, content: list[Any], **changes: str) -> None:
    pairs = Values(0).metadata(content[2]) | {f"wsplf.{key}": value for key, value in changes.items()}
    content[2] = maker.metadata(pairs)


BY_A_PERSON: dict[str, Callable[[Maker, list[Any]], None]] = {
    "renamed": lambda maker, content: content.__setitem__(0, maker.text("better")),
    "moved": lambda maker, content: content.__setitem__(7, write_roi(maker, box(100, 100, 300, 301))),
    "locked": lambda maker, content: content.__setitem__(5, maker.boolean(True)),
    "reclassified": lambda maker, content: content.__setitem__(6, maker.path_class("Stroma", None)),
    "declassified": lambda maker, content: content.__setitem__(6, None),
    "accepted": lambda maker, content: _metadata(maker, content, review="accepted"),
    "rejected": lambda maker, content: _metadata(maker, content, review="rejected"),
}


@pytest.mark.parametrize("deed", BY_A_PERSON)
def test_what_a_person_decided_on_is_kept_as_it_is(
    open_: Open, content: Callable[[Path], object], tiny_project: Path, deed: str
) -> None:
    path = _data(tiny_project)
    open_().replace("1", origin="pseudolabel", annotations=[_own(name="mine")])
    data = qpdata.loads(path.read_bytes())
    (found,) = data.annotation_nodes()
    BY_A_PERSON[deed](data._maker, found.node.values[0])
    path.write_bytes(data.dumps())
    changed = content(path)
    (kept,) = open_().annotations("1")
    assert kept.edited == (deed in {"moved", "reclassified", "declassified"})
    replaced = open_().replace("1", origin="pseudolabel", annotations=[_own(), _own(box(500, 500, 600, 600))])
    assert replaced == Replaced(added=1, removed=0, kept=1)
    assert open_().annotations("1")[0] == kept
    assert open_().replace("1", origin="pseudolabel", annotations=[]) == Replaced(added=0, removed=1, kept=1)
    assert content(path) == changed


def test_unknown_review_state_counts_as_pending(open_: Open, tiny_project: Path) -> None:
    open_().replace("1", origin="pseudolabel", annotations=[_own()])
    data = qpdata.loads(_data(tiny_project).read_bytes())
    _metadata(data._maker, data.annotation_nodes()[0].node.values[0], review="someday")
    _data(tiny_project).write_bytes(data.dumps())
    assert open_().replace("1", origin="pseudolabel", annotations=[]).removed == 1


def test_accepted_one_is_kept_and_not_written_a_second_time(open_: Open) -> None:
    accepted = Annotation(uuid4(), HOLED, "Tumor", review="accepted", run_id="r1")
    open_().replace("1", origin="pseudolabel", annotations=[accepted])
    replaced = open_().replace("1", origin="pseudolabel", annotations=[_own(run_id="r2"), _own(box(1, 1, 9, 9))])
    assert replaced == Replaced(added=1, removed=0, kept=1)
    assert [(annotation.review, annotation.run_id) for annotation in open_().annotations("1")] == [
        ("accepted", "r1"),
        ("pending", "r1"),
    ]


def test_humans_annotations_can_be_added_and_are_never_replaced(open_: Open) -> None:
    open_().replace("1", origin="human", annotations=[_own()])
    assert open_().replace("1", origin="human", annotations=[]) == Replaced(0, 0, 0)
    assert [annotation.origin for annotation in open_().annotations("1")] == ["human"]


def test_metadata_is_set_and_read(open_: Open) -> None:
    project = open_()
    project.set_metadata({"3": {"label": "normal"}, "1": {"site": "ü"}})
    for read in (project, open_()):
        assert [dict(entry.metadata) for entry in read.entries()] == [
            {"label": "tumor", "site": "ü"},
            {"label": "normal"},
            {"label": "normal"},
        ]


def test_unknown_entry_is_one_clear_line(open_: Open) -> None:
    with pytest.raises(ProjectError, match="no entry has the id 9"):
        open_().annotations("9")


def test_damaged_data_is_one_clear_line_and_the_others_go_on(open_: Open, tiny_project: Path) -> None:
    open_().replace("1", origin="pseudolabel", annotations=[_own()])
    open_().replace("2", origin="pseudolabel", annotations=[_own()])
    path = _data(tiny_project)
    cut = path.read_bytes()[:-300]
    path.write_bytes(cut)
    project = open_()
    for work in (
        lambda: project.annotations("1"),
        lambda: project.replace("1", origin="pseudolabel", annotations=[]),
    ):
        with pytest.raises(SlideError, match=r"data\.qpdata: cannot be read") as caught:
            work()
        assert "\n" not in caught.value.message
    assert path.read_bytes() == cut
    assert len(project.annotations("2")) == 1


def test_what_another_program_saved_is_not_overwritten(open_: Open, tiny_project: Path) -> None:
    path = _data(tiny_project)
    _persons_work(path)
    project, second = open_(), open_()
    project.replace("1", origin="pseudolabel", annotations=[_own()])
    saved = path.read_bytes()
    with pytest.raises(SlideError, match="changed by another program"):
        second.replace("1", origin="pseudolabel", annotations=[_own(run_id="r2")])
    with pytest.raises(SlideError, match="changed by another program"):
        second.add("1", [_own()])
    assert path.read_bytes() == saved
    assert project.replace("1", origin="pseudolabel", annotations=[]).removed == 1


def test_data_that_appears_meanwhile_is_not_overwritten(open_: Open, tiny_project: Path) -> None:
    project = open_()
    _persons_work(_data(tiny_project))
    with pytest.raises(SlideError, match="changed by another program"):
        project.replace("1", origin="pseudolabel", annotations=[_own()])


def test_copied_file_with_the_same_content_may_be_written(open_: Open, tiny_project: Path) -> None:
    path = _data(tiny_project)
    _persons_work(path)
    project = open_()
    project.annotations("1")
    os.utime(path, (1, 1))
    assert project.replace("1", origin="pseudolabel", annotations=[_own()]).added == 1


@pytest.mark.parametrize("step", ["write", "rename"])
def test_full_disk_leaves_the_old_files(
    open_: Open, tiny_project: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    _persons_work(_data(tiny_project))
    project = open_()
    files = {path: path.read_bytes() for path in tiny_project.parent.rglob("*") if path.is_file()}

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(*((os, "fsync") if step == "write" else (Path, "replace")), full)
        with pytest.raises(ProjectError, match="No space left on device"):
            project.replace("1", origin="pseudolabel", annotations=[_own(path_class="New class")])
        with pytest.raises(ProjectError, match="No space left on device"):
            project.set_metadata({"1": {"label": "normal"}})
    assert {path: path.read_bytes() for path in tiny_project.parent.rglob("*") if path.is_file()} == files
    assert project.replace("1", origin="pseudolabel", annotations=[_own()]).added == 1


def test_entry_without_data_folder_is_left_as_it_was_by_a_full_disk(
    open_: Open, tiny_project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(tiny_project.parent / "data" / "1")
    project = open_()

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ProjectError, match="No space"):
        project.replace("1", origin="pseudolabel", annotations=[_own()])
    assert not (tiny_project.parent / "data" / "1").exists()


def test_summary_tells_what_the_data_holds(open_: Open, tiny_project: Path) -> None:
    _persons_work(_data(tiny_project))
    open_().replace("1", origin="pseudolabel", annotations=[_own()])
    summary = json.loads(_data(tiny_project).with_name("summary.json").read_text(encoding="utf-8"))
    assert summary["server"] == {"width": 1024, "height": 768, "sizeC": 3, "sizeZ": 1, "sizeT": 1}
    assert summary["imageType"] == "UNSET"
    assert summary["hierarchy"]["nObjects"] == 6
    assert summary["hierarchy"]["annotationClassificationCounts"] == {"Unclassified": 2, "Stroma": 1, "Tumor": 1}


def test_state_that_qupath_left_when_it_was_stopped_is_used(open_: Open, tiny_project: Path) -> None:
    path = _data(tiny_project)
    _persons_work(path)
    path.rename(path.with_name("data.qpdata.bkp"))
    assert len(open_().annotations("1")) == 3
    open_().replace("1", origin="pseudolabel", annotations=[_own()])
    assert len(qpdata.loads(path.read_bytes()).annotation_nodes()) == 4


def test_children_of_a_replaced_annotation_move_up(open_: Open, tiny_project: Path) -> None:
    bench = Workbench()
    (part,) = qpdata.mark([_own()], origin="pseudolabel")
    own_id = {"Object ID": str(uuid4())}
    person = bench.node(bench.corners("RectangleROI", 120, 120, 130, 130), name="drawn inside", metadata=own_id)
    own = bench.node(bench.wkb(part.shape), metadata=part.metadata, path_class="Tumor", children=[person])
    _data(tiny_project).write_bytes(bench.put(own))
    before = open_().annotations("1")
    assert [annotation.origin for annotation in before] == ["pseudolabel", "human"]
    assert open_().replace("1", origin="pseudolabel", annotations=[]).removed == 1
    assert open_().annotations("1") == before[1:]


def _normal(annotation: Annotation) -> Annotation:
    """Where a ring starts, which way it runs and what lies below QuPath's grid do not count."""
    return replace(annotation, shape=shapely.set_precision(annotation.shape, 0.01).normalize())


def test_added_annotations_are_as_they_were_given(open_: Open, tiny_project: Path) -> None:
    path = _data(tiny_project)
    _persons_work(path)
    before = open_().annotations("1")
    parts = MultiPolygon([HOLED, Polygon([(0, 0), (9, 0), (9, 9)])])
    added = [
        Annotation(uuid4(), shape, "New: Positive", name="n", metadata={"k": "v"}, rgb=(1, 2, 3), plane=Plane(0, 2, 1))
        for shape in (HOLED, parts, Point(1, 2), MultiPoint([(1, 2), (3, 4)]), LineString([(0, 0), (1, 1), (2, 0)]))
    ]
    assert open_().add("1", added, path_classes=[PathClass("New: Positive", (7, 8, 9)), PathClass("Unused")]) == 5
    after = open_().annotations("1")
    assert after[: len(before)] == before
    assert [_normal(annotation) for annotation in after[len(before) :]] == [_normal(one) for one in added]
    assert open_().path_classes()[1:] == [PathClass("New: Positive", (7, 8, 9))]


def test_ellipses_and_rectangles_are_added_and_read_as_such(open_: Open) -> None:
    added = [
        Annotation(uuid4(), ellipse((10.25, 20, 900, 400)), None, roi="EllipseROI", plane=Plane(0, 2, 1)),
        Annotation(uuid4(), box(10.25, 20, 900, 400), None, roi="RectangleROI"),
    ]
    open_().add("1", added)
    assert [_normal(annotation) for annotation in open_().annotations("1")] == [_normal(one) for one in added]
    assert [path_object.roi for path_object in open_().objects("1")[1:]] == ["EllipseROI", "RectangleROI"]


def test_data_names_the_project_and_no_folder_of_its_making(open_: Open, tiny_project: Path) -> None:
    for entry_id in ("1", "1", "2"):
        open_().add(entry_id, [_own()])
        raw = _data(tiny_project, int(entry_id)).read_bytes()
        assert f"{open_().path}::{entry_id}".encode() in raw
        assert str(Path(tempfile.gettempdir()) / "wsplf-").encode() not in raw


def test_adding_nothing_writes_nothing(open_: Open, tiny_project: Path) -> None:
    assert open_().add("1", []) == 0
    assert not _data(tiny_project).exists()


def test_nothing_is_added_to_what_another_program_saved(open_: Open, tiny_project: Path) -> None:
    project, second = open_(), open_()
    second.add("1", [_own()])
    with pytest.raises(SlideError, match="changed by another program"):
        project.add("1", [_own()])
    assert len(open_().annotations("1")) == 1
