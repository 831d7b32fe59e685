"""Where a trained model draws: its threshold, the confidence that a polygon needs, and what that bounds on new slides.

All of it is chosen on predictions out of fold: by networks that learned from no slide of the patient. The confidence of
a polygon is the mean probability inside. It must reach a level of its own: the lowest at which polygons cover at most a
share ``alpha`` of the tissue of negative slides. That share is bounded for the slides of a new patient (``conformal``).
A few negative slides say little about others, so that the confidence is raised further as far as this costs no Dice,
which is measured against the polygons that the slides came with. The threshold is one with the best Dice of what is
drawn so. It can be low, which fills out the tumour, since the confidence keeps false polygons away.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from wsplf_cli.conformal import guaranteed, highest_mean, patient_weights, patients_needed
from wsplf_cli.segmentation.predict import CELL_PX, mean_of_cells
from wsplf_cli.segmentation.sampling import IGNORE, Block, TrainingSlide

#: The threshold of the probability where there is nothing to choose it on.
DEFAULT_THRESHOLD = 0.5
THRESHOLDS = np.arange(0.30, 0.91, 0.05)
#: By how much a confidence is raised at a time.
_CONFIDENCE_STEP = 0.01
#: Thresholds and confidences whose Dice differs by less than this count as equally good.
SAME_DICE = 0.005
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

    ``threshold`` is that of the probability. ``confidences`` and ``bounds`` hold for each class what a polygon needs,
    and its bound where known. ``dice`` is that of what is drawn out of fold; None where there was nothing to find.
    """

    threshold: float
    confidences: tuple[float, ...]
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
                _SlideCells(slide.group, cells, tissue_px, slide.grid.mpp, negative=negative)
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
        confidences, bounds = [], []
        for slides in self._of_classes:
            drawn = [slide.components(threshold) for slide in slides]
            patient_of = [slide.patient for slide in slides if slide.negative]
            negatives = [of_slide for of_slide, slide in zip(drawn, slides, strict=True) if slide.negative]
            confidence = _confidence_for(alpha, negatives, patient_of, threshold=threshold)
            confidence = _raised(confidence, drawn, truth=_truth(slides))
            confidences.append(confidence)
            bounds.append(_bound(confidence, alpha, negatives, patient_of))
            for components in drawn:
                kept = components.confidence >= confidence
                common += components.common[kept].sum()
                predicted += components.predicted[kept].sum()
        dice = float(2 * common / (predicted + truth)) if truth else None
        return OperatingPoint(threshold, tuple(confidences), tuple(bounds), dice)


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

    def share_from(self, confidence: float) -> float:
        """The share of the slide's tissue under polygons of at least that confidence."""
        return min(1.0, float(self.share[self.confidence >= confidence].sum()))


@dataclass(frozen=True, slots=True)
class _SlideCells:
    """A class on the blocks of a slide, whose tissue is ``tissue_px`` pixels. ``negative``: there is none of it."""

    patient: str
    blocks: list[_Cells]
    tissue_px: float
    mpp: float
    negative: bool

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


def _confidence_for(
    alpha: float, negatives: Sequence[_Components], patient_of: Sequence[str], *, threshold: float
) -> float:
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


def _raised(least: float, drawn: Sequence[_Components], *, truth: float) -> float:
    """The highest confidence from ``least`` on whose Dice is as good as that of the best one."""
    if not truth:
        return least
    confidences = np.arange(least, max(1.0, least) + _CONFIDENCE_STEP / 2, _CONFIDENCE_STEP)
    dice = []
    for confidence in confidences:
        kept = [(of_slide, of_slide.confidence >= confidence) for of_slide in drawn]
        common = sum(of_slide.common[of_kept].sum() for of_slide, of_kept in kept)
        predicted = sum(of_slide.predicted[of_kept].sum() for of_slide, of_kept in kept)
        dice.append(2 * common / (predicted + truth))
    return float(confidences[np.flatnonzero(np.array(dice) >= max(dice) - SAME_DICE)[-1]]) if max(dice) else least


def _bound(
    confidence: float, alpha: float, negatives: Sequence[_Components], patient_of: Sequence[str]
) -> Bound | None:
    """What negative slides say of a confidence, at least the one of ``_confidence_for``; None without any."""
    if not negatives:
        return None
    patients = len(set(patient_of))
    return Bound(
        alpha=alpha,
        measured=float(np.mean([drawn.share_from(confidence) for drawn in negatives])),
        guaranteed=guaranteed(highest_mean(alpha, patients=patients), patients=patients),
        slides=len(negatives),
        patients=patients,
        patients_needed=patients_needed(alpha),
    )


def describe_bound(bound: Bound | None, confidence: float) -> str:
    """What a bound says and what it does not, in one sentence for people."""
    if bound is None:
        return "no bound on false positives: that takes negative slides that some of its networks did not see"
    promise = f"for a negative slide of a new patient {bound.guaranteed:.1%} is guaranteed on average"
    if bound.patients < bound.patients_needed:
        promise += f"; {bound.alpha:g} itself would take negative slides of {bound.patients_needed} patients"
    return (
        f"a polygon needs a confidence of {confidence:.3f} (mean probability inside), so that polygons cover"
        f" {bound.measured:.2%} of the tissue of {bound.slides} negative slides of {bound.patients}"
        f" patients, out of fold; {promise}"
    )
