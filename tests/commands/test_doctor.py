"""The checks of this machine, and wsplf doctor."""

import json
import shutil

import pytest

from wsplf_cli import cli
from wsplf_cli.commands import doctor
from wsplf_cli.networks import weights
from wsplf_cli.options import DoctorOptions


def by_name(checks):
    return {check.name: check for check in checks}


def test_a_good_machine_has_no_fail(tmp_path):
    checks = by_name(doctor.check_machine(DoctorOptions(), folder=tmp_path))
    assert {"Python", "torch", "OpenSlide", "weights", "QuPath", "paquo", "disk"} == set(checks)
    assert [check.name for check in checks.values() if check.status == "FAIL"] == []


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
