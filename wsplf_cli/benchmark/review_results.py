"""The results of a simulated review: a row for each order, seed and round, a curve for each order, and their files."""

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from wsplf_cli import files
from wsplf_cli.benchmark import charts
from wsplf_cli.benchmark.cohort import Cohort
from wsplf_cli.benchmark.plan import Job
from wsplf_cli.benchmark.reviewer import DECISIONS
from wsplf_cli.benchmark.table import FIGURES, PREDICTIONS, PSEUDO_LABELS, Figure, cell, mean
from wsplf_cli.recipes import UPPER_BOUND

#: What a review is to change, measured on slides that nothing was learned from.
SHOWN = tuple(figure for figure in FIGURES if figure.key in ("mean_dice", "mean_boundary_f1", "negative_fp_share"))
#: The order of the rows before any decision.
START = "before review"


@dataclass(frozen=True, slots=True)
class ReviewRow:
    """What so many decisions gave: their number by kind since the start, and the scores of the predictions.

    ``order`` is START in round 0, and UPPER_BOUND for the model that learned from the truth of all training slides:
    that has neither rounds nor decisions. ``pseudo_label_dice`` is the mean Dice of the training slides.
    """

    order: str
    seed: int
    round: int | None
    decisions: int | None
    accepted: int
    rejected: int
    redrawn: int
    mean_dice: float | None
    mean_boundary_f1: float | None
    negative_fp_share: float | None
    pseudo_label_dice: float | None


@dataclass(frozen=True, slots=True)
class Point:
    """One round of one order: the mean number of decisions, and the values of each seed for each figure of SHOWN."""

    order: str
    decisions: float | None
    figures: Mapping[str, tuple[float, ...]]


def rows_of(results: Sequence[Mapping[str, Any]]) -> list[ReviewRow]:
    """The rows from the results of finished jobs; the rounds of an order and seed in order."""
    rows = []
    made: dict[tuple[str, int], Counter[str]] = {}
    for result in results:
        review = result.get("review")
        order = UPPER_BOUND if review is None else review["order"] or START
        counts = made.setdefault((order, result["seed"]), Counter())
        counts.update(result.get("decisions", {}))
        measured = result["measured"].get(PREDICTIONS, {})
        rows.append(
            ReviewRow(
                order,
                result["seed"],
                None if review is None else review["number"],
                None if review is None else counts.total(),
                accepted=counts["accepted"],
                rejected=counts["rejected"],
                redrawn=counts["redrawn"],
                mean_dice=measured.get("mean_dice"),
                mean_boundary_f1=measured.get("mean_boundary_f1"),
                negative_fp_share=measured.get("negative_fp_share"),
                pseudo_label_dice=result["measured"].get(PSEUDO_LABELS, {}).get("mean_dice"),
            )
        )
    return rows


def points_of(rows: Sequence[ReviewRow]) -> list[Point]:
    """The rounds of each order with the values of all seeds; the start first, the upper bound last."""
    by_round: dict[tuple[str, int | None], list[ReviewRow]] = {}
    for row in rows:
        by_round.setdefault((row.order, row.round), []).append(row)
    points = []
    for (order, _), of_round in by_round.items():
        values = {
            figure.key: tuple(value for row in of_round if (value := getattr(row, figure.key)) is not None)
            for figure in SHOWN
        }
        points.append(Point(order, mean([row.decisions for row in of_round if row.decisions is not None]), values))
    return sorted(points, key=lambda point: point.order == UPPER_BOUND)


def document(
    finished: Sequence[Mapping[str, Any]], jobs: Sequence[Job], cohort: Cohort, *, out: Path
) -> dict[str, Any]:
    """What ``benchmark --review`` returns: the rows, the curve of each order, and which jobs are still to run."""
    rows = rows_of(finished)
    done = {(result["recipe"], result["seed"], _round(result)) for result in finished}
    titles = ["order", "seed", "decisions", *DECISIONS, *(figure.short for figure in SHOWN), "pseudo-label Dice"]
    where = "held-out slides" if cohort.test_project is None else f"slides of {cohort.test_project.path.name}"
    if shared := cohort.patients_in_both:
        where += f", of which {shared} are of patients with training slides, so that their scores are too good"
    notes = [
        f"a simulated reviewer decides pseudo-labels of {len(cohort.training)} slides with the truth of these polygons"
        " alone; then pseudolabel, train and segment run again",
        f"scores are of the predictions on the {len(cohort.testing)} {where}",
        f"{UPPER_BOUND}: the segmentation model is trained on the truth of all training slides",
    ]
    return {
        "out": out,
        "runs": [
            {
                "recipe": job.title,
                "seed": job.seed,
                "status": "done" if (job.recipe, job.seed, job.review_key) in done else "to run",
            }
            for job in jobs
        ],
        "recipes": {job.recipe: job.summary for job in jobs},
        "rows": rows,
        "curve": points_of(rows),
        "columns": titles,
        "cells": [_cells(row) for row in rows],
        "notes": notes,
        "failed": [
            f"{job.title}, seed {job.seed}: {reason}"
            for job in jobs
            for result in finished
            if (result["recipe"], result["seed"], _round(result)) == (job.recipe, job.seed, job.review_key)
            for reason in result["failed"]
        ],
    }


