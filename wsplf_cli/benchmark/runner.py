"""Runs the jobs of a benchmark on a copy of the project, and measures them against the truth.

The copy has no annotations: the recipes see slides and slide labels alone, and what people drew is not touched. Only
``evaluate`` reads the truth, the upper bound, which is trained on it, and the simulated reviewer.
"""

import time
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import numpy as np

from wsplf_cli import __version__, files
from wsplf_cli.backends import Project
from wsplf_cli.benchmark.cohort import Cohort, evaluate_options, for_test_project
from wsplf_cli.benchmark.copies import (
    RUNS,
    copy_project,
    drop_state,
    has_state,
    keep_state,
    make_benchmark_folder,
    state_folder,
)
from wsplf_cli.benchmark.plan import Job, ReviewRound, read_result, round_before
from wsplf_cli.benchmark.reviewer import ReviewedPolygons, Reviewer
from wsplf_cli.benchmark.table import PREDICTIONS, PSEUDO_LABELS
from wsplf_cli.benchmark.truth import truth_reader
from wsplf_cli.benchmark_options import BenchmarkOptions
from wsplf_cli.cohort.labels import classes_of
from wsplf_cli.errors import ProjectError, SlideError
from wsplf_cli.geometry import polygonal
from wsplf_cli.networks.device import peak_memory, pick_device, start_peak_memory
from wsplf_cli.options import EvaluateOptions, PseudolabelOptions, SegmentOptions, TrainOptions
from wsplf_cli.recipes import UPPER_BOUND, WITHOUT_SAM
from wsplf_cli.review.order import ORDERS
from wsplf_cli.runs.layout import model_folder
from wsplf_cli.schema import Annotation, Entry, StageReport, Tracker, without_name
from wsplf_cli.weak.method import fit_key

COPY, COPY_WITH_TRUTH, COPY_OF_TEST = "copy", "copy-with-truth", "copy-of-test-project"


class Pseudolabel(Protocol):
    """The command ``wsplf pseudolabel``; ``memory`` keeps what runs on the same entries can share."""

    def __call__(
        self,
        project: Project,
        entries: Sequence[Entry],
        options: PseudolabelOptions,
        tracker: Tracker,
        *,
        memory: MutableMapping[str, Any] | None,
    ) -> StageReport:
        """Write pseudo-labels."""


@dataclass(frozen=True, slots=True)
class Pipeline:
    """The commands that a benchmark runs."""

    pseudolabel: Pseudolabel
    train: Callable[[Project, Sequence[Entry], TrainOptions, Tracker], StageReport]
    segment: Callable[[Project, Sequence[Entry], SegmentOptions, Tracker], StageReport]
    evaluate: Callable[[Project, Sequence[Entry], EvaluateOptions, Tracker], dict[str, Any]]


@dataclass(slots=True)
class SharedFits:
    """What jobs with one seed have fitted, and the peak memory of each fit in GB, by ``fit_key``."""

    memory: dict[str, Any] = field(default_factory=dict)
    peaks_gb: dict[str, float] = field(default_factory=dict)


def run_jobs(
    project: Project, jobs: Sequence[Job], runner: "JobRunner", *, out: Path, tracker: Tracker
) -> dict[str, dict[str, Any]]:
    """The result of every job by its file name; a job that was finished before is not run again.

    ``jobs`` are sorted by seed: those with the same seed share their fits. A round of review comes after the round
    before it, whose state is kept until it is finished.

    Raises:
        ProjectError: a job cannot be run, or its result cannot be written.
    """
    results = {job.file: result for job in jobs if (result := read_result(out, job)) is not None}
    for job in reversed(jobs):
        before = round_before(job, jobs)
        if before is not None and job.file not in results and not _has_state(out, before):
            results.pop(before.file, None)
    make_benchmark_folder(out)
    copied = copy_project(project, out / COPY, runner.options)
    seed, fits = -1, SharedFits()
    for number, job in enumerate(jobs, start=1):
        if job.file in results:
            continue
        tracker.say(f"{number} of {len(jobs)}: {job.title}, seed {job.seed}")
        if job.seed != seed:
            seed, fits = job.seed, SharedFits()
        if job.recipe == UPPER_BOUND:
            result = runner.run_upper_bound(copy_project(project, out / COPY_WITH_TRUTH, runner.options), job)
        elif job.review is not None:
            before = round_before(job, jobs)
            state = None if before is None else state_folder(out, before.name)
            reviewed = copy_project(project, out / COPY, runner.options, state=state)
            result = runner.run_round(reviewed, job, job.review)
            keep_state(reviewed, state_folder(out, job.name), fingerprint=job.fingerprint)
        else:
            result = runner.run(copied, job, fits)
        results[job.file] = result
        files.write_json(out / RUNS / job.file, result)
        if job.review is not None and job.review.number > 1:  # other orders start from the first state
            before = round_before(job, jobs)
            assert before is not None
            drop_state(state_folder(out, before.name))
    return results


