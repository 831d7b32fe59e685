"""Scores of annotations against the truth, per entry and over all of them; see metrics.py for what they mean."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shapely.geometry.base import BaseGeometry

from wsplf_cli.benchmark.truth import is_negative
from wsplf_cli.class_names import is_a
from wsplf_cli.cohort.labels import label_word
from wsplf_cli.geometry import clip, union
from wsplf_cli.metrics import Overlap, auroc, boundary_f1, fp_share, overlap, polygon_ious
from wsplf_cli.options import EvaluateOptions
from wsplf_cli.review.on_image import on_image
from wsplf_cli.schema import MODEL_KEY, Annotation, Entry, Tracker
from wsplf_cli.slides.entry import entry_slide
from wsplf_cli.slides.tissue import tissue_mask, tissue_um2

CONFIDENCE = "wsplf: confidence"
#: A polygon is good from this IoU on with the pieces of the truth that it shows.
GOOD_IOU = 0.5


@dataclass(frozen=True, slots=True)
class Score:
    """The scores of one entry for one class; areas in um2. ``label`` is the project's word, None for an unlabelled one.

    ``positive``: the slide counts as one that holds the class. ``polygons`` are (confidence, IoU) of each polygon that
    has a confidence. ``models`` are the runs that trained the models of the measured predictions.
    """

    entry: Entry
    label: str | None
    positive: bool
    overlap: Overlap
    boundary_f1: float
    tissue_um2: float
    polygons: tuple[tuple[float, float], ...] = ()
    models: frozenset[str] = frozenset()

    @property
    def document(self) -> dict[str, Any]:
        """The entry as ``evaluate --json`` prints it."""
        return {
            "name": self.entry.name,
            "label": self.label,
            "dice": self.overlap.dice,
            "iou": self.overlap.iou,
            "boundary_f1": self.boundary_f1,
            "fp_share": fp_share(self.overlap, tissue=self.tissue_um2),
            "truth_um2": self.overlap.truth,
            "predicted_um2": self.overlap.predicted,
        }


@dataclass(frozen=True, slots=True)
class Measured:
    """An entry, its label resolved, all of its annotations, and the truth by class.

    The truth is in level-0 pixels, empty where there is nothing of the class.
    """

    entry: Entry
    annotations: Sequence[Annotation]
    truths: Mapping[str, BaseGeometry]


@dataclass(frozen=True, slots=True)
class ScoreSlide:
    """Scores the annotations of a slide."""

    options: EvaluateOptions

    def __call__(self, measured: Measured, tracker: Tracker) -> dict[str, Score]:
        """As ``score_entry``."""
        return score_entry(measured, self.options, tracker=tracker)


def score_entry(measured_entry: Measured, options: EvaluateOptions, *, tracker: Tracker) -> dict[str, Score]:
    """The scores of one entry, by class.

    Measured are the annotations of the class, or of one derived from it, that are of ``options.origin`` and not
    rejected, on the first plane of the image. Truth and annotations are clipped to the image before anything is
    measured.

    Args:
        measured_entry: The entry, its annotations and the truth.
        options: The options of the command.
        tracker: Gets warnings.

    Raises:
        SlideError: the slide cannot be read.
    """
    entry, truths = measured_entry.entry, measured_entry.truths
    slide, pixel_size = entry_slide(entry, mpp_override=options.project.mpp_override)
    if pixel_size.warning:
        tracker.say(f"warning: {pixel_size.warning}")
    mpp = pixel_size.mpp
    placed = on_image(measured_entry.annotations, entry)
    if placed.left_out:
        tracker.say(f"{entry.name}: annotations left out: {placed.left_out}")
    tissue = tissue_um2(tissue_mask(slide, mpp_slide=mpp), mpp_slide=mpp)
    scores = {}
    for path_class, unclipped_truth in truths.items():
        truth = clip(unclipped_truth, entry.size_px0)
        measured = [
            annotation
            for annotation in placed.annotations
            if _is_measured(annotation, path_class, origin=options.origin)
        ]
        predicted = union(annotation.shape for annotation in measured)
        labelled_negative = is_negative(entry, path_class)
        if labelled_negative and not truth.is_empty:
            of_class = f" for {path_class}" if len(truths) > 1 else ""
            tracker.say(f"warning: {entry.name} is labelled negative{of_class}, but its truth is not empty")
        if entry.label is not None and not labelled_negative and truth.is_empty:
            tracker.say(f"warning: {entry.name} is labelled positive, but its truth of {path_class} is empty")
        scores[path_class] = Score(
            entry=entry,
            label=label_word(entry, options.project) or None,
            positive=not truth.is_empty if entry.label is None else not labelled_negative,
            overlap=overlap(truth, predicted, unit=mpp**2),
            boundary_f1=boundary_f1(
                pixel_size.in_square_pixels(truth),
                pixel_size.in_square_pixels(predicted),
                tolerance=options.tolerance_um / mpp,
            ),
            tissue_um2=tissue,
            polygons=_confidences_and_ious(measured, truth),
            models=frozenset(
                annotation.metadata[MODEL_KEY] for annotation in measured if annotation.metadata.get(MODEL_KEY)
            ),
        )
    return scores


def without_measured_positive(scores: Mapping[str, Sequence[Score]], entries: Sequence[Entry]) -> set[str]:
    """The ids of the entries that could hold a class, by name, of which no positive slide was measured."""
    unmeasured = [name for name, of_class in scores.items() if not any(score.positive for score in of_class)]
    return {entry.id for entry in entries if not all(is_negative(entry, name) for name in unmeasured)}


def totals(scores: Sequence[Score], titles: Mapping[str, str]) -> dict[str, Any]:
    """The entries and the figures over all of them, for one class, as ``evaluate --json`` prints them.

    ``titles`` are the entries' names by id, with their ids where several have one name.
    """
    positive = [score for score in scores if score.positive]
    negative = [score for score in scores if not score.positive]
    pooled = sum((score.overlap for score in scores), Overlap())
    on_negative = sum((score.overlap for score in negative), Overlap())
    negative_tissue_um2 = sum(score.tissue_um2 for score in negative)
    return {
        "entries": [score.document | {"name": titles[score.entry.id]} for score in scores],
        "mean_dice": sum(score.overlap.dice for score in positive) / len(positive) if positive else None,
        "pooled_dice": pooled.dice if positive else None,
        "pooled_iou": pooled.iou if positive else None,
        "mean_boundary_f1": sum(score.boundary_f1 for score in positive) / len(positive) if positive else None,
        "negative_fp_share": fp_share(on_negative, tissue=negative_tissue_um2),
        "negative_tissue_um2": negative_tissue_um2,
        "confidence": _confidence([polygon for score in scores for polygon in score.polygons]),
    }


def _confidence(polygons: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """How well the confidence tells good polygons from bad ones.

    Returns:
        ``polygons`` and how many of them are ``bad``; the ``auroc`` of the confidence; ``bad_in_lowest_third``: the
        share of the bad ones that a person finds who reviews the third with the lowest confidence.
    """
    ranked = sorted(polygons)
    good = [iou >= GOOD_IOU for _, iou in ranked]
    bad = len(good) - sum(good)
    lowest = len(good) // 3
    return {
        "polygons": len(good),
        "bad": bad,
        "auroc": auroc([confidence for confidence, _ in ranked], good),
        "bad_in_lowest_third": (lowest - sum(good[:lowest])) / bad if bad else None,
    }


def _confidences_and_ious(annotations: Sequence[Annotation], truth: BaseGeometry) -> tuple[tuple[float, float], ...]:
    """(confidence, IoU) of each polygon that has a confidence."""
    confident = [annotation for annotation in annotations if CONFIDENCE in annotation.measurements]
    ious = polygon_ious([annotation.shape for annotation in confident], truth)
    return tuple((annotation.measurements[CONFIDENCE], iou) for annotation, iou in zip(confident, ious, strict=True))


def _is_measured(annotation: Annotation, path_class: str, *, origin: str) -> bool:
    return annotation.origin == origin and annotation.review != "rejected" and is_a(annotation.path_class, path_class)
