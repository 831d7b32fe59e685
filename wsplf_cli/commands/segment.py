"""``wsplf segment``: apply a segmentation model to the entries and write its predictions as annotations."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from wsplf_cli.backends import Project
from wsplf_cli.cohort.labels import display_names
from wsplf_cli.cohort.run import Skipped, SlideStep, for_each_slide
from wsplf_cli.cohort.slide import SlideResult
from wsplf_cli.cohort.square_pixels import with_square_pixels
from wsplf_cli.executors.choose import open_workers
from wsplf_cli.networks.device import pick_device, seed_everything
from wsplf_cli.networks.sam import load_sam
from wsplf_cli.options import SegmentOptions
from wsplf_cli.review.memory import REVIEWED, Review, read_review, write_polygons
from wsplf_cli.runs.record import start_run
from wsplf_cli.schema import Entry, StageReport, Tracker
from wsplf_cli.segmentation.annotate import SegmentSlide
from wsplf_cli.segmentation.likeness import describe_unlike, why_not_compared
from wsplf_cli.segmentation.loading import (
    LoadedModel,
    find_model,
    is_from_elsewhere,
    load_model,
    require_classes,
    unnamed_classes,
)
from wsplf_cli.segmentation.operating_point import describe_bounds
from wsplf_cli.segmentation.outlines import OutlineRefiner, asks_sam
from wsplf_cli.segmentation.resume import resumed_predictions
from wsplf_cli.weak.sam.refine import refine
from wsplf_cli.weak.sam.refiners import prompted_sam


def segment(project: Project, entries: Sequence[Entry], options: SegmentOptions, tracker: Tracker) -> StageReport:
    """Predict every entry with a model and write the polygons as pending predictions, in place of earlier ones.

    A slide whose label rules a class out gets no polygon of it, unless it is held out for testing: there, what the
    model would draw are the false positives to be measured. The area left out is reported per entry.

    Args:
        project: The project to write to.
        entries: The entries to predict, labels resolved where they are known.
        options: The options of the command.
        tracker: Where progress is shown.

    Returns:
        One result per entry with its polygons and areas.

    Raises:
        ConfigError: There is no such model, it cannot be used, or it is from elsewhere and its classes are not those
            that the options name.
        MissingDependency: It is an .onnx file, and ONNX Runtime is not installed.
        ProjectError: A file of the project cannot be written.
    """
    project, entries = with_square_pixels(project, entries)
    path = find_model(project.folder, options.model)
    from_elsewhere = is_from_elsewhere(project.folder, path)
    model = load_model(path, threshold=options.threshold, device=options.run.device, from_elsewhere=from_elsewhere)
    checkpoint = model.checkpoint
    if from_elsewhere:
        require_classes(checkpoint, options.project)
    run = start_run(
        project, "segment", options=options, seed=options.run.seed, device=model.device, dry_run=options.run.dry_run
    )
    with open_workers(options.workers, entries, tracker, files=[path.absolute()]) as workers, run:
        seed_everything(options.run.seed)
        _warn_of_unnamed_classes(checkpoint.classes, entries, options, tracker)
        tracker.say(
            f"model {path.name}: {', '.join(checkpoint.classes)}; {checkpoint.mpp:g} um/px, tiles of"
            f" {checkpoint.tile_px} px, threshold {model.threshold:g}; {checkpoint.plugin} of run {checkpoint.run_id}"
        )
        _say_bounds(model, tracker)

        if not_compared := why_not_compared(model.appearance):
            tracker.say(not_compared)
        unlike: dict[str, str] = {}
        reviews: dict[str, Review] = {}

        def read(entry: Entry) -> tuple[Entry, Review] | Skipped:
            if entry.reviewed:
                return Skipped(REVIEWED)
            reviews[entry.id] = read_review(project, entry, checkpoint.classes, tracker)
            return entry, reviews[entry.id]

        def write(entry: Entry, result: SlideResult) -> Mapping[str, float]:
            review = reviews.pop(entry.id)
            if result.unlike:
                unlike[entry.id] = describe_unlike(result.unlike)
            if options.run.dry_run:
                return result.counts
            replaced = write_polygons(
                project, review, annotations=result.annotations, origin="prediction", run_id=run.id
            )
            return {**result.counts, "removed": replaced.removed, "kept": replaced.kept}

        work = SegmentSlide(model, options, run.id, _outlines(model, options))
        step = SlideStep("segment", read, work, write, resumed_predictions(work, run.resume))
        results = for_each_slide(entries, step, tracker=tracker, workers=workers)
        results = [
            replace(result, reason=unlike[result.id]) if result.id in unlike and result.status == "done" else result
            for result in results
        ]
        details = {
            "model": options.model,
            "model_run": checkpoint.run_id,
            "threshold": model.threshold,
            "confidences": list(model.confidences),
            "slide_confidences": list(model.slide_confidences),
            "polygons": sum(result.counts.get("polygons", 0) for result in results),
            "suppressed_um2": sum(result.counts.get("suppressed_um2", 0) for result in results),
            "unlike": {
                result.id: {"name": result.name, "reason": unlike[result.id]}
                for result in results
                if result.id in unlike
            },
        }
        if unlike:
            tracker.say(f"warning: {len(unlike)} of {len(results)} slides are unlike those that the model learned from")
        return run.finish(results, details=details)


def _outlines(model: LoadedModel, options: SegmentOptions) -> OutlineRefiner | None:
    """What gives polygons their outlines; None for the model itself."""
    if not asks_sam(options, model.checkpoint):
        return None
    sam = load_sam(options.sam, checkpoint=options.sam_checkpoint, device=pick_device(options.run.device))
    return OutlineRefiner(partial(refine, refiner=prompted_sam(sam)), sam.digest())


def _say_bounds(model: LoadedModel, tracker: Tracker) -> None:
    """What is known of false positives on new negative slides, for each class."""
    checkpoint = model.checkpoint
    if not checkpoint.bounds:
        tracker.say("no bound on false positives: an earlier version trained this model (wsplf train makes one)")
    elif not model.bounded:
        tracker.say(f"no bound on false positives: it holds at the model's own threshold, {checkpoint.threshold:g}")
    else:
        names = display_names(checkpoint.classes)
        described = describe_bounds(checkpoint.bounds, model.confidences, model.slide_confidences)
        for name, sentence in zip(names, described, strict=True):
            tracker.say(f"{name}: {sentence}" if name else sentence)


def _warn_of_unnamed_classes(
    classes: Sequence[str], entries: Sequence[Entry], options: SegmentOptions, tracker: Tracker
) -> None:
    """Warn where slides get no polygon of a class only because no word of the labels means that class."""
    unnamed = unnamed_classes(classes, options.project)
    positive = any(entry.label is not None and entry.label.classes and not entry.held_out for entry in entries)
    if unnamed and positive:
        tracker.say(
            f"warning: no --positive names the model's class {' or '.join(unnamed)}: slides labelled positive for"
            " another class are taken to lack it (--positive WORD=CLASS)"
        )
