"""Where a trained model draws: its threshold, the confidence that a polygon needs, and what that bounds on new slides.

All of it is chosen on predictions out of fold: by networks that learned from no slide of the patient. First, a slide
must hold an area about as confident as the positive ones do, and more than the negative ones (``slide_confidence``),
else nothing is drawn on it. Then the confidence of a polygon, the mean probability inside, must reach a level of its
own. It is as high as it can be at no cost of Dice, which is measured against the polygons that the slides came with. It
is higher where polygons would cover more than a share ``alpha`` of the tissue of negative slides. That share is bounded
for the slides of a new patient (``conformal``) where the negative slides are of enough patients; where they are too few
for that, one unlucky slide among them may cost no more than ``_MOST_DICE``. Models are less confident on new slides
than out of fold, where all slides are of one cohort, so that the Dice is that of polygons that are less confident by
``_SHIFT``. The threshold is one with the best Dice of what is drawn so.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.special import expit, logit

from wsplf_cli.conformal import guaranteed, highest_mean, patient_weights, patients_needed
from wsplf_cli.segmentation.predict import CELL_PX, mean_of_cells
from wsplf_cli.segmentation.sampling import IGNORE, Block, TrainingSlide
from wsplf_cli.segmentation.slide_confidence import LEAST_AREA_UM2, least_slide_confidence, slide_confidence

#: The threshold of the probability where there is nothing to choose it on.
DEFAULT_THRESHOLD = 0.5
THRESHOLDS = np.arange(0.30, 0.91, 0.05)
#: By how much a confidence is raised at a time.
_CONFIDENCE_STEP = 0.01
#: Thresholds and confidences whose Dice differs by less than this count as equally good.
SAME_DICE = 0.005
#: What ``alpha`` may cost where it cannot be guaranteed.
_MOST_DICE = 0.02
#: How much less confident polygons of new slides may be, in logits.
_SHIFT = 0.5
#: By default polygons below this are not drawn.
_MIN_AREA_UM2 = 2000.0


@dataclass(frozen=True, slots=True)
class Bound:
    """What out-of-fold predictions on negative slides say of the polygons of one class on a new negative slide.

    ``alpha``: the share of tissue that was asked for. ``measured``: the mean share of the tissue of the ``slides``
    negative slides under polygons. ``guaranteed``: the bound on the expected share for a new patient, for each network
    alone. ``patients``: of how many patients the slides are. ``patients_needed``: from so many on the bound is alpha.
    """

    alpha: float
    measured: float
    guaranteed: float
    slides: int
    patients: int
    patients_needed: int


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """Where a model draws.

    ``threshold`` is that of the probability. ``confidences``, ``slide_confidences`` and ``bounds`` hold for each class
    what a polygon and what a slide needs, and the bound where known. ``dice`` is that of what is drawn out of fold;
    None where there was nothing to find.
    """

    threshold: float
    confidences: tuple[float, ...]
    slide_confidences: tuple[float, ...]
    bounds: tuple[Bound | None, ...]
    dice: float | None = None


@dataclass(slots=True)
class OutOfFold:
    """What networks predict on slides that they did not learn from, whose names are ``slides``, block by block."""

    classes: int
    slides: list[str] = field(default_factory=list)
    _of_classes: list[list["_SlideCells"]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._of_classes = [[] for _ in range(self.classes)]

    def add(
        self,
        slide: TrainingSlide,
        indices: Sequence[int],
        blocks: Sequence[Block],
        probabilities: NDArray[np.float32],
    ) -> None:
        """Add some blocks of a slide, given by their indices in its grid, with probabilities float32 [N, C, S, S]."""
        self.slides.append(slide.name)
        tissue_px = float(sum(slide.grid.tissue[index] for index in indices)) * slide.grid.tile_px**2
        for class_index, targets in enumerate(slide.classes):
            cells = [
                _Cells(
                    mean_of_cells(probability[class_index]),
                    mean_of_cells((block.target[class_index] == 1).astype(np.float32)),
                    mean_of_cells((block.target[class_index] != IGNORE).astype(np.float32)),
                )
                for block, probability in zip(blocks, probabilities, strict=True)
            ]
            negative = targets.known and not targets.positive and tissue_px > 0
            self._of_classes[class_index].append(
                _SlideCells(
                    slide.group,
                    cells,
                    tissue_px,
                    slide.grid.mpp,
                    negative=negative,
                    confidence=slide_confidence((part.probability for part in cells), cell_um=CELL_PX * slide.grid.mpp),
                )
            )

    @property
    def unvalidated(self) -> tuple[int, ...]:
        """Indices of the classes of which no block holds a pixel."""
        return tuple(index for index, slides in enumerate(self._of_classes) if not _truth(slides))

    def operating_point(self, *, alpha: float) -> OperatingPoint:
        """Where the model draws, so that polygons cover at most ``alpha`` of the tissue of negative slides.

        With as many negative patients as ``conformal.patients_needed`` the confidences are raised so that the bound for
        a new patient is alpha itself. The threshold is the middle one of those with the best pooled Dice, since the
        middle of a plateau is the safest choice for other slides. All classes share one threshold.
        """
        truth = sum(_truth(slides) for slides in self._of_classes)
        thresholds = THRESHOLDS if truth else np.array([DEFAULT_THRESHOLD])
        points = [self._point_at(round(float(threshold), 2), truth=truth, alpha=alpha) for threshold in thresholds]
        dice = np.array([point.dice or 0.0 for point in points])
        plateau = np.flatnonzero(dice >= dice.max() - SAME_DICE)
        return points[int(plateau[len(plateau) // 2])]

    def _point_at(self, threshold: float, *, truth: float, alpha: float) -> OperatingPoint:
        """What is best at a threshold: the confidence that each class needs, and the Dice of what is drawn then."""
        common = predicted = 0.0
        confidences, slide_confidences, bounds = [], [], []
        for slides in self._of_classes:
            drawn = [slide.components(threshold) for slide in slides]
            patient_of = [slide.patient for slide in slides if slide.negative]
            found = [
                slide.confidence for slide, components in zip(slides, drawn, strict=True) if components.common.any()
            ]
            least = least_slide_confidence(found, [slide.confidence for slide in slides if slide.negative])
            drawn = [components.of(slide.confidence >= least) for slide, components in zip(slides, drawn, strict=True)]
            confidence = _confidence_for(
                alpha, drawn, _negatives(drawn, slides), patient_of, threshold=threshold, truth=_truth(slides)
            )
            drawn = [components.of(components.confidence >= confidence) for components in drawn]
            confidences.append(confidence)
            slide_confidences.append(least)
            bounds.append(_bound(alpha, _negatives(drawn, slides), patient_of))
            common += sum(kept.common.sum() for kept in drawn)
            predicted += sum(kept.predicted.sum() for kept in drawn)
        dice = float(2 * common / (predicted + truth)) if truth else None
        return OperatingPoint(threshold, tuple(confidences), tuple(slide_confidences), tuple(bounds), dice)


@dataclass(frozen=True, slots=True)
class _Cells:
    """A class on a block, float32 [h, w] each: the mean probability, the share of its pixels, of pixels that count."""

    probability: NDArray[np.float32]
    truth: NDArray[np.float32]
    counted: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _Components:
    """What would be drawn, float64 [N] each: confidence, share of the slide's tissue, and cells for the Dice.

    By default polygons below ``_MIN_AREA_UM2`` are not drawn, so that their share is 0.
    """

    confidence: NDArray[np.float64]
    share: NDArray[np.float64]
    common: NDArray[np.float64]
    predicted: NDArray[np.float64]

    def of(self, which: NDArray[np.bool_] | bool) -> "_Components":
        """Some of them: those where an array bool [N] holds, or all or none."""
        chosen = np.broadcast_to(which, self.share.shape)
        return _Components(self.confidence[chosen], self.share[chosen], self.common[chosen], self.predicted[chosen])

    def share_from(self, confidence: float) -> float:
        """The share of the slide's tissue under polygons of at least that confidence."""
        return min(1.0, float(self.share[self.confidence >= confidence].sum()))


