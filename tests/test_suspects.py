import numpy as np
import pytest

from wsplf_cli.training.suspects import suspects


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
