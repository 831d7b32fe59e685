"""From CAM logits to a CAM in 0..1 that means the same on every slide, with slide labels alone.

The threshold is where the expected Dice is highest, by the surplus of the positive slides (see ``estimate_prevalence``).

Besides, every piece must have a core that only a small share of the tissue of negative slides would reach (``core``).
That share is bounded for a new slide by conformal risk control (Angelopoulos et al., ICLR 2024).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from wsplf_cli.weak.prevalence import estimate_prevalence, share_above

_CANDIDATES = 2000
#: What a piece without a core becomes, or a place that is of another class: just no foreground.
BELOW = np.float32(0.49)


@dataclass(frozen=True, slots=True)
class Calibration:
    """``threshold``: logit from which a cell is foreground; ``scale``: logits in which the CAM goes from 0.5 to 0.73.

    ``tumour_share`` is the estimated share of tumour in the tissue of positive slides, ``called_share`` the share that
    is above the threshold, ``expected_dice`` what the threshold is expected to reach, and ``false_positive_share`` the
    mean share of the tissue of negative slides above it.
    """

    threshold: float
    scale: float
    tumour_share: float
    called_share: float
    expected_dice: float
    false_positive_share: float

    def cam(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits to CAM values float32 in 0..1, 0.5 at the threshold; NaN (no tissue) becomes 0."""
        steps = np.clip((logits - self.threshold) / self.scale, -30, 30)
        values: NDArray[np.float32] = np.nan_to_num(1.0 / (1.0 + np.exp(-steps)), nan=0.0).astype(np.float32)
        return values

    def match_positive_rate(
        self, positives: Sequence[NDArray[np.float32]], negatives: Sequence[NDArray[np.float32]]
    ) -> "Calibration":
        """The threshold for other CAMs of the same slides, by the share of the positive slides' tissue that it calls.

        That share is what this threshold calls, or the estimated share of tumour where that is more: a threshold that
        finds less than what must be there is too high.

        For CAMs of classifiers that were trained on the slides: how much is tumour is judged by classifiers that did
        not see a slide, where it lies by all of them.
        """
        candidates = np.quantile(np.concatenate(positives).astype(np.float64), np.linspace(0, 1, _CANDIDATES))
        called = np.mean([share_above(slide, candidates) for slide in positives], axis=0)
        best = int(np.argmin(np.abs(called - max(self.called_share, self.tumour_share))))
        threshold = float(candidates[best])
        return replace(
            self,
            threshold=threshold,
            scale=_scale(threshold, negatives),
            called_share=float(called[best]),
            false_positive_share=float(np.mean([(slide >= threshold).mean() for slide in negatives])),
        )


@dataclass(frozen=True, slots=True)
class PeakThreshold:
    """The logit that the core of a piece must reach, and what that means for slides without tumour.

    ``measured`` is the mean share of the tissue of the ``slides`` negative slides at or above ``threshold``,
    ``guaranteed`` a bound on the expected share of a new negative slide, ``slides_needed`` how many negative slides
    it takes until the bound is the share that was asked for.
    """

    threshold: float
    measured: float
    guaranteed: float
    slides: int
    slides_needed: int


