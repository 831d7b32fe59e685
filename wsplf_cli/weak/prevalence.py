"""How much tumour there is on positive slides, judged by what they have more of than negative slides.

Scores of negative slides show how scores are spread where there is no tumour. What positive slides have above any score
beyond that, on average, is their surplus: tumour, or else tissue like that of no negative slide. The largest surplus
above any score, less some standard errors of it, is how much tumour there is to find; what is called above a score is
tumour but for what negative slides have there as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_BINS = 1000
#: Scores that negative slides exceed with more of their tissue on average are not looked at.
_MOST_USUAL = 0.3


@dataclass(frozen=True, slots=True)
class PrevalenceEstimate:
    """``share`` of tumour in the tissue of positive slides, 0..1, and at each of ``edges`` (scores, rising) [E]:
    the mean share of the tissue of positive slides at or above it (``called``) and of negative ones (``usual``), and
    the ``dice`` that is expected of it as a threshold.
    """

    share: float
    edges: NDArray[np.float64]
    called: NDArray[np.float64]
    usual: NDArray[np.float64]
    dice: NDArray[np.float64]

    @property
    def best(self) -> int:
        """The number of the edge of which most is expected; the last one when nothing is expected of any."""
        return int(np.argmax(self.dice)) if self.dice.any() else len(self.edges) - 1


def estimate_prevalence(
    positives: Sequence[NDArray[np.float32]], negatives: Sequence[NDArray[np.float32]], *, errors: float
) -> PrevalenceEstimate:
    """The surplus of positive slides.

    Args:
        positives: Scores of each slide's tissue, [N] each, no NaN. Slides weigh alike.
        negatives: Likewise, of at least one slide.
        errors: By how many standard errors the surplus is lowered: 1 for an estimate that is seldom too high, 2 for a
            bound.
    """
    pooled = np.concatenate([*positives, *negatives]).astype(np.float64)
    edges = np.unique(np.quantile(pooled, _quantiles()))
    called = np.array([share_above(slide, edges) for slide in positives]).mean(axis=0)
    above = np.array([share_above(slide, edges) for slide in negatives])
    usual = above.mean(axis=0)
    most = np.minimum(usual + errors * _error(above, positives=len(positives)), 1.0)
    more = np.clip((called - most) / np.maximum(1.0 - most, 1e-3), 0.0, 1.0)
    more[usual > _MOST_USUAL] = 0.0
    share = float(more.max())
    found = np.clip(called - (1.0 - share) * usual, 0.0, share)
    return PrevalenceEstimate(share, edges, called, usual, 2 * found / np.maximum(called + share, 1e-9))


def share_above(slide: NDArray[np.float32], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of a slide's scores at or above each edge."""
    below: NDArray[np.float64] = np.searchsorted(np.sort(slide), edges) / max(1, slide.size)
    return 1.0 - below


def _error(above: NDArray[np.float64], *, positives: int) -> NDArray[np.float64]:
    """Standard error of the difference of two means of slides, [slides, edges] of negative ones to [edges].

    A single slide says nothing of how slides differ: what it has itself is taken for that.
    """
    spread = above.std(axis=0, ddof=1) if len(above) > 1 else above[0]
    error: NDArray[np.float64] = spread * np.sqrt(1 / len(above) + 1 / positives)
    return error


def _quantiles() -> NDArray[np.float64]:
    """Where bins begin, as shares of all cells: even, and finer towards the top, where small tumours are."""
    return np.unique(np.concatenate([np.linspace(0, 1, _BINS + 1), 1 - np.geomspace(1 / _BINS, 1e-4, _BINS // 2)]))
