"""Which truth belongs to which entry, and what of it is truth: the same from a project as from its exported files."""

from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
from shapely import box

from wsplf_cli.backends.embedded import open_project
from wsplf_cli.benchmark.truth import truth_reader
from wsplf_cli.commands.evaluate import evaluate
from wsplf_cli.commands.export import export
from wsplf_cli.errors import SlideError
from wsplf_cli.options import EvaluateOptions, ExportOptions, ProjectOptions
from wsplf_cli.qupath import geojson
from wsplf_cli.qupath.create import Image, create_project
from wsplf_cli.qupath.qpdata import mark
from wsplf_cli.schema import REVIEW_KEY, REVIEWED_KEY, Annotation, PathClass, SlideLabel, Step

SQUARE, OTHER, THIRD = box(300, 300, 500.25, 500), box(520, 300, 600, 400), box(600, 500, 640, 540)


def write(folder, name, *shapes, path_class="Tumor", **values):
    annotations = [Annotation(uuid4(), shape, path_class, **values) for shape in shapes]
    folder.mkdir(exist_ok=True)
    geojson.write(folder / name, annotations)


@pytest.fixture
def area(tmp_path):
    """The area of the truth of an entry in the folder "truth", or None, of a project with these entries."""

    def read(entry, entries):
        truth = truth_reader(EvaluateOptions(truth=tmp_path / "truth"), "Tumor", entries)(entry)
        return None if truth is None else truth.area

    return read


@pytest.mark.parametrize(
    "name",
    [
        "D06.tif - Series 1/2: overview",
        "Fall 12.3",
        "D11.ome.tif",
        "back\\slash",
        "trailing ",
        ".hidden",
        "CON",
        "x" * 300 + ".svs",
        "u\u0308 \U0001f610.svs",
        "slide.json",
    ],
)
def test_the_file_that_export_wrote_for_an_entry_is_its_truth(
    memory_project, make_entry, recorder, tmp_path, area, name
):
    entries = [make_entry(name), make_entry("other.tif"), make_entry("Fall 12.4"), make_entry("D11.tif.ome")]
    project = memory_project(entries)
    shapes = dict(zip("1234", (SQUARE, OTHER, THIRD, box(0, 0, 3, 3)), strict=True))
    project.annotations = lambda entry_id: [Annotation(uuid4(), shapes[entry_id], "Tumor")]
    project.path_classes = list
    for compress in (False, True):
        export(project, entries, ExportOptions(out=tmp_path / "truth", compress=compress), recorder)
        assert [area(entry, entries) for entry in entries] == [shapes[entry.id].area for entry in entries]
        for path in (tmp_path / "truth").iterdir():
            path.unlink()


def test_entries_whose_files_would_have_one_name_have_truths_of_their_own(
    memory_project, make_entry, recorder, tmp_path, area
):
    entries = [make_entry(name) for name in ("x", "x", "X", "a/b", "a:b", "u\u0308", "\u00fc", "x_id1")]
    project = memory_project(entries)
    shapes = {entry.id: box(0, 0, 10, 10 * int(entry.id)) for entry in entries}
    project.annotations = lambda entry_id: [Annotation(uuid4(), shapes[entry_id], "Tumor")]
    project.path_classes = list
    export(project, entries, ExportOptions(out=tmp_path / "truth"), recorder)
    assert [area(entry, entries) for entry in entries] == [shapes[entry.id].area for entry in entries]


def test_a_truth_that_could_be_of_two_entries_is_of_none_and_both_are_named(make_entry, tmp_path, area):
    entries = [make_entry("a.svs"), make_entry("a.tif"), make_entry("b.svs")]
    write(tmp_path / "truth", "a.geojson", SQUARE)
    for entry in entries[:2]:
        with pytest.raises(SlideError, match=r"a\.geojson .*could be of any of 2 entries: a\.svs, a\.tif"):
            area(entry, entries)
    assert area(entries[2], entries) is None
    write(tmp_path / "truth", "a.svs.geojson", OTHER)
    assert area(entries[0], entries) == OTHER.area