@dataclass(frozen=True, slots=True)
class _SlideCells:
    """A class on the blocks of a slide, whose tissue is ``tissue_px`` pixels. ``negative``: there is none of it.

    ``confidence`` is that of the slide; areas that reach from one block into another count as two.
    """

    patient: str
    blocks: list[_Cells]
    tissue_px: float
    mpp: float
    negative: bool
    confidence: float

    def components(self, threshold: float) -> _Components:
        """What would be drawn at a threshold, where every polygon is."""
        least = max(1, math.ceil(_MIN_AREA_UM2 / (CELL_PX * self.mpp) ** 2))
        rows = [np.zeros((4, 0))]
        for cells in self.blocks:
            labels, count = ndimage.label(cells.probability >= threshold)
            areas = np.bincount(labels.ravel(), minlength=count + 1)[1:]
            if not count:
                continue
            index = np.arange(1, count + 1)
            share = np.where(areas >= least, areas * CELL_PX**2 / max(self.tissue_px, 1.0), 0.0)
            confidence = ndimage.mean(cells.probability, labels, index)
            common, predicted = (ndimage.sum(part, labels, index) for part in (cells.truth, cells.counted))
            rows.append(np.stack([confidence, share, common, predicted]))
        return _Components(*np.concatenate(rows, axis=1))


def _truth(slides: Sequence[_SlideCells]) -> float:
    """The area of a class in cells."""
    return float(sum(cells.truth.sum() for slide in slides for cells in slide.blocks))


