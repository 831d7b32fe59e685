"""From CAM logits to probabilities and a threshold, with slide labels alone.

The known-negative slides show how CAM logits are spread where there is no tumour. What the positive slides have above
that is tumour: with f the density on positive slides, g on negative ones and p the tumour's share of the former,
f = p * h + (1 - p) * g, so that the probability of tumour at a logit is 1 - (1 - p) g / f (positive-unlabelled
learning with the negatives known). The share is what is left when g is fitted under f as high as it goes where
negatives lie (mixture proportion estimation; Blanchard, Lee and Scott, JMLR 2010).

The bound on false positives is split-conformal over slides: for a new negative slide, drawn as those that were left
out while their CAM was trained, the share of its tissue above the threshold has an expected value of at most
(sum of the shares + 1) / (number of slides + 1).
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

    Slides weigh alike within their class. The threshold maximises the expected Dice on the positive slides: for
    calibrated probabilities it is half of the best expected Dice (Lipton, Elkan and Naryanaswamy, 2014).
    """
    pooled = np.concatenate([*positives, *negatives]).astype(np.float64)
    edges = np.unique(np.quantile(pooled, _quantiles()))
    if len(edges) < 3:
        edges = np.array([pooled.min() - 1.0, pooled.mean(), pooled.max() + 1.0])
    f, g = (_density(slides, edges) for slides in (positives, negatives))
    share = float(np.clip(_tumour_share(positives, negatives, edges), _LEAST_SHARE, 1.0))
    raw = np.clip(1.0 - (1.0 - share) * g / np.maximum(f, 1e-12), 0.0, 1.0)
    probability = _rising(raw, weight=f + g)
    centres = (edges[:-1] + edges[1:]) / 2
    threshold, start = _best_threshold(probability, f)
    false = [float((slide >= centres[start]).mean()) for slide in negatives]
    return Calibration(centres, probability, share, threshold, float(np.mean(false)))


def _quantiles() -> NDArray[np.float64]:
    """Where bins begin, as shares of all cells: even, and finer towards the top, where small tumours are."""
    return np.unique(np.concatenate([np.linspace(0, 1, _BINS + 1), 1 - np.geomspace(1 / _BINS, 1e-4, _BINS // 2)]))


def _density(slides: Sequence[NDArray[np.float32]], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of the tissue in each bin, mean over slides."""
    counts = [np.histogram(slide, bins=edges)[0] / max(1, slide.size) for slide in slides]
    mean: NDArray[np.float64] = np.mean(counts, axis=0)
    return mean


def _tumour_share(
    positives: Sequence[NDArray[np.float32]], negatives: Sequence[NDArray[np.float32]], edges: NDArray[np.float64]
) -> float:
    """What of the positive slides must be tumour: the largest surplus above any logit over the negative slides.

    The negative slides differ among themselves; a standard error is added to their mean before it is compared.
    """
    above_f, above_g = (
        np.array([1.0 - np.searchsorted(np.sort(slide), edges) / max(1, slide.size) for slide in slides])
        for slides in (positives, negatives)
    )
    usual = above_g.mean(axis=0)
    if len(negatives) > 1:
        usual = usual + above_g.std(axis=0, ddof=1) / np.sqrt(len(negatives))
    usual = np.minimum(usual, 1.0)
    surplus = (above_f.mean(axis=0) - usual) / np.maximum(1.0 - usual, 1e-6)
    return float(surplus[usual < 1.0 - _SURE_SHARE].max(initial=0.0))


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


def _best_threshold(probability: NDArray[np.float64], mass: NDArray[np.float64]) -> tuple[float, int]:
    """Probability threshold of the best expected Dice, and the first bin above it."""
    expected = float((probability * mass).sum())
    kept_mass = np.cumsum(mass[::-1])[::-1]
    kept_true = np.cumsum((probability * mass)[::-1])[::-1]
    dice = 2 * kept_true / np.maximum(kept_mass + expected, 1e-12)
    start = int(np.argmax(dice))
    return float(np.clip(dice[start] / 2, 0.05, 0.95)), start
