"""wsplf project relink."""

import json
import os
import shutil
import unicodedata

import numpy as np
import pytest

from wsplf_cli import cli
from wsplf_cli.backends.embedded import open_project
from wsplf_cli.commands.create import create
from wsplf_cli.commands.relink import relink
from wsplf_cli.errors import ConfigError
from wsplf_cli.options import CreateOptions, ProjectOptions, RelinkOptions
from wsplf_cli.qupath import gson
from wsplf_cli.synthetic.pyramid import write_pyramid


def by_name(report):
    return {result.name: result for result in report.entries}


def document_of(path):
    return json.loads(path.read_text(encoding="utf-8"))


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


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
def test_slides_behind_links_are_found_and_one_file_is_no_choice(project, slides, tmp_path, recorder):
    readdress(project, f"file:{slides.as_posix()}", "file:/D:/slides")
    store, study = tmp_path / "store", tmp_path / "study"
    slides.rename(store)
    study.mkdir()
    (store / "a.tif").rename(store / "0001.tif")
    (study / "a.tif").symlink_to(store / "0001.tif")
    (study / "linked").symlink_to(store, target_is_directory=True)
    (study / "b.tif").symlink_to(store / "b.tif")
    (store / "up").symlink_to(study, target_is_directory=True)
    report = relink(project, RelinkOptions(search=study), recorder)
    assert [one.status for one in report.entries] == ["done"] * 3
    found = [entry.slide_path for entry in open_project(project, ProjectOptions()).entries()]
    assert found == [study / "a.tif", study / "b.tif", study / "linked" / "below" / "c.tif"]


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


@pytest.mark.parametrize(("recorded", "stored"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_slide_is_found_by_a_name_in_the_other_form_of_unicode(tmp_path, slides, recorder, recorded, stored):
    slide = (slides / "a.tif").rename(slides / unicodedata.normalize(recorded, "Mü.tif"))
    path = tmp_path / "far" / "away" / "project"
    create(path, [slide], CreateOptions(), recorder)
    archive = tmp_path / "archive"
    archive.mkdir()
    moved = slide.rename(archive / unicodedata.normalize(stored, "Mü.tif"))
    (result,) = relink(path, RelinkOptions(search=archive), recorder).entries
    assert result.status == "done", result.reason
    assert open_project(path, ProjectOptions()).entries()[0].slide_path.samefile(moved)
