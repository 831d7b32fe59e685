"""Runs the jobs of a benchmark on a copy of the project, and measures them against the truth.

The copy has no annotations: the recipes see slides and slide labels alone, and what people drew is not touched. Only
``evaluate`` reads the truth, and the upper bound, which is trained on it.
"""

import time
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from wsplf_cli import __version__, files
from wsplf_cli.backends import Project
from wsplf_cli.benchmark.copies import RUNS, copy_project, make_benchmark_folder
from wsplf_cli.benchmark.plan import Job, read_result
from wsplf_cli.benchmark.table import PREDICTIONS, PSEUDO_LABELS
from wsplf_cli.benchmark.truth import HINT, TruthReader, truth_reader
from wsplf_cli.cohort.labels import classes_of, require_both
from wsplf_cli.errors import ConfigError, ProjectError, SlideError
from wsplf_cli.geometry import polygonal
from wsplf_cli.networks.device import peak_memory, pick_device, start_peak_memory
from wsplf_cli.options import (
    BenchmarkOptions,
    EvaluateOptions,
    PseudolabelOptions,
    SegmentOptions,
    TrainOptions,
)
from wsplf_cli.recipes import UPPER_BOUND
from wsplf_cli.schema import Annotation, Entry, StageReport, Tracker, without_name
from wsplf_cli.weak.method import fit_key

COPY, COPY_WITH_TRUTH = "copy", "copy-with-truth"


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


@dataclass(frozen=True, slots=True)
class Cohort:
    """``training``: the entries to learn from; ``testing``: those that predictions are measured on.

    ``held_out``: they are held-out entries; where the project has none they are the training ones.
    """

    training: list[Entry]
    testing: list[Entry]
    held_out: bool

    @property
    def patients_in_both(self) -> int:
        """How many held-out entries are of patients with entries to learn from."""
        patients = {entry.patient for entry in self.training} - {""}
        return sum(entry.patient in patients for entry in self.testing) if self.held_out else 0


@dataclass(slots=True)
class SharedFits:
    """What jobs with one seed have fitted, and the peak memory of each fit in GB, by ``fit_key``."""

    memory: dict[str, Any] = field(default_factory=dict)
    peaks_gb: dict[str, float] = field(default_factory=dict)


def cohort_of(entries: Sequence[Entry]) -> Cohort:
    """The labelled entries to learn from, and the held-out ones.

    Raises:
        ProjectError: there is no positive or no negative entry to learn from.
    """
    require_both([entry for entry in entries if not entry.held_out])
    training = [entry for entry in entries if entry.label is not None and not entry.held_out]
    held_out = [entry for entry in entries if entry.held_out]
    return Cohort(training, held_out or training, bool(held_out))


def require_truth(cohort: Cohort, options: BenchmarkOptions) -> None:
    """Refuse, before hours of work, a truth that covers no positive slide.

    Raises:
        ConfigError: it covers none, or there is no truth.
    """
    entries = list({entry.id: entry for entry in (*cohort.training, *cohort.testing)}.values())
    read = truth_reader(_evaluate_options(options, "pseudolabel"), classes_of(options.project)[0], entries)
    positive = [entry for entry in cohort.training if entry.label is not None and entry.label.classes]
    if not any(_has_truth(read, entry) for entry in positive):
        raise ConfigError(f"{options.truth} has no truth of any positive slide", hint=HINT)


def _has_truth(read: TruthReader, entry: Entry) -> bool:
    try:
        return read(entry) is not None
    except SlideError:  # evaluate fails this entry and says why
        return True


