"""``wsplf evaluate``: how well the annotations of a project agree with the truth."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from wsplf_cli.backends import Project
from wsplf_cli.benchmark.evaluation import Measured, Score, ScoreSlide, totals, without_measured_positive
from wsplf_cli.benchmark.learned_from import learned_from
from wsplf_cli.benchmark.truth import HINT, is_negative, truth_reader
from wsplf_cli.cohort.labels import classes_of, display_names
from wsplf_cli.cohort.names import all_entries
from wsplf_cli.cohort.run import Skipped, SlideStep, for_each_slide
from wsplf_cli.errors import ProjectError
from wsplf_cli.executors.choose import open_workers
from wsplf_cli.geometry import union
from wsplf_cli.options import EvaluateOptions
from wsplf_cli.runs.record import start_run
from wsplf_cli.schema import Entry, Tracker, titles

NO_TRUTH = "no truth for it"


def evaluate(project: Project, entries: Sequence[Entry], options: EvaluateOptions, tracker: Tracker) -> dict[str, Any]:
    """Measure the annotations of one origin against the truth, per entry and over all entries.

    The project is only read, unless the options ask to keep the scores in it, as a run, for the report.

    A slide is positive when its label says that it holds the class, and an unlabelled one when its truth does; else it
    is negative. A slide that is labelled negative needs no truth: there is nothing to find on it. Other slides without
    truth are skipped. Where that leaves no positive slide of a class to measure, they have failed. Only the first
    z-slice and time point of an image are measured, inside its borders.

    Returns:
        ``entries``: name, label (the word in the project), dice, iou, boundary_f1, fp_share (None without tissue),
        truth_um2, predicted_um2; ``mean_dice`` and ``mean_boundary_f1`` over the positive slides; ``pooled_dice`` and
        ``pooled_iou`` of the areas of all slides; these four are None without a positive slide; ``negative_fp_share``
        of the tissue of all negative slides, and ``negative_tissue_um2``, None where there are none; ``confidence``:
        how well it tells good polygons from bad ones; ``skipped`` and ``failed``: name and reason; of predictions
        ``learned_from``: names of the measured slides that the model, or another slide of the patient, learned from.
        With several classes, all but the last three are in ``classes``, by class.

    Raises:
        ConfigError: there is no such truth.
        ProjectError: no entry could be measured, the project that holds the truth cannot be read, or the scores cannot
            be kept.
    """
    classes = classes_of(options.project)
    of_project = all_entries(project, entries)
    names = {entry.id: title for entry, title in zip(of_project, titles(of_project), strict=True)}
    readers = {
        path_class: truth_reader(options, path_class, of_project, tracker if path_class == classes[0] else None)
        for path_class in classes
    }
    scored: dict[str, Mapping[str, Score]] = {}

    def read(entry: Entry) -> Measured | Skipped:
        truths = {path_class: read(entry) for path_class, read in readers.items()}
        if any(truth is None and not is_negative(entry, path_class) for path_class, truth in truths.items()):
            return Skipped(f"{NO_TRUTH} in {options.truth}")
        known = {path_class: union([]) if truth is None else truth for path_class, truth in truths.items()}
        return Measured(entry, project.annotations(entry.id), known)

    def receive(entry: Entry, by_class: Mapping[str, Score]) -> Mapping[str, float]:
        scored[entry.id] = by_class
        shown = zip(classes, display_names(classes), strict=True)
        return {f"dice {name}".rstrip(): by_class[path_class].overlap.dice for path_class, name in shown}

    run = start_run(project, "evaluate", options=options, seed=0, dry_run=not options.keep_scores)
    with open_workers(options.workers, entries, tracker) as workers, run:
        step = SlideStep("evaluate", read, ScoreSlide(options), receive)
        results = for_each_slide(entries, step, tracker=tracker, workers=workers)
        in_order = [scored[entry.id] for entry in entries if entry.id in scored]
        scores = {path_class: [by_class[path_class] for by_class in in_order] for path_class in classes}
        if not any(result.status == "failed" for result in results):
            needed = without_measured_positive(scores, entries)
            results = [
                replace(result, status="failed") if result.status == "skipped" and result.id in needed else result
                for result in results
            ]
        left_out = {
            status: [
                {"name": names[result.id], "reason": result.reason} for result in results if result.status == status
            ]
            for status in ("skipped", "failed")
        }
        for result in results:
            if result.reason.startswith(NO_TRUTH):
                tracker.say(f"{names[result.id]}: {result.status}, {result.reason}")
        if not scores[classes[0]]:
            reason = next((result.reason for result in results), "the project has no entries")
            raise ProjectError(f"none of {len(entries)} entries could be measured; the first: {reason}", hint=HINT)
        by_class = {path_class: totals(of_class, names) for path_class, of_class in scores.items()}
        document: dict[str, Any] = ({"classes": by_class} if len(classes) > 1 else by_class[classes[0]]) | left_out
        if options.origin == "prediction":
            every_score = [score for of_class in scores.values() for score in of_class]
            models = {model for score in every_score for model in score.models}
            learned = learned_from(project, [score.entry for score in scores[classes[0]]], models)
            for warning in learned.warnings:
                tracker.say(warning)
            document["learned_from"] = [*learned.slides, *learned.of_patients]
        run.finish(results, details=document)
    return document
