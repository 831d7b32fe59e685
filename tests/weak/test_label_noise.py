from dataclasses import replace

import numpy as np
import pytest

from wsplf_cli.weak.label_noise import search_mislabelled, suspects
from wsplf_cli.weak.linear_probe import Instances


def scores(top: float, *, seed: int = 0, count: int = 1000):
    """Logits of which the highest hundredth is about ``top``."""
    values = np.random.default_rng(seed).normal(-3, 0.3, count)
    values[: count // 100] = top
    return values.astype(np.float32)


def cohort(positives, negatives):
    made = [scores(top, seed=number) for number, top in enumerate([*positives, *negatives])]
    return made, [True] * len(positives) + [False] * len(negatives)


def doubted(positives, negatives, *, certain=()):
    made, kinds = cohort(positives, negatives)
    return suspects(made, positive=kinds, certain=[number in certain for number in range(len(made))])


def test_labels_that_fit_are_not_doubted() -> None:
    assert doubted([4, 5, 6, 5], [0, 1, -1, 0.5]) == {}


def test_a_negative_slide_that_looks_like_tumour_is_doubted_and_it_is_said_why() -> None:
    found = doubted([4, 5, 6, 5], [0, 1, 5, 0.5])
    assert list(found) == [6]
    assert found[6].startswith("labelled negative, looks as much like tumour as")


def test_a_positive_slide_that_looks_like_none_is_doubted_and_it_is_said_why() -> None:
    found = doubted([4, 5, 0, 5], [0, 1, -1, 0.5])
    assert list(found) == [2]
    assert found[2].startswith("labelled positive, looks no more like tumour than")


def test_a_slide_with_little_tumour_is_not_doubted() -> None:
    assert doubted([4, 5, 1.5, 5], [0, 1, -1, 0.5]) == {}


def test_where_a_person_has_spoken_nothing_is_doubted() -> None:
    assert doubted([4, 5, 0, 5], [0, 1, 5, 0.5], certain={2, 6}) == {}


def test_few_slides_say_too_little() -> None:
    assert doubted([4, 5], [0, 5, 0, 0]) == {}
    assert doubted([4, 5, 4, 0], [0, 1]) == {}


def test_classifiers_that_tell_nothing_doubt_nothing() -> None:
    assert doubted([0, 1, -1, 0], [0, 1, 2, 3]) == {}
    assert doubted([1, 1, 1], [1, 1, 1]) == {}


@pytest.mark.parametrize("seed", range(40))
def test_some_slides_of_each_kind_are_always_left(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(3, 7))
    found = doubted(rng.normal(0, 1, count), rng.normal(0, 1, count))
    assert any(number not in found for number in range(count))
    assert any(number not in found for number in range(count, 2 * count))


def test_a_slide_without_places_is_not_doubted_and_says_nothing_of_the_others() -> None:
    made, kinds = cohort([4, 5, 6, 5], [0, 1, 5, 0.5])
    empty = np.zeros(0, np.float32)
    certain = [False] * 10
    found = suspects([*made, empty, empty], positive=[*kinds, True, False], certain=certain)
    assert found == suspects(made, positive=kinds, certain=certain[:8])
    few = [*made[:2], empty, *made[4:]]
    assert suspects(few, positive=[True] * 3 + [False] * 4, certain=certain[:7]) == {}


def places(tumour: float, *, positive: bool, seed: int, known: bool = False) -> Instances:
    """Instances of which a share is tumour, as the first feature tells; each slide has a shade of its own."""
    rng = np.random.default_rng(seed)
    features = rng.normal(0, 1, (300, 6)) + rng.normal(0, 0.3, 6)
    features[:, 0] += 6 * (np.arange(300) < tumour * 300)
    regions = np.zeros(300, np.int8)
    regions[-1] = -known
    return Instances(features.astype(np.float16), positive, regions)


def small_cohort(*, wrong: dict[int, float], known: bool = False) -> list[Instances]:
    """Five positive slides, 0 to 4, and five negative ones; ``wrong`` is the share of tumour of mislabelled ones."""
    shares = [0.2] * 5 + [0.0] * 5
    return [
        places(wrong.get(n, share), positive=n < 5, seed=n, known=known and n in wrong)
        for n, share in enumerate(shares)
    ]


DEALT = [np.tile(np.arange(5), 2)]


def test_of_few_slides_that_lie_clearly_apart_none_is_odd() -> None:
    assert search_mislabelled(small_cohort(wrong={}), DEALT, most=2) == {}


@pytest.mark.parametrize("wrong", [{7: 0.3}, {1: 0.0}, {1: 0.0, 7: 0.3}])
def test_slides_whose_label_spoils_the_others_are_odd_and_it_is_said_why(wrong: dict[int, float]) -> None:
    found = search_mislabelled(small_cohort(wrong=wrong), DEALT, most=2)
    assert set(found) == set(wrong)
    for number, why in found.items():
        assert why.startswith("labelled positive; without it" if number < 5 else "labelled negative; without it")


def test_a_slide_on_which_a_person_spoke_is_never_odd() -> None:
    assert 7 not in search_mislabelled(small_cohort(wrong={7: 0.3}, known=True), DEALT, most=2)


def test_of_three_slides_of_a_kind_none_is_left_out() -> None:
    few = [one for number, one in enumerate(small_cohort(wrong={6: 0.3})) if number < 8]
    assert not any(number >= 5 for number in search_mislabelled(few, [np.array([0, 1, 2, 0, 1, 0, 1, 2])], most=2))


def test_a_slide_that_is_like_its_own_kind_is_not_odd_however_far_it_lies_from_the_others() -> None:
    cohort = small_cohort(wrong={})
    far = cohort[2].features.copy()
    far[:60, 0] += 60
    cohort[2] = replace(cohort[2], features=far)
    assert 2 not in search_mislabelled(cohort, DEALT, most=2)