def write(document: Mapping[str, Any], finished: Sequence[Mapping[str, Any]], *, out: Path) -> None:
    """Write the document into the benchmark's folder as a table, a CSV file and a curve for each figure.

    Raises:
        OSError: the folder cannot be written.
    """
    recipes = [f"{name}: {summary}" for name, summary in document["recipes"].items()]
    points = document["curve"]
    files.write_json(out / "review.json", {**document, "results": finished})
    files.write_bytes(out / "review.csv", csv_text(document["rows"]).encode())
    files.write_bytes(out / "review.md", markdown(document, notes=[*document["notes"], *recipes]).encode())
    for figure in SHOWN:
        plot = charts.plot_curve(figure, _lines(points, figure), bound=_bound(points, figure))
        if plot:
            files.write_bytes(out / f"review_{figure.key}.svg", plot)


def markdown(document: Mapping[str, Any], *, notes: Sequence[str]) -> str:
    """Two tables, the means of each round with their spread over seeds and the rows, and the notes."""
    lines = _table(["order", "decisions", "seeds", *(figure.title for figure in SHOWN)])
    for point in document["curve"]:
        seeds = max(len(values) for values in point.figures.values())
        decisions = "all" if point.decisions is None else f"{point.decisions:g}"
        texts = [point.order, decisions, str(seeds), *(cell(figure, point.figures[figure.key]) for figure in SHOWN)]
        lines.append("| " + " | ".join(texts) + " |")
    lines += ["", *_table(document["columns"])]
    lines += ["| " + " | ".join(cells) + " |" for cells in document["cells"]]
    return "\n".join([*lines, "", *(f"- {note}" for note in notes)]) + "\n"


def csv_text(rows: Sequence[ReviewRow]) -> str:
    """The rows as CSV, unrounded."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    names = [field.name for field in fields(ReviewRow)]
    writer.writerow(names)
    for row in rows:
        values = [getattr(row, name) for name in names]
        writer.writerow([f"{value:.6g}" if isinstance(value, float) else value for value in values])
    return stream.getvalue()


def _round(result: Mapping[str, Any]) -> tuple[str, int] | None:
    review = result.get("review")
    return None if review is None else (review["order"], review["number"])


def _cells(row: ReviewRow) -> list[str]:
    counts = [row.decisions, row.accepted, row.rejected, row.redrawn]
    texts = ["all", "", "", ""] if row.decisions is None else [str(count) for count in counts]
    values = [getattr(row, figure.key) for figure in SHOWN]
    scores = ["" if value is None else figure.write(value) for figure, value in zip(SHOWN, values, strict=True)]
    pseudo_label_dice = "" if row.pseudo_label_dice is None else f"{row.pseudo_label_dice:.3f}"
    return [row.order, str(row.seed), *texts, *scores, pseudo_label_dice]


def _table(titles: Sequence[str]) -> list[str]:
    return ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]


def _lines(points: Sequence[Point], figure: Figure) -> dict[str, list[tuple[float, tuple[float, ...]]]]:
    """For each order its points (decisions, values of the seeds), from the start on that all orders share."""
    start = [point for point in points if point.order == START]
    orders = dict.fromkeys(point.order for point in points if point.order not in (START, UPPER_BOUND))
    return {
        order: [
            (point.decisions, point.figures[figure.key])
            for point in (*start, *(point for point in points if point.order == order))
            if point.decisions is not None and point.figures[figure.key]
        ]
        for order in orders
    }


def _bound(points: Sequence[Point], figure: Figure) -> float | None:
    return mean([value for point in points if point.order == UPPER_BOUND for value in point.figures[figure.key]])
