"""The document of a benchmark, and the files that hold it: JSON, CSV, Markdown and a plot per figure."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wsplf_cli import files
from wsplf_cli.benchmark import charts, table
from wsplf_cli.benchmark.cohort import Cohort
from wsplf_cli.benchmark.plan import Job


def document(
    finished: Sequence[Mapping[str, Any]], jobs: Sequence[Job], cohort: Cohort, *, out: Path
) -> dict[str, Any]:
    """What ``benchmark`` returns: the results of finished jobs as rows of a table, and which jobs are still to run."""
    rows = table.rows_of(finished)
    columns, cells = table.means(rows)
    done = {(result["recipe"], result["seed"]) for result in finished}
    measured_on = f"the {len(cohort.testing)} held-out slides" if cohort.held_out else "the training slides"
    if cohort.test_project is not None:
        measured_on = f"the {len(cohort.testing)} slides of {cohort.test_project.path}"
    if shared := cohort.patients_in_both:
        measured_on += f", of which {shared} are of patients with training slides, so that their scores are too good"
    notes = [
        f"pseudo-labels are measured on the {len(cohort.training)} slides that they were made on, predictions on"
        f" {measured_on}",
        "false positives: share of the tissue of negative slides on which the method would draw if it did not know"
        " their label",
        "± is the standard deviation over seeds; seconds do not count SAM embeddings that an earlier run computed",
    ]
    return {
        "out": out,
        "runs": [
            {"recipe": job.recipe, "seed": job.seed, "status": "done" if (job.recipe, job.seed) in done else "to run"}
            for job in jobs
        ],
        "recipes": {job.recipe: job.summary for job in jobs},
        "rows": rows,
        "columns": columns,
        "cells": cells,
        "notes": notes,
        "failed": [
            f"{result['recipe']}, seed {result['seed']}: {reason}" for result in finished for reason in result["failed"]
        ],
    }


def write(document: Mapping[str, Any], finished: Sequence[Mapping[str, Any]], *, out: Path) -> None:
    """Write the document into the benchmark's folder as a table and plots.

    Raises:
        OSError: the folder cannot be written.
    """
    rows = document["rows"]
    recipes = [f"{name}: {summary}" for name, summary in document["recipes"].items()]
    files.write_json(out / "benchmark.json", {**document, "results": finished})
    files.write_bytes(out / "benchmark.csv", table.csv_text(rows).encode())
    files.write_bytes(out / "benchmark.md", table.markdown(rows, notes=[*document["notes"], *recipes]).encode())
    for figure in table.FIGURES:
        plot = charts.plot(figure, rows)
        if plot:
            files.write_bytes(out / f"{figure.key}.svg", plot)
