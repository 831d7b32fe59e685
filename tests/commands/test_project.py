"""wsplf project create and wsplf project relink."""

import json
import shutil
import unicodedata

import numpy as np
import pytest
import tifffile
from PIL import Image

from wsplf_cli import cli
from wsplf_cli.backends.embedded import open_project
from wsplf_cli.commands.create import create, relink
from wsplf_cli.errors import ConfigError, ProjectError
from wsplf_cli.options import CreateOptions, ProjectOptions, RelinkOptions
from wsplf_cli.qupath import gson
from wsplf_cli.qupath.create import level_sizes
from wsplf_cli.synthetic.pyramid import write_pyramid


def document_of(path):
    return json.loads(path.read_text(encoding="utf-8"))


def by_name(report):
    return {result.name: result for result in report.entries}


@pytest.fixture
def slides(tmp_path, tiny_slide):
    """A folder with two slides, in a folder below it a third, a broken one and a text."""
    folder = tmp_path / "slides"
    (folder / "below").mkdir(parents=True)
    for name in ("a.tif", "b.tif", "below/c.tif"):
        shutil.copy(tiny_slide, folder / name)
    (folder / "broken.svs").write_bytes(b"no slide")
    (folder / "notes.txt").write_text("no slide either")
    return folder


# ---- create ----------------------------------------------------------------------------------------------------------


def test_a_project_is_made_of_the_slides_that_open_and_the_others_are_named(tmp_path, slides, recorder):
    report = create(tmp_path / "new", [slides / "b.tif", slides], CreateOptions(), recorder)
    assert [(one.name, one.status) for one in report.entries] == [
        ("b.tif", "done"),
        ("a.tif", "done"),
        ("c.tif", "done"),
        ("broken.svs", "failed"),
    ]
    assert "not a slide" in by_name(report)["broken.svs"].reason
    entries = open_project(tmp_path / "new", ProjectOptions()).entries()
    assert [(entry.id, entry.name, entry.problem) for entry in entries] == [
        ("1", "b.tif", ""),
        ("2", "a.tif", ""),
        ("3", "c.tif", ""),
    ]
    assert {(entry.width_px0, entry.height_px0, entry.mpp) for entry in entries} == {(1024, 768, 0.5)}
    assert [one.id for one in report.entries] == ["1", "2", "3", ""]


def test_what_qupath_records_of_a_slide_is_there(tmp_path, slides, recorder):
    create(tmp_path / "new", [slides / "a.tif"], CreateOptions(), recorder)
    image = document_of(tmp_path / "new" / "project.qpproj")["images"][0]
    builder, metadata = image["serverBuilder"], image["serverBuilder"]["metadata"]
    assert builder["uri"].startswith("file:/")
    assert not builder["uri"].startswith("file://")
    assert metadata["levels"] == [
        {"downsample": 1.0, "width": 1024, "height": 768},
        {"downsample": 4.0, "width": 256, "height": 192},
        {"downsample": 16.0, "width": 64, "height": 48},
    ]
    assert metadata["pixelCalibration"]["pixelWidth"] == {"value": pytest.approx(0.5), "unit": "µm"}
    assert (image["metadata"], image["imageName"], metadata["preferredTileWidth"]) == ({}, "a.tif", 256)
    thumbnail = Image.open(tmp_path / "new" / "data" / "1" / "thumbnail.jpg")
    assert (thumbnail.format, thumbnail.size) == ("JPEG", (800, 600))


def test_a_small_slide_is_not_enlarged_for_its_thumbnail(tmp_path, recorder):
    write_pyramid(tmp_path / "small.tif", np.full((120, 200, 3), 200, np.uint8), mpp=0.5, levels=1)
    create(tmp_path / "new", [tmp_path / "small.tif"], CreateOptions(), recorder)
    assert Image.open(tmp_path / "new" / "data" / "1" / "thumbnail.jpg").size == (200, 120)


