"""Label noise: slides whose label does not fit what probes that did not see them find on them.

A mislabelled slide costs more than its share. A negative slide full of tumour teaches that tumour is background, and
raises the threshold.

With many slides a wrong label teaches little, so the slide itself stands out (``outlying_labels``). With few slides it
spoils the probes that score it. There we search for the slides whose removal best separates positive from negative
slides (``search_mislabelled``).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from wsplf_cli.weak.linear_probe import LinearProbe
from wsplf_cli.weak.self_training import (
    DEFAULT,
    Instances,
    SelfTraining,
    can_hold_out,
    cross_fit,
    reduce_features,
    score_out_of_fold,
)

#: Up to so many slides, sets of slides are removed on trial.
FEW_SLIDES = 24
#: How often labels may be suspected, and trusted again, with many slides.
MOST_PASSES = 3
#: Shares of all slides: suspected newly per label in one pass, and suspected at all.
_NEW_SHARE = 0.05
_MOST_SHARE = 0.15

#: The tumour score of a slide is the mean of this share of its instances, the likeliest ones.
_TOP_SHARE = 0.01
#: Between the mean scores of negative (0) and positive slides (1): a negative slide above the first value is suspected,
#: and a positive slide below the second.
_LIKE_TUMOUR = 0.85
_LIKE_NORMAL = 0.1
#: With fewer slides of a label their mean says little, and nothing is suspected.
_LEAST_SLIDES = 3
#: The separation of positive and negative slides, in standard deviations of the slides of a label. Labels are suspected
#: only below ``_CLEAR``, and only if the separation grows by the factor ``_FAR_BETTER`` without the suspected slides.
#: Each further slide must add the factor ``_BETTER``.
_CLEAR = 3.5
_FAR_BETTER = 1.6
_BETTER = 1.4
#: The least separation without the suspected slides: removing slides separates any few slides somewhat.
_SEPARATED = 3.0
#: For the many trials: instances of a slide, and directions of their features.
_TRIAL_INSTANCES = 400
_TRIAL_DIRECTIONS = 96
#: Sets that are extended from one size to the next, and sets that are scored with all fold assignments.
_EXTENDED_SETS = 2
_SCORED_SETS = 4


def cross_fit_with_label_noise(
    slides: Sequence[Instances],
    fold_assignments: Sequence[NDArray[np.integer]],
    training: SelfTraining = DEFAULT,
) -> tuple[list[LinearProbe], dict[int, str]]:
    """A probe for each slide, and the suspected label errors by slide index, with the reason. They teach nothing.

    With many slides, a wrong label makes other labels suspicious as well. So each pass removes only the most suspicious
    slides of each label; then all slides are scored again, and a removed slide may be trusted again.

    Nothing is suspected where probes cannot be held out: a probe that learned a wrong label agrees with it.
    """
    if not all(can_hold_out(slides, fold_of) for fold_of in fold_assignments):
        return cross_fit(slides, fold_assignments, training), {}
    if len(slides) <= FEW_SLIDES:
        most = _most_suspected(len(slides))
        suspected = search_mislabelled(slides, fold_assignments, most=most, training=training)
        return cross_fit(_without_trust(slides, suspected), fold_assignments, training), suspected
    suspected = {}
    probes = cross_fit(slides, fold_assignments, training)
    new_per_pass = max(1, round(_NEW_SHARE * len(slides)))
    for _ in range(MOST_PASSES):
        outlying = outlying_labels(
            [probe(slide.features) for probe, slide in zip(probes, slides, strict=True)],
            positive=[slide.positive for slide in slides],
            certain=[bool(slide.known.any()) for slide in slides],
        )
        new: set[int] = set()
        for label in (True, False):
            of_label = [index for index in outlying if index not in suspected and slides[index].positive is label]
            new.update(of_label[:new_per_pass])
        chosen = [index for index in outlying if index in suspected or index in new][: _most_suspected(len(slides))]
        while not all(can_hold_out(_without_trust(slides, chosen), fold_of) for fold_of in fold_assignments):
            chosen.pop()  # the least suspicious
        if set(chosen) == suspected.keys():
            break
        suspected = {index: outlying[index] for index in chosen}
        probes = cross_fit(_without_trust(slides, suspected), fold_assignments, training)
    return probes, suspected


def outlying_labels(
    scores: Sequence[NDArray[np.float32]], *, positive: Sequence[bool], certain: Sequence[bool]
) -> dict[int, str]:
    """The indices of slides that look like the other label, the most suspicious first, with the reason.

    A negative slide is suspected when it looks nearly as much like tumour as positive slides do on average, a positive
    slide when it looks hardly more like tumour than negative slides. Nothing is suspected where the other positive
    slides do not look more like tumour than the other negative slides: there the probes tell nothing. So some slides of
    each label always remain.

    Args:
        scores: Out-of-fold logits of each slide's instances, [N] of each slide.
        positive: Each slide's label.
        certain: Slides on which a person has drawn or decided something: their label is not suspected.
    """
    labels = np.array(positive, bool)
    scored = np.array([logits.size > 0 for logits in scores])
    if min((scored & labels).sum(), (scored & ~labels).sum()) < _LEAST_SLIDES:
        return {}
    tumour_scores = np.array([_tumour_score(logits) if logits.size else 0.0 for logits in scores])
    excess: dict[int, tuple[float, str]] = {}
    for index in np.flatnonzero(scored & ~np.array(certain, bool)).tolist():
        others = scored & (np.arange(len(tumour_scores)) != index)
        low, high = (float(tumour_scores[others & (labels == label)].mean()) for label in (False, True))
        if high <= low:
            continue
        position = (tumour_scores[index] - low) / (high - low)
        if labels[index] and position < _LIKE_NORMAL:
            excess[index] = _LIKE_NORMAL - position, "labelled positive, looks no more like tumour than negative slides"
        elif not labels[index] and position > _LIKE_TUMOUR:
            excess[index] = position - _LIKE_TUMOUR, "labelled negative, looks as much like tumour as positive slides"
    return {index: reason for index, (_, reason) in sorted(excess.items(), key=lambda item: -item[1][0])}


def search_mislabelled(
    slides: Sequence[Instances],
    fold_assignments: Sequence[NDArray[np.integer]],
    *,
    most: int,
    training: SelfTraining = DEFAULT,
) -> dict[int, str]:
    """The indices of at most ``most`` slides whose removal best separates the two labels, with the reason.

    Sets of slides are removed on trial, beginning with single slides; the best sets are extended by one slide each.
    Nothing is suspected where the labels are clearly separated as they are, or where a person has decided something.
    Three slides of each label remain.

    Args:
        slides: The instances of each slide.
        fold_assignments: Assignments of slides to folds (see ``cross_fit``).
        most: Slides that may be suspected.
        training: How probes are trained.
    """
    separation = _Separation.of(slides, fold_assignments, training)
    removable = [
        index for index, slide in enumerate(separation.slides) if len(slide.features) and not slide.known.any()
    ]
    with_all = separation.without(())
    if with_all >= _CLEAR:
        return {}
    best: tuple[int, ...] = ()
    best_separation = reference = max(with_all, _SEPARATED / _FAR_BETTER)
    extended: list[tuple[int, ...]] = [()]
    for _ in range(most):
        candidates = {
            tuple(sorted((*removed, index))) for removed in extended for index in removable if index not in removed
        }
        tried = {
            removed: separation.without(removed, assignments=1)
            for removed in candidates
            if _leaves_enough(separation.slides, removed, fold_assignments)
        }
        if not tried:
            break
        promising = sorted(tried, key=lambda removed: -tried[removed])[:_SCORED_SETS]
        scored = {removed: separation.without(removed) for removed in promising}
        extended = sorted(scored, key=lambda removed: -scored[removed])[:_EXTENDED_SETS]
        if scored[extended[0]] > _BETTER * best_separation:
            best, best_separation = extended[0], scored[extended[0]]
        if best_separation >= _CLEAR:
            break
    if best_separation < _FAR_BETTER * reference:
        return {}
    reason = "without it, positive and negative slides are separated far better"
    return {index: f"labelled {'positive' if slides[index].positive else 'negative'}; {reason}" for index in best}


@dataclass(frozen=True, slots=True)
class _Separation:
    """How well positive and negative slides are separated without some of them; on few instances and directions."""

    slides: Sequence[Instances]
    reduced: Sequence[NDArray[np.float32]]
    fold_assignments: Sequence[NDArray[np.integer]]
    training: SelfTraining

    @classmethod
    def of(
        cls,
        slides: Sequence[Instances],
        fold_assignments: Sequence[NDArray[np.integer]],
        training: SelfTraining,
    ) -> "_Separation":
        thinned = []
        for slide in slides:
            every = slice(None, None, max(1, len(slide.features) // _TRIAL_INSTANCES))
            thinned.append(slide.select(every))
        return cls(thinned, reduce_features(thinned, directions=_TRIAL_DIRECTIONS), fold_assignments, training)

    def without(self, removed: tuple[int, ...], *, assignments: int | None = None) -> float:
        """The separation without the removed slides; -infinity where one of them does not look like the other label.

        ``assignments``: only the first so many fold assignments are used.
        """
        slides = _without_trust(self.slides, removed)
        scores = [
            _tumour_scores(score_out_of_fold(self.reduced, slides, fold_of, self.training))
            for fold_of in self.fold_assignments[:assignments]
        ]
        if not _removed_look_like_other_label(slides, np.mean(scores, axis=0)):
            return -np.inf
        return float(np.mean([_separation(slides, of_assignment) for of_assignment in scores]))


def _without_trust(slides: Sequence[Instances], removed: Sequence[int] | dict[int, str]) -> list[Instances]:
    return [replace(slide, trusted=index not in removed) for index, slide in enumerate(slides)]


def _most_suspected(slides: int) -> int:
    return max(1, round(_MOST_SHARE * slides))


def _tumour_score(logits: NDArray[np.float32]) -> float:
    count = max(1, round(_TOP_SHARE * logits.size))
    return float(np.partition(logits, -count)[-count:].mean())


def _tumour_scores(scores: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
    """How much each slide looks like tumour; NaN without instances."""
    return np.array([_tumour_score(logits) if logits.size else np.nan for logits in scores])


def _by_label(
    slides: Sequence[Instances], tumour_scores: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The tumour scores of the trusted positive slides, and of the trusted negative slides."""
    counted = np.array([slide.trusted for slide in slides]) & ~np.isnan(tumour_scores)
    positive = np.array([slide.positive for slide in slides])
    return tumour_scores[counted & positive], tumour_scores[counted & ~positive]


