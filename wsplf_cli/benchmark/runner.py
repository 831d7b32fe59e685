"""``wsplf benchmark``: recipes over the same slides, measured against the truth, in one table.

Everything happens on a copy of the project without its annotations: the recipes see slides and slide labels alone, and
what people drew is not touched. The truth is read by ``evaluate``, and for the upper bound, which learns from it.
"""

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch

from wsplf_cli import __version__, files, plugins
from wsplf_cli.backends import Project
from wsplf_cli.benchmark import charts, table
from wsplf_cli.benchmark.evaluation import evaluate, truth_reader
from wsplf_cli.benchmark.plan import (
    RUNS,
    UPPER_BOUND,
    Job,
    chosen_recipes,
    finished,
    for_backbone,
    jobs_of,
    require_used,
)
from wsplf_cli.benchmark.table import PREDICTED, PSEUDO
from wsplf_cli.cohort.labels import classes_of, require_both
from wsplf_cli.commands.segment import segment
from wsplf_cli.commands.train import train
from wsplf_cli.errors import ConfigError, ProjectError
from wsplf_cli.geometry import polygonal
from wsplf_cli.networks.device import peak, pick_device, start_peak
from wsplf_cli.options import BenchmarkOptions, EvaluateOptions, SegmentOptions
from wsplf_cli.runs import layout
from wsplf_cli.schema import Annotation, Entry, StageReport, Tracker
from wsplf_cli.weak.fit_key import learning_key
from wsplf_cli.weak.method import Memory, pseudolabel

#: ReviewRegions a folder that a benchmark made: only there are files removed.
MARK = ".wsplf-benchmark"
COPY, TRUE_COPY = "copy", "copy-with-truth"


@dataclass(slots=True)
class Earlier:
    """What runs with one seed learned, and the most memory that this took, in GB, by learning_key."""

    memory: Memory = field(default_factory=dict)
    peaks_gb: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Slides:
    """The entries to learn from, and those to measure predictions on: the held-out ones, else the same."""

    learning: list[Entry]
    testing: list[Entry]
    held_back: bool


def benchmark(
    project: Project, entries: Sequence[Entry], options: BenchmarkOptions, tracker: Tracker
) -> dict[str, Any]:
    """Run recipes with several seeds on a copy of the project, and write what came out as a table and plots.

    Args:
        project: The project; it is read, never written.
        entries: The entries to use, labels resolved.
        options: The options of the command.
        tracker: Where progress is shown.

    Returns:
        ``out``; ``runs`` (recipe, seed, status "done", "to run" or "failed"); ``columns`` and ``cells`` of a table
        of means, as texts; ``rows`` with the values of every seed; ``notes`` and ``failed`` (lines for the reader).

    Raises:
        ConfigError: an unknown recipe, an option that no recipe uses, no such truth, or a folder that a benchmark did
            not make.
        ProjectError: nothing to learn from, or the results cannot be written.
    """
    _require_one_class(options)
    names = for_backbone(chosen_recipes(options.recipes), options.backbone, tracker)
    require_used(names, options)
    device = pick_device(options.device)
    out = (options.out or layout.benchmark_folder(project.folder)).absolute()
    _require_own(out)
    used = [one for one in entries if one.held_out or one.label is not None]
    require_both([one for one in entries if not one.held_out])
    testing = [one for one in used if one.held_out]
    learning = [one for one in used if not one.held_out]
    slides = Slides(learning, testing or learning, bool(testing))
    _require_truth(slides, options)
    jobs = [job for seed in range(options.seeds) for job in jobs_of(names, seed, used, options)]
    known = {job.file: finished(out, job) for job in jobs}
    if not options.dry_run:
        _prepare(out)
        copy = _copy(project, out / COPY, options)
        seed, earlier = -1, Earlier()
        for number, job in enumerate(jobs, start=1):
            if known[job.file] is not None:
                continue
            tracker.say(f"{number} of {len(jobs)}: {job.recipe}, seed {job.seed}")
            if job.seed != seed:
                seed, earlier = job.seed, Earlier()
            if job.recipe == UPPER_BOUND:
                true_copy = _copy(project, out / TRUE_COPY, options)
                result = _bound(true_copy, slides, job, options=options, device=device, tracker=tracker)
            else:
                result = _run(copy, slides, job, options=options, earlier=earlier, device=device, tracker=tracker)
            known[job.file] = result
            files.write_json(out / RUNS / job.file, result)
    results = [known[job.file] for job in jobs]
    return _document([one for one in results if one is not None], jobs, slides, out=out, write=not options.dry_run)


def _require_one_class(options: BenchmarkOptions) -> None:
    classes = classes_of(options.project)
    if len(classes) > 1:
        raise ConfigError(
            f"benchmark compares recipes on one class, not on {' and '.join(classes)}",
            hint=f"one at a time: --positive WORD={classes[0]}, the words of the others with --negative",
        )


