import threading
from dataclasses import replace

import numpy as np
import pytest
from shapely import box
from training_slides import SIDE, training_slide

from wsplf_cli.errors import SlideError
from wsplf_cli.segmentation import sampling
from wsplf_cli.segmentation.sampling import (
    DECIDED_WEIGHT,
    FULL_WEIGHT,
    IGNORE,
    BalancedCropSampler,
    Blocks,
    ReviewRegions,
    TrainingSlide,
    rasterise_targets,
)


def test_decided_polygons_overrule_pseudo_labels_and_rejected_ones_are_background():
    regions = ReviewRegions(
        positive=(box(0, 0, 20, 20),), pending=((box(0, 0, 40, 40), 0.6),), negative=(box(50, 50, 60, 60),)
    )
    target, weight = rasterise_targets(regions, training_slide("a").grid, 0)
    assert (target[:20, :20] == 1).all()
    assert (weight[:20, :20] == DECIDED_WEIGHT).all()
    assert target[30, 30] == 1
    assert weight[30, 30] == 60
    assert target[55, 55] == 0
    assert weight[55, 55] == DECIDED_WEIGHT
    assert target[5, 60] == 0
    assert weight[5, 60] == FULL_WEIGHT


def test_the_outline_of_a_pseudo_label_is_ignored_and_that_of_a_person_is_not():
    pending, _ = rasterise_targets(ReviewRegions(pending=((box(10, 10, 40, 40), 1.0),)), training_slide("a").grid, 0)
    assert (pending[20, 37:43] == IGNORE).all()
    assert pending[20, 34] == 1
    assert pending[20, 46] == 0
    decided, _ = rasterise_targets(ReviewRegions(positive=(box(10, 10, 40, 40),)), training_slide("a").grid, 0)
    assert IGNORE not in decided
    beside, _ = rasterise_targets(ReviewRegions(pending=((box(66, 10, 90, 40), 1.0),)), training_slide("a").grid, 0)
    assert (beside[20, 62:] == IGNORE).all()


def test_truth_is_stronger_than_background_and_ignored_stronger_than_both():
    square = box(10, 10, 40, 40)
    both = ReviewRegions(positive=(square,), negative=(box(10, 10, 40, 60),))
    target, weight = rasterise_targets(both, training_slide("a").grid, 0)
    assert (target[12:38, 12:38] == 1).all()
    assert (target[42:58, 12:38] == 0).all()
    assert (weight[12:58, 12:38] == DECIDED_WEIGHT).all()
    ignored, _ = rasterise_targets(
        ReviewRegions(positive=(square,), ignored=(box(20, 20, 30, 30),)), training_slide("a").grid, 0
    )
    assert (ignored[21:29, 21:29] == IGNORE).all()


def test_a_rejected_area_over_a_pseudo_label_is_background_with_the_weight_of_truth():
    regions = ReviewRegions(pending=((box(0, 0, 60, 60), 0.9),), negative=(box(20, 20, 40, 40),))
    target, weight = rasterise_targets(regions, training_slide("a").grid, 0)
    assert (target[21:39, 21:39] == 0).all()
    assert (weight[21:39, 21:39] == DECIDED_WEIGHT).all()
    assert (target[8:12, 8:12] == 1).all()


def test_background_of_a_reviewed_image_weighs_more():
    _, weight = rasterise_targets(ReviewRegions(complete=True), training_slide("a").grid, 0)
    assert FULL_WEIGHT < weight[0, 0] < DECIDED_WEIGHT


def test_crops_are_balanced_and_those_of_tumour_hold_tumour():
    marked = training_slide(
        "a", regions=ReviewRegions(pending=((box(70, 5, 100, 30), 1.0),), negative=(box(260, 20, 300, 60),)), columns=8
    )
    empty = training_slide("b", positive=False, columns=8)
    draw = BalancedCropSampler(Blocks([marked, empty]), side_px=32, rng=np.random.default_rng(0))
    crops = [crop.block for crop in draw(400)]
    assert {crop.target.shape for crop in crops} == {(1, 32, 32)}
    tumour = np.mean([(crop.target == 1).any() for crop in crops])
    refused = np.mean([(crop.weight == DECIDED_WEIGHT).any() for crop in crops])
    assert 0.33 < tumour < 0.55
    assert 0.05 < refused < 0.3


