"""Linear probes from slide labels: out of fold, in rounds, on one scale."""

from dataclasses import replace

import numpy as np
import pytest

from wsplf_cli.weak import self_training
from wsplf_cli.weak.prevalence import PrevalenceEstimate
from wsplf_cli.weak.self_training import Instances, SelfTraining, can_hold_out, cross_fit, logit_spread

FEATURES = 12


def cohort(prevalence: float, *, seed: int = 0, slides: int = 6, stain: float = 0.3):
    """Instances of positive and as many negative slides: tumour moves the first feature, stain the others."""
    rng = np.random.default_rng(seed)
    instances, truths = [], []
    for index in range(2 * slides):
        positive = index < slides
        truth = (rng.random(1500) < prevalence) & positive
        features = rng.normal(0, 1, (1500, FEATURES)) + rng.normal(0, stain, FEATURES) * (np.arange(FEATURES) > 0)
        features[:, 0] += 4 * truth
        instances.append(Instances(features.astype(np.float32), positive, np.zeros(1500, np.int8)))
        truths.append(truth)
    return instances, truths


def assign(count: int, *, folds: int = 3) -> np.ndarray:
    """The folds of slides of which the first half is positive: both halves are assigned alike."""
    return np.concatenate([np.arange(count // 2) % folds] * 2)


def direction(probe):
    """The direction of a probe's weight: all probes of a fold assignment share a scale, from negatives of all folds."""
    return probe.weight / np.linalg.norm(probe.weight)


@pytest.mark.parametrize("prevalence", [0.03, 0.3, 0.6])
def test_tumour_is_separated_from_the_rest_by_slide_labels_alone(prevalence: float) -> None:
    slides, truths = cohort(prevalence)
    for slide, truth, probe in zip(slides, truths, cross_fit(slides, [assign(12)]), strict=True):
        scores = probe(slide.features)
        if slide.positive:
            assert np.median(scores[truth]) > np.quantile(scores[~truth], 0.95)


@pytest.mark.parametrize(("prevalence", "final_steps"), [(0.03, False), (0.5, True)])
def test_there_are_final_steps_only_where_prevalence_is_high(
    monkeypatch: pytest.MonkeyPatch, prevalence: float, final_steps: bool
) -> None:
    slides, _ = cohort(prevalence)
    calls = []
    pseudo_labels = self_training._prevalence_pseudo_labels
    monkeypatch.setattr(
        self_training, "_prevalence_pseudo_labels", lambda *args: calls.append(args) or pseudo_labels(*args)
    )
    cross_fit(slides, [assign(12)])
    assert len(calls) == (6 if final_steps else 0)


def test_attention_based_dropout_hides_the_most_telling_cells_from_all_final_steps_but_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slides, _ = cohort(0.5)
    largest: list[float] = []
    fit_folds = self_training._fit_folds

    def record(of_slides, reduced, labels, fold_of, **named):
        if named:  # only the final steps have a ridge of their own
            learned = [features[of_slide > 0] for features, of_slide in zip(reduced, labels, strict=True)]
            largest.append(float(np.quantile(np.concatenate(learned[:6])[:, 0], 0.99)))
        return fit_folds(of_slides, reduced, labels, fold_of, **named)

    monkeypatch.setattr(self_training, "_fit_folds", record)
    features = [slide.features for slide in slides]
    self_training._self_train(slides, features, assign(12), SelfTraining())
    assert len(largest) == 3
    assert max(largest[1:]) < largest[0] - 0.3


def test_dropout_hides_by_the_logit_and_never_what_a_person_decided() -> None:
    logits = np.arange(1000, dtype=np.float32)
    labels, known = np.where(logits >= 600, 1, -1).astype(np.int8), np.zeros(1000, np.int8)
    known[999] = 1
    hidden = self_training._hide_attended(labels, logits, known)
    limit = 499.5 + 0.8 * (994.005 - 499.5)
    assert np.flatnonzero(hidden == 0).tolist() == [index for index in range(999) if index >= limit]
    assert (hidden[logits < 600] == -1).all()


def test_dropout_leaves_something_positive() -> None:
    labels = np.array([-1, -1, -1, 1], np.int8)
    logits = np.array([0, 0, 0, 9], np.float32)
    assert self_training._hide_attended(labels, logits, np.zeros(4, np.int8)).tolist() == [-1, -1, -1, 1]


def estimate_of(prevalence: float, threshold: float) -> PrevalenceEstimate:
    ones = np.ones(1)
    return PrevalenceEstimate(prevalence, np.array([threshold]), ones, ones, ones)


@pytest.mark.parametrize(("prevalence", "negative_share"), [(0.1, 0.95), (0.6, 0.64)])
def test_the_final_step_takes_most_above_the_threshold_and_leaves_out_what_may_be_either(
    prevalence: float, negative_share: float
) -> None:
    known = np.zeros(1000, np.int8)
    known[0], known[999] = 1, -1
    scores = np.arange(1000, dtype=np.float32)
    labels = self_training._prevalence_pseudo_labels(scores, known, estimate_of(prevalence, 800.0))
    assert (labels[0], labels[999]) == (1, -1)
    above, below = labels[800:999], labels[1:800]
    assert (above == 1).mean() == pytest.approx(0.8, abs=0.01)
    assert not (above == -1).any()
    assert (below == -1).mean() == pytest.approx(negative_share, abs=0.01)
    assert not (below == 1).any()


def test_the_final_step_takes_at_least_one_instance_as_positive() -> None:
    scores, known = np.zeros(50, np.float32), np.zeros(50, np.int8)
    assert (self_training._prevalence_pseudo_labels(scores, known, estimate_of(0.1, 1.0)) == 1).sum() == 1


def test_the_same_slides_give_the_same_probes() -> None:
    slides, _ = cohort(0.1)
    assignments = [assign(12), assign(12, folds=2)]
    for first, second in zip(*(cross_fit(slides, assignments) for _ in range(2)), strict=True):
        assert np.array_equal(first.weight, second.weight)
        assert first.bias == second.bias


def test_one_slide_of_each_label_is_enough() -> None:
    slides, truths = cohort(0.2, slides=1)
    scores = cross_fit(slides, [np.zeros(2, int)])[0](slides[0].features)
    assert scores[truths[0]].mean() > scores[~truths[0]].mean()


def test_a_slide_without_instances_gets_a_probe_and_harms_no_other() -> None:
    slides, truths = cohort(0.3)
    slides[7] = replace(slides[7], features=slides[7].features[:0], known=slides[7].known[:0])
    probes = cross_fit(slides, [assign(12)])
    scores = probes[0](slides[0].features)
    assert scores[truths[0]].mean() > scores[~truths[0]].mean()
    assert probes[7](slides[7].features).shape == (0,)
    assert np.isfinite(probes[7].weight).all()


def test_a_slides_own_stain_does_not_pass_for_tumour() -> None:
    slides, _ = cohort(0.2)
    features = slides[0].features.copy()
    features[:, 11] += 6
    fold_of = assign(12)
    probes = cross_fit([replace(slides[0], features=features), *slides[1:]], [fold_of])
    for probe, fold in zip(probes, fold_of, strict=True):
        assert (abs(probe.weight[11]) < 0.02) == (fold == fold_of[0])


def test_the_probe_of_a_slide_did_not_learn_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """In rounds, the pseudo-labels of the other slides may come from probes that did."""
    monkeypatch.setattr(self_training, "ROUNDS", 0)
    slides, _ = cohort(0.2)
    fold_of = assign(12)
    before = cross_fit(slides, [fold_of])
    known = np.where(slides[0].features[:, 1] > 0, 1, -1).astype(np.int8)
    after = cross_fit([replace(slides[0], known=known), *slides[1:]], [fold_of])
    for first, second, fold in zip(before, after, fold_of, strict=True):
        assert np.allclose(direction(first), direction(second), atol=1e-6) == (fold == fold_of[0])


def test_with_several_fold_assignments_a_probe_is_the_mean_over_them() -> None:
    slides, _ = cohort(0.2)
    assignments = [assign(12), assign(12, folds=2)]
    single = [cross_fit(slides, [fold_of]) for fold_of in assignments]
    for both, first, second in zip(cross_fit(slides, assignments), *single, strict=True):
        np.testing.assert_allclose(both.weight, (first.weight + second.weight) / 2, atol=1e-5)
        assert both.bias == pytest.approx((first.bias + second.bias) / 2, abs=1e-4)


def test_an_untrusted_slide_teaches_nothing_and_is_scored() -> None:
    slides, truths = cohort(0.3)
    fold_of = assign(12)
    rng = np.random.default_rng(5)
    fits = []
    for _ in range(2):  # whatever a person says of it
        known = rng.integers(-1, 2, 1500).astype(np.int8)
        fits.append(cross_fit([replace(slides[0], known=known, trusted=False), *slides[1:]], [fold_of]))
    for first, second in zip(*fits, strict=True):
        assert np.array_equal(first.weight, second.weight)
        assert first.bias == second.bias
    scores = fits[0][0](slides[0].features)
    assert scores[truths[0]].mean() > scores[~truths[0]].mean() + 1
    trusting = cross_fit(slides, [fold_of])
    assert not np.array_equal(trusting[1].weight, fits[0][1].weight)


def test_what_a_person_says_of_instances_counts_more_than_the_slide_label() -> None:
    """Something occurs on positive slides alone that is no tumour: only a person can say so."""
    rng = np.random.default_rng(2)
    slides, truths, lures = [], [], []
    for slide, truth in zip(*cohort(0.1), strict=True):
        lure = ~truth & (rng.random(len(truth)) < 0.1) & slide.positive
        features = slide.features.copy()
        features[:, 1] += 5 * lure
        slides.append(replace(slide, features=features))
        truths.append(truth)
        lures.append(lure)

    def lead(instances) -> float:
        """How far tumour scores above the lure, on the slides of which nobody has said anything."""
        probes = cross_fit(instances, [assign(12)])
        leads = []
        for index in range(3, 6):
            scores = probes[index](instances[index].features)
            leads.append(scores[truths[index]].mean() - scores[lures[index]].mean())
        return float(np.mean(leads))

    reviewed = list(slides)
    for index in range(3):
        known = np.where(truths[index], 1, np.where(lures[index], -1, 0)).astype(np.int8)
        reviewed[index] = replace(slides[index], known=known)
    assert lead(reviewed) > lead(slides) + 0.5
    assert lead(reviewed) > 0


def test_known_positive_instances_of_a_negative_slide_count_too() -> None:
    slides, _ = cohort(0.2)
    known = np.zeros(1500, np.int8)
    known[:300] = 1  # a person found tumour on a slide that is labelled negative
    features = slides[6].features.copy()
    features[:300, 5] += 6
    reviewed = [*slides[:6], replace(slides[6], features=features, known=known), *slides[7:]]
    unreviewed = [*slides[:6], replace(slides[6], features=features), *slides[7:]]
    weights = [cross_fit(instances, [assign(12)])[1].weight[5] for instances in (reviewed, unreviewed)]
    assert weights[0] > weights[1] + 0.1


def test_logits_of_negative_slides_have_a_spread_of_one() -> None:
    slides, _ = cohort(0.2)
    fold_of = assign(12)
    probes = cross_fit(slides, [fold_of])
    spreads = []
    for fold in range(3):
        scores = [probes[index](slides[index].features) for index in range(6, 12) if fold_of[index] == fold]
        median, high = np.quantile(np.concatenate(scores), (0.5, 0.95))
        spreads.append(high - median)
    assert np.median(spreads) == pytest.approx(1.0, abs=1e-3)


def test_the_spread_is_that_of_the_upper_half_and_never_zero() -> None:
    rng = np.random.default_rng(0)
    negatives = [rng.normal(3, 2, 20_000).astype(np.float32) for _ in range(2)]
    assert logit_spread(negatives) == pytest.approx(2 * 1.645, rel=0.05)
    assert logit_spread([7 * logits - 1 for logits in negatives]) == pytest.approx(
        7 * logit_spread(negatives), rel=1e-4
    )
    assert logit_spread([np.zeros(9, np.float32)]) > 0
    assert logit_spread([np.zeros(0, np.float32)]) > 0


def test_slides_can_be_held_out_where_both_labels_remain_outside_of_every_fold() -> None:
    slides, _ = cohort(0.3, slides=2)
    apart = np.array([0, 1, 0, 1])
    assert can_hold_out(slides, apart)
    assert not can_hold_out(slides, np.zeros(4, np.intp))
    assert not can_hold_out(slides, np.array([0, 0, 1, 1]))
    empty = replace(slides[0], features=slides[0].features[:0], known=slides[0].known[:0])
    assert not can_hold_out([empty, *slides[1:]], apart)
    assert not can_hold_out([replace(slides[0], trusted=False), *slides[1:]], apart)
    decided = replace(slides[0], known=np.full(1500, -1, np.int8))
    assert not can_hold_out([decided, *slides[1:]], apart)