def _require_own(out: Path) -> None:
    """Refuse a folder that holds anything but an earlier benchmark."""
    if out.exists() and not (out.is_dir() and ((out / MARK).is_file() or not any(out.iterdir()))):
        raise ConfigError(f"{out} is there and is not of a benchmark", hint="choose another folder with --out")


def _require_truth(slides: Slides, options: BenchmarkOptions) -> None:
    """Refuse, before hours of work, a truth that says nothing of the slides."""
    truth_of = truth_reader(_evaluate_options(options, "pseudolabel"), classes_of(options.project)[0])
    positive = [one for one in slides.learning if one.label is not None and one.label.classes]
    if all(truth_of(one) is None for one in positive):
        raise ConfigError(
            f"{options.truth} has no truth of any positive slide",
            hint="--truth takes a folder with SLIDE-STEM.geojson for each slide, or another project.qpproj",
        )


def _prepare(out: Path) -> None:
    try:
        (out / RUNS).mkdir(parents=True, exist_ok=True)
        files.write_bytes(out / MARK, b"Made by wsplf benchmark; its copies of the project may be made anew.\n")
    except OSError as error:
        raise ProjectError(f"cannot write {out}: {error.strerror}", hint="choose another folder with --out") from error


def _copy(project: Project, folder: Path, options: BenchmarkOptions) -> Project:
    """The project again in a folder of the benchmark's own, without any annotation."""
    try:
        for name in ("data", "classifiers"):
            if (project.folder / name).is_dir():
                shutil.copytree(
                    project.folder / name,
                    folder / name,
                    dirs_exist_ok=True,
                    ignore=shutil.ignore_patterns("*.qpdata*"),
                )
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(project.path, folder / project.path.name)
        for path in folder.glob("data/*/*.qpdata*"):
            path.unlink()
        for path in folder.glob("wsplf/*"):  # what runs remember of annotations that are gone now, but not embeddings
            if path.is_dir() and path.name != "cache":
                shutil.rmtree(path)
            elif path.is_file():
                path.unlink()
    except (OSError, shutil.Error) as error:
        raise ProjectError(f"cannot copy the project to {folder}: {error}") from error
    opened: Project = plugins.load("backends", options.project.backend).open_project(
        folder / project.path.name, options.project
    )
    return opened


def _run(
    project: Project,
    slides: Slides,
    job: Job,
    *,
    options: BenchmarkOptions,
    earlier: Earlier,
    device: torch.device,
    tracker: Tracker,
) -> dict[str, Any]:
    """Pseudo-labels by one recipe and, where it says so, a model trained on them, measured."""
    start_peak(device)
    before = len(earlier.memory)
    labelled = pseudolabel(project, slides.learning, job.pseudolabel, tracker, memory=earlier.memory)
    recalled = len(earlier.memory) == before
    seconds = labelled.seconds + (labelled.details["learn_seconds"] if recalled else 0.0)
    scores = _evaluate(project, slides.learning, "pseudolabel", options, tracker)
    measured = {
        PSEUDO: _figures(scores)
        | {
            "negative_fp_share": _would_draw(labelled, slides.learning, scores),
            "seconds_per_mm2": seconds / max(_tissue_mm2(labelled, slides.learning), 1e-9),
            "peak_gb": _peak_of_all(earlier, job, _peak_gb(device), recalled=recalled),
        }
    }
    reports = {"pseudolabel": labelled}
    problems = []
    if job.trains:
        try:
            reports |= _train(project, slides, job, tracker=tracker)
        except ProjectError as error:  # a recipe that drew nothing: its pseudo-labels still count
            problems.append(f"no model: {error.message}")
        else:
            measured[PREDICTED] = _predicted(project, slides, reports, options=options, device=device, tracker=tracker)
    return _result(job, measured, reports, recalled=recalled, problems=problems)


def _bound(
    project: Project,
    slides: Slides,
    job: Job,
    *,
    options: BenchmarkOptions,
    device: torch.device,
    tracker: Tracker,
) -> dict[str, Any]:
    """The segmentation model trained on the truth of the slides to learn from, measured as the others are."""
    truth_of = truth_reader(_evaluate_options(options, "prediction"), classes_of(options.project)[0])
    for entry in slides.learning:
        truth = truth_of(entry)
        shapes = [] if truth is None else polygonal(truth)
        drawn = [Annotation(uuid4(), shape, classes_of(options.project)[0]) for shape in shapes]
        project.replace(entry.id, origin="human", annotations=drawn)
    start_peak(device)
    reports = _train(project, slides, job, tracker=tracker)
    measured = {PREDICTED: _predicted(project, slides, reports, options=options, device=device, tracker=tracker)}
    return _result(job, measured, reports, recalled=False, problems=[])


def _train(project: Project, slides: Slides, job: Job, *, tracker: Tracker) -> dict[str, StageReport]:
    run = job.train.run
    trained = train(project, slides.learning, job.train, tracker)
    wanted = SegmentOptions(project=job.train.project, run=run, model=job.train.name)
    return {"train": trained, "segment": segment(project, slides.testing, wanted, tracker)}


