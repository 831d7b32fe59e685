"""Suspected label errors: slides that look like the other label, with many slides and with few."""

from dataclasses import replace

import numpy as np
import pytest

from wsplf_cli.weak import label_noise, self_training
from wsplf_cli.weak.label_noise import cross_fit_with_label_noise, outlying_labels, search_mislabelled
from wsplf_cli.weak.self_training import Instances, cross_fit


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets of slides are removed on trial, many times: one round of self-training keeps that quick."""
    monkeypatch.setattr(self_training, "ROUNDS", 1)


def scores(top: float, *, seed: int = 0, count: int = 1000):
    """Logits of which the highest hundredth is about ``top``."""
    logits = np.random.default_rng(seed).normal(-3, 0.3, count)
    logits[: count // 100] = top
    return logits.astype(np.float32)


def cohort(positives, negatives):
    logits = [scores(top, seed=index) for index, top in enumerate([*positives, *negatives])]
    return logits, [True] * len(positives) + [False] * len(negatives)


def suspected(positives, negatives, *, certain=()):
    logits, labels = cohort(positives, negatives)
    return outlying_labels(logits, positive=labels, certain=[index in certain for index in range(len(logits))])


@pytest.mark.parametrize("count", [4, 20])
def test_nothing_is_suspected_by_probes_that_learned_from_the_slides(count: int) -> None:
    rng = np.random.default_rng(0)
    slides = [
        Instances(
            (rng.normal(size=(60, 4)) + 8 * (positive is not (index == 0))).astype(np.float32),
            positive,
            np.zeros(60, np.int8),
        )
        for positive in (True, False)
        for index in range(count)
    ]
    assert cross_fit_with_label_noise(slides, [np.zeros(2 * count, np.intp)])[1] == {}


def test_labels_that_fit_are_not_suspected() -> None:
    assert suspected([4, 5, 6, 5], [0, 1, -1, 0.5]) == {}


def test_a_negative_slide_that_looks_like_tumour_is_suspected_with_the_reason() -> None:
    reasons = suspected([4, 5, 6, 5], [0, 1, 5, 0.5])
    assert list(reasons) == [6]
    assert reasons[6].startswith("labelled negative, looks as much like tumour as")


def test_a_positive_slide_that_does_not_look_like_tumour_is_suspected_with_the_reason() -> None:
    reasons = suspected([4, 5, 0, 5], [0, 1, -1, 0.5])
    assert list(reasons) == [2]
    assert reasons[2].startswith("labelled positive, looks no more like tumour than")


def test_a_slide_with_little_tumour_is_not_suspected() -> None:
    assert suspected([4, 5, 1.5, 5], [0, 1, -1, 0.5]) == {}


def test_a_slide_that_a_person_has_worked_on_is_not_suspected() -> None:
    assert suspected([4, 5, 0, 5], [0, 1, 5, 0.5], certain={2, 6}) == {}


def test_with_few_slides_of_a_label_nothing_is_suspected() -> None:
    assert suspected([4, 5], [0, 5, 0, 0]) == {}
    assert suspected([4, 5, 4, 0], [0, 1]) == {}


def test_probes_that_separate_nothing_suspect_nothing() -> None:
    assert suspected([0, 1, -1, 0], [0, 1, 2, 3]) == {}
    assert suspected([1, 1, 1], [1, 1, 1]) == {}


@pytest.mark.parametrize("seed", range(40))
def test_some_slides_of_each_label_always_remain(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(3, 7))
    reasons = suspected(rng.normal(0, 1, count), rng.normal(0, 1, count))
    assert any(index not in reasons for index in range(count))
    assert any(index not in reasons for index in range(count, 2 * count))


def test_a_slide_without_instances_is_not_suspected_and_says_nothing_of_the_others() -> None:
    logits, labels = cohort([4, 5, 6, 5], [0, 1, 5, 0.5])
    empty = np.zeros(0, np.float32)
    certain = [False] * 10
    reasons = outlying_labels([*logits, empty, empty], positive=[*labels, True, False], certain=certain)
    assert reasons == outlying_labels(logits, positive=labels, certain=certain[:8])
    few = [*logits[:2], empty, *logits[4:]]
    assert outlying_labels(few, positive=[True] * 3 + [False] * 4, certain=certain[:7]) == {}


def sampled(prevalence: float, *, positive: bool, seed: int, known: bool = False) -> Instances:
    """Instances of which a share is tumour, as the first feature shows; each slide has a shade of its own."""
    rng = np.random.default_rng(seed)
    features = rng.normal(0, 1, (300, 6)) + rng.normal(0, 0.3, 6)
    features[:, 0] += 6 * (np.arange(300) < prevalence * 300)
    regions = np.zeros(300, np.int8)
    regions[-1] = -known
    return Instances(features.astype(np.float16), positive, regions)


def small_cohort(*, wrong: dict[int, float], known: bool = False) -> list[Instances]:
    """Five positive slides, 0 to 4, and five negative ones; ``wrong`` is the prevalence of mislabelled ones."""
    shares = [0.2] * 5 + [0.0] * 5
    return [
        sampled(wrong.get(index, share), positive=index < 5, seed=index, known=known and index in wrong)
        for index, share in enumerate(shares)
    ]


ASSIGNMENTS = [np.tile(np.arange(5) % 3, 2)]


def test_of_few_slides_that_are_clearly_separated_none_is_suspected() -> None:
    assert search_mislabelled(small_cohort(wrong={}), ASSIGNMENTS, most=2) == {}


@pytest.mark.parametrize(
    "wrong", [*(pytest.param(wrong, marks=pytest.mark.slow) for wrong in ({7: 0.3}, {1: 0.0})), {1: 0.0, 7: 0.3}]
)
def test_slides_without_which_the_labels_are_separated_are_suspected_with_the_reason(wrong: dict[int, float]) -> None:
    reasons = search_mislabelled(small_cohort(wrong=wrong), ASSIGNMENTS, most=2)
    assert set(reasons) == set(wrong)
    for index, reason in reasons.items():
        assert reason.startswith("labelled positive; without it" if index < 5 else "labelled negative; without it")


def test_of_few_slides_one_that_a_person_has_worked_on_is_never_suspected() -> None:
    assert 7 not in search_mislabelled(small_cohort(wrong={7: 0.3}, known=True), ASSIGNMENTS, most=2)


def test_of_three_slides_of_a_label_none_is_removed() -> None:
    few = small_cohort(wrong={6: 0.3})[:8]
    reasons = search_mislabelled(few, [np.array([0, 1, 2, 0, 1, 0, 1, 2])], most=2)
    assert not any(index >= 5 for index in reasons)


def test_a_slide_that_looks_like_its_own_label_is_not_suspected_however_far_it_lies_from_the_others() -> None:
    slides = small_cohort(wrong={})
    far = slides[2].features.copy()
    far[:60, 0] += 60
    slides[2] = replace(slides[2], features=far)
    assert 2 not in search_mislabelled(slides, ASSIGNMENTS, most=2)


#: With a prevalence above one in twenty, a mislabelled slide widens the spread of negative slides, its own yardstick.
PREVALENCE = 0.03


def small_tumours(prevalence, *, positive, seed, known=None):
    """400 instances of which a share is tumour, as the first feature shows."""
    rng = np.random.default_rng(seed)
    features = rng.normal(0, 1, (400, 8))
    features[:, 0] += 8 * (np.arange(400) < prevalence * 400)
    return Instances(features.astype(np.float16), positive, np.zeros(400, np.int8) if known is None else known)


def cohort_of(count):
    positives = [small_tumours(PREVALENCE, positive=True, seed=index) for index in range(count)]
    return [*positives, *(small_tumours(0.0, positive=False, seed=100 + index) for index in range(count))]


def assignments_of(count):
    return [np.tile(np.arange(count) % 3, 2)]


def test_cross_fitting_suspects_no_label_that_fits() -> None:
    probes, reasons = cross_fit_with_label_noise(cohort_of(6), assignments_of(6))
    assert len(probes) == 12
    assert reasons == {}


def test_a_wrong_label_is_suspected_and_teaches_nothing() -> None:
    slides, assignments = cohort_of(6), assignments_of(6)
    slides[8] = small_tumours(PREVALENCE, positive=False, seed=30)
    probes, reasons = cross_fit_with_label_noise(slides, assignments)
    assert list(reasons) == [8]
    assert "labelled negative" in reasons[8]
    without = [replace(slide, trusted=index != 8) for index, slide in enumerate(slides)]
    for probe, other in zip(probes, cross_fit(without, assignments), strict=True):
        assert np.array_equal(probe.weight, other.weight)
    slides[2] = small_tumours(0.0, positive=True, seed=31)
    assert set(cross_fit_with_label_noise(slides, assignments)[1]) == {2, 8}


def test_cross_fitting_trusts_the_label_of_a_slide_that_a_person_has_worked_on() -> None:
    slides = cohort_of(6)
    known = np.zeros(400, np.int8)
    known[0] = -1
    slides[8] = small_tumours(PREVALENCE, positive=False, seed=30, known=known)
    assert cross_fit_with_label_noise(slides, assignments_of(6))[1] == {}


def test_with_many_slides_the_slide_itself_stands_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_noise, "FEW_SLIDES", 15)
    slides = cohort_of(8)
    slides[10] = small_tumours(PREVALENCE, positive=False, seed=30)
    probes, reasons = cross_fit_with_label_noise(slides, assignments_of(8))
    assert len(probes) == 16
    assert {index: reason.split(",")[0] for index, reason in reasons.items()} == {10: "labelled negative"}
