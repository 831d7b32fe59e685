import numpy as np
import pytest

from wsplf_cli.weak.prevalence import estimate_prevalence, share_above


def scores(rng: np.random.Generator, share: float, *, count: int = 6) -> list[np.ndarray]:
    """Slides of which a share scores higher than all the rest."""
    return [(rng.normal(0, 1, 3000) + 8 * (rng.random(3000) < share)).astype(np.float32) for _ in range(count)]


@pytest.mark.parametrize("share", [0.02, 0.2, 0.6])
def test_the_prevalence_is_what_positive_slides_have_more(share: float) -> None:
    rng = np.random.default_rng(0)
    estimate = estimate_prevalence(scores(rng, share), scores(rng, 0.0), errors=1.0)
    assert estimate.prevalence == pytest.approx(share, abs=0.02)
    assert 3 < estimate.thresholds[estimate.best] < 7, "between the two"
    assert estimate.positive_rate[estimate.best] == pytest.approx(share, abs=0.02)
    assert estimate.dice[estimate.best] > 0.85
    assert estimate.negative_rate[estimate.best] < 0.01


def test_rates_and_dice_are_given_at_every_threshold() -> None:
    rng = np.random.default_rng(0)
    estimate = estimate_prevalence(scores(rng, 0.1), scores(rng, 0.0, count=1), errors=1.0)
    shape = estimate.thresholds.shape
    assert estimate.positive_rate.shape == estimate.negative_rate.shape == estimate.dice.shape == shape
    assert (np.diff(estimate.thresholds) > 0).all()
    assert (np.diff(estimate.positive_rate) <= 0).all()
    assert (np.diff(estimate.negative_rate) <= 0).all()
    assert estimate.dice.min() >= 0
    assert estimate.dice.max() <= 1


def test_more_standard_errors_give_a_lower_prevalence() -> None:
    rng = np.random.default_rng(0)
    positives = scores(rng, 0.3)
    negatives = [slide for share in (0.0, 0.1, 0.2) for slide in scores(rng, share, count=1)]
    bounds = [estimate_prevalence(positives, negatives, errors=errors).prevalence for errors in (0.0, 1.0, 2.0)]
    assert bounds[0] > bounds[1] > bounds[2]


def test_slides_that_do_not_differ_have_no_prevalence_and_the_highest_threshold() -> None:
    flat = [np.zeros(10, np.float32)]
    estimate = estimate_prevalence(flat, flat, errors=1.0)
    assert estimate.prevalence == 0
    assert estimate.best == len(estimate.thresholds) - 1


def test_the_share_above_counts_scores_at_the_threshold() -> None:
    slide = np.array([3, 1, 2, 2], np.float32)
    assert share_above(slide, np.array([0.0, 2.0, 3.0, 4.0])).tolist() == [1.0, 0.75, 0.25, 0.0]
    assert share_above(np.zeros(0, np.float32), np.array([0.0])).tolist() == [1.0]
