"""The training curves of a run as SVG charts, with colours that follow the page's style."""

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Size of a chart in inches of 72 SVG units.
WIDTH_IN, HEIGHT_IN = 4.6, 2.6
MOST_POINTS = 400
#: Colours to draw with, and the CSS variable of the page that takes the place of each in the SVG.
CSS_COLOURS = {
    "#0072b2": "--s0",
    "#d55e00": "--s1",
    "#009e73": "--s2",
    "#cc79a7": "--s3",
    "#b58900": "--s4",
    "#56b4e9": "--s5",
    "#656d76": "--soft",
    "#dfe2e6": "--line",
}
*SERIES_COLOURS, TEXT_COLOUR, GRID_COLOUR = CSS_COLOURS


@dataclass(frozen=True, slots=True)
class Chart:
    """One chart: its name, and an SVG element to put into a page."""

    name: str
    svg: str


def draw_charts(curves: Mapping[str, Any], *, key: str) -> list[Chart]:
    """The charts of a run's curves.json, ``{NAME: {"x": [...], "y": {SERIES: [...]}}}``, without empty ones.

    A missing value (None, NaN) is a gap in the line. ``key`` makes the ids in the SVG unique among the charts of a
    page.
    """
    charts = []
    for name, curve in curves.items():
        x = curve.get("x", []) if isinstance(curve, Mapping) else []
        series = {
            str(label): list(zip(x, values, strict=False))
            for label, values in (curve.get("y", {}) if x else {}).items()
        }
        if any(_is_finite(point) for points in series.values() for point in points):
            charts.append(Chart(str(name), _draw(series, key=f"{key}/{name}")))
    return charts


def _draw(series: Mapping[str, Sequence[tuple[float, float | None]]], *, key: str) -> str:
    """One chart as an SVG element without fixed size."""
    from matplotlib import rc_context  # heavy, and only the report needs it
    from matplotlib.figure import Figure

    stream = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": key, "text.parse_math": False, "font.size": 9.0}):
        figure = Figure(figsize=(WIDTH_IN, HEIGHT_IN), layout="constrained")
        axes = figure.add_subplot()
        for index, (label, points) in enumerate(series.items()):
            _plot(axes, label, _thin(points), colour=SERIES_COLOURS[index % len(SERIES_COLOURS)])
        axes.locator_params(axis="x", nbins=6, steps=[1, 2, 5, 10], integer=_all_whole(series))
        axes.locator_params(axis="y", nbins=5, steps=[1, 2, 5, 10])
        axes.tick_params(length=0, colors=TEXT_COLOUR)
        axes.grid(axis="y", color=GRID_COLOUR, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[:].set_visible(False)
        figure.legend(
            loc="outside lower left", ncols=3, frameon=False, labelcolor=TEXT_COLOUR, handlelength=1.2, borderpad=0
        )
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(stream, format="svg", transparent=True, metadata=metadata)
    return _for_page(stream.getvalue())


def _plot(axes: "Axes", label: str, points: Sequence[tuple[float, float | None]], *, colour: str) -> None:
    """One series as a line with gaps; a point without neighbours, which a line does not show, as a dot."""
    finite = [_is_finite(point) for point in points]
    x = [point[0] for point in points]
    y = [float(point[1] or 0) if shown else math.nan for point, shown in zip(points, finite, strict=True)]
    axes.plot(x, y, color=colour, linewidth=1.6, label=label, solid_capstyle="round", solid_joinstyle="round")
    before, after = [False, *finite[:-1]], [*finite[1:], False]
    alone = [index for index, shown in enumerate(finite) if shown and not before[index] and not after[index]]
    axes.plot([x[index] for index in alone], [y[index] for index in alone], "o", color=colour, markersize=4)


def _for_page(document: str) -> str:
    """The SVG element of a document, made to fit into the page: no fixed size, no common ids, the page's style."""
    svg = document[document.index("<svg") :].strip()
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, count=1, flags=re.DOTALL)  # would style the page
    svg = re.sub(r' id="[a-z0-9.]+_[0-9]+"', "", svg)  # such as axes_1, which comes in every chart
    svg = re.sub(r"font-family: [^;\"]+", "font-family: inherit", svg)
    for colour, variable in CSS_COLOURS.items():
        svg = svg.replace(colour, f"var({variable})")
    return svg


def _all_whole(series: Mapping[str, Sequence[tuple[float, float | None]]]) -> bool:
    return all(float(point[0]).is_integer() for points in series.values() for point in points)


def _is_finite(point: Sequence[object]) -> bool:
    return all(isinstance(value, (int, float)) and math.isfinite(value) for value in point)


def _thin(points: Sequence[tuple[float, float | None]]) -> list[tuple[float, float | None]]:
    """At most about ``MOST_POINTS`` of the points, evenly chosen, the last one included."""
    step = max(1, len(points) // MOST_POINTS)
    return [*points[:-1:step], *points[-1:]]
