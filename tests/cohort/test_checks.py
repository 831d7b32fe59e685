"""The checks of a project and its entries."""

import shutil
from uuid import uuid4

import numpy as np
import pytest
import tifffile
from annotation_exchange import set_image
from shapely import box

from wsplf_cli.backends.embedded import open_project
from wsplf_cli.cohort.checks import check_project
from wsplf_cli.options import ProjectOptions
from wsplf_cli.qupath.create import Image, create_project
from wsplf_cli.schema import Annotation, Plane


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