def _predicted(
    project: Project,
    slides: Slides,
    reports: Mapping[str, StageReport],
    *,
    options: BenchmarkOptions,
    device: torch.device,
    tracker: Tracker,
) -> dict[str, Any]:
    """Figures of the predictions. Without held-back slides a negative one counts by what is not drawn on it."""
    scores = _evaluate(project, slides.testing, "prediction", options, tracker)
    figures = _figures(scores) | {"peak_gb": _peak_gb(device)}
    if not slides.held_back:
        figures["negative_fp_share"] = _would_draw(reports["segment"], slides.testing, scores)
    return figures


def _evaluate_options(options: BenchmarkOptions, origin: str) -> EvaluateOptions:
    return EvaluateOptions(
        project=options.project, truth=options.truth, origin=origin, tolerance_um=options.tolerance_um
    )


def _evaluate(
    project: Project, entries: Sequence[Entry], origin: str, options: BenchmarkOptions, tracker: Tracker
) -> dict[str, Any]:
    return evaluate(project, entries, _evaluate_options(options, origin), tracker)


def _figures(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Of what ``evaluate`` returns, the columns of the table."""
    keys = ("mean_dice", "pooled_iou", "mean_boundary_f1", "negative_fp_share")
    return {key: scores[key] for key in keys} | {
        "confidence_auroc": scores["confidence"]["auroc"],
        "bad_in_lowest_third": scores["confidence"]["bad_in_lowest_third"],
        "polygons": scores["confidence"]["polygons"],
        "dice_of_slides": {one["name"]: one["dice"] for one in scores["entries"]},
    }


def _would_draw(report: StageReport, entries: Sequence[Entry], scores: Mapping[str, Any]) -> float | None:
    """Share of the tissue of known negatives on which the stage would have drawn, had the label not said no."""
    negative = {one.id for one in entries if one.label is not None and not one.label.classes}
    drawn = sum(one.counts.get("suppressed_um2", 0.0) for one in report.entries if one.id in negative)
    tissue = scores["negative_tissue_um2"]
    return drawn / tissue if tissue > 0 else None


def _tissue_mm2(report: StageReport, entries: Sequence[Entry]) -> float:
    ids = {one.id for one in entries}
    return sum(one.counts.get("tissue mm2", 0.0) for one in report.entries if one.id in ids)


def _peak_gb(device: torch.device) -> float | None:
    """Of the GPU where there is one, else of the process."""
    used = peak(device)
    most = used.host_bytes if used.gpu_bytes is None else used.gpu_bytes
    return None if most is None else most / 1e9


def _peak_of_all(earlier: Earlier, job: Job, now_gb: float | None, *, recalled: bool) -> float | None:
    """The peak of a run, that of the learning included where an earlier run did it."""
    if now_gb is None:
        return None
    key = learning_key(job.pseudolabel)
    if not recalled:
        earlier.peaks_gb[key] = now_gb
    return max(now_gb, earlier.peaks_gb.get(key, 0.0))


def _result(
    job: Job,
    measured: Mapping[str, Any],
    reports: Mapping[str, StageReport],
    *,
    recalled: bool,
    problems: Sequence[str],
) -> dict[str, Any]:
    """What is kept of a finished job."""
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
        "learned_before": recalled,
        "failed": [*problems]
        + [one.reason for report in reports.values() for one in report.entries if one.status == "failed"],
    }


def _document(
    results: Sequence[Mapping[str, Any]], jobs: Sequence[Job], slides: Slides, *, out: Path, write: bool
) -> dict[str, Any]:
    """What ``benchmark`` returns; written as the table and the plots too."""
    rows = table.rows_of(results)
    titles, texts = table.narrow(rows)
    done = {(one["recipe"], one["seed"]) for one in results}
    where = f"the {len(slides.testing)} held-back slides" if slides.held_back else "the slides that were learned from"
    notes = [
        f"pseudo-labels are measured on the {len(slides.learning)} slides that they were made on, predictions on"
        f" {where}",
        "false positives: share of the tissue of negative slides on which the method would draw if it did not know"
        " their label",
        "± is the standard deviation over seeds; seconds take SAM embeddings of earlier runs as given",
    ]
    document = {
        "out": out,
        "runs": [
            {"recipe": job.recipe, "seed": job.seed, "status": "done" if (job.recipe, job.seed) in done else "to run"}
            for job in jobs
        ],
        "rows": rows,
        "columns": titles,
        "cells": texts,
        "notes": notes,
        "failed": [f"{one['recipe']}, seed {one['seed']}: {reason}" for one in results for reason in one["failed"]],
    }
    if write:
        files.write_json(out / "benchmark.json", document | {"results": results})
        files.write_bytes(out / "benchmark.csv", table.comma_separated(rows).encode())
        files.write_bytes(out / "benchmark.md", table.markdown(rows, notes=notes).encode())
        for figure in table.FIGURES:
            drawn = charts.chart(figure, rows)
            if drawn:
                files.write_bytes(out / f"{figure.key}.svg", drawn.encode())
    return document