def test_pixels_that_are_not_square_and_an_uncalibrated_slide_are_recorded_as_such(tmp_path, recorder):
    pixels = np.full((256, 256, 3), 200, np.uint8)
    with_mpp, without = tmp_path / "with.tif", tmp_path / "without.tif"
    layout = {"tile": (128, 128), "photometric": "rgb"}
    tifffile.imwrite(with_mpp, pixels, **layout, resolution=(20000, 25000), resolutionunit="CENTIMETER")
    tifffile.imwrite(without, pixels, **layout)
    create(tmp_path / "new", [with_mpp, without], CreateOptions(), recorder)
    first, second = (
        image["serverBuilder"]["metadata"]["pixelCalibration"]
        for image in document_of(tmp_path / "new" / "project.qpproj")["images"]
    )
    assert first["pixelWidth"] == {"value": pytest.approx(0.5), "unit": "µm"}
    assert first["pixelHeight"] == {"value": pytest.approx(0.4), "unit": "µm"}
    assert second["pixelWidth"] == {"value": 1.0, "unit": "px"}


def test_levels_of_a_slide_with_bounds_are_those_of_the_scanned_part():
    levels = [(1000, 800), (250, 200), (62, 50)]
    assert level_sizes(levels, shown_px=(1000, 800)) == [(1, 1000, 800), (4, 250, 200), (16, 62, 50)]
    assert level_sizes(levels, shown_px=(603, 501)) == [(1, 603, 501), (4, 150, 125), (16, 37, 31)]
    assert level_sizes([(901, 603), (300, 201)], shown_px=(901, 603))[1] == (3, 300, 201)
    assert level_sizes([(1000, 1000), (400, 390)], shown_px=(1000, 1000))[1][0] == pytest.approx(2.5320, abs=1e-3)
    assert level_sizes([(100, 100), (100, 100)], shown_px=(100, 100)) == [(1, 100, 100)]


def test_labels_go_into_the_metadata_of_the_entries(tmp_path, slides, recorder):
    table = tmp_path / "labels.csv"
    table.write_text("slide,label,patient\na.tif,tumor,P1\nB,Odd word,\nx.tif,normal,P2\n", encoding="utf-8")
    report = create(tmp_path / "new", [slides], CreateOptions(labels=table, label_key="Diagnosis"), recorder)
    metadata = {entry.name: entry.metadata for entry in open_project(tmp_path / "new", ProjectOptions()).entries()}
    assert metadata == {
        "a.tif": {"Diagnosis": "tumor", "patient": "P1"},
        "b.tif": {"Diagnosis": "Odd word"},
        "c.tif": {},
    }
    assert report.details["labelled"] == 2
    assert any("'x.tif'" in line for line in recorder.said)


def test_a_table_that_fits_no_slide_makes_no_project(tmp_path, slides, recorder):
    table = tmp_path / "labels.csv"
    table.write_text("slide,label\nx.tif,tumor\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="no row belongs"):
        create(tmp_path / "new", [slides], CreateOptions(labels=table), recorder)
    assert not (tmp_path / "new").exists()


def test_a_folder_that_holds_a_project_is_refused(tmp_path, slides, recorder):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "other.qpproj").write_text("{}")
    with pytest.raises(ProjectError, match=r"other\.qpproj already exists"):
        create(tmp_path / "new", [slides], CreateOptions(), recorder)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["other.qpproj"]


def test_what_a_lost_project_left_is_not_adopted(tmp_path, slides, recorder):
    left = tmp_path / "new" / "data" / "1" / "data.qpdata"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"someone's work")
    with pytest.raises(ProjectError, match=r"data\.qpdata already exists"):
        create(tmp_path / "new", [slides], CreateOptions(), recorder)


def test_without_a_slide_that_opens_nothing_is_made(tmp_path, slides, recorder):
    with pytest.raises(ProjectError, match="none of 2 slides"):
        create(tmp_path / "new", [slides / "broken.svs", slides / "absent.svs"], CreateOptions(), recorder)
    (slides / "none").mkdir()
    with pytest.raises(ConfigError, match="no slides in this folder"):
        create(tmp_path / "new", [slides / "none"], CreateOptions(), recorder)
    assert not (tmp_path / "new").exists()


