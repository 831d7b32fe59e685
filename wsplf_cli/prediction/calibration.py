"""From CAM logits to probabilities and a threshold, with slide labels alone.

The known-negative slides show how CAM logits are spread where there is no tumour. What a positive slide has above any
logit beyond that is its surplus: tumour, or else a slide like no negative one. Negative slides differ among
themselves, so what counts as usual is their mean and a standard deviation on top.

The probability of a logit is how much of what positive slides have there is surplus (positive-unlabelled learning with
the negatives known), and the threshold is where the expected Dice is highest: the surplus above it is what is found,
the largest surplus at any threshold what there is to find.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_BINS = 64
_LEAST_SHARE = 0.002
_SURE_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class Calibration:
    """``edges`` float64 [K], ``probability`` float64 [K], rising: a logit's probability is interpolated in them.

    ``share`` is the estimated share of tumour in the tissue of positive slides; ``threshold`` the probability from
    which a cell is foreground; ``false_positive_share`` the mean share of tissue of negative slides above it.
    """

    edges: NDArray[np.float64]
    probability: NDArray[np.float64]
    share: float
    threshold: float
    false_positive_share: float

    def cam(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits to CAM values float32 in 0..1, 0.5 at the threshold; NaN (no tissue) becomes 0."""
        probability = np.interp(logits, self.edges, self.probability)
        low = 0.5 * probability / self.threshold
        high = 0.5 + 0.5 * (probability - self.threshold) / max(1e-6, 1.0 - self.threshold)
        values = np.where(probability < self.threshold, low, high)
        return np.nan_to_num(values, nan=0.0).astype(np.float32)


def calibrate(positives: Sequence[NDArray[np.float32]], negatives: Sequence[NDArray[np.float32]]) -> Calibration:
    """Fit probability and threshold on the CAM logits of the tissue, one array [N] per slide, no NaN.

    Slides weigh alike within their class; the expected Dice is a mean over the positive slides.
    """
    pooled = np.concatenate([*positives, *negatives]).astype(np.float64)
    edges = np.unique(np.quantile(pooled, _quantiles()))
    if len(edges) < 3:
        edges = np.array([pooled.min() - 1.0, pooled.mean(), pooled.max() + 1.0])
    above = np.array([_share_above(slide, edges) for slide in positives])
    usual = _usual(np.array([_share_above(slide, edges) for slide in negatives]))
    surplus = np.clip((above - usual) / np.maximum(1.0 - usual, _SURE_SHARE), 0.0, 1.0)
    total = surplus.max(axis=1, keepdims=True)
    dice = (2 * surplus / np.maximum(above + total, 1e-9)).mean(axis=0)
    start = int(np.argmax(dice))
    centres = (edges[:-1] + edges[1:]) / 2
    mass = -np.diff(above.mean(axis=0))
    found = -np.diff(surplus.mean(axis=0))
    probability = _rising(np.clip(found / np.maximum(mass, 1e-12), 0.0, 1.0), weight=mass)
    threshold = float(np.clip(np.interp(edges[start], centres, probability), 0.05, 0.95))
    false = [float((slide >= edges[start]).mean()) for slide in negatives]
    share = float(max(total.mean(), _LEAST_SHARE))
    return Calibration(centres, probability, share, threshold, float(np.mean(false)))


def _share_above(slide: NDArray[np.float32], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of a slide's tissue at or above each edge."""
    below: NDArray[np.float64] = np.searchsorted(np.sort(slide), edges) / max(1, slide.size)
    return 1.0 - below


def _usual(above: NDArray[np.float64]) -> NDArray[np.float64]:
    """What is usual on negative slides, [slides, edges] to [edges]: mean and a standard deviation, falling."""
    usual = above.mean(axis=0)
    if len(above) > 1:
        usual = usual + above.std(axis=0, ddof=1)
    falling: NDArray[np.float64] = np.minimum.accumulate(np.minimum(usual, 1.0))
    return falling


def _quantiles() -> NDArray[np.float64]:
    """Where bins begin, as shares of all cells: even, and finer towards the top, where small tumours are."""
    return np.unique(np.concatenate([np.linspace(0, 1, _BINS + 1), 1 - np.geomspace(1 / _BINS, 1e-4, _BINS // 2)]))


def _rising(values: NDArray[np.float64], *, weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """The closest values that never fall (isotonic regression, pool adjacent violators)."""
    blocks: list[tuple[float, float, int]] = []
    for value, mass in zip(values, np.maximum(weight, 1e-12), strict=True):
        level, total, count = float(value), float(mass), 1
        while blocks and blocks[-1][0] >= level:
            before, before_total, before_count = blocks.pop()
            level = (before * before_total + level * total) / (before_total + total)
            total, count = total + before_total, count + before_count
        blocks.append((level, total, count))
    return np.concatenate([np.full(count, level) for level, _, count in blocks])
