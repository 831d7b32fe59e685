"""The checks of a project and its entries."""

import shutil
from uuid import uuid4

import numpy as np
import pytest
import tifffile
from annotation_exchange import set_image, with_annotations
from shapely import box

from wsplf_cli.backends.embedded import open_project
from wsplf_cli.cohort.checks import check_project, group_checks
from wsplf_cli.options import ProjectOptions
from wsplf_cli.qupath.create import Image, create_project
from wsplf_cli.schema import Annotation, Check, Plane


def by_name(checks):
    return {check.name: check for check in checks}


@pytest.fixture
def check(tiny_project):
    """The checks of the tiny project with given project options."""

    def run(**fields):
        options = ProjectOptions(**fields)
        project = open_project(tiny_project, options)
        return by_name(check_project(project, project.entries(), options))

    return run


def test_good_entries_say_mpp_its_source_and_label(check):
    found = check()
    assert found["positive.tif"].status == "PASS"
    assert "0.5 um/px (QuPath" in found["positive.tif"].message
    assert "'tumor' (metadata label): positive" in found["positive.tif"].message
    assert found["unlabelled.tif"].status == "WARN"
    assert found["labels"].message == "1 positive, 1 negative"


def test_unknown_label_fails_with_the_option(check):
    found = check(positive=("carcinoma",))
    assert found["positive.tif"].status == "FAIL"
    assert "--positive 'tumor'" in found["positive.tif"].fix
    assert found["labels"].status == "WARN"


def test_missing_slide_fails_and_says_where_to_look(check, tiny_slide, tmp_path):
    away = tmp_path / "away.tif"
    shutil.move(tiny_slide, away)
    try:
        found = check()
    finally:
        shutil.move(away, tiny_slide)
    assert found["positive.tif"].status == "FAIL"
    assert "--slides" in found["positive.tif"].fix


def test_entry_with_an_unreadable_data_file_fails_and_the_others_do_not(check, tiny_project):
    folder = tiny_project.parent / "data" / "1"
    folder.mkdir(exist_ok=True)
    (folder / "data.qpdata").write_bytes(b"nonsense")
    found = check()
    assert found["positive.tif"].status == "FAIL"
    assert "data.qpdata" in found["positive.tif"].message
    assert found["negative.tif"].status == "PASS"


def test_an_entry_without_colour_fails_and_says_what_is_needed(tmp_path):
    pixels = np.full((512, 512), 240, np.uint8)
    pixels[100:400, 100:400] = 100
    images = []
    for name, values in [("grey.tif", pixels), ("deep.tif", pixels.astype(np.uint16) * 257)]:
        tifffile.imwrite(tmp_path / name, values, tile=(128, 128), photometric="minisblack")
        images.append(Image(tmp_path / name, name, 512, 512, 0.5, [(1.0, 512, 512)], {"label": "tumor"}))
    project = open_project(create_project(tmp_path / "project", images, classes=[]), ProjectOptions())
    found = by_name(check_project(project, project.entries(), ProjectOptions()))
    for name, kind in [("grey.tif", "a greyscale image"), ("deep.tif", "a greyscale image (16 bits per channel)")]:
        assert found[name].status == "FAIL"
        assert f"{kind}; wsplf needs a colour image" in found[name].message
        assert "take the colour scan" in found[name].fix


def test_doctor_shows_the_classes(tiny_project):
    project = open_project(tiny_project, ProjectOptions())
    options = ProjectOptions(positive=("tumor=LUAD", "lusc=LUSC"))
    entries = project.entries()
    checks = check_project(project, entries, options)
    assert any("positive for LUAD" in one.message for one in checks)
    assert any("class LUSC: only negative slides" in one.message for one in checks)
    project.set_metadata({entries[2].id: {"label": "lusc"}})
    checks = check_project(project, project.entries(), options)
    assert checks[-1].message == "2 positive, 1 negative; 1 LUAD, 1 LUSC"


@pytest.fixture
def check_missing(tmp_path):
    """The checks of a project whose slides, given as paths, are all missing."""

    def run(*paths):
        images = [Image(tmp_path / path, path.rpartition("/")[2], 1024, 768, 0.5, [(1.0, 1024, 768)]) for path in paths]
        path = create_project(tmp_path / "project", images, classes=[])
        project = open_project(path, ProjectOptions())
        return check_project(project, project.entries(), ProjectOptions())

    return run


def test_missing_slides_are_one_line_for_each_folder_and_all_in_json(check_missing, tmp_path):
    checks = check_missing(*(f"old/{index}.tif" for index in range(104)), "other/x.tif")
    assert sum(check.status == "FAIL" for check in checks) == 105
    shown = [check for check in group_checks(checks) if check.status == "FAIL"]
    assert [check.name for check in shown] == [f"104 slides missing from {tmp_path}/old", "x.tif"]
    assert shown[0].message == "0.tif, 1.tif, 2.tif and 101 more"
    assert "--slides DIR" in shown[0].fix
    assert "--verbose" in shown[0].fix


def test_slides_that_are_missing_from_many_folders_are_shown_by_the_folder_above(check_missing, tmp_path):
    checks = check_missing(*(f"study/case {index}/a{index}.tif" for index in range(40)), "study/b.tif")
    shown = [check for check in group_checks(checks) if check.status == "FAIL"]
    assert [check.name for check in shown] == [f"41 slides missing from {tmp_path}/study and below"]