def test_slides_of_one_name_both_go_in(tmp_path, slides, recorder):
    shutil.copy(slides / "a.tif", slides / "below" / "a.tif")
    create(tmp_path / "new", [slides / "a.tif", slides / "below" / "a.tif"], CreateOptions(), recorder)
    first, second = open_project(tmp_path / "new", ProjectOptions()).entries()
    assert (first.name, second.name) == ("a.tif", "a.tif")
    assert first.slide_path != second.slide_path


def test_a_picture_is_left_to_qupath(tmp_path, slides, recorder):
    Image.new("RGB", (50, 50)).save(slides / "picture.png")
    report = create(tmp_path / "new", [slides / "picture.png", slides], CreateOptions(), recorder)
    assert by_name(report)["picture.png"].status == "failed"
    assert "add it in QuPath" in by_name(report)["picture.png"].reason


@pytest.mark.shared
def test_the_files_of_one_dicom_slide_are_one_entry(tmp_path, shared_data, recorder):
    files = sorted((shared_data / "slides").glob("boxes_*.dcm"))
    report = create(tmp_path / "new", files, CreateOptions(), recorder)
    assert [one.status for one in report.entries] == ["done", "skipped"]


def test_the_command_says_what_failed_and_exits_with_1(tmp_path, slides, capsys):
    assert cli.main(["project", "create", str(tmp_path / "new"), str(slides), "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert [entry["status"] for entry in document["entries"]] == ["done", "done", "done", "failed"]
    assert cli.main(["project", "create", str(tmp_path / "two"), str(slides / "a.tif")]) == 0
    assert "1 done" in capsys.readouterr().out


# ---- relink ----------------------------------------------------------------------------------------------------------


def uris_of(project):
    return [image["serverBuilder"]["uri"] for image in document_of(project)["images"]]


@pytest.fixture
def project(tmp_path, slides, recorder):
    """A project of a.tif, b.tif and c.tif, far from its slides."""
    create(
        tmp_path / "far" / "away" / "project",
        [slides / "a.tif", slides / "b.tif", slides / "below"],
        CreateOptions(),
        recorder,
    )
    return tmp_path / "far" / "away" / "project" / "project.qpproj"


def readdress(project, old, new):
    """Change the addresses in the project and its server.json files, as if it came from elsewhere."""
    for path in [project, *project.parent.glob("data/*/server.json")]:
        path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")


@pytest.mark.parametrize(
    ("recorded", "typed"),
    [
        ("file:/D:/My%20Slides%20%C3%BC", "D:\\My Slides ü"),
        ("file:///D:/My%20Slides%20%C3%BC", "d:/my slides Ü"),
        ("file://server/share/x", "\\\\server\\share\\x"),
        ("file:////server/share/x", "//server/share/x"),
        ("file:/srv/old+%231%25", "/srv/old+#1%"),
        ("file:/srv/old", "file:/srv/old"),
    ],
)
def test_addresses_of_another_machine_are_mapped(project, slides, recorder, recorded, typed):
    readdress(project, f"file:{slides.as_posix()}", recorded)
    before = project.read_bytes()
    report = relink(project, RelinkOptions(map=(f"{typed}={slides}",)), recorder)
    assert [one.status for one in report.entries] == ["done"] * 3
    entries = open_project(project, ProjectOptions()).entries()
    assert [entry.slide_path for entry in entries] == [slides / "a.tif", slides / "b.tif", slides / "below" / "c.tif"]
    assert all(uri.startswith("file:///" if recorded.startswith("file:///D") else "file:/") for uri in uris_of(project))
    assert project.with_name("project.qpproj.backup").read_bytes() == before
    (record,) = (project.parent / "wsplf" / "runs").glob("*/run.json")
    assert (document_of(record)["run_id"], document_of(record)["status"]) == (report.run_id, "done")
    for number, uri in enumerate(uris_of(project), start=1):
        server = project.parent / "data" / str(number) / "server.json"
        assert document_of(server)["uri"] == uri
        assert server.read_text(encoding="utf-8").startswith('{\n  "builderType"')


def test_a_dry_run_shows_old_and_new_and_writes_nothing(project, slides, recorder):
    readdress(project, f"file:{slides.as_posix()}", "file:/D:/slides")
    before = {
        path: (path.read_bytes(), path.stat().st_mtime_ns) for path in project.parent.rglob("*") if path.is_file()
    }
    report = relink(project, RelinkOptions(map=(f"D:\\slides={slides}",), dry_run=True), recorder)
    assert report.entries[0].reason == f"D:/slides/a.tif -> {slides.as_posix()}/a.tif"
    old, new = "file:/D:/slides/a.tif", f"file:{slides.as_posix()}/a.tif"
    assert report.details["changes"][0] == {"id": "1", "old": old, "new": new}
    after = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in project.parent.rglob("*") if path.is_file()}
    assert after == before
    assert "a dry run, 3 would be" in recorder.said[-1]


def test_nothing_but_the_addresses_changes(project, slides, recorder):
    document = gson.loads(project.read_text(encoding="utf-8"))
    document |= {"odd": {"x": float("nan"), "big": 2**80}, "third": [None, True, 1.0]}
    document["images"][0]["mine"] = {"uri": "file:/D:/slides/a.tif"}
    document["images"][0]["serverBuilder"]["metadata"]["uri"] = "file:/D:/slides/a.tif"
    text = gson.dumps(document, indent=True).replace('"odd": {', '"odd": {\n    "x": 1E400,')
    project.write_text(text.replace(f"file:{slides.as_posix()}", "file:/D:/slides"), encoding="utf-8")
    before = project.read_text(encoding="utf-8").splitlines()
    relink(project, RelinkOptions(map=(f"D:\\slides={slides}",)), recorder)
    after = project.read_text(encoding="utf-8").splitlines()
    differing = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert len(differing) == 4
    assert [old.split('"')[1] for old, _ in differing] == ["modifyTimestamp", "uri", "uri", "uri"]


def test_nested_builders_and_old_forms_of_server_json_are_relinked(project, slides, recorder):
    readdress(project, f"file:{slides.as_posix()}", "file:/D:/slides")
    document = document_of(project)
    inner = [image["serverBuilder"] for image in document["images"]]
    document["images"][0]["serverBuilder"] = {"builderType": "rotated", "rotation": "ROTATE_90", "builder": inner[0]}
    document["images"][1]["serverBuilder"] = {"builderType": "channels", "builder": inner[1], "channels": inner[1:]}
    project.write_text(json.dumps(document), encoding="utf-8")
    compact = project.parent / "data" / "1" / "server.json"
    compact.write_text(json.dumps({"builder": inner[0], "metadata": {}}, separators=(",", ":")), encoding="utf-8")
    (project.parent / "data" / "2" / "server.json").write_text("broken", encoding="utf-8")
    (project.parent / "data" / "3" / "server.json").unlink()
    report = relink(project, RelinkOptions(map=(f"D:/slides={slides}",)), recorder)
    assert [one.status for one in report.entries] == ["done"] * 3
    text = project.read_text(encoding="utf-8")
    assert "D:/slides" not in text
    assert text.count("/b.tif") >= 2
    assert document_of(compact)["builder"]["uri"] == f"file:{slides.as_posix()}/a.tif"
    assert "\n" not in compact.read_text(encoding="utf-8")
    assert (project.parent / "data" / "2" / "server.json").read_text(encoding="utf-8") == "broken"


def test_entries_whose_slide_is_there_are_left_alone(project, slides, tmp_path, recorder):
    before = project.read_bytes()
    (tmp_path / "empty").mkdir()
    report = relink(project, RelinkOptions(map=(f"{slides}={tmp_path / 'empty'}",), search=tmp_path), recorder)
    assert [(one.status, one.reason) for one in report.entries] == [("skipped", "is where the project says")] * 3
    assert project.read_bytes() == before
    assert not project.with_name("project.qpproj.backup").exists()


def test_what_is_still_missing_is_named_and_the_others_are_written(project, slides, tmp_path, capsys):
    readdress(project, f"file:{slides.as_posix()}", "file:/D:/slides")
    (slides / "b.tif").unlink()
    assert cli.main(["project", "relink", str(project), "--map", f"D:\\slides={slides}"]) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "2 done, 1 failed" in out
    assert uris_of(project)[1] == "file:/D:/slides/b.tif"
    assert uris_of(project)[0] == f"file:{slides.as_posix()}/a.tif"


def test_slides_are_searched_by_name_and_size(project, slides, tmp_path, recorder):
    readdress(project, f"file:{slides.as_posix()}", "file:/D:/slides")
    archive = tmp_path / "archive"
    slides.rename(archive)
    other = np.full((300, 400, 3), 200, np.uint8)
    (archive / "other").mkdir()
    write_pyramid(archive / "other" / "a.tif", other, mpp=0.5, levels=1)  # the name of a, another size
    shutil.copy(archive / "b.tif", archive / "other" / "b.tif")  # b twice
    (archive / "below" / "c.tif").unlink()
    write_pyramid(archive / "below" / "c.tif", other, mpp=0.5, levels=1)
    report = by_name(relink(project, RelinkOptions(search=archive), recorder))
    assert (report["a.tif"].status, report["b.tif"].status, report["c.tif"].status) == ("done", "failed", "failed")
    assert "2 files fit" in report["b.tif"].reason
    assert str(archive / "other" / "b.tif") in report["b.tif"].reason
    assert "no file of this name and size" in report["c.tif"].reason
    assert uris_of(project)[0] == f"file:{archive.as_posix()}/a.tif"


def test_a_name_in_the_other_form_of_unicode_is_found(tmp_path, tiny_slide, recorder):
    stored = tmp_path / "new" / unicodedata.normalize("NFD", "Fäll.tif")
    stored.parent.mkdir()
    shutil.copy(tiny_slide, stored)
    create(tmp_path / "project", [stored], CreateOptions(), recorder)
    project = tmp_path / "project" / "project.qpproj"
    composed = json.dumps(f"file:/D:/F{'%C3%A4'}ll.tif")[1:-1]
    document = document_of(project)
    document["images"][0]["serverBuilder"]["uri"] = composed
    project.write_text(json.dumps(document), encoding="utf-8")
    assert relink(project, RelinkOptions(map=(f"D:={stored.parent}",)), recorder).entries[0].status == "done"
    assert open_project(project, ProjectOptions()).entries()[0].slide_path.samefile(stored)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (RelinkOptions(), "nothing to relink by"),
        (RelinkOptions(map=("slides",)), "not OLD=NEW"),
        (RelinkOptions(map=("slides=/new",)), "not OLD=NEW"),
    ],
)
def test_options_that_say_nothing_are_refused(project, recorder, options, message):
    with pytest.raises(ConfigError, match=message) as caught:
        relink(project, options, recorder)
    assert caught.value.hint


