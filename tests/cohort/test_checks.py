"""The checks of a project and its entries."""

import shutil

import pytest

from wsplf_cli.backends.embedded import open_project
from wsplf_cli.cohort.checks import check_project
from wsplf_cli.options import ProjectOptions


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
