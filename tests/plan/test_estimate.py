"""From what there is to do, and what a unit of it takes, to time, memory and disk."""

import pytest

from wsplf_cli.options import PseudolabelOptions, SegmentOptions, TrainOptions
from wsplf_cli.plan.calibration import Calibration
from wsplf_cli.plan.estimate import describe, estimate, extra_bytes, training_steps
from wsplf_cli.plan.sizes import SlideSize

SMALL = SlideSize("small", 1.0, 10, {"canvas": 2.0, "windows": 10}, kept_bytes=5, working_bytes=100)
LARGE = SlideSize("large", 4.0, 40, {"canvas": 100.0, "windows": 40}, kept_bytes=7, working_bytes=1000)
OF_SEGMENT = Calibration(
    5.0, {"canvas": 0.1, "windows": 0.5}, memory_bytes=10_000, slide_disk_bytes=300, disk_bytes=0, embedding_bytes=0
)


def test_time_is_the_start_and_every_unit_of_work():
    planned = estimate([SMALL, LARGE], OF_SEGMENT, SegmentOptions())
    assert planned.seconds == pytest.approx(5 + (0.2 + 5) + (10 + 20))
    assert planned.longest == ("large", pytest.approx(30.0))


def test_workers_share_the_slides_but_the_longest_slide_bounds_them():
    shared = estimate([SMALL] * 8, OF_SEGMENT, SegmentOptions(), workers=4)
    assert shared.seconds == pytest.approx(5 + 5 + 8 * 5.2 / 4)  # the workers start as well
    bounded = estimate([SMALL, LARGE], OF_SEGMENT, SegmentOptions(), workers=4)
    assert bounded.seconds == pytest.approx(5 + 5 + 30)


def test_memory_is_what_all_slides_keep_and_the_largest_needs_at_work():
    assert estimate([SMALL, LARGE], OF_SEGMENT, SegmentOptions()).memory_bytes == 10_000 + 12 + 1000
    unknown = Calibration(5.0, OF_SEGMENT.rates)
    assert estimate([SMALL], unknown, SegmentOptions()).memory_bytes is None


def test_fitting_probes_is_not_shared_by_workers():
    size = SlideSize("a", 1.0, 4, {"features": 4.0, "linear probes": 2500.0, "polygons": 2.0})
    calibration = Calibration(1.0, {"features": 1.0, "linear probes": 0.01, "polygons": 2.0})
    assert estimate([size] * 4, calibration, PseudolabelOptions()).seconds == pytest.approx(1 + 4 * 8 + 4 * 25)
    shared = estimate([size] * 4, calibration, PseudolabelOptions(), workers=2)
    assert shared.seconds == pytest.approx(1 + 1 + 4 * 8 / 2 + 4 * 25)


def test_disk_is_that_of_the_run_and_the_embeddings_up_to_their_bound():
    size = SlideSize("a", 1.0, 4, {"polygons": 10.0}, most_prompted=30)
    calibration = Calibration(1.0, {}, slide_disk_bytes=1000, embedding_bytes=10**6)
    planned = estimate([size] * 2, calibration, PseudolabelOptions())
    assert (planned.disk_bytes, planned.most_disk_bytes) == (2000 + 20 * 10**6, 2000 + 60 * 10**6)
    bounded = estimate([size] * 2, calibration, PseudolabelOptions(cache_gb=0.001))
    assert bounded.disk_bytes == bounded.most_disk_bytes == 2000 + 10**6


def test_training_is_its_steps_and_the_blocks_out_of_fold():
    ten = [SlideSize("a", 1.0, 16)] * 10
    assert training_steps(TrainOptions(epochs=2, folds=1), ten) == 100
    assert training_steps(TrainOptions(epochs=2, folds=3), ten) == pytest.approx(100 * 3 / 2 + 160 / 6)
    assert training_steps(TrainOptions(epochs=2, folds=3), ten[:2]) == 100  # too few for folds
    few_blocks = [SlideSize("a", 1.0, 3)] * 10
    assert training_steps(TrainOptions(epochs=2, folds=3), few_blocks) == pytest.approx(100 * 3 / 2 + 30 / 6)
    one_encoder = TrainOptions(epochs=2, folds=3, backbone="small")
    assert training_steps(one_encoder, ten) == pytest.approx(100 * 3 + 160 / 6)
    of_sam = TrainOptions(epochs=2, folds=3, segmenter="sam")  # the model is one more network
    assert training_steps(of_sam, ten) == pytest.approx(100 * 4 + 160 / 6)
    size = SlideSize("a", 1.0, 4, {"read annotations": 2.0})
    calibration = Calibration(3.0, {"train": 0.1, "read annotations": 0.5}, disk_bytes=700)
    planned = estimate([size] * 10, calibration, TrainOptions(epochs=2, folds=1))
    assert planned.seconds == pytest.approx(3 + 10 + 10)
    assert planned.disk_bytes == 700


def test_nothing_to_do_is_an_estimate_too():
    assert estimate([], OF_SEGMENT, SegmentOptions()).longest is None
    assert estimate([], Calibration(3.0, {"train": 1.0}), TrainOptions()).seconds == 3.0


def test_the_totals_are_sentences():
    document = {
        **{"command": "segment", "slides": 2, "failed": 1, "workers": 4, "tissue_mm2": 5.0, "tiles": 50},
        **estimate([SMALL, LARGE], OF_SEGMENT, SegmentOptions()).document,
        **{"assumed_tumour_share": None, "calibration": "FILE"},
    }
    document |= {"seconds": 7500.0, "memory_bytes": 1_450_000_000, "disk_bytes": 3_000_000}
    assert describe(document) == [
        "segment: 2 slides, 5.0 mm2 of tissue, 50 tiles; 1 cannot be read and are not counted",
        "time: 2.1 h with 4 workers; the longest slide, large, 30 s",
        "memory: 1.4 GB for each process",
        "disk: 3 MB in the project",
        "measured once on this machine; to measure again, delete FILE",
    ]
    document |= {"assumed_tumour_share": 0.2, "most_disk_bytes": 8_000_000}
    assert describe(document)[3:5] == [
        "disk: 3 MB in the project, at most 8 MB, were all tissue tumour",
        "slides that may be positive are taken to hold 20% of tumour",
    ]


def test_features_wait_in_memory_up_to_a_bound():
    one = SlideSize("a", 1.0, 4, waiting_bytes=6e8)
    assert extra_bytes([one]) == 6e8
    assert extra_bytes([one] * 3) == 1e9
