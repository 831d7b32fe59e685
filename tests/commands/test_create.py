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
from wsplf_cli.slides.entry import entry_slide
from wsplf_cli.slides.tissue import tissue_mask, tissue_um2
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


def test_jpeg_2000_files_of_a_folder_are_named_with_what_to_do(tmp_path, slides, recorder):
    (slides / "below" / "d.jp2").write_bytes(b"\x00\x00\x00\x0cjP  \r\n\x87\n" + bytes(100))
    report = create(tmp_path / "new", [slides], CreateOptions(), recorder)
    assert by_name(report)["d.jp2"].status == "failed"
    assert "a JPEG 2000 file, which OpenSlide does not read" in by_name(report)["d.jp2"].reason
    assert "vips tiffsave d.jp2 d_pyramid.tif" in by_name(report)["d.jp2"].reason


@pytest.fixture
def pictures(tmp_path):
    """A folder with three PNG and JPEG files in colour, and one with a fourth channel."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    pixels = np.full((300, 400, 3), 240, np.uint8)
    pixels[50:200, 50:200] = (200, 100, 150)
    for name in ("one.png", "two.jpg", "three.jpeg"):
        Image.fromarray(pixels).save(folder / name, dpi=(300, 300))
    Image.fromarray(pixels).convert("RGBA").save(folder / "four.PNG")
    return folder


def test_pictures_are_added_with_the_pixel_sizes_of_the_table(tmp_path, pictures, recorder):
    table = tmp_path / "labels.csv"
    rows = ("slide;label;mpp", "one.png;tumor;0,5", "two;normal;0.25", "three.jpeg;normal;", "four.png;tumor;1e0", "")
    table.write_text("\n".join(rows), encoding="utf-8")
    report = create(tmp_path / "new", [pictures], CreateOptions(labels=table, mpp_override=0.75), recorder)
    assert [one.status for one in report.entries] == ["done"] * 4
    entries = {entry.name: entry for entry in open_project(tmp_path / "new", ProjectOptions()).entries()}
    sizes = {"one.png": 0.5, "two.jpg": 0.25, "three.jpeg": 0.75, "four.PNG": 1.0}
    assert {name: entry.mpp for name, entry in entries.items()} == sizes
    assert entries["two.jpg"].metadata == {"label": "normal"}
    images = document_of(tmp_path / "new" / "project.qpproj")["images"]
    builder = {image["imageName"]: image["serverBuilder"] for image in images}["one.png"]
    assert builder["providerClassName"] == "qupath.lib.images.servers.bioformats.BioFormatsServerBuilder"
    assert builder["args"] == ["--series", "0"]
    assert builder["metadata"]["levels"] == [{"downsample": 1.0, "width": 400, "height": 300}]
    slide, pixel_size = entry_slide(entries["one.png"])
    assert (pixel_size.mpp, pixel_size.warning) == (0.5, "")
    assert slide.read(100, 100, size_px=(1, 1), downsample=1).tolist() == [[[200, 100, 150]]]


def test_pictures_without_a_pixel_size_are_named(tmp_path, pictures, recorder):
    create(tmp_path / "new", [pictures / "one.png", pictures / "two.jpg"], CreateOptions(), recorder)
    (line,) = [line for line in recorder.said if "no micrometres per pixel" in line]
    assert "one.png, two.jpg: give them with --mpp-override, a column mpp" in line


def test_pictures_beside_slides_are_left_out_and_counted(tmp_path, slides, pictures, recorder):
    pictures.rename(slides / "pictures")
    report = create(tmp_path / "new", [slides, slides / "pictures" / "one.png"], CreateOptions(), recorder)
    assert sorted(one.name for one in report.entries if one.status == "done") == ["a.tif", "b.tif", "c.tif", "one.png"]
    assert "warning: 3 PNG or JPEG files beside the slides are left out; name them if wanted" in recorder.said


def test_the_table_has_the_last_word_on_the_pixel_size(tmp_path, slides, recorder):
    table = tmp_path / "labels.csv"
    table.write_text("slide,label,mpp\na.tif,tumor,0.25\nb.tif,normal,0.5\n", encoding="utf-8")
    options = CreateOptions(labels=table, mpp_override=2.0)
    create(tmp_path / "new", [slides / "a.tif", slides / "b.tif"], options, recorder)
    assert [entry.mpp for entry in open_project(tmp_path / "new", ProjectOptions()).entries()] == [0.25, 0.5]
    assert [line for line in recorder.said if "the table says" in line] == [
        "warning: a.tif: the table says 0.25 um per pixel, its file 0.5; using the table's"
    ]


@pytest.mark.parametrize("text", ["500", "0", "-1", "half", "nan"])
def test_what_is_no_pixel_size_is_refused(tmp_path, slides, recorder, text):
    table = tmp_path / "labels.csv"
    table.write_text(f"slide,label,mpp\na.tif,tumor,{text}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=f"a.tif: the table gives '{text}' as its mpp"):
        create(tmp_path / "new", [slides / "a.tif"], CreateOptions(labels=table), recorder)
    assert not (tmp_path / "new").exists()


def test_images_without_colour_are_left_out_with_what_is_needed(tmp_path, slides, recorder):
    grey = np.full((512, 512), 240, np.uint8)
    grey[100:400, 100:400] = 100
    tifffile.imwrite(slides / "grey.tif", grey, tile=(128, 128), photometric="minisblack")
    tifffile.imwrite(slides / "flat.tif", np.dstack([grey, grey // 2, grey]), photometric="rgb")
    Image.fromarray(grey).save(slides / "grey.png")
    Image.fromarray(np.dstack([grey, grey // 2, grey])).convert("P").save(slides / "palette.png")
    names = ("grey.tif", "flat.tif", "grey.png", "palette.png")
    report = create(tmp_path / "new", [slides / name for name in ("a.tif", *names)], CreateOptions(), recorder)
    reasons = {one.name: one.reason for one in report.entries if one.status == "failed"}
    assert set(reasons) == set(names)
    assert "a greyscale image; wsplf needs a colour image" in reasons["grey.tif"]
    assert "take the colour scan" in reasons["grey.tif"]
    assert "vips tiffsave flat.tif flat_pyramid.tif" in reasons["flat.tif"]
    assert "a greyscale image" in reasons["grey.png"]
    assert 'magick "palette.png" "PNG24:palette_rgb.png"' in reasons["palette.png"]


def test_of_a_pyramid_in_subifds_the_full_pixels_are_read_with_their_size(tmp_path, recorder):
    path = tmp_path / "slide.ome.tif"
    pixels = np.full((1024, 768, 3), 240, np.uint8)
    pixels[100:600, 100:600] = (200, 100, 150)
    layout = {"tile": (256, 256), "photometric": "rgb"}
    size = {"PhysicalSizeX": 500, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 500, "PhysicalSizeYUnit": "nm"}
    with tifffile.TiffWriter(path, ome=True) as writer:
        writer.write(pixels, subifds=2, metadata={"axes": "YXS"} | size, **layout)
        writer.write(pixels[::2, ::2], subfiletype=1, **layout)
        writer.write(pixels[::4, ::4], subfiletype=1, **layout)
    create(tmp_path / "new", [path], CreateOptions(), recorder)
    (entry,) = open_project(tmp_path / "new", ProjectOptions()).entries()
    assert (entry.width_px0, entry.height_px0, entry.mpp) == (768, 1024, 0.5)
    slide, pixel_size = entry_slide(entry)
    assert np.array_equal(slide.read(0, 0, size_px=(768, 1024), downsample=1), pixels)
    tissue = tissue_mask(slide, mpp_slide=pixel_size.mpp)
    assert tissue_um2(tissue, mpp_slide=pixel_size.mpp) == pytest.approx(250**2, rel=0.05)


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
