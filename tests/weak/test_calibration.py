"""The threshold of the CAM and that of peaks, from slide labels alone."""

import numpy as np
import pytest

from wsplf_cli.weak.calibration import (
    calibrate,
    keep_components_with_peak,
    peak_threshold,
    typical_top_decile,
)


def slides(prevalence: float, *, seed: int = 0, count: int = 4, shift: float = 4.0):
    """Logits of positive slides with this share of tumour, of negative slides, and where the tumour is."""
    rng = np.random.default_rng(seed)
    negatives = [rng.normal(0, 1, 4000).astype(np.float32) for _ in range(count)]
    positives, truths = [], []
    for _ in range(count):
        truth = rng.random(4000) < prevalence
        positives.append((rng.normal(0, 1, 4000) + shift * truth).astype(np.float32))
        truths.append(truth)
    return positives, negatives, truths


def uneven_negatives(rng: np.random.Generator, count: int) -> list[np.ndarray]:
    """Negative slides that differ in their level, as stains do."""
    return [rng.normal(rng.normal(0, 0.7), 1, 800).astype(np.float32) for _ in range(count)]


@pytest.mark.parametrize("prevalence", [0.05, 0.2, 0.5])
def test_prevalence_is_estimated_from_slide_labels(prevalence: float) -> None:
    positives, negatives, _ = slides(prevalence)
    assert calibrate(positives, negatives).prevalence == pytest.approx(prevalence, abs=0.05)


@pytest.mark.parametrize("prevalence", [0.05, 0.2, 0.5])
def test_threshold_is_close_to_the_best_one_without_knowing_the_truth(prevalence: float) -> None:
    positives, negatives, truths = slides(prevalence)
    calibration = calibrate(positives, negatives)

    def dice(masks) -> float:
        both = sum((mask & truth).sum() for mask, truth in zip(masks, truths, strict=True))
        return 2 * both / sum(mask.sum() + truth.sum() for mask, truth in zip(masks, truths, strict=True))

    best = max(dice([logits > cut for logits in positives]) for cut in np.linspace(-2, 5, 141))
    assert dice([calibration.cam(logits) >= 0.5 for logits in positives]) > best - 0.03


def test_cam_rises_with_the_logit_within_0_and_1() -> None:
    positives, negatives, _ = slides(0.3)
    values = calibrate(positives, negatives).cam(np.linspace(-9, 12, 300, dtype=np.float32))
    assert (np.diff(values) >= 0).all()
    assert 0 <= values.min() < 0.05
    assert 0.95 < values.max() <= 1


def test_cells_without_tissue_have_a_cam_of_zero() -> None:
    positives, negatives, _ = slides(0.3)
    assert calibrate(positives, negatives).cam(np.full((2, 2), np.nan, np.float32)).max() == 0


def test_slides_that_do_not_differ_give_a_low_prevalence() -> None:
    rng = np.random.default_rng(1)
    alike = [rng.normal(0, 1, 3000).astype(np.float32) for _ in range(8)]
    assert calibrate(alike[:4], alike[4:]).prevalence < 0.15


@pytest.mark.parametrize("prevalence", [0.05, 0.3])
def test_slides_that_differ_in_their_level_do_not_pass_for_tumour(prevalence: float) -> None:
    rng = np.random.default_rng(0)
    with_tumour, without_tumour = [], []
    for _ in range(20):
        negatives, positives = uneven_negatives(rng, 6), uneven_negatives(rng, 6)
        without_tumour.append(calibrate(positives, negatives).prevalence)
        marked = [logits + 6 * (rng.random(len(logits)) < prevalence).astype(np.float32) for logits in positives]
        with_tumour.append(calibrate(marked, negatives).prevalence)
    assert np.mean(without_tumour) < 0.1
    assert np.mean(with_tumour) == pytest.approx(prevalence, abs=0.05)


def test_an_excess_within_the_error_of_few_slides_is_not_believed() -> None:
    """One negative slide in six has as much of it as the positive ones: no more than a guess."""
    rng = np.random.default_rng(0)

    def slide(share: float) -> np.ndarray:
        return (rng.normal(0, 1, 4000) + 6 * (rng.random(4000) < share)).astype(np.float32)

    positives = [slide(0.05) for _ in range(6)]
    clean = calibrate(positives, [slide(0.0) for _ in range(6)])
    mixed = calibrate(positives, [slide(0.3), *(slide(0.0) for _ in range(5))])
    assert clean.prevalence == pytest.approx(0.05, abs=0.01)
    assert mixed.prevalence < 0.01


def test_a_single_negative_slide_is_enough() -> None:
    positives, negatives, truths = slides(0.2)
    calibration = calibrate(positives, negatives[:1])
    assert calibration.prevalence == pytest.approx(0.2, abs=0.05)
    foreground = np.concatenate([calibration.cam(logits) >= 0.5 for logits in positives])
    truth = np.concatenate(truths)
    assert 2 * (foreground & truth).sum() / (foreground.sum() + truth.sum()) > 0.85
    assert np.isfinite(calibration.scale)


def test_the_cam_is_near_zero_at_the_median_of_negative_slides() -> None:
    positives, negatives, _ = slides(0.2)
    median = np.float32(np.mean([np.median(logits) for logits in negatives]))
    assert calibrate(positives, negatives).cam(np.array([median]))[0] == pytest.approx(0.05, abs=1e-3)