def test_two_truths_of_one_entry_are_refused(make_entry, tmp_path, area):
    entries = [make_entry("a.svs")]
    write(tmp_path / "truth", "a.geojson", SQUARE)
    write(tmp_path / "truth", "A.svs.geojson.gz", OTHER)
    with pytest.raises(SlideError, match=r"2 truths of it in .*: A\.svs\.geojson\.gz, a\.geojson"):
        area(entries[0], entries)


def test_truth_is_found_in_another_unicode_form_and_companion_files_of_macos_are_passed_over(
    make_entry, tmp_path, area
):
    entries = [make_entry("M\u00fcller.svs")]
    write(tmp_path / "truth", "Mu\u0308ller.geojson", SQUARE)
    (tmp_path / "truth" / "._Mu\u0308ller.geojson").write_bytes(b"\0\5\x16\7")
    assert area(entries[0], entries) == SQUARE.area


@pytest.mark.parametrize("missing", [["p1.tif", "p2.tif"], ["p1.tif"]])
def test_positive_slides_without_truth_are_named_and_without_any_there_is_no_dice(
    memory_project, make_entry, tiny_slide, recorder, tmp_path, missing
):
    names = {"p1.tif": {"Tumor"}, "p2.tif": {"Tumor"}, "n1.tif": set()}
    entries = [make_entry(name, label=label, slide_path=tiny_slide) for name, label in names.items()]
    for name in names.keys() - missing:
        write(tmp_path / "truth", f"{name}.geojson", *([SQUARE] if names[name] else []))
    scores = evaluate(memory_project(entries), entries, EvaluateOptions(truth=tmp_path / "truth"), recorder)
    none_left = len(missing) == 2
    assert [entry["name"] for entry in scores["failed" if none_left else "skipped"]] == missing
    assert scores["skipped" if none_left else "failed"] == []
    figures = [scores[key] for key in ("mean_dice", "pooled_dice", "pooled_iou")]
    assert figures == [None if none_left else 0] * 3
    assert all(any(line.startswith(name) and "no truth for it" in line for line in recorder.said) for name in missing)


def test_unclassified_polygons_are_of_the_class_only_where_no_polygon_has_one(make_entry, tmp_path, area):
    entries = [make_entry("a.svs"), make_entry("b.svs")]
    write(tmp_path / "truth", "a.geojson", SQUARE, OTHER, path_class=None)
    mixed = [Annotation(uuid4(), SQUARE, "tumor: Necrotic"), Annotation(uuid4(), OTHER, None)]
    geojson.write(tmp_path / "truth" / "b.geojson", mixed)
    assert [area(entry, entries) for entry in entries] == pytest.approx([SQUARE.area + OTHER.area, SQUARE.area])


@pytest.fixture
def truth_project(tmp_path, tiny_slide):
    """A project with all that a person can have done to polygons, in two images; the second is marked as reviewed."""
    levels = [(1.0, 1024, 768), (4.0, 256, 192), (16.0, 64, 48)]
    reviewed = {REVIEWED_KEY: "2026-01-31 A. Person"}
    images = [Image(tiny_slide, n, 1024, 768, 0.5, levels, m) for n, m in {"a/1.tif": {}, "b.tif": reviewed}.items()]
    path = create_project(tmp_path / "truth project", images, classes=[PathClass("Tumor", (200, 0, 0))])
    for entry_id in ("1", "2"):
        project = open_project(path, ProjectOptions())
        own = [
            Annotation(uuid4(), box(left, 300.13, left + 33.337, 350), "Tumor", run_id="r1")
            for left in (200, 250, 300, 350, 400)
        ]
        project.replace(entry_id, origin="pseudolabel", annotations=own)
        pending, accepted, rejected, edited, relabelled = project.annotations(entry_id)
        project.replace(entry_id, origin="pseudolabel", annotations=[])
        decided = {"accepted": accepted, "rejected": rejected}
        project.add(
            entry_id,
            [
                pending,
                *(
                    replace(annotation, metadata={**annotation.metadata, REVIEW_KEY: review})
                    for review, annotation in decided.items()
                ),
                replace(edited, shape=box(350.111, 300, 390.77, 351.5)),
                replace(relabelled, path_class="Tumor: Necrotic"),
                Annotation(uuid4(), box(500, 300, 560, 360), "tumor"),
                Annotation(uuid4(), box(500, 400, 560, 460), "Tumor", metadata={REVIEW_KEY: "rejected"}),
                Annotation(uuid4(), box(600, 300, 640, 360), "Stroma"),
                Annotation(uuid4(), box(100, 100, 900, 700), None),
            ],
        )
    return path