def test_only_checks_of_a_group_are_shown_as_one():
    checks = [Check("PASS", "a", "x"), Check("FAIL", "a", "y", group="g"), Check("FAIL", "b", "z", group="g")]
    assert group_checks(checks) == [checks[0], Check("FAIL", "2 g", "a, b", "")]
    assert group_checks(checks[:2]) == checks[:2]


@pytest.mark.parametrize("problem", ["slide", "data", "mpp"])
def test_the_name_of_an_entry_stands_once(tiny_project, tiny_slide, tmp_path, problem):
    if problem == "data":
        (tiny_project.parent / "data" / "1" / "data.qpdata").write_bytes(b"nonsense")
    options = ProjectOptions()
    project = open_project(tiny_project, options)
    entries = project.entries()
    if problem == "slide":
        tiny_project.write_text(tiny_project.read_text(encoding="utf-8").replace("tiny", "gone"), encoding="utf-8")
        entries = open_project(tiny_project, options).entries()
    if problem == "mpp":
        document = tiny_project.read_text(encoding="utf-8").replace('"value": 0.5', '"value": 5')
        tiny_project.write_text(document, encoding="utf-8")
        entries = open_project(tiny_project, options).entries()
    found = by_name(check_project(project, entries, options))["positive.tif"]
    assert found.status == ("WARN" if problem == "mpp" else "FAIL")
    assert "positive.tif" not in found.message


def test_an_entry_that_lost_its_data_fails_with_the_count_also_where_its_slide_is_missing(tiny_project, check):
    with_annotations(tiny_project)
    (tiny_project.parent / "data" / "1" / "data.qpdata").unlink()
    assert check()["positive.tif"].status == "FAIL"
    assert "data.qpdata: the file is missing, but summary.json counts 11 annotations" in check()["positive.tif"].message
    tiny_project.write_text(tiny_project.read_text(encoding="utf-8").replace("tiny", "gone"), encoding="utf-8")
    project = open_project(tiny_project, ProjectOptions())
    failed = [one for one in check_project(project, project.entries(), ProjectOptions()) if one.name == "positive.tif"]
    assert ["counts 11 annotations" in one.message for one in failed] == [True, False]
    assert {one.status for one in failed} == {"FAIL"}


def test_data_that_is_read_from_qupaths_copy_is_a_warning(tiny_project):
    with_annotations(tiny_project)
    data = tiny_project.parent / "data" / "1" / "data.qpdata"
    data.rename(data.with_name("data.qpdata.bkp"))
    project = open_project(tiny_project, ProjectOptions())
    checks = check_project(project, project.entries(), ProjectOptions())
    (warning,) = [one for one in checks if one.status == "WARN" and one.name == "positive.tif"]
    assert "data.qpdata.bkp is read in its place: 11 annotations" in warning.message
    assert "rename it to data.qpdata" in warning.fix


def test_data_folders_that_no_entry_uses_are_counted_and_named(tiny_project):
    for name in ("7", "12", "8", "90"):
        (tiny_project.parent / "data" / name).mkdir()
    (tiny_project.parent / "data" / "8" / "data.qpdata").write_bytes(b"x")
    project = open_project(tiny_project, ProjectOptions())
    checks = check_project(project, project.entries()[:1], ProjectOptions())
    unused = [one for one in checks if one.group]
    assert [one.name for one in unused] == ["data/7", "data/8", "data/12", "data/90"]
    assert "holds objects" in unused[1].message
    (shown,) = [one for one in group_checks(checks) if "data folders" in one.name]
    assert (shown.status, shown.name) == ("WARN", "4 data folders that no entry uses")
    assert shown.message == "data/7, data/8, data/12 and 1 more"


def test_a_project_without_a_data_folder_is_a_warning(tiny_project, check):
    assert "data" not in check()
    shutil.rmtree(tiny_project.parent / "data")
    assert (check()["data"].status, check()["positive.tif"].status) == ("WARN", "PASS")
    assert "is not there: no entry has annotations" in check()["data"].message


@pytest.mark.parametrize(
    ("shapes", "status", "words"),
    [
        ([box(5000, 0, 5100, 90), box(-90, 0, -10, 90)], "FAIL", "no annotation lies on the image"),
        (
            [box(5000, 0, 5100, 90), box(10, 10, 90, 90)],
            "WARN",
            "left out of learning and measuring: 1 outside the image",
        ),
        ([box(1000, 0, 1100, 90), box(10, 10, 90, 90)], "PASS", "2 annotations, 1 of them partly outside the image"),
        ([box(10, 10, 90, 90)], "PASS", "1 annotations"),
    ],
    ids=["all", "some", "partly", "none"],
)
def test_annotations_outside_the_image_are_found(check, tiny_project, shapes, status, words):
    project = open_project(tiny_project, ProjectOptions())
    project.add("1", [Annotation(uuid4(), shape, "Tumor") for shape in shapes])
    found = check()["positive.tif"]
    assert found.status == status
    assert words in found.message
    assert bool(found.fix) is (status != "PASS")


def test_annotations_on_planes_that_the_image_lacks_are_a_warning(check, tiny_project):
    project = open_project(tiny_project, ProjectOptions())
    project.add("1", [Annotation(uuid4(), box(10, 10, 90, 90), "Tumor", plane=Plane(z=2))])
    found = check()["positive.tif"]
    assert found.status == "WARN"
    assert "1 on planes that the image does not have" in found.message
    set_image(tiny_project, sizeZ=3)
    found = check()["positive.tif"]
    assert found.status == "PASS"
    assert "left out of learning and measuring: 1 on another plane" in found.message
