"""Self-training: from slide labels to linear probes of instances, cross-fitted by patient.

A slide with a few tumours is positive as a whole, so its label says little about each of its instances. Training goes
in rounds. In each round the instances of a positive slide that look most like tumour are taken as positive, those that
look least like it as negative, and the rest is left out; all instances of a negative slide are negative. CLAM does so
with the tiles of one slide (Lu et al. 2021). Here the scores are out of fold: they come from probes that did not learn
from the slide, otherwise each slide's own stain would soon pass for tumour.

Where tumour is a large share of the tissue, the few likeliest instances show only one kind of it. Then a final
self-training step takes most of the instances above the prevalence threshold as positive. The larger the prevalence
is, the less certain it is that the rest is negative, and the more of the rest is left out.

The final step is repeated with attention-based dropout (ADL: Choe and Shim, CVPR 2019), on the same labels, since new
ones would drift. The attention of an instance is its logit. In each step the instances that the probe of the last step
attends to most are hidden, so that the probe learns the whole tumour and not its most telling cells; the mean of the
steps' probes is kept. ADL draws at random in which steps it hides; here it is every step but the first.

No gradient goes through the backbone. A cohort takes seconds, and slides with a small tumour count as much as slides
with a large one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from wsplf_cli.weak.linear_probe import FeatureBasis, LinearProbe, fit_labelled, mean_probe
from wsplf_cli.weak.prevalence import PrevalenceEstimate, estimate_prevalence

#: In each round these shares of a positive slide's unlabelled instances are taken as positive and as negative.
TOP_SHARE = 0.02
BOTTOM_SHARE = 0.3
ROUNDS = 4
_RIDGE = 1.0
#: From this prevalence on (less two standard errors) there are final steps. They take that share of the instances above
#: the threshold as positive, at most that share of the others as negative, and a weaker ridge.
_HIGH_PREVALENCE = 0.2
_FINAL_POSITIVE_SHARE = 0.8
_FINAL_NEGATIVE_SHARE = 0.95
_FINAL_RIDGE = 0.1
_FINAL_STEPS = 3
#: ADL hides instances from this share of the way on that leads from a slide's median logit to its largest ones.
_DROP_THRESHOLD = 0.8
_LARGEST = 0.995


@dataclass(frozen=True, slots=True)
class Instances:
    """Random instances of one slide: ``features`` [N, D], and what the slide label or a person says of them.

    ``known`` int8 [N]: 1 where a person decided positive, -1 negative, 0 elsewhere. The instances of a slide that is
    not ``trusted`` are scored, but nothing is learned from them. ``centres_px0`` float32 [N, 2] is where they are on
    the slide, None where nobody needs it. ``blocks`` are the channels of each backbone where the features of several
    stand side by side.
    """

    features: NDArray[np.floating]
    positive: bool
    known: NDArray[np.int8]
    trusted: bool = True
    centres_px0: NDArray[np.float32] | None = None
    blocks: tuple[int, ...] = ()

    def select(self, kept: NDArray[np.bool_] | NDArray[np.intp] | slice) -> "Instances":
        """Some of the instances of the same slide."""
        centres_px0 = None if self.centres_px0 is None else self.centres_px0[kept]
        return replace(self, features=self.features[kept], known=self.known[kept], centres_px0=centres_px0)


@dataclass(frozen=True, slots=True)
class SelfTraining:
    """Which parts of self-training there are: its ``rounds``, without which probes learn slide labels, and ``adl``."""

    rounds: bool = True
    adl: bool = True


DEFAULT = SelfTraining()


def cross_fit(
    slides: Sequence[Instances],
    fold_assignments: Sequence[NDArray[np.integer]],
    training: SelfTraining = DEFAULT,
) -> list[LinearProbe]:
    """For each slide a probe that did not learn from it: the mean over several fold assignments.

    The pseudo-labels of the other slides' instances may come from probes that did see the slide.

    The probes share one scale. At 0 tumour and background are equally likely, both weighing one half in training; 1 is
    the spread of negative slides (see ``logit_spread``).

    Args:
        slides: At least one trusted positive and one trusted negative slide.
        fold_assignments: One or more assignments of slides to folds, [len(slides)] each. Slides of a fold are scored by
            a probe of the other folds; where there is a single fold, by a probe of all slides.
        training: How probes are trained.
    """
    basis = feature_basis(slides)
    reduced = [basis.reduce(slide.features) for slide in slides]
    weights = np.zeros((len(slides), basis.directions.shape[1]), np.float32)
    biases = np.zeros(len(slides))
    for fold_of in fold_assignments:
        probes = _self_train(slides, reduced, fold_of, training)
        spread = _median_spread(slides, reduced, fold_of, probes)
        for fold, probe in probes.items():
            in_fold = fold_of == fold
            weights[in_fold] += probe.weight / (spread * len(fold_assignments))
            biases[in_fold] += probe.bias / (spread * len(fold_assignments))
    return [basis.expand(weight, bias) for weight, bias in zip(weights, biases, strict=True)]


def can_hold_out(slides: Sequence[Instances], fold_of: NDArray[np.integer]) -> bool:
    """Whether every slide can be scored by a probe that did not learn from it.

    That takes several folds, and outside of each fold instances of both labels on trusted slides.
    """
    folds = np.unique(fold_of)
    labels = [set(np.unique(_slide_labels(slide)).tolist()) if slide.trusted else set() for slide in slides]
    return len(folds) > 1 and all(
        {-1, 1} <= set().union(*(labels[index] for index in np.flatnonzero(fold_of != fold))) for fold in folds
    )


def score_out_of_fold(
    reduced: Sequence[NDArray[np.float32]],
    slides: Sequence[Instances],
    fold_of: NDArray[np.integer],
    training: SelfTraining = DEFAULT,
) -> list[NDArray[np.float32]]:
    """The logits of each slide's instances by a probe that did not learn from it, on the scale of ``cross_fit``.

    ``reduced`` are the features in few directions, [N, K] of each slide (see ``reduce_features``).
    """
    probes = _self_train(slides, reduced, fold_of, training)
    spread = _median_spread(slides, reduced, fold_of, probes)
    return [logits / spread for logits in _score_out_of_fold(reduced, probes, fold_of)]


def reduce_features(slides: Sequence[Instances], *, directions: int) -> list[NDArray[np.float32]]:
    """The features of each slide's instances in the directions of most variance, float32 [N, directions]."""
    basis = feature_basis(slides)
    return [basis.reduce(slide.features)[:, :directions] for slide in slides]


