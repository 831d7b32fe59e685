"""The calibration that is kept for later plans."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from wsplf_cli.errors import WsplfError
from wsplf_cli.options import ProjectOptions, PseudolabelOptions, RunOptions, SegmentOptions, TrainOptions
from wsplf_cli.plan import calibration
from wsplf_cli.plan.calibration import Calibration, calibrate, measure_in_child, request
from wsplf_cli.schema import Silent
from wsplf_cli.worker_options import WorkerOptions

MEASURED = Calibration(5.0, {"windows": 0.5}, memory_bytes=10**9)


def command(project, entries, options, tracker):
    """Stands for a command."""


@pytest.fixture
def measurements(tmp_path, monkeypatch):
    """The requests that were measured; the cache is a folder of the test."""
    requests = []

    def measure(wanted):
        requests.append(wanted)
        return MEASURED

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(calibration, "measure_in_child", measure)
    return requests


def test_a_calibration_is_measured_once_and_kept(measurements):
    wanted = request(command, PseudolabelOptions())
    assert calibrate(wanted, Silent()) == MEASURED
    assert calibrate(wanted, Silent()) == MEASURED
    assert len(measurements) == 1
    wanted.path.unlink()
    calibrate(wanted, Silent())
    assert len(measurements) == 2


@pytest.mark.parametrize("content", ["{", "[]", json.dumps({**asdict(MEASURED), "other": 1})])
def test_a_damaged_calibration_is_measured_again(measurements, content):
    wanted = request(command, PseudolabelOptions())
    calibrate(wanted, Silent())
    wanted.path.write_text(content, encoding="utf-8")
    assert calibrate(wanted, Silent()) == MEASURED
    assert len(measurements) == 2


@pytest.mark.parametrize(
    "changed",
    [
        {"mpp": 0.5},
        {"backbone": "small"},
        {"run": RunOptions(device="cpu")},
        {"workers": WorkerOptions(workers="2")},
    ],
)
def test_options_that_change_the_time_are_measured_anew(changed):
    options = PseudolabelOptions()
    assert request(command, replace(options, **changed)).path != request(command, options).path


@pytest.mark.parametrize(
    "changed", [{"alpha": 0.1}, {"project": ProjectOptions(images="S01")}, {"run": RunOptions(seed=3)}]
)
def test_options_that_do_not_change_the_time_share_a_calibration(changed):
    options = PseudolabelOptions()
    assert request(command, replace(options, **changed)).path == request(command, options).path


def test_two_numbers_of_workers_share_a_calibration_with_one_thread():
    two, four = (request(command, PseudolabelOptions(workers=WorkerOptions(workers=count))) for count in ("2", "4"))
    assert two.path == four.path
    assert two.threads == 1


def test_epochs_and_folds_share_a_calibration():
    assert request(command, TrainOptions(epochs=3)).path == request(command, TrainOptions(folds=5)).path


def test_training_without_folds_is_measured_without():
    assert request(command, TrainOptions(folds=1)).options.folds == 1
    assert request(command, TrainOptions(folds=2)).options.folds > 1


def test_another_model_of_the_same_name_is_measured_anew(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}", encoding="utf-8")
    before = request(command, SegmentOptions(), model=model).path
    (model / "config.json").write_text('{"changed": 1}', encoding="utf-8")
    assert request(command, SegmentOptions(), model=model).path != before


def test_a_cache_that_cannot_be_written_stops_nothing(measurements, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert calibrate(request(command, PseudolabelOptions()), Silent()) == MEASURED


@pytest.mark.slow
def test_an_error_of_the_calibration_is_one_line():
    wanted = replace(request(command, PseudolabelOptions(run=RunOptions(device="cuda:99"))))
    with pytest.raises(WsplfError, match="the calibration failed"):
        measure_in_child(wanted)


def test_the_file_lies_in_the_cache_of_the_user(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert request(command, PseudolabelOptions()).path.parent == Path(tmp_path) / "wsplf" / "calibration"
