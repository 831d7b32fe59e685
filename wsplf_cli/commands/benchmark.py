"""``wsplf benchmark``: recipes on the same slides, measured against the truth, in one table."""

from collections.abc import Sequence
from typing import Any

from wsplf_cli.backends import Project
from wsplf_cli.benchmark import results, review_results
from wsplf_cli.benchmark.cohort import cohort_of, require_truth
from wsplf_cli.benchmark.copies import require_benchmark_folder
from wsplf_cli.benchmark.plan import list_jobs, read_result
from wsplf_cli.benchmark.runner import JobRunner, Pipeline, run_jobs
from wsplf_cli.benchmark_options import BenchmarkOptions
from wsplf_cli.cohort.labels import classes_of
from wsplf_cli.commands.evaluate import evaluate
from wsplf_cli.commands.pseudolabel import pseudolabel
from wsplf_cli.commands.segment import segment
from wsplf_cli.commands.train import train
from wsplf_cli.errors import ConfigError
from wsplf_cli.runs.layout import benchmark_folder
from wsplf_cli.schema import Entry, Tracker

PIPELINE = Pipeline(pseudolabel, train, segment, evaluate)


def benchmark(
    project: Project,
    entries: Sequence[Entry],
    options: BenchmarkOptions,
    tracker: Tracker,
    *,
    pipeline: Pipeline = PIPELINE,
) -> dict[str, Any]:
    """Run recipes with several seeds on a copy of the project, and write the results as a table and plots.

    With ``options.review`` the rounds of a simulated review of one recipe are run instead, and the upper bound.

    Args:
        project: The project; it is read, never written.
        entries: The entries to use, labels resolved.
        options: The options of the command.
        tracker: Where progress is shown.
        pipeline: The commands to run.

    Returns:
        ``out``; ``runs`` (recipe, seed, status "done" or "to run"); ``recipes`` (what each does); ``columns`` and
        ``cells`` of a table of means, as texts; ``rows`` with the values of every seed; ``notes`` and ``failed`` (lines
        for the reader). Of a review, the table has a row for each order, seed and round, and ``curve`` the rounds of
        each order.

    Raises:
        ConfigError: an unknown recipe or order, no such truth, no other slides to measure a review on, or a folder that
            a benchmark did not make.
        ProjectError: nothing to learn from, or the results cannot be written.
    """
    _require_one_class(options)
    out = (options.out or benchmark_folder(project.folder)).absolute()
    require_benchmark_folder(out)
    cohort = cohort_of(entries, options)
    require_truth(cohort, options)
    runner = JobRunner(pipeline, cohort, options, tracker, out=out)
    jobs = list_jobs(cohort.all_entries, options, tracker)
    make_document, write = (
        (review_results.document, review_results.write) if options.review else (results.document, results.write)
    )
    if options.dry_run:
        finished = [result for job in jobs if (result := read_result(out, job)) is not None]
        return make_document(finished, jobs, cohort, out=out)
    by_file = run_jobs(project, jobs, runner, out=out, tracker=tracker)
    finished = [by_file[job.file] for job in jobs]
    document = make_document(finished, jobs, cohort, out=out)
    write(document, finished, out=out)
    return document


def _require_one_class(options: BenchmarkOptions) -> None:
    classes = classes_of(options.project)
    if len(classes) > 1:
        raise ConfigError(
            f"benchmark compares recipes on one class, not on {' and '.join(classes)}",
            hint=f"one at a time: --positive WORD={classes[0]}, the words of the others with --negative",
        )