def test_exported_marks_mean_in_a_folder_what_they_mean_in_the_project(
    truth_project, memory_project, recorder, tmp_path
):
    project = open_project(truth_project, ProjectOptions())
    entries = [replace(entry, label=SlideLabel(frozenset({"Tumor"}))) for entry in project.entries()]
    export(project, project.entries(), ExportOptions(out=tmp_path / "files"), recorder)
    measured = memory_project(entries)
    measured.annotations = lambda entry_id: [Annotation(uuid4(), SQUARE, "Tumor", origin="pseudolabel")]
    of_files, of_project = (
        evaluate(measured, entries, EvaluateOptions(truth=truth), recorder)
        for truth in (tmp_path / "files", truth_project)
    )
    assert of_files == of_project
    accepted, edited, pending = 33.337 * 49.87, 40.659 * 51.5, 33.337 * 49.87
    of_person = (accepted + edited + pending + 60 * 60) / 4
    assert [entry["truth_um2"] for entry in of_project["entries"]] == pytest.approx(
        [of_person, of_person + pending / 4], rel=1e-3
    )


def test_pending_polygons_alone_are_no_truth(make_entry, tmp_path, area):
    entries = [make_entry("a.tif"), make_entry("b.tif", label=set())]
    (tmp_path / "truth").mkdir()
    marked = mark([Annotation(uuid4(), SQUARE, "Tumor", run_id="r1")], origin="prediction")
    for entry in entries:
        geojson.write(tmp_path / "truth" / f"{entry.name}.geojson", marked)
    with pytest.raises(SlideError, match="no truth: the 1 polygons of Tumor there are wsplf's and still pending"):
        area(entries[0], entries)
    assert area(entries[1], entries) == 0


def test_truth_of_a_turned_image_is_not_that_of_another_view(make_entry, memory_project, monkeypatch):
    turned = make_entry("a.tif", steps=(Step("rotated", (1,)),))
    other = memory_project([turned])
    backend = type("Backend", (), {"open_project": staticmethod(lambda path, options: other)})
    monkeypatch.setattr("wsplf_cli.benchmark.truth.plugins.load", lambda package, name: backend)
    entry = make_entry("a.tif")
    read = truth_reader(EvaluateOptions(truth=Path("other/project.qpproj")), "Tumor", [entry])
    with pytest.raises(SlideError, match="turned or cropped in another way"):
        read(entry)


def test_entries_of_one_name_in_another_project_are_told_apart_by_their_slides(memory_project, make_entry, monkeypatch):
    entries = [make_entry("s.tif", slide_path=Path(f"/data/{folder}/s.tif")) for folder in "ABB"]
    other = memory_project([replace(entries[1], id="8"), replace(entries[0], id="9")])
    other.annotations = lambda entry_id: [Annotation(uuid4(), {"8": OTHER, "9": SQUARE}[entry_id], "Tumor")]
    backend = type("Backend", (), {"open_project": staticmethod(lambda path, options: other)})
    monkeypatch.setattr("wsplf_cli.benchmark.truth.plugins.load", lambda package, name: backend)
    options = EvaluateOptions(truth=Path("other/project.qpproj"))
    read = truth_reader(options, "Tumor", entries[:2])
    assert [read(entry).area for entry in entries[:2]] == [SQUARE.area, OTHER.area]
    with pytest.raises(SlideError, match=r"s\.tif \(id 8\) in .* could be of any of 3 entries"):
        truth_reader(options, "Tumor", entries)(entries[1])
