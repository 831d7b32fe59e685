"""Projects as they really are: unknown keys, lost folders, repeated names and ids, hundreds of entries."""

import json
import os
import shutil
from uuid import uuid4

import pytest
from shapely import box

from wsplf_cli import cli
from wsplf_cli.backends.embedded import open_project
from wsplf_cli.cohort.checks import check_project
from wsplf_cli.cohort.run import for_each_entry
from wsplf_cli.errors import ProjectError, SlideError
from wsplf_cli.options import ProjectOptions
from wsplf_cli.qupath import gson, images
from wsplf_cli.qupath.create import Image, create_project
from wsplf_cli.schema import Annotation, EntryResult, titles
from wsplf_cli.slides.entry import entry_slide

OWN = Annotation(uuid4(), box(10, 10, 50, 50), "Tumor")


def opened(path):
    return open_project(path, ProjectOptions())


def document_of(path):
    return json.loads(path.read_text(encoding="utf-8"))


def change(path, edit):
    """Edit the project's document and write it back as QuPath would."""
    document = gson.loads(path.read_text(encoding="utf-8"))
    edit(document)
    path.write_text(gson.dumps(document, indent=True), encoding="utf-8")


def test_unknown_keys_at_every_depth_survive_a_write(tiny_project):
    odd = {"deep": [{"x": 1.50, "big": 2**70}, None, "ü<&"], "empty": {}}

    def edit(document):
        document["odd"] = odd
        for image in document["images"]:
            image["odd"] = odd
            image["metadata"]["null"] = None
            image["serverBuilder"]["odd"] = odd
            image["serverBuilder"]["metadata"]["odd"] = odd

    change(tiny_project, edit)
    before = tiny_project.read_text(encoding="utf-8").splitlines()
    opened(tiny_project).set_metadata({"1": {"label": "normal"}})
    after = tiny_project.read_text(encoding="utf-8").splitlines()
    differing = [old.strip() for old, new in zip(before, after, strict=True) if old != new]
    assert [line.split('"')[1] for line in differing] == ["modifyTimestamp", "label"]


def test_an_entry_without_its_data_folder_is_empty_and_can_be_written(tiny_project):
    shutil.rmtree(tiny_project.parent / "data")
    project = opened(tiny_project)
    assert [project.annotations(entry.id) for entry in project.entries()] == [[], [], []]
    assert project.replace("2", origin="prediction", annotations=[OWN]).added == 1
    assert len(opened(tiny_project).annotations("2")) == 1


def test_data_folders_without_an_entry_are_left_as_they_are(tiny_project):
    orphan = tiny_project.parent / "data" / "77"
    orphan.mkdir()
    (orphan / "data.qpdata").write_bytes(b"someone's work")
    project = opened(tiny_project)
    project.replace("1", origin="prediction", annotations=[OWN])
    assert len(project.entries()) == 3
    assert (orphan / "data.qpdata").read_bytes() == b"someone's work"
    with pytest.raises(ProjectError, match="no entry has the id 77"):
        project.annotations("77")


def test_of_several_projects_in_a_folder_the_named_one_is_taken(tiny_project):
    second = tiny_project.with_name("second.qpproj")
    shutil.copy(tiny_project, second)
    change(second, lambda document: document["images"].pop())
    with pytest.raises(ProjectError, match=r"2 QuPath projects \(project.qpproj, second.qpproj\)") as caught:
        opened(tiny_project.parent)
    assert "give the path" in caught.value.hint
    assert (len(opened(tiny_project).entries()), len(opened(second).entries())) == (3, 2)


# ---- the same name, the same id --------------------------------------------------------------------------------------


def test_entries_of_one_name_are_told_apart_by_their_ids(tiny_project, capsys):
    def edit(document):
        for image in document["images"][:2]:
            image["imageName"] = "same.tif"
        document["images"][1]["serverBuilder"]["uri"] = "file:/gone/other.svs"

    change(tiny_project, edit)
    project = opened(tiny_project)
    assert titles(project.entries()) == ["same.tif (id 1)", "same.tif (id 2)", "unlabelled.tif"]
    names = {check.name: check.status for check in check_project(project, project.entries(), ProjectOptions())}
    assert (names["same.tif (id 1)"], names["same.tif (id 2)"]) == ("PASS", "FAIL")
    project.replace("2", origin="prediction", annotations=[OWN])
    assert [len(opened(tiny_project).annotations(entry.id)) for entry in project.entries()] == [0, 1, 0]