def _separation(slides: Sequence[Instances], tumour_scores: NDArray[np.float64]) -> float:
    """How far positive slides lie above negative slides, in standard deviations of the slides of a label."""
    high, low = _by_label(slides, tumour_scores)
    if min(len(high), len(low)) < _LEAST_SLIDES:
        return np.inf  # too few slides to suspect any
    return float((high.mean() - low.mean()) / max(np.sqrt((high.var(ddof=1) + low.var(ddof=1)) / 2), 1e-6))


def _removed_look_like_other_label(slides: Sequence[Instances], tumour_scores: NDArray[np.float64]) -> bool:
    """Whether each removed slide lies nearer the other label than its own."""
    high, low = _by_label(slides, tumour_scores)
    middle = (high.mean() + low.mean()) / 2 if len(high) and len(low) else np.nan
    return all(
        (score > middle) is not slide.positive
        for slide, score in zip(slides, tumour_scores.tolist(), strict=True)
        if not slide.trusted
    )


def _leaves_enough(
    slides: Sequence[Instances], removed: Sequence[int], fold_assignments: Sequence[NDArray[np.integer]]
) -> bool:
    """Whether enough slides of each label remain, also outside of every fold."""
    remaining = [slide.positive for index, slide in enumerate(slides) if index not in removed and len(slide.features)]
    if min(remaining.count(True), remaining.count(False)) < _LEAST_SLIDES:
        return False
    trusted = _without_trust(slides, removed)
    return all(can_hold_out(trusted, fold_of) for fold_of in fold_assignments)