def test_errors_on_negative_slides_are_shown_more_often_and_those_on_positive_ones_are_not():
    positive, negative = training_slide("a", columns=10), training_slide("b", positive=False, columns=10)
    draw = BalancedCropSampler(Blocks([positive, negative]), side_px=32, rng=np.random.default_rng(0))
    for _ in range(10):
        crops = draw(40)
        draw.update_difficulty(crops, np.array([[0.5 if crop.block_index == 3 else 0.0] for crop in crops], np.float32))
    counts = np.zeros((2, 10))
    for crop in draw(1000):
        counts[crop.slide_index, crop.block_index] += 1
    assert counts[1, 3] > 0.5 * counts[1].sum()
    assert counts[1].min() > 0
    assert counts[0, 3] < 0.2 * counts[0].sum()


def test_blocks_beyond_the_memory_bound_are_read_again(monkeypatch):
    monkeypatch.setattr(sampling, "KEPT_AHEAD", 0)
    reads = []
    slide = training_slide("a")

    def read(indices):
        reads.extend(indices)
        return slide.read(indices)

    counted = TrainingSlide(slide.name, slide.group, slide.grid, read)
    size = SIDE * SIDE * 5
    for bound, expected in ((2 * size, 2), (size, 3), (0, 4)):
        reads.clear()
        blocks = Blocks([counted], cache_bytes=bound)
        for index in (0, 1, 0, 1):
            blocks(0, index)
        assert len(reads) == expected


def drawn_in_steps(slides, steps):
    """The crops of some steps, with other difficulties after each, and the threads that read blocks."""
    readers = []

    def reading(slide):
        def read(indices):
            readers.append(threading.current_thread().name)
            return slide.read(indices)

        return replace(slide, read=read)

    blocks = Blocks([reading(slide) for slide in slides], cache_bytes=0)
    draw = BalancedCropSampler(blocks, side_px=32, rng=np.random.default_rng(3))
    batches = []
    for step in range(steps):
        batches.append(draw(6))
        draw.update_difficulty(batches[-1], np.array([[(7 * step + crop.block_index) % 5 / 5] for crop in batches[-1]]))
    return [crop for batch in batches for crop in batch], readers


def test_crops_are_the_same_whether_their_blocks_are_read_ahead_or_not(monkeypatch):
    regions = ReviewRegions(pending=((box(70, 5, 100, 30), 1.0),))
    slides = [training_slide("a", regions=regions, columns=30), training_slide("b", positive=False, columns=30)]
    monkeypatch.setattr(sampling, "reader_threads", lambda: 1)
    expected, alone = drawn_in_steps(slides, 8)
    monkeypatch.setattr(sampling, "reader_threads", lambda: 2)
    ahead, shared = drawn_in_steps(slides, 8)
    assert [(crop.slide_index, crop.block_index) for crop in ahead] == [
        (crop.slide_index, crop.block_index) for crop in expected
    ]
    for crop, same in zip(ahead, expected, strict=True):
        assert np.array_equal(crop.block.rgb, same.block.rgb)
        assert np.array_equal(crop.block.target, same.block.target)
    assert not any(name.startswith("wsplf-read") for name in alone)
    assert np.mean([name.startswith("wsplf-read") for name in shared]) > 0.5


def test_a_block_that_cannot_be_read_ahead_fails_when_it_is_drawn(monkeypatch):
    monkeypatch.setattr(sampling, "reader_threads", lambda: 2)
    slide = training_slide("a", regions=ReviewRegions(positive=(box(0, 0, 20, 20),)))
    reads = []

    def read(indices):
        reads.extend(indices)
        if len(reads) > 1:
            raise SlideError("damaged there")
        return slide.read(indices)

    blocks = Blocks([replace(slide, read=read)], cache_bytes=0)
    draw = BalancedCropSampler(blocks, side_px=32, rng=np.random.default_rng(0))
    draw(1)
    with pytest.raises(SlideError, match="damaged there"):
        draw(40)