def _negatives(drawn: Sequence[_Components], slides: Sequence[_SlideCells]) -> list[_Components]:
    return [components for components, slide in zip(drawn, slides, strict=True) if slide.negative]


def _confidence_for(
    alpha: float,
    drawn: Sequence[_Components],
    negatives: Sequence[_Components],
    patient_of: Sequence[str],
    *,
    threshold: float,
    truth: float,
) -> float:
    """The confidence, at least the threshold, that polygons need."""
    bounding = _bounding(alpha, negatives, patient_of, threshold=threshold)
    if not truth:
        return bounding
    confidences = np.arange(threshold, 1.0, _CONFIDENCE_STEP)
    dice = _dice_of_less_confident(drawn, confidences, truth=truth)
    if len(set(patient_of)) < patients_needed(alpha):
        bounding = min(bounding, _highest(confidences, dice, cost=_MOST_DICE))
    return max(bounding, _highest(confidences, dice, cost=SAME_DICE))


def _bounding(alpha: float, negatives: Sequence[_Components], patient_of: Sequence[str], *, threshold: float) -> float:
    """The lowest confidence, at least the threshold, at which negative slides have the share of polygons they may."""
    if not negatives:
        return threshold
    weights, patients = patient_weights(patient_of)
    confidences = np.unique(np.concatenate([drawn.confidence for drawn in negatives]))
    above_all = np.nextafter(confidences[-1:], 2)
    candidates = np.concatenate([[threshold], confidences[confidences > threshold], above_all])
    shares = np.array([[drawn.share_from(candidate) for candidate in candidates] for drawn in negatives])
    position = int(np.argmax(weights @ shares <= highest_mean(alpha, patients=patients) + 1e-12))
    return max(float(candidates[position]), threshold)


def _dice_of_less_confident(
    drawn: Sequence[_Components], confidences: NDArray[np.float64], *, truth: float
) -> NDArray[np.float64]:
    """The Dice at each of the confidences [N], float64 [N], where all polygons are less confident by ``_SHIFT``."""
    shifted = [expit(logit(np.clip(components.confidence, 0, 1)) - _SHIFT) for components in drawn]
    dice = []
    for confidence in confidences:
        kept = [(components, reached >= confidence) for components, reached in zip(drawn, shifted, strict=True)]
        common = sum(components.common[of_kept].sum() for components, of_kept in kept)
        predicted = sum(components.predicted[of_kept].sum() for components, of_kept in kept)
        dice.append(2 * common / (predicted + truth))
    return np.array(dice)


def _highest(confidences: NDArray[np.float64], dice: NDArray[np.float64], *, cost: float) -> float:
    """The highest confidence whose Dice is at most ``cost`` below the best one; the lowest where that is 0."""
    return float(confidences[np.flatnonzero(dice >= dice.max() - cost)[-1] if dice.max() else 0])


def _bound(alpha: float, negatives: Sequence[_Components], patient_of: Sequence[str]) -> Bound | None:
    """What negative slides say, of what is drawn on them."""
    if not negatives:
        return None
    weights, patients = patient_weights(patient_of)
    shares = np.array([drawn.share_from(0) for drawn in negatives])
    mean = max(float(weights @ shares), highest_mean(alpha, patients=patients))
    return Bound(
        alpha=alpha,
        measured=float(shares.mean()),
        guaranteed=guaranteed(mean, patients=patients),
        slides=len(negatives),
        patients=patients,
        patients_needed=patients_needed(alpha),
    )


def describe_bounds(
    bounds: Sequence[Bound | None], confidences: Sequence[float], slide_confidences: Sequence[float]
) -> list[str]:
    """For each class, in one sentence for people, what a polygon and a slide need, and what is guaranteed then.

    Models of earlier versions have no ``slide_confidences``.
    """
    of_slides = slide_confidences or (0.0,) * len(bounds)
    return [_describe(*of_class) for of_class in zip(bounds, confidences, of_slides, strict=True)]


def _describe(bound: Bound | None, confidence: float, of_slide: float) -> str:
    if bound is None:
        return "no bound on false positives: that takes negative slides that some of its networks did not see"
    promise = f"for a negative slide of a new patient {bound.guaranteed:.1%} is guaranteed on average"
    if bound.patients < bound.patients_needed:
        promise += f"; {bound.alpha:g} itself would take negative slides of {bound.patients_needed} patients"
    slide = f" and its slide an area of {LEAST_AREA_UM2:,.0f} um2 above {of_slide:.3f}" if of_slide else ""
    return (
        f"a polygon needs a confidence of {confidence:.3f} (mean probability inside){slide}, so that polygons cover"
        f" {bound.measured:.2%} of the tissue of {bound.slides} negative slides of {bound.patients}"
        f" patients, out of fold; {promise}"
    )