def feature_basis(slides: Sequence[Instances]) -> FeatureBasis:
    """The basis of the instances of all slides; those of one backbone or of the same several."""
    return FeatureBasis.of([slide.features for slide in slides], blocks=slides[0].blocks)


def logit_spread(negatives: Sequence[NDArray[np.float32]]) -> float:
    """From the median to the 95th percentile of one probe's logits on negative slides.

    Logits are divided by the median spread of a fold assignment's probes, since a single probe rests on few slides.
    Their zero stays: the few negative slides that a probe did not learn from say less about its centre than what it
    learned.
    """
    pooled = np.concatenate(negatives)
    median, high = np.quantile(pooled, (0.5, 0.95)) if pooled.size else (0.0, 1.0)
    return float(max(high - median, 1e-3))


def _median_spread(
    slides: Sequence[Instances],
    reduced: Sequence[NDArray[np.float32]],
    fold_of: NDArray[np.integer],
    probes: Mapping[int, LinearProbe],
) -> np.float32:
    """The median spread of a fold assignment's probes, by which their logits are divided."""
    return np.float32(np.median([_spread(slides, reduced, fold_of, fold, probe) for fold, probe in probes.items()]))


def _spread(
    slides: Sequence[Instances],
    reduced: Sequence[NDArray[np.float32]],
    fold_of: NDArray[np.integer],
    fold: int,
    probe: LinearProbe,
) -> float:
    """The spread of a fold's probe on the negative slides of that fold; on all negative slides where it has none."""
    negative = [index for index, slide in enumerate(slides) if slide.trusted and not slide.positive]
    in_fold = [index for index in negative if fold_of[index] == fold]
    return logit_spread([probe(reduced[index]) for index in in_fold or negative])


def _self_train(
    slides: Sequence[Instances],
    reduced: Sequence[NDArray[np.float32]],
    fold_of: NDArray[np.integer],
    training: SelfTraining,
) -> dict[int, LinearProbe]:
    """The probe of each fold after ``ROUNDS`` rounds and, where tumour is a large share, the final steps with ADL."""
    labels = [_slide_labels(slide) for slide in slides]
    probes = _fit_folds(slides, reduced, labels, fold_of)
    if not training.rounds:
        return probes
    for _ in range(ROUNDS):
        scores = _score_out_of_fold(reduced, probes, fold_of)
        for index, slide in enumerate(slides):
            if slide.positive:
                labels[index] = _instance_pseudo_labels(scores[index], slide.known)
        probes = _fit_folds(slides, reduced, labels, fold_of)
    scores = _score_out_of_fold(reduced, probes, fold_of)
    prevalence = _high_prevalence(slides, scores)
    if prevalence is None:
        return probes
    for index, slide in enumerate(slides):
        if slide.positive:
            labels[index] = _prevalence_pseudo_labels(scores[index], slide.known, prevalence)
    steps = [_fit_folds(slides, reduced, labels, fold_of, ridge=_FINAL_RIDGE)]
    while training.adl and len(steps) < _FINAL_STEPS:
        attention = _score_out_of_fold(reduced, steps[-1], fold_of)
        seen = [
            _hide_attended(of_slide, logits, slide.known) if slide.positive else of_slide
            for slide, of_slide, logits in zip(slides, labels, attention, strict=True)
        ]
        steps.append(_fit_folds(slides, reduced, seen, fold_of, ridge=_FINAL_RIDGE))
    return {fold: mean_probe([probes[fold] for probes in steps]) for fold in steps[0]}


