import numpy as np
import pytest

from wsplf_cli.prediction.calibration import calibrate, level


def slides(share: float, *, seed: int = 0, count: int = 4, shift: float = 4.0):
    rng = np.random.default_rng(seed)
    negatives = [rng.normal(0, 1, 4000).astype(np.float32) for _ in range(count)]
    positives, truths = [], []
    for _ in range(count):
        truth = rng.random(4000) < share
        positives.append((rng.normal(0, 1, 4000) + shift * truth).astype(np.float32))
        truths.append(truth)
    return positives, negatives, truths


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
def test_share_of_tumour_is_estimated_from_slide_labels(share: float) -> None:
    positives, negatives, _ = slides(share)
    assert calibrate(positives, negatives).tumour_share == pytest.approx(share, abs=0.05)


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
def test_threshold_is_close_to_the_best_one_without_knowing_the_truth(share: float) -> None:
    positives, negatives, truths = slides(share)
    calibration = calibrate(positives, negatives)

    def dice(masks) -> float:
        both = sum((mask & truth).sum() for mask, truth in zip(masks, truths, strict=True))
        return 2 * both / sum(mask.sum() + truth.sum() for mask, truth in zip(masks, truths, strict=True))

    best = max(dice([values > cut for values in positives]) for cut in np.linspace(-2, 5, 141))
    assert dice([calibration.cam(values) >= 0.5 for values in positives]) > best - 0.03


def test_cam_rises_with_the_logit_within_0_and_1() -> None:
    positives, negatives, _ = slides(0.3)
    values = calibrate(positives, negatives).cam(np.linspace(-9, 12, 300, dtype=np.float32))
    assert (np.diff(values) >= 0).all()
    assert 0 <= values.min() < 0.05
    assert 0.95 < values.max() <= 1


def test_no_tissue_is_no_tumour() -> None:
    positives, negatives, _ = slides(0.3)
    assert calibrate(positives, negatives).cam(np.full((2, 2), np.nan, np.float32)).max() == 0


def test_slides_that_do_not_differ_give_a_small_share() -> None:
    rng = np.random.default_rng(1)
    same = [rng.normal(0, 1, 3000).astype(np.float32) for _ in range(8)]
    assert calibrate(same[:4], same[4:]).tumour_share < 0.15


def test_constant_logits_do_not_break_it() -> None:
    flat = [np.zeros(10, np.float32)]
    assert np.isfinite(calibrate(flat, flat).cam(np.zeros(3, np.float32))).all()


def test_classifiers_of_other_scales_become_comparable() -> None:
    rng = np.random.default_rng(0)
    plain = [rng.normal(0, 1, 5000).astype(np.float32) for _ in range(3)]
    centre, spread = level(plain)
    other_centre, other_spread = level([slide * 7 + 3 for slide in plain])
    assert (other_centre, other_spread) == pytest.approx((centre * 7 + 3, spread * 7), rel=1e-4)


def test_a_threshold_carried_to_other_cams_calls_as_much_of_the_tissue() -> None:
    positives, negatives, _ = slides(0.2)
    first = calibrate(positives, negatives)
    other_positives, other_negatives = ([3 * values - 1 for values in some] for some in (positives, negatives))
    carried = first.carried_to(other_positives, other_negatives)
    assert carried.called_share == pytest.approx(max(first.called_share, first.tumour_share), abs=0.002)
    assert carried.threshold == pytest.approx(3 * first.threshold - 1, abs=0.5)
    assert carried.false_positive_share == pytest.approx(first.false_positive_share, abs=0.01)