def test_a_folder_to_search_that_is_not_there_is_refused(project, tmp_path, recorder):
    with pytest.raises(ConfigError, match="no such folder"):
        relink(project, RelinkOptions(search=tmp_path / "none"), recorder)


def test_entries_without_a_file_are_named(project, recorder, tmp_path):
    document = document_of(project)
    document["images"][0]["serverBuilder"]["uri"] = "https://omero.example/1"
    del document["images"][1]["serverBuilder"]
    project.write_text(json.dumps(document), encoding="utf-8")
    report = relink(project, RelinkOptions(search=tmp_path), recorder)
    assert [(one.status, one.reason) for one in report.entries[:2]] == [
        ("skipped", "not a file"),
        ("failed", "b.tif: the project names no image file"),
    ]


@pytest.mark.shared
def test_a_moved_cohort_is_relinked_by_its_folder(tmp_path, shared_data, recorder):
    shutil.copytree(shared_data / "glas-dev" / "qupath", tmp_path / "qupath", copy_function=shutil.copyfile)
    for path in [tmp_path / "qupath", *(tmp_path / "qupath").rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    project = tmp_path / "qupath" / "project.qpproj"
    options = RelinkOptions(map=(f"/srv/study/glas-dev={shared_data / 'glas-dev'}",))
    report = relink(project, options, recorder)
    assert [one.status for one in report.entries] == ["done"] * 12
    assert all(uri.startswith("file:///") for uri in uris_of(project))
    entries = open_project(project, ProjectOptions()).entries()
    assert [entry.slide_path.parent for entry in entries] == [shared_data / "glas-dev" / "slides"] * 12
