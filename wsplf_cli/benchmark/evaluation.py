"""``wsplf evaluate``: how well the annotations of a project agree with the truth. The only stage that reads truth."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shapely.geometry.base import BaseGeometry

from wsplf_cli import plugins
from wsplf_cli.backends import Project
from wsplf_cli.cohort.labels import classes_of, label_word, names_of
from wsplf_cli.cohort.run import Skipped, each
from wsplf_cli.errors import ConfigError, ProjectError, SlideError
from wsplf_cli.geometry import union
from wsplf_cli.metrics import Overlap, auroc, boundary_f1, fp_share, overlap, polygon_ious
from wsplf_cli.options import EvaluateOptions, ProjectOptions
from wsplf_cli.qupath import geojson
from wsplf_cli.review.regions import review_regions
from wsplf_cli.runs.record import start_run
from wsplf_cli.schema import Annotation, Entry, Tracker
from wsplf_cli.slides.entry import entry_slide
from wsplf_cli.slides.tissue import tissue_mask, tissue_um2

#: Gives the truth of an entry in level-0 pixels (empty: nothing there), or None where nobody has said.
TruthOf = Callable[[Entry], BaseGeometry | None]

SUFFIXES = (".geojson", ".geojson.gz")

CONFIDENCE = "wsplf: confidence"
#: A polygon is good from this IoU on with what it shows of the truth.
GOOD_IOU = 0.5


@dataclass(frozen=True, slots=True)
class Score:
    """What was measured on one entry; areas in um2. ``label`` is the word of the project, None where it has none.

    ``polygons`` are the confidence and the IoU of each polygon that states a confidence.
    """

    entry: Entry
    label: str | None
    positive: bool
    overlap: Overlap
    boundary_f1: float
    tissue_um2: float
    polygons: tuple[tuple[float, float], ...] = ()

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


def evaluate(project: Project, entries: Sequence[Entry], options: EvaluateOptions, tracker: Tracker) -> dict[str, Any]:
    """Measure the annotations of one origin against the truth, per entry and over all.

    The annotations are only read. The figures are kept as a run, for the report, where the project can be written.

    Measured are the annotations of a class of the project and of ``options.origin`` that no one has rejected. See
    ``wsplf_cli.metrics`` for what the figures mean. A slide is positive when its label says that it holds the class,
    and without a label when its truth does; else it is negative. A slide labelled negative may lack a truth: there is
    nothing to find on it. Others without truth are skipped.

    Returns:
        ``entries``: name, label (the word in the project), dice, iou, boundary_f1, fp_share (None without tissue),
        truth_um2, predicted_um2; ``mean_dice`` and ``mean_boundary_f1`` over the positive slides; ``pooled_dice`` and
        ``pooled_iou`` of the areas of all slides; ``negative_fp_share`` of the tissue of all negative slides, and
        ``negative_tissue_um2``; None where there are none; ``confidence``: how well it tells good polygons from bad
        ones; ``skipped`` and ``failed``: name and reason. Of several classes all but the last two stand in ``classes``,
        by class.

    Raises:
        ConfigError: there is no such truth.
        ProjectError: no entry could be measured, or the project that holds the truth cannot be read.
    """
    classes = classes_of(options.project)
    truth_of = {name: truth_reader(options, name) for name in classes}
    scores: dict[str, list[Score]] = {name: [] for name in classes}

    def work(entry: Entry) -> Mapping[str, float] | Skipped:
        truths = {name: find(entry) for name, find in truth_of.items()}
        if any(truth is None and not _is_negative(entry, name) for name, truth in truths.items()):
            return Skipped(f"no truth for it in {options.truth}")
        known = {name: union([]) if truth is None else truth for name, truth in truths.items()}
        found = _scores(project, entry, known, options, tracker=tracker)
        for name, score in found.items():
            scores[name].append(score)
        return {f"dice {name}".rstrip(): found[one].overlap.dice for one, name in zip(classes, names, strict=True)}

    names = names_of(classes)
    read_only = not os.access(project.folder, os.W_OK)
    with start_run(project, "evaluate", options=options, seed=0, dry_run=read_only) as run:
        results = each(entries, work, tracker=tracker, name="evaluate")
        left_out = {
            status: [{"name": result.name, "reason": result.reason} for result in results if result.status == status]
            for status in ("skipped", "failed")
        }
        for one in left_out["skipped"]:
            tracker.say(f"{one['name']}: skipped, {one['reason']}")
        if not scores[classes[0]]:
            reason = next((result.reason for result in results), "the project has no entries")
            raise ProjectError(
                f"none of {len(entries)} entries could be measured; the first: {reason}",
                hint="--truth takes a folder with SLIDE-STEM.geojson for each slide, or another project.qpproj",
            )
        totals = {name: _totals(own) for name, own in scores.items()}
        document = ({"classes": totals} if len(classes) > 1 else totals[classes[0]]) | left_out
        run.finish(results, details=document)
    return document


def _totals(scores: Sequence[Score]) -> dict[str, Any]:
    """The document of ``evaluate --json`` without what was left out."""
    positive = [score for score in scores if score.positive]
    negative = [score for score in scores if not score.positive]
    pooled = sum((score.overlap for score in scores), Overlap())
    on_negative = sum((score.overlap for score in negative), Overlap())
    return {
        "entries": [score.document for score in scores],
        "mean_dice": sum(score.overlap.dice for score in positive) / len(positive) if positive else None,
        "pooled_dice": pooled.dice,
        "pooled_iou": pooled.iou,
        "mean_boundary_f1": sum(score.boundary_f1 for score in positive) / len(positive) if positive else None,
        "negative_fp_share": fp_share(on_negative, tissue=sum(score.tissue_um2 for score in negative)),
        "negative_tissue_um2": sum(score.tissue_um2 for score in negative),
        "confidence": _confidence([polygon for score in scores for polygon in score.polygons]),
    }


def _confidence(polygons: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """``polygons`` and how many of them are ``bad``; the ``auroc`` of the confidence; ``bad_in_lowest_third``.

    The last is the share of the bad ones that is in the third with the lowest confidence: what a person finds who
    looks at a third.
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


