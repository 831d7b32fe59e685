from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from wsplf_cli.weak import linear_probe as module
from wsplf_cli.weak.linear_probe import Instances, LinearProbe, learn, pool_context, spread
from wsplf_cli.weak.prevalence import PrevalenceEstimate

FEATURES = 12


def cohort(share: float, *, seed: int = 0, slides: int = 6, stain: float = 0.3):
    """Instances of ``slides`` positive and as many negative slides: tumour moves the first feature, stain the others."""
    rng = np.random.default_rng(seed)
    made, truths = [], []
    for number in range(2 * slides):
        positive = number < slides
        truth = (rng.random(1500) < share) & positive
        features = rng.normal(0, 1, (1500, FEATURES)) + rng.normal(0, stain, FEATURES) * (np.arange(FEATURES) > 0)
        features[:, 0] += 4 * truth
        made.append(Instances(features.astype(np.float32), positive, np.zeros(1500, np.int8)))
        truths.append(truth)
    return made, truths


def dealt(count: int, *, folds: int = 3) -> np.ndarray:
    """The first half and the second half of the slides, dealt out alike."""
    return np.concatenate([np.arange(count // 2) % folds] * 2)


@pytest.mark.parametrize("share", [0.03, 0.3, 0.6])
def test_tumour_is_told_from_the_rest_by_slide_labels_alone(share: float) -> None:
    places, truths = cohort(share)
    for one, truth, judge in zip(places, truths, learn(places, [dealt(12)]), strict=True):
        scores = judge(one.features)
        if one.positive:
            assert np.median(scores[truth]) > np.quantile(scores[~truth], 0.95)


@pytest.mark.parametrize(("share", "rich"), [(0.03, False), (0.5, True)])
def test_only_where_tumour_is_a_large_share_is_there_a_last_round(
    monkeypatch: pytest.MonkeyPatch, share: float, rich: bool
) -> None:
    places, _ = cohort(share)
    calls = []
    called = module._prevalence_pseudo_labels
    monkeypatch.setattr(module, "_prevalence_pseudo_labels", lambda *given: calls.append(given) or called(*given))
    learn(places, [dealt(12)])
    assert len(calls) == (6 if rich else 0)


def seen(share: float, threshold: float) -> PrevalenceEstimate:
    one = np.ones(1)
    return PrevalenceEstimate(share, np.array([threshold]), one, one, one)


@pytest.mark.parametrize(("share", "others_taken"), [(0.1, 0.95), (0.6, 0.64)])
def test_the_last_round_takes_most_of_what_is_called_and_leaves_open_what_may_be_either(
    share: float, others_taken: float
) -> None:
    known = np.zeros(1000, np.int8)
    known[0], known[999] = 1, -1
    labels = module._prevalence_pseudo_labels(np.arange(1000, dtype=np.float32), known, seen(share, 800.0))
    assert (labels[0], labels[999]) == (1, -1)
    called, others = labels[800:999], labels[1:800]
    assert (called == 1).mean() == pytest.approx(0.8, abs=0.01)
    assert not (called == -1).any()
    assert (others == -1).mean() == pytest.approx(others_taken, abs=0.01)
    assert not (others == 1).any()
    assert (
        module._prevalence_pseudo_labels(np.zeros(50, np.float32), np.zeros(50, np.int8), seen(0.1, 1.0)) == 1
    ).sum() == 1


def test_the_same_slides_give_the_same_classifiers() -> None:
    places, _ = cohort(0.1)
    for first, second in zip(*(learn(places, [dealt(12), dealt(12, folds=2)]) for _ in range(2)), strict=True):
        assert np.array_equal(first.weight, second.weight)
        assert first.bias == second.bias


def test_one_slide_of_each_kind_is_enough() -> None:
    places, truths = cohort(0.2, slides=1)
    scores = learn(places, [np.zeros(2, int)])[0](places[0].features)
    assert scores[truths[0]].mean() > scores[~truths[0]].mean()


def test_a_slide_without_places_is_no_hindrance() -> None:
    places, truths = cohort(0.3)
    places[7] = replace(places[7], features=places[7].features[:0], known=places[7].known[:0])
    judges = learn(places, [dealt(12)])
    scores = judges[0](places[0].features)
    assert scores[truths[0]].mean() > scores[~truths[0]].mean()
    assert judges[7](places[7].features).shape == (0,)
    assert np.isfinite(judges[7].weight).all()


def test_a_slides_own_stain_does_not_pass_for_tumour() -> None:
    places, _ = cohort(0.2)
    features = places[0].features.copy()
    features[:, 11] += 6
    folds = dealt(12)
    judges = learn([replace(places[0], features=features), *places[1:]], [folds])
    for number, fold in enumerate(folds):
        assert (abs(judges[number].weight[11]) < 0.02) == (fold == folds[0])


def direction(judge):
    """What a classifier looks at, whatever its scale: all of a dealing have one, from the negatives of all folds."""
    return judge.weight / np.linalg.norm(judge.weight)


def test_a_slide_is_judged_by_what_did_not_learn_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """In rounds the guesses on the slides that are learned from may come from classifiers that did."""
    monkeypatch.setattr(module, "ROUNDS", 0)
    places, _ = cohort(0.2)
    folds = dealt(12)
    before = learn(places, [folds])
    swapped = list(places)
    swapped[0] = replace(places[0], known=np.where(places[0].features[:, 1] > 0, 1, -1).astype(np.int8))
    after = learn(swapped, [folds])
    for number, fold in enumerate(folds):
        assert np.allclose(direction(before[number]), direction(after[number]), atol=1e-6) == (fold == folds[0])


def test_in_several_dealings_a_slide_is_judged_by_the_mean_over_them() -> None:
    places, _ = cohort(0.2)
    deals = [dealt(12), dealt(12, folds=2)]
    alone = [learn(places, [one]) for one in deals]
    for both, first, second in zip(learn(places, deals), *alone, strict=True):
        np.testing.assert_allclose(both.weight, (first.weight + second.weight) / 2, atol=1e-5)
        assert both.bias == pytest.approx((first.bias + second.bias) / 2, abs=1e-4)


def test_an_untrusted_slide_teaches_nothing_and_is_judged() -> None:
    places, truths = cohort(0.3)
    folds = dealt(12)
    rng = np.random.default_rng(5)
    judges = []
    for _ in range(2):  # whatever a person says of it
        known = rng.integers(-1, 2, 1500).astype(np.int8)
        judges.append(learn([replace(places[0], known=known, trusted=False), *places[1:]], [folds]))
    for first, second in zip(*judges, strict=True):
        assert np.array_equal(first.weight, second.weight)
        assert first.bias == second.bias
    scores = judges[0][0](places[0].features)
    assert scores[truths[0]].mean() > scores[~truths[0]].mean() + 1
    trusting = learn(places, [folds])
    assert not np.array_equal(trusting[1].weight, judges[0][1].weight)


def test_what_a_person_says_of_places_counts_more_than_the_slide_label() -> None:
    """Something is on positive slides alone that is no tumour: only a person can tell."""
    rng = np.random.default_rng(2)
    places, truths, lures = [], [], []
    for one, truth in zip(*cohort(0.1), strict=True):
        lure = ~truth & (rng.random(len(truth)) < 0.1) & one.positive
        features = one.features.copy()
        features[:, 1] += 5 * lure
        places.append(replace(one, features=features))
        truths.append(truth)
        lures.append(lure)
    folds = dealt(12)

    def lead(slides) -> float:
        """How far tumour is above what is none, on the slides of which nobody has said anything."""
        judges = learn(slides, [folds])
        scores = [judges[number](slides[number].features) for number in range(3, 6)]
        return float(np.mean([own[truths[3 + at]].mean() - own[lures[3 + at]].mean() for at, own in enumerate(scores)]))

    told = list(places)
    for number in range(3):
        known = np.where(truths[number], 1, np.where(lures[number], -1, 0)).astype(np.int8)
        told[number] = replace(places[number], known=known)
    assert lead(told) > lead(places) + 0.5
    assert lead(told) > 0


def test_known_places_of_a_negative_slide_count_too() -> None:
    places, _ = cohort(0.2)
    known = np.zeros(1500, np.int8)
    known[:300] = 1  # a person found tumour on a slide that is labelled negative
    features = places[6].features.copy()
    features[:300, 5] += 6
    told = [*places[:6], replace(places[6], features=features, known=known), *places[7:]]
    untold = [*places[:6], replace(places[6], features=features), *places[7:]]
    of_tumour = [learn(slides, [dealt(12)])[1].weight[5] for slides in (told, untold)]
    assert of_tumour[0] > of_tumour[1] + 0.1


def test_the_places_of_negative_slides_are_spread_by_one() -> None:
    places, _ = cohort(0.2)
    folds = dealt(12)
    judges = learn(places, [folds])
    spreads = []
    for fold in range(3):
        scores = [judges[n](places[n].features) for n in range(6, 12) if folds[n] == fold]
        middle, high = np.quantile(np.concatenate(scores), (0.5, 0.95))
        spreads.append(high - middle)
    assert np.median(spreads) == pytest.approx(1.0, abs=1e-3)


def test_spread_is_that_of_the_upper_half_and_never_zero() -> None:
    rng = np.random.default_rng(0)
    slides = [rng.normal(3, 2, 20_000).astype(np.float32) for _ in range(2)]
    assert spread(slides) == pytest.approx(2 * 1.645, rel=0.05)
    assert spread([7 * one - 1 for one in slides]) == pytest.approx(7 * spread(slides), rel=1e-4)
    assert spread([np.zeros(9, np.float32)]) > 0
    assert spread([np.zeros(0, np.float32)]) > 0


def test_a_judge_is_linear_and_takes_half_precision() -> None:
    judge = LinearProbe(np.array([1.0, -2.0], np.float32), 0.5)
    logits = judge(np.array([[3.0, 1.0], [0.0, 0.0]], np.float16))
    assert logits.dtype == np.float32
    assert logits.tolist() == [1.5, 0.5]


def test_surroundings_are_means_over_the_tissue_nearby_at_every_width() -> None:
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(3, 40, 50)).astype(np.float32)
    inside = np.ones((40, 50), bool)
    inside[:, 30:] = False
    maps[:, ~inside] = np.nan
    rows, columns = np.nonzero(inside)
    widths = (1.0, 4.0)
    found = pool_context(maps, rows, columns, widths=widths)
    assert found.shape == (len(rows), 6)
    assert found.dtype == np.float16
    for place, width in enumerate(widths):
        weight = ndimage.gaussian_filter(inside.astype(float), width, mode="constant")
        for channel in range(3):
            total = ndimage.gaussian_filter(np.where(inside, maps[channel], 0.0), width, mode="constant")
            np.testing.assert_allclose(found[:, 3 * place + channel], total[inside] / weight[inside], atol=2e-3)


def test_surroundings_of_even_tissue_are_as_it_is_up_to_its_edge() -> None:
    maps = np.full((2, 20, 20), 3.0, np.float32)
    maps[:, :7] = np.nan
    maps[:, :, 15:] = np.nan
    rows, columns = np.nonzero(~np.isnan(maps[0]))
    assert np.allclose(pool_context(maps, rows, columns, widths=(1.0, 30.0)), 3.0, atol=2e-3)