def core(negatives: Sequence[NDArray[np.float32]], *, alpha: float, least: float = -np.inf) -> PeakThreshold:
    """The lowest logit that at most a share ``alpha`` of the tissue of negative slides reaches, with its bound.

    The loss of a slide, the share of its tissue at or above the logit, falls with the logit and is at most 1; so for a
    new slide that could as well have been one of the n, judged like them, the expected loss is at most (n r + 1) /
    (n + 1), where r is the mean that the n were held to (conformal risk control). With 1 / alpha - 1 slides or more,
    r is lowered so that this bound is alpha itself; with fewer no threshold can promise alpha, and r is alpha.

    Args:
        negatives: Logits of the tissue of at least one slide, [N] each, by classifiers that did not see the slide.
        alpha: Share 0..1.
        least: The lowest logit to be taken.
    """
    count = len(negatives)
    needed = int(np.ceil(1 / alpha - 1 - 1e-9))
    most = ((count + 1) * alpha - 1) / count if count >= needed else alpha
    values = np.unique(np.concatenate([slide[slide >= np.quantile(slide, 0.5)] for slide in negatives]))
    candidates = np.append(values, np.nextafter(values[-1], np.float32(np.inf))).astype(np.float64)
    shares = np.mean([share_above(slide, candidates) for slide in negatives], axis=0)
    threshold = max(float(candidates[int(np.argmax(shares <= most + 1e-12))]), least)
    return PeakThreshold(
        threshold=threshold,
        measured=float(np.mean([share_above(slide, np.array([threshold])) for slide in negatives])),
        guaranteed=float(min(1.0, (count * most + 1) / (count + 1))),
        slides=count,
        slides_needed=needed,
    )


def typical_top_decile(positives: Sequence[NDArray[np.float32]], *, threshold: float) -> float:
    """The logit that the typical_top_decile tenth of what is called exceeds on the middle positive slide; ``threshold`` at least.

    Args:
        positives: Logits of the tissue of positive slides, [N] each.
        threshold: Logit from which a cell is called.
    """
    called = [slide[slide >= threshold] for slide in positives]
    tops = [float(np.quantile(own, 0.9)) for own in called if own.size]
    return max(threshold, float(np.median(tops))) if tops else threshold


def keep_components_with_peak(cam: NDArray[np.float32], *, least: float) -> NDArray[np.float32]:
    """The CAM float32 [rows, columns] with its pieces (0.5 and above) that nowhere reach ``least`` put below 0.5."""
    pieces, count = ndimage.label(cam >= 0.5, structure=np.ones((3, 3)))
    if not count:
        return cam
    peaks = np.concatenate([[1.0], ndimage.maximum(cam, pieces, np.arange(1, count + 1))])
    kept: NDArray[np.float32] = np.where(peaks[pieces] >= least, cam, np.minimum(cam, BELOW)).astype(np.float32)
    return kept


def level(negatives: Sequence[NDArray[np.float32]]) -> tuple[float, float]:
    """Centre and spread of the logits of one classifier on negative slides that it was not trained on.

    Each classifier has a scale of its own: (logit - centre) / spread is comparable between them.
    """
    shares = np.array([np.quantile(slide, (0.5, 0.95)) for slide in negatives if slide.size])
    centre, high = shares.mean(axis=0)
    return float(centre), float(max(high - centre, 1e-3))


def calibrate(
    positives: Sequence[NDArray[np.float32]], negatives: Sequence[NDArray[np.float32]], *, least: float = -np.inf
) -> Calibration:
    """Choose the threshold from the CAM logits of the tissue, one array [N] per slide, no NaN.

    Slides weigh alike. The CAM is 0.05 at the middle logit of negative slides.

    Args:
        positives: Logits of positive slides.
        negatives: Logits of negative slides.
        least: The lowest threshold, where the classifier itself has one.
    """
    seen = estimate_prevalence(positives, negatives, errors=1.0)
    best = max(seen.best, int(np.searchsorted(seen.edges, least)))
    best = min(best, len(seen.edges) - 1)
    threshold = max(float(seen.edges[best]), least)
    return Calibration(
        threshold=threshold,
        scale=_scale(threshold, negatives),
        tumour_share=seen.share,
        called_share=float(seen.called[best]),
        expected_dice=float(seen.dice[best]),
        false_positive_share=float(seen.usual[best]),
    )


def _scale(threshold: float, negatives: Sequence[NDArray[np.float32]]) -> float:
    """The scale that makes the CAM 0.05 at the middle logit of negative slides."""
    middle = float(np.mean([np.median(slide) for slide in negatives if slide.size]))
    return max(threshold - middle, 1e-3) / float(np.log(19.0))