def _scores(
    project: Project,
    entry: Entry,
    truths: Mapping[str, BaseGeometry],
    options: EvaluateOptions,
    *,
    tracker: Tracker,
) -> dict[str, Score]:
    """Measure one entry for each class.

    Raises:
        SlideError: its annotations or its slide cannot be read.
    """
    slide, pixel_size = entry_slide(entry, mpp_override=options.project.mpp_override)
    if pixel_size.warning:
        tracker.say(f"warning: {pixel_size.warning}")
    annotations = project.annotations(entry.id)
    mpp = pixel_size.mpp
    tissue = tissue_um2(tissue_mask(slide, mpp_slide=mpp), mpp_slide=mpp)
    found = {}
    for name, truth in truths.items():
        measured = [one for one in annotations if _is_measured(one, name, origin=options.origin)]
        predicted = union(one.shape for one in measured)
        labelled_negative = _is_negative(entry, name)
        if labelled_negative and not truth.is_empty:
            of_class = f" for {name}" if len(truths) > 1 else ""
            tracker.say(f"warning: {entry.name} is labelled negative{of_class}, but its truth is not empty")
        found[name] = Score(
            entry=entry,
            label=label_word(entry, options.project) or None,
            positive=not truth.is_empty if entry.label is None else not labelled_negative,
            overlap=overlap(truth, predicted, unit=mpp**2),
            boundary_f1=boundary_f1(truth, predicted, tolerance=options.tolerance_um / mpp),
            tissue_um2=tissue,
            polygons=_polygons(measured, truth),
        )
    return found


def _polygons(measured: Sequence[Annotation], truth: BaseGeometry) -> tuple[tuple[float, float], ...]:
    """The confidence and the IoU of each polygon that states a confidence."""
    stated = [one for one in measured if CONFIDENCE in one.measurements]
    ious = polygon_ious([one.shape for one in stated], truth)
    return tuple((one.measurements[CONFIDENCE], iou) for one, iou in zip(stated, ious, strict=True))


def _is_measured(annotation: Annotation, path_class: str, *, origin: str) -> bool:
    return annotation.origin == origin and annotation.review != "rejected" and annotation.path_class == path_class


def _is_negative(entry: Entry, path_class: str) -> bool:
    return entry.label is not None and path_class not in entry.label.classes


def truth_reader(options: EvaluateOptions, path_class: str) -> TruthOf:
    """How to get the truth of a class that ``--truth`` names: a project, or a folder of GeoJSON files."""
    path = options.truth
    if path.suffix == ".qpproj" or (path / "project.qpproj").is_file():
        return _truth_in_project(path, options.project, path_class)
    if not path.is_dir():
        raise ConfigError(
            f"no truth at {path}",
            hint="--truth takes a folder with SLIDE-STEM.geojson for each slide, or another project.qpproj",
        )
    classes = classes_of(options.project)
    return lambda entry: _truth_in_folder(path, entry, path_class, classes)


def _truth_in_folder(folder: Path, entry: Entry, path_class: str, classes: Sequence[str]) -> BaseGeometry | None:
    """What the entry's GeoJSON file holds of the class; features without a class count as of the only one.

    Raises:
        SlideError: the file cannot be read, a feature has no class and the project has several, or all features have
            classes that are none of the project's, and the slide is no negative.
    """
    own = (
        [entry.slide_path.stem] if entry.slide_path and not entry.steps else []
    )  # a turned slide has other coordinates
    stems = dict.fromkeys([*own, Path(entry.name).stem, entry.name])
    paths = [folder / (stem + suffix) for stem in stems for suffix in SUFFIXES]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        return None
    try:
        features = geojson.read(path)
    except ProjectError as error:
        raise SlideError(error.message, hint=error.hint) from error
    if len(classes) > 1 and any(one.path_class is None for one in features):
        raise SlideError(f"{path}: a feature has no class, and the project has several", hint="give it a class")
    known = {name.casefold() for name in classes} | {""}
    named = [(one, (one.path_class or "").casefold()) for one in features]
    if features and not any(name in known for _, name in named) and not _is_negative(entry, path_class):
        found = ", ".join(sorted({one.path_class for one in features if one.path_class}))
        wanted = " or ".join(classes)
        raise SlideError(f"{path}: no feature of class {wanted}; there are: {found}", hint="name it with --path-class")
    return union(one.shape for one, name in named if name in ("", path_class.casefold()))


def _truth_in_project(path: Path, options: ProjectOptions, path_class: str) -> TruthOf:
    """The annotations of the class in the entries of the same name of another project.

    What wsplf made there and no one has decided on is no truth, unless the image is marked as reviewed.
    """
    opened: Project = plugins.load("backends", options.backend).open_project(path, options)
    by_name: dict[str, list[Entry]] = {}
    for one in opened.entries():
        by_name.setdefault(one.name, []).append(one)

    def find(entry: Entry) -> BaseGeometry | None:
        same = by_name.get(entry.name, [])
        if len(same) > 1:
            ids = ", ".join(one.id for one in same)
            raise SlideError(
                f"{path}: {len(same)} entries are named {entry.name} (ids {ids})", hint="rename them in QuPath"
            )
        if not same:
            return None
        regions = review_regions(opened.annotations(same[0].id), path_class, reviewed=same[0].reviewed)
        return union(regions.positive)

    return find