def _has_state(out: Path, job: Job) -> bool:
    return has_state(state_folder(out, job.name), fingerprint=job.fingerprint)


class JobRunner:
    """Runs one job on a copy of the project and returns its result as JSON values."""

    def __init__(
        self, pipeline: Pipeline, cohort: Cohort, options: BenchmarkOptions, tracker: Tracker, *, out: Path
    ) -> None:
        self.pipeline = pipeline
        self.cohort = cohort
        self.options = options
        self.tracker = tracker
        self.out = out
        self._device = pick_device(options.device)

    def run(self, project: Project, job: Job, fits: SharedFits) -> dict[str, Any]:
        """Make pseudo-labels by the recipe, train a model on them if the job says so, and measure both."""
        start_peak_memory(self._device)
        fits_before = len(fits.memory)
        training = self.cohort.training
        report = self.pipeline.pseudolabel(project, training, job.pseudolabel, self.tracker, memory=fits.memory)
        fitted_before = len(fits.memory) == fits_before
        seconds = report.seconds + (report.details["learn_seconds"] if fitted_before else 0.0)
        problems: list[str] = []
        scores = self._evaluate(project, training, "pseudolabel", problems)
        measured = {
            PSEUDO_LABELS: _figures(scores)
            | {
                "negative_fp_share": _suppressed_share(report, training, scores),
                "seconds_per_mm2": seconds / max(_tissue_mm2(report, training), 1e-9),
                "peak_gb": _peak_with_fit(fits, job, self._peak_gb(), fitted_before=fitted_before),
            }
        }
        reports = {"pseudolabel": report}
        if job.trains:
            tested = self._tested(project)
            try:
                reports |= self._train(project, tested, job)
            except ProjectError as error:  # a recipe that drew nothing: its pseudo-labels still count
                problems.append(f"no model: {error.message}")
            else:
                measured[PREDICTIONS] = self._measure_predictions(tested, reports, problems)
        return _result(job, measured, reports, fitted_before=fitted_before, problems=problems)

    def run_round(self, project: Project, job: Job, review: ReviewRound) -> dict[str, Any]:
        """Decide polygons as a reviewer would, and run the recipe with these decisions in the project."""
        reviewed = ReviewedPolygons()
        if review.number:
            path_class = classes_of(self.options.project)[0]
            reviewer = Reviewer(
                path_class,
                truth_reader(evaluate_options(self.options, "pseudolabel"), path_class, project.entries()),
                self.options.project.mpp_override,
            )
            reviewed = reviewer.review(
                project,
                self.cohort.training,
                ORDERS[review.order],
                decisions=review.decisions,
                rng=np.random.default_rng([job.seed, review.number]),
            )
        result = self.run(project, job, SharedFits())  # what was learned before these decisions is out of date
        result["failed"] = [*reviewed.problems, *result["failed"]]
        return {**result, "review": asdict(review), "decisions": reviewed.decisions, "left_pending": reviewed.pending}

    def run_upper_bound(self, project: Project, job: Job) -> dict[str, Any]:
        """Train the segmentation model on the truth of the training slides, and measure it as the others are."""
        path_class = classes_of(self.options.project)[0]
        read = truth_reader(evaluate_options(self.options, "prediction"), path_class, project.entries())
        problems: list[str] = []
        for entry in self.cohort.training:
            try:
                truth = read(entry)
            except SlideError as error:
                problems.append(f"{entry.name}: {without_name(error.message, entry.name)}")
                continue
            polygons = [] if truth is None else polygonal(truth)
            annotations = [Annotation(uuid4(), polygon, path_class) for polygon in polygons]
            project.replace(entry.id, origin="human", annotations=annotations)
        start_peak_memory(self._device)
        tested = self._tested(project)
        reports = self._train(project, tested, job)
        measured = {PREDICTIONS: self._measure_predictions(tested, reports, problems)}
        return _result(job, measured, reports, fitted_before=False, problems=problems)

    def _tested(self, project: Project) -> Project:
        """The project that predictions are written into: a new copy of ``--test-project`` where there is one."""
        if self.cohort.test_project is None:
            return project
        return copy_project(self.cohort.test_project, self.out / COPY_OF_TEST, for_test_project(self.options))

    def _train(self, project: Project, tested: Project, job: Job) -> dict[str, StageReport]:
        trained = self.pipeline.train(project, self.cohort.training, job.train, self.tracker)
        options = SegmentOptions(
            project=job.train.project,
            run=job.train.run,
            model=job.train.name,
            outlines="network" if job.pseudolabel.recipe.refiner in WITHOUT_SAM else "sam",
            sam=job.pseudolabel.sam,
            sam_checkpoint=job.pseudolabel.sam_checkpoint,
        )
        entries = self.cohort.testing
        if self.cohort.test_project is not None:
            model = str(model_folder(project.folder, job.train.name))
            options = replace(options, project=for_test_project(self.options).project, model=model)
            entries = [replace(entry, label=None) for entry in entries]
        return {"train": trained, "segment": self.pipeline.segment(tested, entries, options, self.tracker)}

    def _measure_predictions(
        self, tested: Project, reports: Mapping[str, StageReport], problems: list[str]
    ) -> dict[str, Any]:
        """Figures of the predictions. On training slides that are negative the suppressed area counts as drawn."""
        scores = self._evaluate(tested, self.cohort.testing, "prediction", problems)
        figures = _figures(scores) | {"peak_gb": self._peak_gb()}
        if self.cohort.learns_from_testing:
            figures["negative_fp_share"] = _suppressed_share(reports["segment"], self.cohort.testing, scores)
        return figures

    def _evaluate(self, project: Project, entries: Sequence[Entry], origin: str, problems: list[str]) -> dict[str, Any]:
        """What ``evaluate`` returns; the entries that it could not measure are added to ``problems``."""
        of_test = origin == "prediction" and self.cohort.test_project is not None
        options = evaluate_options(for_test_project(self.options) if of_test else self.options, origin)
        scores = self.pipeline.evaluate(project, entries, options, self.tracker)
        problems += [row["reason"] for row in scores.get("failed", ()) if row["reason"] not in problems]
        return scores

    def _peak_gb(self) -> float | None:
        """The peak memory of the GPU, or of the process where there is no GPU."""
        used = peak_memory(self._device)
        most = used.host_bytes if used.gpu_bytes is None else used.gpu_bytes
        return None if most is None else most / 1e9


