"""The table of a benchmark: one row per recipe and per what was measured, figures with their spread over seeds."""

import csv
import io
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wsplf_cli.recipes import UPPER_BOUND

PSEUDO_LABELS, PREDICTIONS = "pseudo-labels", "predictions"


@dataclass(frozen=True, slots=True)
class Figure:
    """One column: its key in the results, its title, a short one for terminals, and how values are written.

    ``write`` is for the cells of a table, ``tick`` for the axis of a plot.
    """

    key: str
    title: str
    short: str
    write: Callable[[float], str]
    tick: Callable[[float], str] = "{:g}".format


def _plain(value: float) -> str:
    return f"{value:.3f}"


def _percent(value: float) -> str:
    return f"{100 * value:.2f} %"


def _percent_tick(value: float) -> str:
    return f"{100 * value:g} %"


def _short(value: float) -> str:
    return f"{value:.1f}"


FIGURES = (
    Figure("mean_dice", "mean Dice", "Dice", _plain),
    Figure("pooled_iou", "pooled IoU", "IoU", _plain),
    Figure("mean_boundary_f1", "boundary F1", "bF1", _plain),
    Figure("negative_fp_share", "false positives on negatives", "fp", _percent, _percent_tick),
    Figure("confidence_auroc", "AUROC of confidence", "AUROC", _plain),
    Figure("of_upper_bound", "share of the upper bound", "of bound", _plain),
    Figure("seconds_per_mm2", "s per mm2", "s/mm2", _short),
    Figure("peak_gb", "peak memory, GB", "GB", _short),
)


@dataclass(frozen=True, slots=True)
class Row:
    """The figures of one recipe, of its pseudo-labels or of its predictions (``measured``).

    ``figures`` has for each key of FIGURES its values, one per seed; seeds without a value are left out.
    """

    recipe: str
    measured: str
    seeds: tuple[int, ...]
    figures: Mapping[str, tuple[float, ...]]


def rows_of(results: Sequence[Mapping[str, Any]]) -> list[Row]:
    """The rows from the results of finished jobs, in the order in which recipes first appear.

    A result has ``recipe``, ``seed`` and, under ``measured``, figures for "pseudo-labels" and "predictions".
    """
    upper_bounds = {
        result["seed"]: result["measured"][PREDICTIONS]["mean_dice"]
        for result in results
        if result["recipe"] == UPPER_BOUND and PREDICTIONS in result["measured"]
    }
    rows = []
    for recipe in dict.fromkeys(result["recipe"] for result in results):
        for measured in (PSEUDO_LABELS, PREDICTIONS):
            by_seed = {
                result["seed"]: dict(result["measured"][measured])
                for result in results
                if result["recipe"] == recipe and measured in result["measured"]
            }
            if not by_seed:
                continue
            if measured == PREDICTIONS and recipe != UPPER_BOUND:
                for seed, figures in by_seed.items():
                    upper_bound, dice = upper_bounds.get(seed), figures.get("mean_dice")
                    if upper_bound and dice is not None:
                        figures["of_upper_bound"] = dice / upper_bound
            values = {
                figure.key: tuple(
                    figures[figure.key] for figures in by_seed.values() if figures.get(figure.key) is not None
                )
                for figure in FIGURES
            }
            rows.append(Row(recipe, measured, tuple(by_seed), values))
    return rows


def mean(values: Sequence[float]) -> float | None:
    """The mean, None of nothing."""
    return statistics.fmean(values) if values else None


def deviation(values: Sequence[float]) -> float | None:
    """The standard deviation of a sample, None of fewer than two values."""
    return statistics.stdev(values) if len(values) > 1 else None


def cell(figure: Figure, values: Sequence[float]) -> str:
    """``0.812 ± 0.020``; without a spread for a single seed, empty without any value."""
    average, spread = mean(values), deviation(values)
    if average is None:
        return ""
    return figure.write(average) if spread is None else f"{figure.write(average)} ± {figure.write(spread)}"


def columns(rows: Sequence[Row]) -> list[Figure]:
    """The figures that any row has."""
    return [figure for figure in FIGURES if any(row.figures[figure.key] for row in rows)]


def means(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Short titles and the texts of a table for a terminal: the mean of each figure, without its spread."""
    shown = columns(rows)
    titles = ["recipe", "measured", *(figure.short for figure in shown)]
    averages = [[mean(row.figures[figure.key]) for figure in shown] for row in rows]
    texts = [
        [row.recipe, row.measured]
        + ["" if average is None else figure.write(average) for figure, average in zip(shown, of_row, strict=True)]
        for row, of_row in zip(rows, averages, strict=True)
    ]
    return titles, texts


def markdown(rows: Sequence[Row], *, notes: Sequence[str]) -> str:
    """The table as Markdown, means with their spread, and the notes below it."""
    shown = columns(rows)
    titles = ["recipe", "measured", "seeds", *(figure.title for figure in shown)]
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    for row in rows:
        texts = [row.recipe, row.measured, str(len(row.seeds))]
        texts += [cell(figure, row.figures[figure.key]) for figure in shown]
        lines.append("| " + " | ".join(texts) + " |")
    return "\n".join([*lines, "", *(f"- {note}" for note in notes)]) + "\n"


def csv_text(rows: Sequence[Row]) -> str:
    """The table as CSV: for each figure its mean, standard deviation, lowest and highest value, unrounded."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    statistics_of_seeds = ("mean", "sd", "min", "max")
    titles = [f"{figure.key}_{statistic}" for figure in FIGURES for statistic in statistics_of_seeds]
    writer.writerow(["recipe", "measured", "seeds", *titles])
    for row in rows:
        numbers: list[float | None] = []
        for figure in FIGURES:
            values = row.figures[figure.key]
            numbers += [mean(values), deviation(values), min(values, default=None), max(values, default=None)]
        texts = ["" if number is None else f"{number:.6g}" for number in numbers]
        writer.writerow([row.recipe, row.measured, " ".join(map(str, row.seeds)), *texts])
    return stream.getvalue()
