"""A command measured on synthetic slides."""

import time
from dataclasses import replace

import pytest

from wsplf_cli.commands.pseudolabel import pseudolabel
from wsplf_cli.options import PseudolabelOptions, RunOptions, SegmentOptions
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
    return [SlideSize(str(index), 1.0, 1, {"canvas": a, "windows": b}) for index, (a, b) in enumerate(units)]


def test_two_slides_tell_what_area_and_windows_take():
    two = sizes((1.0, 20), (16.0, 4))
    rates = measuring._two_rates(two, [0.1 * 1 + 0.5 * 20, 0.1 * 16 + 0.5 * 4])
    assert rates == {"canvas": pytest.approx(0.1), "windows": pytest.approx(0.5)}


def test_no_rate_is_below_zero():
    rates = measuring._two_rates(sizes((1.0, 20), (16.0, 4)), [20.0, 1.0])
    assert rates["canvas"] == 0
    assert rates["windows"] == pytest.approx(21 / 24)


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
