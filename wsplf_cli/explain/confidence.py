"""What the confidence of a polygon is made of, in words and numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsplf_cli.explain.evidence import Evidence
from wsplf_cli.review.roles import CONFIDENCE
from wsplf_cli.schema import Annotation, PromptedMask
from wsplf_cli.weak.calibration import Calibration, PeakThreshold
from wsplf_cli.weak.sam.refine import LEAST_SOFT_DICE, SAM_WEIGHT

CAM, SAM_IOU, SAM_SHARE = "wsplf: CAM", "wsplf: SAM IoU", "wsplf: SAM share"
#: Differences from the formula that rounding explains.
_ROUNDING = 0.01

#: What the confidence is with the refiners that do not join the CAM with SAM's masks.
_WITHOUT_SUM = {
    "none": "the mean CAM in the polygon: the recipe does not refine the CAM",
    "slic": "the mean CAM of the superpixels in the polygon",
    "sam-only": "the share of the polygon that SAM's masks cover: the recipe takes SAM's masks as they are",
}


@dataclass(frozen=True, slots=True)
class Part:
    """One figure that the confidence rests on, and what it means."""

    name: str
    value: float
    meaning: str


def parts_of_pseudolabel(annotation: Annotation, recipe: Mapping[str, Any]) -> list[Part]:
    """The measurements that make up the confidence of a pseudo-label."""
    how = _WITHOUT_SUM.get(
        _refiner(recipe),
        f"the mean probability in the polygon: the CAM and SAM's masks together. A mask weighs {SAM_WEIGHT:.1f} times"
        " its estimated IoU; where it was discarded, the CAM counts alone",
    )
    meanings = (
        ("Confidence", CONFIDENCE, how),
        ("CAM", CAM, "the mean CAM in the polygon; 0.5 is the threshold of the cohort"),
        ("SAM share", SAM_SHARE, "the share of the polygon that SAM's masks cover"),
        ("SAM IoU", SAM_IOU, "SAM's own estimate of the IoU of these masks, on average"),
    )
    return [
        Part(name, float(annotation.measurements[key]), meaning)
        for name, key, meaning in meanings
        if key in annotation.measurements
    ]


def sum_of_confidence(annotation: Annotation, recipe: Mapping[str, Any]) -> str:
    """The confidence of a pseudo-label as a sum of its parts; empty where it is none."""
    values = annotation.measurements
    if _refiner(recipe) in _WITHOUT_SUM or not {CONFIDENCE, CAM, SAM_SHARE, SAM_IOU} <= set(values):
        return ""
    cam, share = values[CAM], values[SAM_SHARE]
    weight = SAM_WEIGHT * values[SAM_IOU]
    total = (1 - weight) * cam + weight * share
    text = f"{1 - weight:.2f} × {cam:.2f} (CAM) + {weight:.2f} × {share:.2f} (SAM) = {total:.2f}"
    if f"{total:.2f}" != f"{values[CONFIDENCE]:.2f}":
        text += (
            f"; measured: {values[CONFIDENCE]:.2f}, since in a part of the polygon a mask was discarded, or windows"
            " that overlap have different masks"
        )
    return text


def parts_of_prediction(annotation: Annotation, inside: NDArray[np.float32] | None, threshold: object) -> list[Part]:
    """The confidence of a prediction, and the probabilities inside it where they could be computed again."""
    parts = []
    if CONFIDENCE in annotation.measurements:
        meaning = "the model's mean probability in the polygon as it was written"
        parts.append(Part("Confidence", float(annotation.measurements[CONFIDENCE]), meaning))
    if isinstance(threshold, (int, float)):
        parts.append(Part("Threshold", float(threshold), "from this probability on a pixel belongs to the class"))
    if inside is not None and inside.size:
        low, middle, high = np.quantile(inside, (0.05, 0.5, 0.95))
        parts += [
            Part("Mean", float(inside.mean()), "the mean probability in its present shape, computed again"),
            Part("5th percentile", float(low), "5 % of its pixels are below this"),
            Part("Median", float(middle), "half of its pixels are below this"),
            Part("95th percentile", float(high), "5 % of its pixels are above this"),
        ]
    return parts


def words_on_cam(calibration: Calibration | None, peak: PeakThreshold | None, *, peak_cam: float | None) -> list[str]:
    """Sentences on the threshold of the CAM, and on the peak of the polygon."""
    sentences = []
    if calibration is not None:
        sentences.append(
            f"Foreground begins at a CAM of 0.5, a logit of {calibration.threshold:.2f}:"
            f" {calibration.positive_rate:.1%} of the tissue of positive slides and {calibration.negative_rate:.2%} of"
            f" that of negative slides lie above; the estimated prevalence is {calibration.prevalence:.1%}."
        )
    if calibration is not None and peak is not None:
        needed = float(calibration.cam(np.array(peak.threshold, np.float32)))
        reached = "" if peak_cam is None else f"The highest CAM in the polygon is {peak_cam:.2f}. "
        sentences.append(
            f"{reached}A polygon needs a peak of {needed:.2f} (logit {peak.threshold:.2f}), which {peak.measured:.2%}"
            f" of the tissue of {peak.slides} negative slide{'' if peak.slides == 1 else 's'} reaches."
        )
        if peak_cam is not None and peak_cam < needed - _ROUNDING:
            sentences.append(
                "The CAM in this polygon does not reach that: SAM's mask carried it over the threshold, beside tissue"
                " that does, or a person changed its shape."
            )
    elif peak_cam is not None:
        sentences.append(f"The highest CAM in the polygon is {peak_cam:.2f}; 0.5 is the threshold.")
    return sentences


def words_on_evidence(evidence: Evidence, path_class: str) -> str:
    """The logit of the classifier as a sum, in one sentence."""
    moved = ", ".join(f"{part:+.2f} within about {sigma:g} µm" for sigma, part in evidence.parts.items())
    return (
        f"At the marked point the logit for {path_class} is {evidence.logit:.2f} ({evidence.probe}). Average tissue of"
        f" the cohort has {evidence.average:.2f}; the tissue here moves it by {moved}."
    )


def words_on_sam(masks: Sequence[PromptedMask]) -> str:
    """How many of SAM's masks counted, in one sentence; empty where there are none."""
    if not masks:
        return ""
    used = [mask for mask in masks if mask.used]
    agreement = [mask.soft_dice for mask in masks if mask.soft_dice is not None]
    text = f"{len(used)} of SAM's {len(masks)} mask{'' if len(masks) == 1 else 's'} here counted"
    if len(used) < len(masks):
        text += f"; a mask is discarded where its soft Dice with the CAM is below {LEAST_SOFT_DICE:g}"
    if agreement:
        text += f". Their soft Dice with the CAM is {min(agreement):.2f} to {max(agreement):.2f}"
    return text + "."


def words_on_alike(evidence: Evidence) -> str:
    """Whether the point is more like positive or like negative slides, in one sentence."""
    positive, negative = evidence.positive, evidence.negative
    if not positive or not negative:
        missing = "positive" if not positive else "negative"
        return f"No other {missing} slide of the run has kept instances to compare with."
    nearest = positive[0].similarity, negative[0].similarity
    side = "positive" if nearest[0] > nearest[1] else "negative"
    return (
        f"The most alike instance on another positive slide has a cosine similarity of {nearest[0]:.2f}, that on a"
        f" negative slide {nearest[1]:.2f}: the point is nearer to {side} slides. Searched were {evidence.searched:,}"
        f" instances that run {evidence.run_id} kept of {evidence.slides} slides."
    )


def _refiner(recipe: Mapping[str, Any]) -> str:
    """The refiner of a recipe as a run keeps it."""
    return str(recipe.get("refiner", "sam"))
