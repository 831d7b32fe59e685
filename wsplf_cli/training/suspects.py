"""Which slide labels do not fit what classifiers that did not see the slide find on it.

A mislabelled slide costs more than it weighs: a negative slide full of tumour tells the classifier that tumour is
background, and raises what must be exceeded to be called tumour.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

#: A slide is as much tumour as the mean of this share of its places, the likeliest ones.
_TOP_SHARE = 0.01
#: Where between the means of negative (0) and positive slides (1) a slide must lie for its label to be doubted: a
#: negative slide above the one, a positive one below the other.
_LIKE_TUMOUR = 0.85
_LIKE_NONE = 0.1
#: With fewer slides of a kind their middle says little, and nothing is doubted.
_LEAST_SLIDES = 3


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