def _hide_attended(labels: NDArray[np.int8], logits: NDArray[np.float32], known: NDArray[np.int8]) -> NDArray[np.int8]:
    """The labels int8 [N] of a positive slide, 0 for the instances that are attended to most.

    What a person decided is never hidden, and something positive is always left.
    """
    if not len(labels):
        return labels
    median, largest = np.quantile(logits, (0.5, _LARGEST))
    hidden = (labels > 0) & (known == 0) & (logits >= median + _DROP_THRESHOLD * (largest - median))
    return labels if hidden.sum() == (labels > 0).sum() else np.where(hidden, np.int8(0), labels)


def _score_out_of_fold(
    reduced: Sequence[NDArray[np.float32]], probes: Mapping[int, LinearProbe], fold_of: NDArray[np.integer]
) -> list[NDArray[np.float32]]:
    """The logits of each slide's instances, [N] of each slide, by the probe of its fold."""
    return [probes[fold](features) for features, fold in zip(reduced, fold_of.tolist(), strict=True)]


def _high_prevalence(slides: Sequence[Instances], scores: Sequence[NDArray[np.float32]]) -> PrevalenceEstimate | None:
    """The prevalence of tumour on the positive slides where it is high, else None."""
    positives, negatives = (
        [
            logits
            for logits, slide in zip(scores, slides, strict=True)
            if slide.trusted and slide.positive is label and logits.size
        ]
        for label in (True, False)
    )
    if not positives or not negatives:
        return None
    if estimate_prevalence(positives, negatives, errors=2.0).prevalence < _HIGH_PREVALENCE:
        return None
    return estimate_prevalence(positives, negatives, errors=1.0)


def _slide_labels(slide: Instances) -> NDArray[np.int8]:
    """The slide label for each instance, 1 or -1, where a person has not decided otherwise."""
    labels = np.full(len(slide.features), 1 if slide.positive else -1, np.int8)
    return np.where(slide.known == 0, labels, slide.known)


def _instance_pseudo_labels(scores: NDArray[np.float32], known: NDArray[np.int8]) -> NDArray[np.int8]:
    """Labels int8 [N] of a positive slide's instances, 0 for those that are left out."""
    unknown = int((known == 0).sum())
    return _label_extremes(
        scores, known, lowest=round(BOTTOM_SHARE * unknown), highest=max(1, round(TOP_SHARE * unknown))
    )


def _prevalence_pseudo_labels(
    scores: NDArray[np.float32], known: NDArray[np.int8], estimate: PrevalenceEstimate
) -> NDArray[np.int8]:
    """Labels int8 [N] of a positive slide's instances: most of those above the threshold, and most of the others."""
    unknown = int((known == 0).sum())
    above = int((scores[known == 0] >= estimate.thresholds[estimate.best]).sum())
    highest = max(round(_FINAL_POSITIVE_SHARE * above), round(0.01 * unknown), 1)
    negative_share = min(_FINAL_NEGATIVE_SHARE, 1 - estimate.prevalence**2)
    return _label_extremes(scores, known, lowest=round(negative_share * (unknown - above)), highest=highest)


def _label_extremes(
    scores: NDArray[np.float32], known: NDArray[np.int8], *, lowest: int, highest: int
) -> NDArray[np.int8]:
    """The known labels; of the other instances -1 for the ``lowest`` lowest scores, 1 for the ``highest`` highest."""
    labels = known.copy()
    unknown = np.flatnonzero(known == 0)
    ranked = unknown[np.argsort(scores[unknown], kind="stable")]
    labels[ranked[:lowest]] = -1
    labels[ranked[-highest:]] = 1
    return labels


def _fit_folds(
    slides: Sequence[Instances],
    reduced: Sequence[NDArray[np.float32]],
    labels: Sequence[NDArray[np.int8]],
    fold_of: NDArray[np.integer],
    *,
    ridge: float = _RIDGE,
) -> dict[int, LinearProbe]:
    """For each fold the probe that is fitted to the trusted slides of the other folds."""
    folds = np.unique(fold_of)
    trusted = np.array([slide.trusted for slide in slides])
    probes = {}
    for fold in folds:
        others = np.flatnonzero(trusted & ((fold_of != fold) | (len(folds) == 1))).tolist()
        probes[int(fold)] = fit_labelled(
            [reduced[index] for index in others], [labels[index] for index in others], ridge=ridge
        )
    return probes