def test_the_loop_names_the_one_of_several_that_failed(make_entry, recorder):
    entries = [make_entry("same.tif"), make_entry("same.tif"), make_entry("other.tif")]

    def work(entry):
        raise SlideError(f"{entry.name}: slide not found" if entry.id == "2" else "damaged")

    reasons = [result.reason for result in for_each_entry(entries, work, tracker=recorder, name="test")]
    assert reasons == ["same.tif (id 1): damaged", "same.tif (id 2): slide not found", "other.tif: damaged"]


def test_a_slide_that_has_no_id_yet_is_called_by_its_name():
    assert titles([EntryResult("", "a", "failed"), EntryResult("", "a", "failed")]) == ["a", "a"]


def test_entries_that_share_an_id_are_read_and_never_written(tiny_project):
    opened(tiny_project).replace("1", origin="prediction", annotations=[OWN])

    def edit(document):
        document["images"][1]["entryID"] = 1

    change(tiny_project, edit)
    before = {path: path.read_bytes() for path in tiny_project.parent.rglob("*") if path.is_file()}
    project = opened(tiny_project)
    first, second, third = project.entries()
    assert [len(project.annotations(entry.id)) for entry in (first, second, third)] == [1, 1, 0]
    for entry in (first, second):
        assert "other entries have its id 1 too" in entry.problem
        with pytest.raises(SlideError, match="share its data"):
            entry_slide(entry)
    assert third.problem == ""
    with pytest.raises(SlideError, match="share its data; nothing was written"):
        project.replace("1", origin="prediction", annotations=[])
    with pytest.raises(SlideError, match="share its data; nothing was written"):
        project.add("1", [OWN])
    with pytest.raises(ProjectError, match="several entries have the id 1; nothing was written"):
        project.set_metadata({"1": {"label": "x"}})
    assert {path: path.read_bytes() for path in tiny_project.parent.rglob("*") if path.is_file()} == before
    project.replace("3", origin="prediction", annotations=[OWN])


# ---- builders that are not supported ---------------------------------------------------------------------------------


def test_annotations_of_an_unsupported_image_are_read_and_written(tiny_project, capsys):
    def edit(document):
        image = document["images"][0]
        image["serverBuilder"] = {
            "builderType": "color_deconvolved",
            "builder": image["serverBuilder"],
            "metadata": image["serverBuilder"]["metadata"],
        }

    change(tiny_project, edit)
    project = opened(tiny_project)
    entry = project.entries()[0]
    assert (entry.width_px0, entry.height_px0, entry.mpp) == (1024, 768, 0.5)
    assert project.replace("1", origin="prediction", annotations=[OWN]).added == 1
    assert cli.main(["doctor", str(tiny_project)]) == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if "color_deconvolved" in line]
    assert len(lines) == 1
    assert "not supported (its annotations can be read and written" in lines[0]


def test_size_of_a_turned_entry_without_metadata_comes_from_its_slide(tiny_project):
    def edit(document):
        builder = document["images"][0]["serverBuilder"]
        del builder["metadata"]
        document["images"][0]["serverBuilder"] = {
            "builderType": "rotated",
            "builder": builder,
            "rotation": "ROTATE_90",
        }

    change(tiny_project, edit)
    entry = opened(tiny_project).entries()[0]
    assert (entry.width_px0, entry.height_px0) == (768, 1024)
    assert entry_slide(entry)[0].width_px0 == 768
    project = opened(tiny_project)
    messages = {check.name: check.message for check in check_project(project, project.entries(), ProjectOptions())}
    assert "QuPath shows it rotated" in messages["positive.tif"]
    assert "shows it" not in messages["negative.tif"]


# ---- many entries ----------------------------------------------------------------------------------------------------


@pytest.fixture
def many(tmp_path, tiny_slide):
    """A project of 500 entries on one slide."""
    levels = [(1.0, 1024, 768), (4.0, 256, 192), (16.0, 64, 48)]
    slides = [Image(tiny_slide, f"{number}.tif", 1024, 768, 0.5, levels) for number in range(500)]
    return create_project(tmp_path / "study" / "project", slides, classes=[])


