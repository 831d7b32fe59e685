"""From CAM logits to a CAM in 0..1 that means the same on every slide, from slide labels alone.

The threshold is where the expected Dice is highest, by the prevalence of tumour on the positive slides (see
``prevalence``). Besides, the peak of every polygon must reach a higher threshold, which only a small share of the
tissue of negative slides reaches (``peak_threshold``). That share is bounded for a new slide (``conformal``).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from wsplf_cli.conformal import guaranteed, highest_mean, patient_weights, patients_needed
from wsplf_cli.weak.prevalence import estimate_prevalence, share_above
from wsplf_cli.weak.prompts import FOREGROUND

_CANDIDATES = 2000
#: The CAM value of cells that are just no foreground: of a component without a peak, or of another class.
BELOW_FOREGROUND = np.float32(0.49)
#: The CAM is this at the median logit of negative slides.
_CAM_OF_NEGATIVES = 0.05


@dataclass(frozen=True, slots=True)
class Calibration:
    """The threshold of a CAM and what it means for the cohort.

    ``threshold``: the logit from which a cell is foreground. ``scale``: the logits in which the CAM goes from 0.5 to
    0.73. ``prevalence``: the estimated share of tumour in the tissue of positive slides. ``positive_rate``: the share
    of it above the threshold. ``expected_dice``: the Dice that the threshold is expected to reach. ``negative_rate``:
    the mean share of the tissue of negative slides above the threshold.
    """

    threshold: float
    scale: float
    prevalence: float
    positive_rate: float
    expected_dice: float
    negative_rate: float

    def cam(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits to CAM values float32 in 0..1, 0.5 at the threshold; NaN (no tissue) becomes 0."""
        steps = np.clip((logits - self.threshold) / self.scale, -30, 30)
        values: NDArray[np.float32] = np.nan_to_num(1.0 / (1.0 + np.exp(-steps)), nan=0.0).astype(np.float32)
        return values

    def match_positive_rate(
        self, positives: Sequence[NDArray[np.float32]], negatives: Sequence[NDArray[np.float32]]
    ) -> "Calibration":
        """The threshold for other logits of the same slides that has the same positive rate.

        Where the estimated prevalence is higher than the positive rate, the prevalence is matched instead: a threshold
        that finds less than there must be is too high.

        This is for logits of classifiers that were trained on the slides. Out-of-fold logits tell how much is tumour;
        the mean of all classifiers tells where.
        """
        candidates = np.quantile(np.concatenate(positives).astype(np.float64), np.linspace(0, 1, _CANDIDATES))
        rates = np.mean([share_above(scores, candidates) for scores in positives], axis=0)
        best = int(np.argmin(np.abs(rates - max(self.positive_rate, self.prevalence))))
        threshold = float(candidates[best])
        return replace(
            self,
            threshold=threshold,
            scale=_scale(threshold, negatives),
            positive_rate=float(rates[best]),
            negative_rate=float(np.mean([(scores >= threshold).mean() for scores in negatives])),
        )


@dataclass(frozen=True, slots=True)
class PeakThreshold:
    """The logit that the peak of a polygon must reach, and what it means for slides without tumour.

    ``measured``: the mean share of the tissue of the ``slides`` negative slides at or above ``threshold``.
    ``guaranteed``: a bound on the expected share for a negative slide of a new patient, None where there is none.
    ``patients``: of how many patients the slides are. ``slides_needed``: with negative slides of so many patients the
    bound equals the share that was asked for.
    """

    threshold: float
    measured: float
    guaranteed: float | None
    slides: int
    slides_needed: int
    patients: int = 0


