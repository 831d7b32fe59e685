"""wsplf project create."""

import json
import os
import shutil

import numpy as np
import pytest
import tifffile
from PIL import Image

from wsplf_cli import cli
from wsplf_cli.backends.embedded import open_project
from wsplf_cli.commands.create import create
from wsplf_cli.errors import ConfigError, ProjectError
from wsplf_cli.options import CreateOptions, ProjectOptions
from wsplf_cli.synthetic.pyramid import write_pyramid

symlinks = pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")


def document_of(path):
    return json.loads(path.read_text(encoding="utf-8"))


def by_name(report):
    return {result.name: result for result in report.entries}


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
    with Image.open(tmp_path / "new" / "data" / "1" / "thumbnail.jpg") as thumbnail:
        assert (thumbnail.format, thumbnail.size) == ("JPEG", (800, 600))


def test_a_small_slide_is_not_enlarged_for_its_thumbnail(tmp_path, recorder):
    write_pyramid(tmp_path / "small.tif", np.full((120, 200, 3), 200, np.uint8), mpp=0.5, levels=1)
    create(tmp_path / "new", [tmp_path / "small.tif"], CreateOptions(), recorder)
    with Image.open(tmp_path / "new" / "data" / "1" / "thumbnail.jpg") as thumbnail:
        assert thumbnail.size == (200, 120)


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


@symlinks
def test_slides_behind_links_are_added_and_each_file_once_per_name(tmp_path, slides, recorder):
    study = tmp_path / "study"
    study.mkdir()
    (study / "linked").symlink_to(slides, target_is_directory=True)
    (study / "a.tif").symlink_to(slides / "a.tif")
    (study / "Case 7.tif").symlink_to(slides / "b.tif")
    (study / "around").symlink_to(study, target_is_directory=True)
    (study / "gone.tif").symlink_to(tmp_path / "absent.tif")
    report = create(tmp_path / "new", [study], CreateOptions(), recorder)
    assert sorted(one.name for one in report.entries if one.status == "done") == [
        "Case 7.tif",
        "a.tif",
        "b.tif",
        "c.tif",
    ]
    assert "warning: b.tif and Case 7.tif are one file; it is added under both names" in recorder.said


def test_companion_files_of_macos_are_no_slides(tmp_path, slides, recorder):
    (slides / "._a.tif").write_bytes(b"\0\5\x16\7")
    (slides / "broken.svs").unlink()
    report = create(tmp_path / "new", [slides], CreateOptions(), recorder)
    assert {one.name: one.status for one in report.entries} == dict.fromkeys(("a.tif", "b.tif", "c.tif"), "done")


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
