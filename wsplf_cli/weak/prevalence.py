"""How much tumour there is on positive slides, estimated from what they have more of than negative slides.

The scores of negative slides show how scores are distributed without tumour. What positive slides have above a score in
excess of that, on average, is tumour, or tissue that no negative slide has. The largest excess above any score, less
some standard errors, estimates the prevalence. Of the tissue above a score, everything is tumour except for what
negative slides have there as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_BINS = 1000
#: Scores that negative slides exceed on more than this share of their tissue, on average, are not considered.
_HIGHEST_NEGATIVE_RATE = 0.3


@dataclass(frozen=True, slots=True)
class PrevalenceEstimate:
    """``prevalence`` 0..1 of tumour in the tissue of positive slides, and at each of ``thresholds`` (rising) [E]:
    ``positive_rate``, the mean share of the tissue of positive slides at or above it, ``negative_rate``, that of
    negative slides, and the ``dice`` that it is expected to reach.
    """

    prevalence: float
    thresholds: NDArray[np.float64]
    positive_rate: NDArray[np.float64]
    negative_rate: NDArray[np.float64]
    dice: NDArray[np.float64]

    @property
    def best(self) -> int:
        """The index of the threshold with the highest expected Dice; the last one where no Dice is expected."""
        return int(np.argmax(self.dice)) if self.dice.any() else len(self.thresholds) - 1


def estimate_prevalence(
    positives: Sequence[NDArray[np.float32]], negatives: Sequence[NDArray[np.float32]], *, errors: float
) -> PrevalenceEstimate:
    """The prevalence of tumour on positive slides.

    Args:
        positives: Scores of each positive slide's tissue, [N] each, no NaN. Slides weigh alike.
        negatives: Scores of each negative slide's tissue, of at least one slide.
        errors: By how many standard errors the excess is lowered: 1 for an estimate that is seldom too high, 2 for a
            bound.
    """
    pooled = np.concatenate([*positives, *negatives]).astype(np.float64)
    thresholds = np.unique(np.quantile(pooled, _quantiles()))
    positive_rate = np.array([share_above(scores, thresholds) for scores in positives]).mean(axis=0)
    above = np.array([share_above(scores, thresholds) for scores in negatives])
    negative_rate = above.mean(axis=0)
    highest_rate = np.minimum(negative_rate + errors * _standard_error(above, positives=len(positives)), 1.0)
    excess = np.clip((positive_rate - highest_rate) / np.maximum(1.0 - highest_rate, 1e-3), 0.0, 1.0)
    excess[negative_rate > _HIGHEST_NEGATIVE_RATE] = 0.0
    prevalence = float(excess.max())
    true_positive = np.clip(positive_rate - (1.0 - prevalence) * negative_rate, 0.0, prevalence)
    dice = 2 * true_positive / np.maximum(positive_rate + prevalence, 1e-9)
    return PrevalenceEstimate(prevalence, thresholds, positive_rate, negative_rate, dice)


def share_above(scores: NDArray[np.float32], thresholds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of a slide's scores at or above each threshold."""
    below: NDArray[np.float64] = np.searchsorted(np.sort(scores), thresholds) / max(1, scores.size)
    return 1.0 - below


def _standard_error(above: NDArray[np.float64], *, positives: int) -> NDArray[np.float64]:
    """Standard error of the difference of two means over slides, from the shares [slides, E] of negative slides.

    A single slide does not show how slides differ; its own share stands in.
    """
    spread = above.std(axis=0, ddof=1) if len(above) > 1 else above[0]
    error: NDArray[np.float64] = spread * np.sqrt(1 / len(above) + 1 / positives)
    return error


def _quantiles() -> NDArray[np.float64]:
    """Quantiles of all scores that serve as thresholds: even, and finer towards the top, where small tumours are."""
    return np.unique(np.concatenate([np.linspace(0, 1, _BINS + 1), 1 - np.geomspace(1 / _BINS, 1e-4, _BINS // 2)]))
