"""Where a trained model draws: its threshold, the peak that a polygon needs, and what that bounds on new slides.

All of it is chosen on predictions out of fold: by networks that learned from no slide of the patient. The threshold is
the one with the best Dice against the polygons that the slides came with. The peak of a polygon, the largest mean
probability of a cell of it, must reach a higher threshold: the lowest at which polygons cover at most a share ``alpha``
of the tissue of negative slides. That share is bounded for the slides of a new patient (``conformal``).
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
#: Thresholds whose Dice differs by less than this count as equally good.
SAME_DICE = 0.005
#: Polygons below this are not drawn by default, and so do not count here.
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
    """``threshold`` of the probability; for each class the peak that a polygon needs, and its bound where known."""

    threshold: float
    peaks: tuple[float, ...]
    bounds: tuple[Bound | None, ...]


@dataclass(slots=True)
class OutOfFold:
    """What networks predict on slides that they did not learn from, gathered block by block.

    ``blocks`` is how many blocks were seen, and ``slides`` the names of their slides.
    """

    classes: int
    slides: list[str] = field(default_factory=list)
    blocks: int = 0
    _common: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(THRESHOLDS), np.int64))
    _predicted: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(THRESHOLDS), np.int64))
    _truth: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    _negatives: list[list["_NegativeSlide"]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._truth = np.zeros(self.classes, np.int64)
        self._negatives = [[] for _ in range(self.classes)]

    def add(
        self,
        slide: TrainingSlide,
        indices: Sequence[int],
        blocks: Sequence[Block],
        probabilities: NDArray[np.float32],
    ) -> None:
        """Count some blocks of a slide, given by their indices in its grid, with probabilities float32 [N, C, S, S]."""
        self.slides.append(slide.name)
        self.blocks += len(blocks)
        for block, probability in zip(blocks, probabilities, strict=True):
            counted = block.target != IGNORE
            is_class = block.target == 1
            self._truth += is_class.sum(axis=(1, 2))
            for position, threshold in enumerate(THRESHOLDS):
                predicted = (probability >= threshold) & counted
                self._predicted[position] += int(predicted.sum())
                self._common[position] += int((predicted & is_class).sum())
        tissue_px = float(sum(slide.grid.tissue[index] for index in indices)) * slide.grid.tile_px**2
        for class_index, targets in enumerate(slide.classes):
            if targets.known and not targets.positive and tissue_px > 0:
                cells = [mean_of_cells(probability[class_index]) for probability in probabilities]
                self._negatives[class_index].append(_NegativeSlide(slide.group, cells, tissue_px, slide.grid.mpp))

    @property
    def unvalidated(self) -> tuple[int, ...]:
        """Indices of the classes of which no block holds a pixel."""
        return tuple(np.flatnonzero(self._truth == 0).tolist())

    def best(self) -> tuple[float, float] | None:
        """The middle one of the thresholds with the best pooled Dice, and its Dice; None without a pixel of any class.

        Training shows the class more often than it occurs, so that 0.5 is rarely the best threshold. The middle of a
        plateau is the safest choice for other slides. All classes share one threshold.
        """
        truth = int(self._truth.sum())
        if not truth:
            return None
        dice = 2 * self._common / (self._predicted + truth)
        plateau = np.flatnonzero(dice >= dice.max() - SAME_DICE)
        middle = plateau[len(plateau) // 2]
        return round(float(THRESHOLDS[middle]), 2), float(dice[middle])

    def operating_point(self, *, alpha: float) -> OperatingPoint:
        """Where the model draws, so that polygons cover at most ``alpha`` of the tissue of negative slides.

        With as many negative patients as ``conformal.patients_needed`` the peaks are raised so that the bound for a new
        patient is alpha itself.
        """
        best = self.best()
        threshold = DEFAULT_THRESHOLD if best is None else best[0]
        chosen = [_choose_peak(slides, threshold=threshold, alpha=alpha) for slides in self._negatives]
        return OperatingPoint(threshold, tuple(peak for peak, _ in chosen), tuple(bound for _, bound in chosen))


@dataclass(frozen=True, slots=True)
class _NegativeSlide:
    """``cells``: the mean probability of each cell of each block. ``tissue_px``: the tissue of the blocks in pixels."""

    patient: str
    cells: list[NDArray[np.float32]]
    tissue_px: float
    mpp: float

    def components(self, threshold: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Of what would be drawn at a threshold: the share of tissue and the peak of each component, [N] each."""
        least = max(1, math.ceil(_MIN_AREA_UM2 / (CELL_PX * self.mpp) ** 2))
        shares, peaks = [np.zeros(0)], [np.zeros(0)]
        for cells in self.cells:
            labels, count = ndimage.label(cells >= threshold)
            areas = np.bincount(labels.ravel(), minlength=count + 1)[1:]
            large = np.flatnonzero(areas >= least)
            shares.append(areas[large] * CELL_PX**2 / self.tissue_px)
            peaks.append(np.asarray(ndimage.maximum(cells, labels, large + 1), np.float64).reshape(len(large)))
        return np.concatenate(shares), np.concatenate(peaks)


def _choose_peak(slides: Sequence[_NegativeSlide], *, threshold: float, alpha: float) -> tuple[float, Bound | None]:
    """The peak that a polygon needs, at least the threshold, and its bound; no bound without negative slides."""
    if not slides:
        return threshold, None
    weights, patients = patient_weights([slide.patient for slide in slides])
    of_slides = [slide.components(threshold) for slide in slides]
    peaks = np.unique(np.concatenate([peaks for _, peaks in of_slides]))
    above_all = np.nextafter(peaks[-1:].astype(np.float32), np.float32(2)).astype(np.float64)
    candidates = np.concatenate([[threshold], peaks[peaks > threshold], above_all])
    shares = np.array([[shares[peaks >= candidate].sum() for candidate in candidates] for shares, peaks in of_slides])
    shares = np.minimum(shares, 1.0)
    most = highest_mean(alpha, patients=patients)
    position = int(np.argmax(weights @ shares <= most + 1e-12))
    bound = Bound(
        alpha=alpha,
        measured=float(shares[:, position].mean()),
        guaranteed=guaranteed(most, patients=patients),
        slides=len(slides),
        patients=patients,
        patients_needed=patients_needed(alpha),
    )
    return max(float(candidates[position]), threshold), bound


def describe_bound(bound: Bound | None, peak: float) -> str:
    """What a bound says and what it does not, in one sentence for people."""
    if bound is None:
        return "no bound on false positives: that takes negative slides that some of its networks did not see"
    promise = f"for a negative slide of a new patient {bound.guaranteed:.1%} is guaranteed on average"
    if bound.patients < bound.patients_needed:
        promise += f"; {bound.alpha:g} itself would take negative slides of {bound.patients_needed} patients"
    return (
        f"a polygon needs a peak of {peak:.3f}, so that polygons cover {bound.measured:.2%} of the tissue of"
        f" {bound.slides} negative slides of {bound.patients} patients, out of fold; {promise}"
    )