def _figures(scores: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of the table, from what ``evaluate`` returns."""
    keys = ("mean_dice", "pooled_iou", "mean_boundary_f1", "negative_fp_share")
    return {key: scores[key] for key in keys} | {
        "confidence_auroc": scores["confidence"]["auroc"],
        "bad_in_lowest_third": scores["confidence"]["bad_in_lowest_third"],
        "polygons": scores["confidence"]["polygons"],
        "dice_of_slides": {entry["name"]: entry["dice"] for entry in scores["entries"]},
    }


def _suppressed_share(report: StageReport, entries: Sequence[Entry], scores: Mapping[str, Any]) -> float | None:
    """Share of the tissue of negative slides on which the method would have drawn, had their label not forbidden it."""
    negative = {entry.id for entry in entries if entry.label is not None and not entry.label.classes}
    drawn_um2 = sum(result.counts.get("suppressed_um2", 0.0) for result in report.entries if result.id in negative)
    tissue_um2 = scores["negative_tissue_um2"]
    return drawn_um2 / tissue_um2 if tissue_um2 > 0 else None


def _tissue_mm2(report: StageReport, entries: Sequence[Entry]) -> float:
    ids = {entry.id for entry in entries}
    return sum(result.counts.get("tissue mm2", 0.0) for result in report.entries if result.id in ids)


def _peak_with_fit(fits: SharedFits, job: Job, peak_gb: float | None, *, fitted_before: bool) -> float | None:
    """The peak memory of a run, with that of its fit where an earlier run did it."""
    if peak_gb is None:
        return None
    key = fit_key(job.pseudolabel)
    if not fitted_before:
        fits.peaks_gb[key] = peak_gb
    return max(peak_gb, fits.peaks_gb.get(key, 0.0))


def _result(
    job: Job,
    measured: Mapping[str, Any],
    reports: Mapping[str, StageReport],
    *,
    fitted_before: bool,
    problems: Sequence[str],
) -> dict[str, Any]:
    """What is kept of a finished job."""
    failures = [result.reason for report in reports.values() for result in report.entries if result.status == "failed"]
    return {
        "recipe": job.recipe,
        "seed": job.seed,
        "fingerprint": job.fingerprint,
        "version": __version__,
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "options": job.pseudolabel,
        "measured": measured,
        "seconds": {stage: report.seconds for stage, report in reports.items()},
        "details": {stage: report.details for stage, report in reports.items()},
        "fitted_before": fitted_before,
        "failed": [*problems, *failures],
    }
