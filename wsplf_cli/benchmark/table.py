"""The table of a benchmark: one row per recipe and per what was measured, figures with their spread over seeds."""

import csv
import io
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

PSEUDO, PREDICTED = "pseudo-labels", "predictions"


@dataclass(frozen=True, slots=True)
class Figure:
    """One column: its key in the results, its title, a short one for terminals, and how a value is written."""

    key: str
    title: str
    short: str
    write: Callable[[float], str]


def _plain(value: float) -> str:
    return f"{value:.3f}"


def _percent(value: float) -> str:
    return f"{100 * value:.2f} %"


def _short(value: float) -> str:
    return f"{value:.1f}"


FIGURES = (
    Figure("mean_dice", "mean Dice", "Dice", _plain),
    Figure("pooled_iou", "pooled IoU", "IoU", _plain),
    Figure("mean_boundary_f1", "boundary F1", "bF1", _plain),
    Figure("negative_fp_share", "false positives on negatives", "fp", _percent),
    Figure("confidence_auroc", "AUROC of confidence", "AUROC", _plain),
    Figure("of_upper_bound", "share of the upper bound", "of bound", _plain),
    Figure("seconds_per_mm2", "s per mm2", "s/mm2", _short),
    Figure("peak_gb", "peak memory, GB", "GB", _short),
)


@dataclass(frozen=True, slots=True)
class Row:
    """``figures`` has for each key of FIGURES its values, one a seed; seeds without a value are left out."""

    recipe: str
    measured: str
    seeds: tuple[int, ...]
    figures: Mapping[str, tuple[float, ...]]


def rows_of(results: Sequence[Mapping[str, Any]]) -> list[Row]:
    """The rows from the results of finished runs, in the order in which recipes first appear.

    A result has ``recipe``, ``seed`` and, under ``measured``, figures for "pseudo-labels" and "predictions".
    """
    bound = {
        one["seed"]: one["measured"][PREDICTED]["mean_dice"]
        for one in results
        if one["recipe"] == "upper-bound" and PREDICTED in one["measured"]
    }
    rows = []
    for recipe in dict.fromkeys(one["recipe"] for one in results):
        own = [one for one in results if one["recipe"] == recipe]
        for measured in (PSEUDO, PREDICTED):
            found = [(one["seed"], dict(one["measured"][measured])) for one in own if measured in one["measured"]]
            if not found:
                continue
            for seed, figures in found:
                highest, dice = bound.get(seed), figures.get("mean_dice")
                if measured == PREDICTED and recipe != "upper-bound" and highest and dice is not None:
                    figures["of_upper_bound"] = dice / highest
            values = {
                figure.key: tuple(figures[figure.key] for _, figures in found if figures.get(figure.key) is not None)
                for figure in FIGURES
            }
            rows.append(Row(recipe, measured, tuple(seed for seed, _ in found), values))
    return rows


def mean(values: Sequence[float]) -> float | None:
    """The mean, None of nothing."""
    return statistics.fmean(values) if values else None


def deviation(values: Sequence[float]) -> float | None:
    """The standard deviation of a sample, None of fewer than two values."""
    return statistics.stdev(values) if len(values) > 1 else None


def cell(figure: Figure, values: Sequence[float]) -> str:
    """``0.812 ± 0.020``; without a spread for a single seed, empty without any value."""
    if not values:
        return ""
    spread = deviation(values)
    middle = figure.write(statistics.fmean(values))
    return middle if spread is None else f"{middle} ± {figure.write(spread)}"


def columns(rows: Sequence[Row]) -> list[Figure]:
    """The figures that any row has."""
    return [figure for figure in FIGURES if any(row.figures[figure.key] for row in rows)]


def cells(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Titles and texts of the table."""
    shown = columns(rows)
    titles = ["recipe", "measured", "seeds", *(figure.title for figure in shown)]
    return titles, [
        [row.recipe, row.measured, str(len(row.seeds)), *(cell(figure, row.figures[figure.key]) for figure in shown)]
        for row in rows
    ]


def narrow(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Titles and texts of a table for a terminal: means alone."""
    shown = columns(rows)
    return ["recipe", "measured", *(figure.short for figure in shown)], [
        [row.recipe, row.measured, *(cell(figure, _mean_only(row.figures[figure.key])) for figure in shown)]
        for row in rows
    ]


def _mean_only(values: Sequence[float]) -> tuple[float, ...]:
    return (statistics.fmean(values),) if values else ()


def markdown(rows: Sequence[Row], *, notes: Sequence[str]) -> str:
    """The table as Markdown, the notes below it."""
    titles, texts = cells(rows)
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    lines += ["| " + " | ".join(text) + " |" for text in texts]
    return "\n".join([*lines, "", *(f"- {note}" for note in notes)]) + "\n"


def comma_separated(rows: Sequence[Row]) -> str:
    """The table as CSV: for each figure its mean, standard deviation, lowest and highest value, unrounded."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    parts = ("mean", "sd", "min", "max")
    head = [f"{figure.key}_{part}" for figure in FIGURES for part in parts]
    writer.writerow(["recipe", "measured", "seeds", *head])
    for row in rows:
        numbers: list[float | None] = []
        for figure in FIGURES:
            values = row.figures[figure.key]
            numbers += [mean(values), deviation(values), min(values, default=None), max(values, default=None)]
        writer.writerow(
            [
                row.recipe,
                row.measured,
                " ".join(map(str, row.seeds)),
                *("" if value is None else f"{value:.6g}" for value in numbers),
            ]
        )
    return stream.getvalue()
