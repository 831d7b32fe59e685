import numpy as np
import pytest

from wsplf_cli.weak.prevalence import estimate_prevalence, share_above


def scores(rng: np.random.Generator, share: float, *, count: int = 6) -> list[np.ndarray]:
    """Slides of which a share scores higher than all the rest."""
    return [(rng.normal(0, 1, 3000) + 8 * (rng.random(3000) < share)).astype(np.float32) for _ in range(count)]


@pytest.mark.parametrize("share", [0.02, 0.2, 0.6])
def test_the_share_is_what_positive_slides_have_more(share: float) -> None:
    rng = np.random.default_rng(0)
    found = estimate_prevalence(scores(rng, share), scores(rng, 0.0), errors=1.0)
    assert found.share == pytest.approx(share, abs=0.02)
    assert 3 < found.edges[found.best] < 7, "between the two"
    assert found.called[found.best] == pytest.approx(share, abs=0.02)
    assert found.dice[found.best] > 0.85
    assert found.usual[found.best] < 0.01


def test_all_is_told_of_every_edge() -> None:
    rng = np.random.default_rng(0)
    found = estimate_prevalence(scores(rng, 0.1), scores(rng, 0.0, count=1), errors=1.0)
    assert found.edges.shape == found.called.shape == found.usual.shape == found.dice.shape
    assert (np.diff(found.edges) > 0).all()
    assert (np.diff(found.called) <= 0).all()
    assert (np.diff(found.usual) <= 0).all()
    assert found.dice.min() >= 0
    assert found.dice.max() <= 1


def test_more_errors_give_a_lower_share() -> None:
    rng = np.random.default_rng(0)
    positives, negatives = scores(rng, 0.3), [one for share in (0.0, 0.1, 0.2) for one in scores(rng, share, count=1)]
    shares = [estimate_prevalence(positives, negatives, errors=errors).share for errors in (0.0, 1.0, 2.0)]
    assert shares[0] > shares[1] > shares[2]


def test_slides_that_do_not_differ_have_no_surplus_and_nothing_is_called() -> None:
    flat = [np.zeros(10, np.float32)]
    found = estimate_prevalence(flat, flat, errors=1.0)
    assert found.share == 0
    assert found.best == len(found.edges) - 1


def test_the_share_above_counts_what_is_on_the_edge() -> None:
    slide = np.array([3, 1, 2, 2], np.float32)
    assert share_above(slide, np.array([0.0, 2.0, 3.0, 4.0])).tolist() == [1.0, 0.75, 0.25, 0.0]
    assert share_above(np.zeros(0, np.float32), np.array([0.0])).tolist() == [1.0]
