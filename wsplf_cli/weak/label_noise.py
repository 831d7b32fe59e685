"""Which slide labels do not fit what classifiers that did not see the slide find on it.

A mislabelled slide costs more than it weighs: a negative slide full of tumour tells the classifier that tumour is
background, and raises what must be exceeded to be called tumour.

Of many slides a wrong label teaches little, so that the slide itself stands out (``suspects``). Of few slides it
spoils the classifiers by which the slide is judged; there it is looked for which slides, if left out, let the others
be told apart far better (``search_mislabelled``).
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from wsplf_cli.weak.linear_probe import Instances, few_directions, score_out_of_fold

#: A slide is as much tumour as the mean of this share of its places, the likeliest ones.
_TOP_SHARE = 0.01
#: Where between the means of negative (0) and positive slides (1) a slide must lie for its label to be doubted: a
#: negative slide above the one, a positive one below the other.
_LIKE_TUMOUR = 0.85
_LIKE_NONE = 0.1
#: With fewer slides of a kind their middle says little, and nothing is doubted.
_LEAST_SLIDES = 3
#: How far apart the kinds lie, in standard deviations of the slides of a kind: labels are only doubted below that, and
#: only if they lie so many times as far apart without the doubted slides; each further slide must add so much.
_CLEAR = 3.5
_FAR_BETTER = 1.6
_BETTER = 1.4
#: They must lie at least so far apart then: by leaving slides out, any few slides can be told apart somewhat.
_TOLD_APART = 3.0
#: For the many trials, places of a slide and directions of their features.
_TRIED_PLACES = 400
_TRIED_DIRECTIONS = 96
#: Sets of slides that are pursued from one size to the next, and those that are judged by all dealings.
_PURSUED = 2
_WEIGHED = 4


def suspects(
    scores: Sequence[NDArray[np.float32]], *, positive: Sequence[bool], certain: Sequence[bool]
) -> dict[int, str]:
    """The numbers of slides whose label is doubted, the most doubtful first, with why.

    A negative slide is doubted when it looks nearly as much like tumour as positive ones do on average, a positive
    slide when it looks hardly more like it than negative ones. Nothing is doubted where the other positive slides do
    not look more like tumour than the other negative ones: there the classifiers tell nothing. So some slides of each
    kind are always left.

    Args:
        scores: Logits of each slide's places, [N] per slide, by classifiers that did not learn from the slide.
        positive: Each slide's label.
        certain: Slides on which a person has drawn or decided something: their label is not doubted.
    """
    kinds = np.array(positive, bool)
    seen = np.array([one.size > 0 for one in scores])
    if min((seen & kinds).sum(), (seen & ~kinds).sum()) < _LEAST_SLIDES:
        return {}
    tops = np.array([_top(one) if one.size else 0.0 for one in scores])
    doubted: dict[int, tuple[float, str]] = {}
    for number in np.flatnonzero(seen & ~np.array(certain, bool)).tolist():
        others = seen & (np.arange(len(tops)) != number)
        low, high = (float(tops[others & (kinds == which)].mean()) for which in (False, True))
        if high <= low:
            continue
        place, kind = (tops[number] - low) / (high - low), kinds[number]
        if kind and place < _LIKE_NONE:
            doubted[number] = _LIKE_NONE - place, "labelled positive, looks no more like tumour than negative slides"
        elif not kind and place > _LIKE_TUMOUR:
            doubted[number] = place - _LIKE_TUMOUR, "labelled negative, looks as much like tumour as positive slides"
    return {number: why for number, (_, why) in sorted(doubted.items(), key=lambda item: -item[1][0])}


def _top(scores: NDArray[np.float32]) -> float:
    count = max(1, round(_TOP_SHARE * scores.size))
    return float(np.partition(scores, -count)[-count:].mean())


def search_mislabelled(
    places: Sequence[Instances], dealt: Sequence[NDArray[np.integer]], *, most: int
) -> dict[int, str]:
    """The numbers of slides without which the others are told apart far better, with why; at most ``most``.

    Sets of slides are left out on trial, from one slide on, the best sets with one more each. Nothing is doubted where
    the kinds lie clearly apart as they are, nor where a person has spoken; three slides of each kind are left.

    Args:
        places: Of each slide.
        dealt: Dealings of the slides into folds (see ``places.learn``).
        most: Slides that may be doubted.
    """
    few = []
    for one in places:
        some = slice(None, None, max(1, len(one.features) // _TRIED_PLACES))
        few.append(replace(one, features=one.features[some], known=one.known[some]))
    features = few_directions(few, kept=_TRIED_DIRECTIONS)
    free = [number for number, one in enumerate(few) if len(one.features) and not one.known.any()]

    def apart(out: tuple[int, ...], dealings: Sequence[NDArray[np.integer]]) -> float:
        trusted = [replace(one, trusted=number not in out) for number, one in enumerate(few)]
        tops = [_tops(score_out_of_fold(features, trusted, folds)) for folds in dealings]
        if not _like_the_other_kind(trusted, np.mean(tops, axis=0)):
            return -np.inf
        return float(np.mean([_apart(trusted, own) for own in tops]))

    def sets_with_one_more(pursued: Sequence[tuple[int, ...]]) -> set[tuple[int, ...]]:
        return {tuple(sorted((*one, number))) for one in pursued for number in free if number not in one}

    as_they_are = apart((), dealt)
    if as_they_are >= _CLEAR:
        return {}
    best: tuple[int, ...] = ()
    furthest = at_first = max(as_they_are, _TOLD_APART / _FAR_BETTER)
    pursued: list[tuple[int, ...]] = [()]
    for _ in range(most):
        tried = {out: apart(out, dealt[:1]) for out in sets_with_one_more(pursued) if _leaves_enough(few, out)}
        if not tried:
            break
        weighed = {out: apart(out, dealt) for out in sorted(tried, key=lambda out: -tried[out])[:_WEIGHED]}
        pursued = sorted(weighed, key=lambda out: -weighed[out])[:_PURSUED]
        if weighed[pursued[0]] > _BETTER * furthest:
            best, furthest = pursued[0], weighed[pursued[0]]
        if furthest >= _CLEAR:
            break
    if furthest < _FAR_BETTER * at_first:
        return {}
    why = "without it, positive and negative slides are told apart far better"
    return {number: f"labelled {'positive' if few[number].positive else 'negative'}; {why}" for number in best}


def _tops(scores: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
    """How much each slide is tumour, NaN without places."""
    return np.array([_top(own) if own.size else np.nan for own in scores])


def _of_kinds(
    places: Sequence[Instances], tops: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How much the trusted positive slides are tumour, and the negative ones."""
    counted = np.array([one.trusted for one in places]) & ~np.isnan(tops)
    positive = np.array([one.positive for one in places])
    return tops[counted & positive], tops[counted & ~positive]


def _apart(places: Sequence[Instances], tops: NDArray[np.float64]) -> float:
    """How far the positive slides lie above the negative ones, in standard deviations of the slides of a kind."""
    high, low = _of_kinds(places, tops)
    if min(len(high), len(low)) < _LEAST_SLIDES:
        return np.inf  # too few to doubt any
    return float((high.mean() - low.mean()) / max(np.sqrt((high.var(ddof=1) + low.var(ddof=1)) / 2), 1e-6))


def _like_the_other_kind(places: Sequence[Instances], tops: NDArray[np.float64]) -> bool:
    """Whether each slide that is left out lies nearer the other kind than its own."""
    high, low = _of_kinds(places, tops)
    middle = (high.mean() + low.mean()) / 2 if len(high) and len(low) else np.nan
    return all(
        (top > middle) is not one.positive for one, top in zip(places, tops.tolist(), strict=True) if not one.trusted
    )


def _leaves_enough(places: Sequence[Instances], out: Sequence[int]) -> bool:
    left = [one.positive for number, one in enumerate(places) if number not in out and len(one.features)]
    return min(left.count(True), left.count(False)) >= _LEAST_SLIDES
