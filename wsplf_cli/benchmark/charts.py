"""The plots of a benchmark.

``plot`` has a line per recipe and kind of annotation, with a mark per seed, their range and mean. ``plot_curve`` has a
curve over the decisions of a simulated review for each order.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

from wsplf_cli.benchmark.table import PREDICTIONS, PSEUDO_LABELS, Figure, Row, mean

#: Colour-blind safe (Okabe and Ito); the two kinds also differ by the shape of their mark.
STYLES = {PSEUDO_LABELS: ("#0072b2", "o"), PREDICTIONS: ("#d55e00", "s")}
#: Colours and marks of curves, in turn.
CURVE_STYLES = (("#0072b2", "o"), ("#d55e00", "s"), ("#009e73", "^"), ("#cc79a7", "D"))
CURVE_INCHES = (7.0, 4.0)
SVG: dict[Any, Any] = {"svg.hashsalt": "wsplf", "svg.fonttype": "none", "font.family": "sans-serif"}
WIDTH_INCHES, LINE_INCHES, MARGIN_INCHES = 8.0, 0.3, 1.1
#: Marks that seeds of equal values would hide are spread over this share of a line's height.
SPREAD = 0.24


def plot(figure: Figure, rows: Sequence[Row]) -> bytes:
    """The values of a figure as an SVG file, one line for each row that has any; empty where none has.

    The same rows give the same bytes.
    """
    import matplotlib
    from matplotlib.figure import Figure as Canvas

    shown = [row for row in rows if row.figures[figure.key]]
    if not shown:
        return b""
    height_inches = MARGIN_INCHES + LINE_INCHES * len(shown)
    with matplotlib.rc_context(SVG):
        canvas = Canvas(figsize=(WIDTH_INCHES, height_inches), layout="constrained")
        axes = canvas.subplots()
        for line, row in enumerate(shown):
            values = row.figures[figure.key]
            colour, marker = STYLES[row.measured]
            axes.hlines(line, min(values), max(values), color=colour, linewidth=4, alpha=0.3)
            axes.vlines(mean(values) or 0.0, line - 0.3, line + 0.3, color=colour, linewidth=2)
            offsets = [SPREAD * (index / max(len(values) - 1, 1) - 0.5) for index in range(len(values))]
            axes.plot(
                values, [line + offset for offset in offsets], marker, color=colour, markersize=5, gid=f"row-{line}"
            )
        axes.set_yticks(range(len(shown)), [_literal(row.recipe) for row in shown])
        axes.set_ylim(len(shown) - 0.5, -0.5)  # the first row at the top
        axes.set_xlim(left=min(0.0, *(value for row in shown for value in row.figures[figure.key])))
        axes.xaxis.set_major_formatter(lambda value, _: figure.tick(value))
        axes.grid(axis="x", color="#dddddd")
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.set_title(figure.title, loc="left", fontweight="bold")
        measured = dict.fromkeys(row.measured for row in shown)
        handles = [
            axes.plot([], [], STYLES[kind][1], color=STYLES[kind][0], label=f"{kind}, one seed each")[0]
            for kind in measured
        ]
        handles.append(axes.plot([], [], "|", color="#555555", markersize=10, markeredgewidth=2, label="mean")[0])
        axes.legend(
            handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.35 / height_inches), ncols=3, frameon=False
        )
        return _svg(canvas)


def plot_curve(
    figure: Figure, lines: Mapping[str, Sequence[tuple[float, Sequence[float]]]], *, bound: float | None
) -> bytes:
    """Curves of a figure over the number of decisions as an SVG file; empty where there is no point.

    Args:
        figure: The figure.
        lines: For each order its points: the number of decisions, and the values of the seeds.
        bound: The value with full supervision, a dashed line; None where it is not known.
    """
    import matplotlib
    from matplotlib.figure import Figure as Canvas

    shown = {order: points for order, points in lines.items() if points}
    if not shown:
        return b""
    with matplotlib.rc_context(SVG):
        canvas = Canvas(figsize=CURVE_INCHES, layout="constrained")
        axes = canvas.subplots()
        for index, (order, points) in enumerate(shown.items()):
            colour, marker = CURVE_STYLES[index % len(CURVE_STYLES)]
            decisions = [number for number, _ in points]
            axes.fill_between(
                decisions,
                [min(values) for _, values in points],
                [max(values) for _, values in points],
                color=colour,
                alpha=0.15,
                linewidth=0,
            )
            means = [mean(values) or 0.0 for _, values in points]
            axes.plot(decisions, means, marker=marker, color=colour, label=order, gid=f"order-{order}")
        if bound is not None:
            axes.axhline(bound, color="#555555", linestyle="--", label="full supervision", gid="bound")
        axes.set_xlabel("decisions of the reviewer; bands: range over seeds")
        axes.yaxis.set_major_formatter(lambda value, _: figure.tick(round(value, 6)))
        axes.grid(color="#dddddd")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_title(figure.title, loc="left", fontweight="bold")
        axes.legend(frameon=False)
        return _svg(canvas)


def _svg(canvas: Any) -> bytes:
    """A matplotlib figure as an SVG file without its date."""
    stream = io.BytesIO()
    canvas.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()


def _literal(text: str) -> str:
    """Text that is not read as mathematics."""
    return text.replace("$", r"\$")
