"""A command measured on synthetic slides."""

import time
from dataclasses import replace

import pytest

from wsplf_cli.commands.pseudolabel import pseudolabel
from wsplf_cli.commands.train import train
from wsplf_cli.options import PseudolabelOptions, RunOptions, SegmentOptions, TrainOptions
from wsplf_cli.plan import measure as measuring
from wsplf_cli.plan.calibration import measure_in_child, request
from wsplf_cli.plan.measure import StepTimes
from wsplf_cli.plan.sizes import SlideSize


def test_time_that_waits_for_others_is_not_counted():
    times = StepTimes()
    times.start("tissue", 2)
    time.sleep(0.2)
    times.advance(1, message="a")
    began = time.process_time()
    while time.process_time() - began < 0.1:
        pass
    times.advance(1, message="b")
    times.end()
    assert times.of_entries["tissue", "a"] < 0.1
    assert times.of_entries["tissue", "b"] == pytest.approx(0.1, abs=0.05)
    assert times.of_steps["tissue"] == pytest.approx(0.1, abs=0.05)


def sizes(*units):
    works = [{"canvas": a, "windows": b, "appearance": c} for a, b, c in units]
    return [SlideSize(str(index), 1.0, 1, work) for index, work in enumerate(works)]


def test_two_slides_tell_what_area_and_windows_take():
    two = sizes((1.0, 20, 32), (16.0, 4, 9))
    seconds = [0.1 * 1 + 0.5 * 20 + 0.3 * 32, 0.1 * 16 + 0.5 * 4 + 0.3 * 9]
    rates = measuring.segment_rates(two, seconds, appearance=0.3)
    assert rates == {"canvas": pytest.approx(0.1), "windows": pytest.approx(0.5)}


def test_no_rate_is_below_zero():
    rates = measuring.segment_rates(sizes((1.0, 20, 0), (16.0, 4, 0)), [20.0, 1.0], appearance=0.3)
    assert rates["canvas"] == 0
    assert rates["windows"] == pytest.approx(21 / 24)


def test_what_the_first_slide_waits_for_is_no_part_of_its_work():
    (first,) = sizes((2.0, 10, 5))
    rates = {"canvas": 0.5, "windows": 0.5, "appearance": 0.2, "outlines": 7.0}
    assert measuring.first_slide_more(first, 9.0, rates) == pytest.approx(2.0)
    assert measuring.first_slide_more(first, 5.0, rates) == 0


def test_training_is_measured_with_a_positive_slide_for_each_fold(tmp_path):
    options = request(train, TrainOptions(folds=3)).options
    made = measuring.make_project(tmp_path, options)
    drawn = [entry for entry in made.entries if made.project.annotations(entry.id)]
    assert len(drawn) == options.folds
    assert len({entry.id for entry in made.entries}) == 2 * options.folds


@pytest.mark.slow
def test_a_real_calibration_of_pseudolabel_has_a_rate_for_every_step(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    options = PseudolabelOptions(backbone="small", run=RunOptions(device="cpu"))
    calibration = measure_in_child(request(pseudolabel, options))
    assert set(calibration.rates) == {"tissue", "features", "linear probes", "CAM", "polygons"}
    assert min(calibration.rates.values()) > 0
    assert calibration.fixed_seconds > 0.5
    assert calibration.memory_bytes is None or 2e8 < calibration.memory_bytes < 8e9
    assert 0 < calibration.slide_disk_bytes < calibration.embedding_bytes  # embeddings are counted for themselves
    assert calibration.disk_bytes > 100_000  # the fit
    assert calibration.embedding_bytes > 1000
    assert not (tmp_path / "wsplf" / "calibration").exists()  # what is measured is not kept here


def test_the_requests_of_a_model_are_those_of_its_path(tmp_path):
    wanted = request(pseudolabel, replace(SegmentOptions(), threshold=0.7), model=tmp_path)
    assert wanted.options == SegmentOptions(model=str(tmp_path))
