"""The checks of this machine and of a project."""

import json
import shutil

import pytest

from wsplf_cli import cli
from wsplf_cli.backends.embedded import open_project
from wsplf_cli.commands import doctor
from wsplf_cli.networks import weights
from wsplf_cli.options import DoctorOptions, ProjectOptions


def by_name(checks):
    return {check.name: check for check in checks}


@pytest.fixture
def check(tiny_project):
    """The checks of the tiny project with given project options."""

    def run(**fields):
        options = DoctorOptions(project=ProjectOptions(**fields))
        project = open_project(tiny_project, options.project)
        return by_name(doctor.check_project(project, project.entries(), options))

    return run


def test_a_good_machine_has_no_fail(tmp_path):
    checks = by_name(doctor.check_machine(DoctorOptions(), folder=tmp_path))
    assert {"Python", "torch", "OpenSlide", "weights", "QuPath", "paquo", "disk"} == set(checks)
    assert [check.name for check in checks.values() if check.status == "FAIL"] == []


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


def test_damaged_weights_fail(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "ASSETS", tmp_path)
    found = by_name(doctor.check_machine(DoctorOptions(), folder=tmp_path))
    assert found["weights"].status == "FAIL"
    assert "pip install" in found["weights"].fix


@pytest.mark.parametrize(("name", "status"), [("sam_vit_b_01ec64.pth", "FAIL"), ("tuned.pth", "WARN"), (None, "FAIL")])
def test_sam_checkpoint_is_looked_at(tmp_path, name, status):
    path = tmp_path / (name or "missing.pth")
    if name:
        path.write_bytes(b"x")
    found = by_name(doctor.check_machine(DoctorOptions(sam_checkpoint=path), folder=tmp_path))
    assert found["SAM checkpoint"].status == status
    assert found["SAM checkpoint"].fix


@pytest.mark.parametrize(("free_gb", "status"), [(0.1, "FAIL"), (1.0, "WARN"), (100.0, "PASS")])
def test_little_disk_space_is_noticed(tmp_path, monkeypatch, free_gb, status):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, int(free_gb * 1e9)))
    assert by_name(doctor.check_machine(DoctorOptions(), folder=tmp_path))["disk"].status == status


def test_a_qupath_that_is_named_but_not_there_is_a_warning(tmp_path, monkeypatch):
    monkeypatch.setenv("PAQUO_QUPATH_DIR", str(tmp_path / "QuPath"))
    assert by_name(doctor.check_machine(DoctorOptions(), folder=tmp_path))["QuPath"].status == "WARN"


def test_doctor_on_no_project_still_checks_the_machine_and_is_1(capsys, tmp_path):
    assert cli.main(["doctor", str(tmp_path / "none.qpproj"), "--json"]) == 1
    checks = json.loads(capsys.readouterr().out)["checks"]
    assert checks[0]["name"] == "Python"
    assert (checks[-1]["name"], checks[-1]["status"]) == ("project", "FAIL")
