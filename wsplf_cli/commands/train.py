"""``wsplf train``: a segmentation model from the project's annotations, each in the role that review gave it."""

import re
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from typing import Any

from wsplf_cli import plugins
from wsplf_cli.backends import Project
from wsplf_cli.cohort.class_tracker import ClassTracker
from wsplf_cli.cohort.folds import unknown_patients
from wsplf_cli.cohort.labels import classes_of, display_names
from wsplf_cli.cohort.run import finished_entries, for_each_entry
from wsplf_cli.cohort.square_pixels import with_square_pixels
from wsplf_cli.errors import ConfigError
from wsplf_cli.networks.device import pick_device, seed_everything
from wsplf_cli.networks.distributed import is_main
from wsplf_cli.networks.ensemble import members_of
from wsplf_cli.options import TrainOptions
from wsplf_cli.runs import layout
from wsplf_cli.runs.lock import hold
from wsplf_cli.runs.record import start_run
from wsplf_cli.schema import Entry, StageReport, Tracker
from wsplf_cli.segmentation import checkpoint
from wsplf_cli.segmentation.checkpoint import Checkpoint
from wsplf_cli.segmentation.cross_fit import CrossFit, cross_fit
from wsplf_cli.segmentation.operating_point import describe_bounds
from wsplf_cli.segmentation.prepare import TrainingCohort, describe_targets
from wsplf_cli.segmentation.train import FitSettings


def train(project: Project, entries: Sequence[Entry], options: TrainOptions, tracker: Tracker) -> StageReport:
    """Train a segmentation model and write it to ``wsplf/models/NAME/``.

    Args:
        project: The project; its annotations are read, none is written.
        entries: The entries to use, labels resolved.
        options: The options of the command.
        tracker: Where progress is shown.

    Returns:
        One result per entry (counts of tiles and polygons by role) and, in ``details``, the model's scores.

    Raises:
        ProjectError: There is no polygon of a class to learn from, or the model cannot be written.
        ConfigError: A segmenter, backbone or SAM that does not exist or does not fit its weights.
    """
    if not re.fullmatch(r"\w[\w.-]*", options.name):
        raise ConfigError(f"--name {options.name!r}: letters, digits, '_', '-' and '.' only", hint="--name second-try")
    project, entries = with_square_pixels(project, entries)
    segmenter = plugins.load("segmentation.models", options.segmenter)
    classes = classes_of(options.project)
    device = pick_device(options.run.device)
    run = start_run(
        project,
        "train",
        options=options,
        seed=options.run.seed,
        device=str(device),
        dry_run=options.run.dry_run or not is_main(),
    )
    with run, _model_lock(project, options):
        rng = seed_everything(options.run.seed)
        cohort = TrainingCohort(project, classes, options, tracker)
        results = for_each_entry(entries, cohort.add, tracker=tracker, name="read annotations")
        cohort.require_polygons()
        if patients := unknown_patients(finished_entries(entries, results)):
            tracker.say(patients)
        for index, name in enumerate(display_names(classes)):
            targets = [slide.classes[index] for slide in cohort.slides]
            ClassTracker(tracker, run, name).say(describe_targets(targets))
        if options.run.dry_run:
            tracker.say("dry run: nothing was trained or written")
            return run.finish(results, details={"slides": len(cohort.slides)})
        appearance = cohort.learn_appearance()
        settings = segmenter.settings(options)
        weights, window_px = segmenter.weights(options), segmenter.WINDOW_TILES * options.tiles.tile_px
        trained = cross_fit(
            lambda: segmenter.build(len(classes), weights=weights, **settings).to(device),
            cohort.slides,
            settings=FitSettings(
                options.epochs,
                options.tiles.tile_px,
                window_px,
                folds=options.folds,
                one_network=segmenter.ONE_NETWORK,
                alpha=options.alpha,
            ),
            rng=rng,
            device=device,
            tracker=tracker,
        )
        if not is_main():
            return run.finish(results)
        for index, losses in enumerate(trained.losses):
            name = "loss" if len(trained.losses) == 1 else f"loss of network {index + 1}"
            run.curve(name, x=range(1, len(losses) + 1), y={"train": losses})
        point = trained.point
        description = Checkpoint(
            plugin=options.segmenter,
            settings=settings,
            classes=classes,
            tile_px=options.tiles.tile_px,
            mpp=options.tiles.mpp,
            run_id=run.id,
            threshold=point.threshold,
            confidences=point.confidences,
            slide_confidences=point.slide_confidences,
            bounds=point.bounds,
            window_px=window_px,
            networks=len(members_of(trained.network)),
            scores={} if point.dice is None else {"validation_dice": point.dice},
        )
        folder = layout.model_folder(project.folder, options.name)
        checkpoint.save(folder, description, trained.network.state_dict(), appearance=appearance)
        tracker.say(_summary(trained, classes))
        described = describe_bounds(point.bounds, point.confidences, point.slide_confidences)
        for name, sentence in zip(display_names(classes), described, strict=True):
            ClassTracker(tracker, run, name).say(sentence)
        tracker.say(f"model: {folder}")
        details: dict[str, Any] = {
            "folds": trained.folds,
            "threshold": point.threshold,
            "confidences": list(point.confidences),
            "slide_confidences": list(point.slide_confidences),
            "bounds": [None if bound is None else asdict(bound) for bound in point.bounds],
            "validation_dice": point.dice,
            "validation_slides": list(trained.held_out),
            "model": str(folder),
            "slides": len(cohort.slides),
        }
        return run.finish(results, details=details)


def _model_lock(project: Project, options: TrainOptions) -> AbstractContextManager[None]:
    """The lock of the model. Training takes hours and must not keep others from writing into the project meanwhile.

    Raises:
        ProjectError: Another process trains a model of this name.
    """
    if options.run.dry_run or not is_main():
        return nullcontext()
    return hold(layout.training_lock(project.folder, options.name), command="train")


def _summary(trained: CrossFit, classes: Sequence[str]) -> str:
    if trained.point.dice is None:
        missing = "polygons of two patients or more are needed"
        if trained.held_out:
            missing = "no predicted block of the slides holds a polygon"
        return f"no validation: {missing}"
    shared = " for all classes" if len(classes) > 1 else ""
    polygons = "polygons, pseudo-labels that nobody has reviewed among them," if trained.pending else "polygons"
    lacking = ", ".join(classes[index] for index in trained.unvalidated)
    return (
        f"out of fold (of {trained.folds}, each predicted by networks that learned without its patients) Dice"
        f" {trained.point.dice:.3f} at threshold {trained.point.threshold:g}{shared}, against the {polygons} of"
        f" {len(trained.held_out)} slides; the threshold is chosen on them, so new slides may score lower"
        + (f"; of {lacking} there is nothing to find on them" if lacking else "")
    )