def test_the_threshold_is_nowhere_below_the_least_one() -> None:
    positives, negatives, _ = slides(0.3)
    free = calibrate(positives, negatives)
    assert calibrate(positives, negatives, least=free.threshold - 1) == free
    for least in (free.threshold + 0.5, 100.0):
        raised = calibrate(positives, negatives, least=least)
        assert raised.threshold >= least
        assert raised.positive_rate <= free.positive_rate
        assert raised.prevalence == free.prevalence


def test_constant_logits_give_a_finite_cam() -> None:
    flat = [np.zeros(10, np.float32)]
    assert np.isfinite(calibrate(flat, flat).cam(np.zeros(3, np.float32))).all()


def test_a_threshold_for_other_logits_has_the_same_positive_rate() -> None:
    positives, negatives, _ = slides(0.2)
    first = calibrate(positives, negatives)
    other_positives, other_negatives = ([3 * logits - 1 for logits in group] for group in (positives, negatives))
    matched = first.match_positive_rate(other_positives, other_negatives)
    assert matched.positive_rate == pytest.approx(max(first.positive_rate, first.prevalence), abs=0.002)
    assert matched.threshold == pytest.approx(3 * first.threshold - 1, abs=0.5)
    assert matched.negative_rate == pytest.approx(first.negative_rate, abs=0.01)


@pytest.mark.parametrize(
    ("count", "alpha"),
    [(6, 0.01), pytest.param(40, 0.05, marks=pytest.mark.slow), pytest.param(120, 0.01, marks=pytest.mark.slow)],
)
def test_the_bound_holds_on_average_for_new_negative_slides(count: int, alpha: float) -> None:
    rng = np.random.default_rng(0)
    shares, bounds = [], []
    for _ in range(60):
        peak = peak_threshold(uneven_negatives(rng, count), alpha=alpha)
        shares.append(np.mean([(logits >= peak.threshold).mean() for logits in uneven_negatives(rng, 10)]))
        bounds.append(peak.guaranteed)
    assert np.mean(shares) <= np.mean(bounds)


def test_alpha_is_guaranteed_only_with_enough_slides() -> None:
    rng = np.random.default_rng(0)
    few, enough = (peak_threshold(uneven_negatives(rng, count), alpha=0.05) for count in (6, 19))
    assert few.slides_needed == enough.slides_needed == 19
    assert few.guaranteed == pytest.approx((6 * 0.05 + 1) / 7)
    assert few.measured <= 0.05
    assert enough.guaranteed == pytest.approx(0.05)
    assert enough.measured == 0


def test_slides_of_one_patient_count_once() -> None:
    negatives = uneven_negatives(np.random.default_rng(0), 6)
    alone = peak_threshold(negatives, alpha=0.05)
    repeated = peak_threshold([*negatives, negatives[0], negatives[0]], alpha=0.05, patients=list("abcdefaa"))
    assert (repeated.slides, repeated.patients) == (8, 6)
    assert (repeated.threshold, repeated.guaranteed) == pytest.approx((alone.threshold, alone.guaranteed))


def test_a_lower_alpha_is_stricter() -> None:
    negatives = uneven_negatives(np.random.default_rng(0), 8)
    assert peak_threshold(negatives, alpha=0.01).threshold > peak_threshold(negatives, alpha=0.1).threshold


def test_constant_negatives_are_all_below_the_peak_threshold() -> None:
    peak = peak_threshold([np.zeros(9, np.float32)], alpha=0.01)
    assert peak.threshold > 0
    assert peak.measured == 0


def test_a_component_without_a_peak_is_no_foreground() -> None:
    cam = np.zeros((8, 8), np.float32)
    cam[1:3, 1:3] = 0.6
    cam[5:8, 5:8] = 0.7
    cam[6, 6] = 0.95
    kept = keep_components_with_peak(cam, peak=0.9)
    assert (kept[1:3, 1:3] < 0.5).all()
    assert np.array_equal(kept[4:], cam[4:])
    assert np.array_equal(keep_components_with_peak(np.zeros_like(cam), peak=0.9), np.zeros_like(cam))


def test_the_typical_top_decile_is_of_the_median_slide_and_never_below_the_threshold() -> None:
    positives = [np.linspace(-5, top, 1001, dtype=np.float32) for top in (1, 4, 9)]
    assert typical_top_decile(positives, threshold=0.0) == pytest.approx(3.6, abs=0.02)
    assert typical_top_decile([positives[0]], threshold=2.0) == 2.0
    assert typical_top_decile([np.full(10, 0.5, np.float32)], threshold=0.5) == 0.5


def test_a_peak_may_have_to_be_higher_than_alpha_asks_for() -> None:
    negatives = [np.linspace(0, 1, 1001, dtype=np.float32)] * 4
    raised = peak_threshold(negatives, alpha=0.1, least=0.95)
    assert raised.threshold == 0.95
    assert raised.measured == pytest.approx(0.05, abs=0.002)
    assert raised.guaranteed == peak_threshold(negatives, alpha=0.1).guaranteed
    assert peak_threshold(negatives, alpha=0.1, least=0.5) == peak_threshold(negatives, alpha=0.1)
