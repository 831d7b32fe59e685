"""What was learned of one class, and its CAMs on the scale of the cohort."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from wsplf_cli.cohort.slide import CohortSlide
from wsplf_cli.metrics import auroc, auroc_interval
from wsplf_cli.options import PseudolabelOptions
from wsplf_cli.schema import Tracker
from wsplf_cli.slides.map import SlideMap
from wsplf_cli.weak.calibration import (
    Calibration,
    PeakThreshold,
    calibrate,
    keep_components_with_peak,
    peak_threshold,
    typical_top_decile,
)
from wsplf_cli.weak.cam import FittedProbes, SlideLogits
from wsplf_cli.weak.overlap import argmax_cams
from wsplf_cli.weak.tile_scale import tile_cam

#: The peak of a polygon must lie at least this far between the threshold and the typical top decile of positive slides.
#: A region that nowhere looks more like tumour than that is seldom tumour.
PEAK_SHARE = 0.25
#: The score of a slide is the mean of this share of its tissue, that with the highest logits.
TOP_SHARE = 0.02
#: Behind figures of slides that the classifiers learned from.
IN_SAMPLE = " (by classifiers that learned from these slides: too good for new ones)"


@dataclass(frozen=True, slots=True)
class ClassFit:
    """What slide labels taught of one class.

    ``name``: what to call the class before the user, empty where it is the only one. ``slides``: the slides that were
    used. ``logits``: their CAM logits by entry id. ``suspected``: suspected label errors by entry id, with the reason.
    ``fold_of``: the fold of each entry id in the MIL ensemble. ``search_in``: "epithelium" or "tissue". ``in_sample``:
    why the logits come from classifiers that learned from the slides; empty where they are out of fold.
    ``calibrated`` says how logits become a CAM; None until ``with_scale`` has chosen it. ``probes`` are the linear
    probes where there are any, and ``backbone_digest`` is the digest of the weights of their frozen backbone.
    ``label_auroc`` says how well the slide labels are told; None until ``with_scale`` has measured it, and where all
    slides have the same label.
    """

    path_class: str
    name: str
    slides: tuple[CohortSlide, ...]
    logits: Mapping[str, SlideLogits]
    suspected: Mapping[str, str]
    fold_of: Mapping[str, int]
    search_in: str
    calibrated: "CalibratedCam | None" = None
    in_sample: str = ""
    probes: FittedProbes | None = None
    backbone_digest: str = ""
    label_auroc: "LabelAuroc | None" = None

    @property
    def positive_slides(self) -> list[CohortSlide]:
        """The slides whose label names the class."""
        return [slide for slide in self.slides if slide.is_positive(self.path_class)]

    def for_slide(self, slide: CohortSlide) -> "ClassFit":
        """The same fit for one slide alone: all that its CAM needs."""
        return replace(self, slides=(slide,), logits={slide.entry.id: self.logits[slide.entry.id]}, probes=None)

    def cam(self, slide: CohortSlide) -> SlideMap:
        """The CAM of a slide in 0..1, foreground from 0.5 on."""
        assert self.calibrated is not None
        return self.calibrated.cam(self.logits[slide.entry.id], slide)

    def with_scale(self, options: PseudolabelOptions, tracker: Tracker) -> "ClassFit":
        """The same fit with its CAM calibrated for these options, by the slides whose labels are trusted."""
        label_auroc = _label_auroc(self)
        if options.recipe.cam_scale != "cohort":
            return replace(
                self,
                label_auroc=label_auroc,
                calibrated=CalibratedCam(
                    tile_px=options.recipe.tile_px, mpp=options.mpp, gated=options.recipe.cam_scale == "tile-gated"
                ),
            )
        if label_auroc is not None:
            tracker.say(_describe_label_auroc(label_auroc, in_sample=bool(self.in_sample)))
        least = 0.0 if options.recipe.backbone_mode == "frozen" else -np.inf  # linear probes have their own
        calibration = _calibrate(self, least=least, tracker=tracker)
        positives = self._tissue_logits(positive=True, out_of_fold=False)
        top = typical_top_decile(positives, threshold=calibration.threshold) - calibration.threshold
        lowest_peak = calibration.threshold + PEAK_SHARE * top
        peak = _peak_threshold(self, alpha=options.alpha, least=lowest_peak, tracker=tracker)
        return replace(self, label_auroc=label_auroc, calibrated=CalibratedCam(calibration=calibration, peak=peak))

    @property
    def no_guarantee(self) -> str:
        """Why nothing can be guaranteed for a new negative slide; empty where it can.

        A conformal bound holds for slides that are like those it was measured on: scored as they were, and not selected
        by their scores.
        """
        if self.in_sample:
            return f"that takes classifiers that did not see the slides ({self.in_sample})"
        if any(logits.out_of_fold is not logits.mean for logits in self.logits.values()):
            return "polygons are drawn from the mean of all networks, which learned from these slides"
        left_out = [slide for slide in self.slides if slide.entry.id in self.suspected]
        if any(not slide.is_positive(self.path_class) for slide in left_out):
            return "negative slides were left out by their own scores, as suspected label errors"
        return ""

    def _tissue_logits(self, *, positive: bool, out_of_fold: bool) -> list[NDArray[np.float32]]:
        """The logits of the tissue of trusted slides of a label, one array per slide."""
        trusted = [slide for slide in self.slides if slide.entry.id not in self.suspected]
        chosen = [self.logits[slide.entry.id] for slide in trusted if slide.is_positive(self.path_class) is positive]
        return [(logits.out_of_fold if out_of_fold else logits.mean).of_tissue for logits in chosen]


@dataclass(frozen=True, slots=True)
class LabelAuroc:
    """The AUROC of slide labels by the highest logits of a slide, with its 95 % interval.

    Slides of one patient are not independent, so the interval counts patients.
    """

    area: float
    low: float
    high: float
    positive_patients: int
    negative_patients: int

    @property
    def is_chance(self) -> bool:
        """Whether the labels may be told no better than by chance."""
        return self.low <= 0.5

    def __str__(self) -> str:
        return (
            f"AUROC {self.area:.2f} (95 % interval {self.low:.2f} to {self.high:.2f}; {self.positive_patients} positive"
            f" and {self.negative_patients} negative patients)"
        )


@dataclass(frozen=True, slots=True)
class CalibratedCam:
    """How CAM logits become a CAM in 0..1: by one threshold for the cohort, or (EP-SAM) by the scale of each tile.

    ``calibration`` and ``peak`` are those of the cohort. Without them, tiles of ``tile_px`` at ``mpp`` have their own
    scale; ``gated``: only tiles that the classifier calls positive.
    """

    calibration: Calibration | None = None
    peak: PeakThreshold | None = None
    tile_px: int = 0
    mpp: float = 1.0
    gated: bool = False

    @property
    def peak_cam(self) -> float | None:
        """The CAM that the peak of a polygon must reach; None where none is asked for."""
        if self.calibration is None or self.peak is None:
            return None
        return float(self.calibration.cam(np.array(self.peak.threshold, np.float32)))

    @property
    def details(self) -> dict[str, object]:
        """What run.json says of the calibration."""
        if self.calibration is None or self.peak is None:
            return {}
        return {
            "prevalence": self.calibration.prevalence,
            "positive_rate": self.calibration.positive_rate,
            "expected_dice": self.calibration.expected_dice,
            "negative_rate": self.calibration.negative_rate,
            "peak": asdict(self.peak),
        }

    def cam(self, logits: SlideLogits, slide: CohortSlide) -> SlideMap:
        """The CAM of a slide from its logits."""
        if self.calibration is None or self.peak_cam is None:
            side = round(self.tile_px * self.mpp / slide.mpp / logits.raw.downsample)
            least = 0.0 if self.gated else -np.inf
            return SlideMap(tile_cam(logits.raw.values, side=max(1, side), least=least), logits.raw.downsample)
        values = keep_components_with_peak(self.calibration.cam(logits.mean.values), peak=self.peak_cam)
        return SlideMap(values, logits.mean.downsample)


def resolve_overlap(slide: CohortSlide, fits: Sequence[ClassFit]) -> list[SlideMap]:
    """The CAM of each class on a slide. Where the label names several classes, a cell belongs to one of them."""
    cams = [fit.cam(slide) for fit in fits]
    named = [index for index, fit in enumerate(fits) if slide.is_positive(fit.path_class)]
    if len(named) > 1:
        peaks = [calibrated.peak_cam if (calibrated := fits[index].calibrated) else None for index in named]
        shared = argmax_cams([cams[index].values for index in named], peaks=peaks)
        for index, values in zip(named, shared, strict=True):
            cams[index] = SlideMap(values, cams[index].downsample)
    return cams


@dataclass(slots=True)
class CamsOfClass:
    """The CAMs of one class of several, slide by slide; the CAM of the last slide is kept."""

    fits: Sequence[ClassFit]
    index: int
    _last: dict[str, SlideMap] = field(default_factory=dict)

    @property
    def class_fit(self) -> ClassFit:
        """The fit of the class."""
        return self.fits[self.index]

    def __call__(self, slide: CohortSlide) -> SlideMap:
        """The CAM of a slide in 0..1."""
        if slide.entry.id not in self._last:
            self._last.clear()
            self._last[slide.entry.id] = resolve_overlap(slide, self.fits)[self.index]
        return self._last[slide.entry.id]


def fit_details(fits: Sequence[ClassFit], extra: Sequence[Mapping[str, object]]) -> dict[str, object]:
    """What run.json says of the fits: the suspected label errors, and the rest by class where there are several.

    ``extra`` is what else is said of each class.
    """
    suspected: dict[str, dict[str, str]] = {}
    for fit in fits:
        for slide in fit.slides:
            if slide.entry.id in fit.suspected:
                reason = f"{fit.name}: {fit.suspected[slide.entry.id]}" if fit.name else fit.suspected[slide.entry.id]
                before = suspected.get(slide.entry.id)
                reason = reason if before is None else f"{before['reason']}; {reason}"
                suspected[slide.entry.id] = {"name": slide.entry.name, "reason": reason}
    of_class = {}
    for fit, more in zip(fits, extra, strict=True):
        calibrated = {} if fit.calibrated is None else fit.calibrated.details
        of_class[fit.name] = {**calibrated, **more, "search_in": fit.search_in, "folds": dict(fit.fold_of)}
        of_class[fit.name]["in_sample"] = fit.in_sample
        of_class[fit.name]["label_auroc"] = None if fit.label_auroc is None else asdict(fit.label_auroc)
    if len(fits) == 1:
        return {**of_class[fits[0].name], "suspected_label_errors": suspected}
    return {"classes": of_class, "suspected_label_errors": suspected}


def _label_auroc(fit: ClassFit) -> LabelAuroc | None:
    """How well the CAM tells the slide labels, suspected ones too; None where all slides have the same label."""
    positive = [slide.is_positive(fit.path_class) for slide in fit.slides]
    area = auroc([_top_mean(fit.logits[slide.entry.id].out_of_fold.of_tissue) for slide in fit.slides], positive)
    if area is None:
        return None
    positives, negatives = (
        len({slide.patient for slide in fit.slides if slide.is_positive(fit.path_class) is label})
        for label in (True, False)
    )
    return LabelAuroc(area, *auroc_interval(area, positives=positives, negatives=negatives), positives, negatives)


def _top_mean(logits: NDArray[np.float32]) -> float:
    """The mean of the highest logits of a slide; the lowest number without tissue."""
    if not len(logits):
        return float(np.finfo(np.float32).min)
    count = max(1, round(TOP_SHARE * len(logits)))
    return float(np.partition(logits, -count)[-count:].mean())


def _describe_label_auroc(found: LabelAuroc, *, in_sample: bool) -> str:
    """How well the slide labels are told, with a warning where that may be chance."""
    told = f"slide labels are told {'by classifiers that learned from them' if in_sample else 'out of fold'}: {found}"
    if not found.is_chance:
        return told
    return (
        f"warning: {told}, which may be chance: there are too few slides, or they do not show what the labels mean;"
        " look at the CAMs before you use the polygons"
    )


def _calibrate(fit: ClassFit, *, least: float, tracker: Tracker) -> Calibration:
    """Choose the threshold of the CAM, at least ``least``, and say what it means."""
    calibration = calibrate(
        fit._tissue_logits(positive=True, out_of_fold=True),
        fit._tissue_logits(positive=False, out_of_fold=True),
        least=least,
    )
    if any(logits.out_of_fold is not logits.mean for logits in fit.logits.values()):
        calibration = calibration.match_positive_rate(
            fit._tissue_logits(positive=True, out_of_fold=False), fit._tissue_logits(positive=False, out_of_fold=False)
        )
    tracker.say(
        f"foreground of the CAM: {calibration.positive_rate:.1%} of the tissue of positive slides, "
        f"{calibration.negative_rate:.2%} of that of negative slides; estimated prevalence "
        f"{calibration.prevalence:.1%}{IN_SAMPLE if fit.in_sample else ''}"
    )
    return calibration


def _peak_threshold(fit: ClassFit, *, alpha: float, least: float, tracker: Tracker) -> PeakThreshold:
    """Choose what the peak of a polygon must reach, and say what that guarantees and what not."""
    negatives = [
        slide for slide in fit.slides if not slide.is_positive(fit.path_class) and slide.entry.id not in fit.suspected
    ]
    peak = peak_threshold(
        fit._tissue_logits(positive=False, out_of_fold=True),
        patients=[slide.patient for slide in negatives],
        alpha=alpha,
        least=least,
    )
    if fit.no_guarantee:
        peak = replace(peak, guaranteed=None)
        promise = f"nothing is guaranteed for a new slide: {fit.no_guarantee}"
    else:
        promise = f"for a negative slide of a new patient {peak.guaranteed:.1%} is guaranteed on average"
        if not all(slide.entry.patient for slide in negatives):
            promise += ", if the slides that name no patient are of different ones"
        if peak.patients < peak.slides_needed:
            promise += f"; --alpha {alpha:g} itself would take negative slides of {peak.slides_needed} patients"
    tracker.say(
        f"the peak of a polygon lies above what {peak.measured:.2%} of the tissue of {peak.slides} negative slides "
        f"reaches, {'by classifiers that learned from them' if fit.in_sample else 'out of fold'}; {promise}"
    )
    return peak