def peak_threshold(
    negatives: Sequence[NDArray[np.float32]],
    *,
    alpha: float,
    least: float = -np.inf,
    patients: Sequence[str] | None = None,
) -> PeakThreshold:
    """The lowest logit that at most a share ``alpha`` of the tissue of negative slides reaches, with its bound.

    The loss of a patient is the share of tissue at or above the logit, on average over the patient's slides. It falls
    with the logit and is at most 1, so that ``conformal`` bounds it for a new patient.

    Args:
        negatives: Out-of-fold logits of the tissue of at least one negative slide, [N] each.
        alpha: Share 0..1.
        least: The lowest logit to return.
        patients: The patient of each slide; None: all are different.
    """
    weights, count = patient_weights(patients or [str(index) for index in range(len(negatives))])
    most = highest_mean(alpha, patients=count)
    values = np.unique(np.concatenate([logits[logits >= np.quantile(logits, 0.5)] for logits in negatives]))
    candidates = np.append(values, np.nextafter(values[-1], np.float32(np.inf))).astype(np.float64)
    shares = np.average([share_above(logits, candidates) for logits in negatives], axis=0, weights=weights)
    threshold = max(float(candidates[int(np.argmax(shares <= most + 1e-12))]), least)
    return PeakThreshold(
        threshold=threshold,
        measured=float(np.mean([share_above(logits, np.array([threshold])) for logits in negatives])),
        guaranteed=guaranteed(most, patients=count),
        slides=len(negatives),
        slides_needed=patients_needed(alpha),
        patients=count,
    )


def typical_top_decile(positives: Sequence[NDArray[np.float32]], *, threshold: float) -> float:
    """The 90th percentile of the logits above the threshold, on the median positive slide; at least the threshold.

    Args:
        positives: Logits of the tissue of positive slides, [N] each.
        threshold: Logit from which a cell is foreground.
    """
    foregrounds = [logits[logits >= threshold] for logits in positives]
    deciles = [float(np.quantile(logits, 0.9)) for logits in foregrounds if logits.size]
    return max(threshold, float(np.median(deciles))) if deciles else threshold


def keep_components_with_peak(cam: NDArray[np.float32], *, peak: float) -> NDArray[np.float32]:
    """The CAM float32 [rows, columns] with those components of the foreground lowered that nowhere reach ``peak``."""
    components, count = ndimage.label(cam >= FOREGROUND, structure=np.ones((3, 3)))
    if not count:
        return cam
    peaks = np.concatenate([[1.0], ndimage.maximum(cam, components, np.arange(1, count + 1))])
    lowered = np.minimum(cam, BELOW_FOREGROUND)
    kept: NDArray[np.float32] = np.where(peaks[components] >= peak, cam, lowered).astype(np.float32)
    return kept


def calibrate(
    positives: Sequence[NDArray[np.float32]], negatives: Sequence[NDArray[np.float32]], *, least: float = -np.inf
) -> Calibration:
    """Choose the threshold from the CAM logits of the tissue, one array [N] per slide, no NaN. Slides weigh alike.

    Args:
        positives: Logits of positive slides.
        negatives: Logits of negative slides.
        least: The lowest threshold, where the classifier itself has one.
    """
    estimate = estimate_prevalence(positives, negatives, errors=1.0)
    best = max(estimate.best, int(np.searchsorted(estimate.thresholds, least)))
    best = min(best, len(estimate.thresholds) - 1)
    threshold = max(float(estimate.thresholds[best]), least)
    return Calibration(
        threshold=threshold,
        scale=_scale(threshold, negatives),
        prevalence=estimate.prevalence,
        positive_rate=float(estimate.positive_rate[best]),
        expected_dice=float(estimate.dice[best]),
        negative_rate=float(estimate.negative_rate[best]),
    )


def _scale(threshold: float, negatives: Sequence[NDArray[np.float32]]) -> float:
    """The scale at which the CAM is ``_CAM_OF_NEGATIVES`` at the median logit of negative slides."""
    median = float(np.mean([np.median(logits) for logits in negatives if logits.size]))
    return max(threshold - median, 1e-3) / float(np.log(1 / _CAM_OF_NEGATIVES - 1))