def run_jobs(
    project: Project, jobs: Sequence[Job], runner: "JobRunner", *, out: Path, tracker: Tracker
) -> dict[str, dict[str, Any]]:
    """The result of every job by its file name; a job that was finished before is not run again.

    ``jobs`` are sorted by seed: those with the same seed share their fits.

    Raises:
        ProjectError: a job cannot be run, or its result cannot be written.
    """
    results = {job.file: result for job in jobs if (result := read_result(out, job)) is not None}
    make_benchmark_folder(out)
    copied = copy_project(project, out / COPY, runner.options)
    seed, fits = -1, SharedFits()
    for number, job in enumerate(jobs, start=1):
        if job.file in results:
            continue
        tracker.say(f"{number} of {len(jobs)}: {job.recipe}, seed {job.seed}")
        if job.seed != seed:
            seed, fits = job.seed, SharedFits()
        if job.recipe == UPPER_BOUND:
            result = runner.run_upper_bound(copy_project(project, out / COPY_WITH_TRUTH, runner.options), job)
        else:
            result = runner.run(copied, job, fits)
        results[job.file] = result
        files.write_json(out / RUNS / job.file, result)
    return results


class JobRunner:
    """Runs one job on a copy of the project and returns its result as JSON values."""

    def __init__(self, pipeline: Pipeline, cohort: Cohort, options: BenchmarkOptions, tracker: Tracker) -> None:
        self.pipeline = pipeline
        self.cohort = cohort
        self.options = options
        self.tracker = tracker
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
            try:
                reports |= self._train(project, job)
            except ProjectError as error:  # a recipe that drew nothing: its pseudo-labels still count
                problems.append(f"no model: {error.message}")
            else:
                measured[PREDICTIONS] = self._measure_predictions(project, reports, problems)
        return _result(job, measured, reports, fitted_before=fitted_before, problems=problems)

    def run_upper_bound(self, project: Project, job: Job) -> dict[str, Any]:
        """Train the segmentation model on the truth of the training slides, and measure it as the others are."""
        path_class = classes_of(self.options.project)[0]
        read = truth_reader(_evaluate_options(self.options, "prediction"), path_class, project.entries())
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
        reports = self._train(project, job)
        measured = {PREDICTIONS: self._measure_predictions(project, reports, problems)}
        return _result(job, measured, reports, fitted_before=False, problems=problems)

    def _train(self, project: Project, job: Job) -> dict[str, StageReport]:
        trained = self.pipeline.train(project, self.cohort.training, job.train, self.tracker)
        options = SegmentOptions(project=job.train.project, run=job.train.run, model=job.train.name)
        return {"train": trained, "segment": self.pipeline.segment(project, self.cohort.testing, options, self.tracker)}

    def _measure_predictions(
        self, project: Project, reports: Mapping[str, StageReport], problems: list[str]
    ) -> dict[str, Any]:
        """Figures of the predictions. On training slides that are negative the suppressed area counts as drawn."""
        scores = self._evaluate(project, self.cohort.testing, "prediction", problems)
        figures = _figures(scores) | {"peak_gb": self._peak_gb()}
        if not self.cohort.held_out:
            figures["negative_fp_share"] = _suppressed_share(reports["segment"], self.cohort.testing, scores)
        return figures

    def _evaluate(self, project: Project, entries: Sequence[Entry], origin: str, problems: list[str]) -> dict[str, Any]:
        """What ``evaluate`` returns; the entries that it could not measure are added to ``problems``."""
        scores = self.pipeline.evaluate(project, entries, _evaluate_options(self.options, origin), self.tracker)
        problems += [row["reason"] for row in scores.get("failed", ()) if row["reason"] not in problems]
        return scores

    def _peak_gb(self) -> float | None:
        """The peak memory of the GPU, or of the process where there is no GPU."""
        used = peak_memory(self._device)
        most = used.host_bytes if used.gpu_bytes is None else used.gpu_bytes
        return None if most is None else most / 1e9


def _evaluate_options(options: BenchmarkOptions, origin: str) -> EvaluateOptions:
    return EvaluateOptions(
        project=options.project, truth=options.truth, origin=origin, tolerance_um=options.tolerance_um
    )


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