def test_no_folder_is_searched_while_slides_are_where_the_project_says(many, monkeypatch):
    scanned = []
    scandir = os.scandir
    monkeypatch.setattr(images.os, "scandir", lambda path: scanned.append(path) or scandir(path))
    monkeypatch.setattr("wsplf_cli.backends.embedded.measure", lambda *_, **__: pytest.fail("a slide was opened"))
    entries = opened(many).entries()
    assert (len(entries), {entry.problem for entry in entries}, scanned) == (500, {""}, [])


def test_folders_are_searched_once_for_all_entries_whose_slide_is_gone(many, monkeypatch):
    change(
        many, lambda document: [image["serverBuilder"].update(uri="file:/gone/x.svs") for image in document["images"]]
    )
    scanned = []
    scandir = os.scandir
    monkeypatch.setattr(images.os, "scandir", lambda path: scanned.append(path) or scandir(path))
    entries = opened(many).entries()
    assert all("give its folder with --slides DIR" in entry.problem for entry in entries)
    assert 0 < len(scanned) < 10


def test_the_search_around_a_project_is_bounded(many, monkeypatch, tmp_path):
    change(many, lambda document: document["images"][0]["serverBuilder"].update(uri="file:/gone/moved.svs"))
    for number in range(30):
        (tmp_path / "study" / f"{number:02}").mkdir()
        (tmp_path / "study" / f"{number:02}" / "x.txt").touch()
    (tmp_path / "study" / "29" / "moved.svs").touch()
    assert opened(many).entries()[0].slide_path is not None
    monkeypatch.setattr(images, "NEAR_FILES", 40)
    assert opened(many).entries()[0].slide_path is None


def test_a_home_folder_is_not_searched_for_one_project(many, monkeypatch, tmp_path):
    change(many, lambda document: document["images"][0]["serverBuilder"].update(uri="file:/gone/moved.svs"))
    (tmp_path / "study" / "moved.svs").touch()
    assert opened(many).entries()[0].slide_path is not None
    monkeypatch.setattr(images.Path, "home", lambda: tmp_path / "study")
    assert opened(many).entries()[0].slide_path is None


def test_a_moved_slide_read_without_cropping_is_known_by_its_whole_size(tmp_path):
    sizes = {True: (60, 50), False: (100, 80)}
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "a.svs").touch()
    finder = images.Finder(
        tmp_path / "project.qpproj",
        recorded_uri="",
        slides=None,
        measure=lambda path, *, crop_to_bounds: sizes[crop_to_bounds],
    )
    for crop_to_bounds in (True, False):
        found = finder.find("file:/gone/a.svs", size_px0=sizes[crop_to_bounds], crop_to_bounds=crop_to_bounds)
        assert found == tmp_path / "new" / "a.svs"
        assert finder.find("file:/gone/a.svs", size_px0=(1, 1), crop_to_bounds=crop_to_bounds) is None


REAL = {
    "CosciaLab_Qupath_to_LMD/demo_Qupath_project": None,
    "nedaghohabi_Histopathology-Image-Tiling": 434,
    "sbalci_metadata-qupath": 107,
    "uw-loci_PaQuO_test/qppaquo": None,
    "uw-loci_PaQuO_test/qppaquo2": None,
}


@pytest.mark.shared
@pytest.mark.parametrize(("name", "count"), REAL.items())
def test_projects_of_other_people_open_without_their_images(shared_data, tmp_path, name, count):
    folder = tmp_path / "project"
    shutil.copytree(shared_data / "qupath-real" / name, folder, copy_function=shutil.copyfile)
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    project = opened(folder)
    entries = project.entries()
    assert entries
    assert count in (None, len(entries))
    assert all(entry.name and entry.problem for entry in entries)
    first = entries[0]
    before = project.annotations(first.id)
    own = Annotation(uuid4(), box(10, 10, 50, 50), "Tumor")
    assert project.replace(first.id, origin="prediction", annotations=[own]).added == 1
    *others, read = opened(folder).annotations(first.id)
    assert repr(others) == repr(before)
    assert read.shape.equals(box(10, 10, 50, 50))


@pytest.mark.shared
def test_a_cohort_from_another_machine_opens_as_it_comes(shared_data):
    entries = opened(shared_data / "glas-dev" / "qupath").entries()
    assert len(entries) == 12
    for entry in entries:
        slide, calibration = entry_slide(entry)
        assert (slide.width_px0, slide.height_px0) == (entry.width_px0, entry.height_px0)
        assert (calibration.mpp, calibration.warning) == (0.62, "")
