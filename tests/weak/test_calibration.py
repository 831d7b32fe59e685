import numpy as np
import pytest

from wsplf_cli.weak.calibration import calibrate, core, keep_components_with_peak, level, typical_top_decile


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


@pytest.mark.parametrize("share", [0.05, 0.3])
def test_slides_that_differ_in_their_level_do_not_pass_for_tumour(share: float) -> None:
    rng = np.random.default_rng(0)
    found, none = [], []
    for _ in range(20):
        negatives, positives = uneven(rng, 6), uneven(rng, 6)
        none.append(calibrate(positives, negatives).tumour_share)
        marked = [slide + 6 * (rng.random(len(slide)) < share).astype(np.float32) for slide in positives]
        found.append(calibrate(marked, negatives).tumour_share)
    assert np.mean(none) < 0.1
    assert np.mean(found) == pytest.approx(share, abs=0.05)


def test_a_surplus_within_the_error_of_few_slides_is_not_believed() -> None:
    """One negative slide in six has as much of it as the positive ones: no more than a guess."""
    rng = np.random.default_rng(0)

    def slide(share: float) -> np.ndarray:
        return (rng.normal(0, 1, 4000) + 6 * (rng.random(4000) < share)).astype(np.float32)

    positives = [slide(0.05) for _ in range(6)]
    even = calibrate(positives, [slide(0.0) for _ in range(6)])
    odd = calibrate(positives, [slide(0.3), *(slide(0.0) for _ in range(5))])
    assert even.tumour_share == pytest.approx(0.05, abs=0.01)
    assert odd.tumour_share < 0.01


def test_a_single_negative_slide_is_enough() -> None:
    positives, negatives, truths = slides(0.2)
    calibration = calibrate(positives, negatives[:1])
    assert calibration.tumour_share == pytest.approx(0.2, abs=0.05)
    called = np.concatenate([calibration.cam(values) >= 0.5 for values in positives])
    truth = np.concatenate(truths)
    assert 2 * (called & truth).sum() / (called.sum() + truth.sum()) > 0.85
    assert np.isfinite(calibration.scale)


def test_the_cam_is_near_zero_at_the_middle_of_negative_slides() -> None:
    positives, negatives, _ = slides(0.2)
    middle = np.float32(np.mean([np.median(slide) for slide in negatives]))
    assert calibrate(positives, negatives).cam(np.array([middle]))[0] == pytest.approx(0.05, abs=1e-3)


def test_the_threshold_is_nowhere_below_the_least_one() -> None:
    positives, negatives, _ = slides(0.3)
    free = calibrate(positives, negatives)
    assert calibrate(positives, negatives, least=free.threshold - 1) == free
    for least in (free.threshold + 0.5, 100.0):
        held = calibrate(positives, negatives, least=least)
        assert held.threshold >= least
        assert held.called_share <= free.called_share
        assert held.tumour_share == free.tumour_share


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
    carried = first.match_positive_rate(other_positives, other_negatives)
    assert carried.called_share == pytest.approx(max(first.called_share, first.tumour_share), abs=0.002)
    assert carried.threshold == pytest.approx(3 * first.threshold - 1, abs=0.5)
    assert carried.false_positive_share == pytest.approx(first.false_positive_share, abs=0.01)


def uneven(rng: np.random.Generator, count: int) -> list[np.ndarray]:
    """Negative slides that differ in their level, as stains do."""
    return [rng.normal(rng.normal(0, 0.7), 1, 800).astype(np.float32) for _ in range(count)]


@pytest.mark.parametrize(("count", "alpha"), [(6, 0.01), (40, 0.05), (120, 0.01)])
def test_the_bound_holds_on_average_for_new_negative_slides(count: int, alpha: float) -> None:
    rng = np.random.default_rng(0)
    shares, bounds = [], []
    for _ in range(60):
        chosen = core(uneven(rng, count), alpha=alpha)
        shares.append(np.mean([(slide >= chosen.threshold).mean() for slide in uneven(rng, 10)]))
        bounds.append(chosen.guaranteed)
    assert np.mean(shares) <= np.mean(bounds)


def test_alpha_is_promised_only_with_slides_enough() -> None:
    rng = np.random.default_rng(0)
    few, enough = (core(uneven(rng, count), alpha=0.05) for count in (6, 19))
    assert few.slides_needed == enough.slides_needed == 19
    assert few.guaranteed == pytest.approx((6 * 0.05 + 1) / 7)
    assert few.measured <= 0.05
    assert enough.guaranteed == pytest.approx(0.05)
    assert enough.measured == 0


def test_a_lower_alpha_is_stricter() -> None:
    slides = uneven(np.random.default_rng(0), 8)
    assert core(slides, alpha=0.01).threshold > core(slides, alpha=0.1).threshold


def test_constant_negatives_are_all_below_their_core() -> None:
    chosen = core([np.zeros(9, np.float32)], alpha=0.01)
    assert chosen.threshold > 0
    assert chosen.measured == 0


def test_a_piece_without_a_core_is_no_foreground() -> None:
    cam = np.zeros((8, 8), np.float32)
    cam[1:3, 1:3] = 0.6
    cam[5:8, 5:8] = 0.7
    cam[6, 6] = 0.95
    kept = keep_components_with_peak(cam, least=0.9)
    assert (kept[1:3, 1:3] < 0.5).all()
    assert np.array_equal(kept[4:], cam[4:])
    assert np.array_equal(keep_components_with_peak(np.zeros_like(cam), least=0.9), np.zeros_like(cam))


def test_what_is_surest_is_of_the_middle_slide_and_never_below_the_threshold() -> None:
    slides = [np.linspace(-5, top, 1001, dtype=np.float32) for top in (1, 4, 9)]
    assert typical_top_decile(slides, threshold=0.0) == pytest.approx(3.6, abs=0.02)
    assert typical_top_decile([slides[0]], threshold=2.0) == 2.0
    assert typical_top_decile([np.full(10, 0.5, np.float32)], threshold=0.5) == 0.5


def test_a_core_may_have_to_be_higher_than_the_bound_asks_for() -> None:
    negatives = [np.linspace(0, 1, 1001, dtype=np.float32)] * 4
    found = core(negatives, alpha=0.1, least=0.95)
    assert found.threshold == 0.95
    assert found.measured == pytest.approx(0.05, abs=0.002)
    assert found.guaranteed == core(negatives, alpha=0.1).guaranteed
    assert core(negatives, alpha=0.1, least=0.5) == core(negatives, alpha=0.1)
