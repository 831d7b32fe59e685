"""Line charts for the report: from curves to lines, ticks and labels in the coordinates of an SVG."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

WIDTH, HEIGHT = 340, 200
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 26
MOST_POINTS = 400


@dataclass(frozen=True, slots=True)
class Line:
    """One series: its name, and its stretches without gaps, each the ``points`` of an SVG polyline."""

    name: str
    stretches: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Chart:
    """One chart: lines, and ticks as (place, label) along x and y."""

    name: str
    lines: tuple[Line, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]


def charts(curves: Mapping[str, Any]) -> list[Chart]:
    """The charts of a run's curves.json, ``{NAME: {"x": [...], "y": {SERIES: [...]}}}``, without empty ones."""
    found = []
    for name, curve in curves.items():
        x = curve.get("x", []) if isinstance(curve, Mapping) else []
        series = {
            str(key): [point for point in zip(x, values, strict=False) if _finite(point)]
            for key, values in (curve.get("y", {}) if x else {}).items()
        }
        points = [point for values in series.values() for point in values]
        if points:
            found.append(_chart(str(name), x, curve["y"], points))
    return found


def _chart(
    name: str, x: Sequence[float], series: Mapping[str, Sequence[float | None]], points: Sequence[tuple[float, float]]
) -> Chart:
    x_ticks = ticks(min(point[0] for point in points), max(point[0] for point in points), count=6)
    y_ticks = ticks(min(point[1] for point in points), max(point[1] for point in points), count=5)
    x_low, x_high = min(point[0] for point in points), max(point[0] for point in points)
    y_low, y_high = min(y_ticks[0], *(point[1] for point in points)), max(y_ticks[-1], *(point[1] for point in points))

    def across(value: float) -> float:
        return LEFT + (value - x_low) / ((x_high - x_low) or 1) * (WIDTH - LEFT - RIGHT)

    def down(value: float) -> float:
        return TOP + (y_high - value) / ((y_high - y_low) or 1) * (HEIGHT - TOP - BOTTOM)

    lines = []
    for key, values in series.items():
        stretches: list[list[str]] = [[]]
        for point in _thinned(list(zip(x, values, strict=False))):
            if _finite(point):
                stretches[-1].append(f"{across(point[0]):.1f},{down(float(point[1] or 0)):.1f}")
            elif stretches[-1]:
                stretches.append([])
        lines.append(Line(str(key), tuple(" ".join(stretch) for stretch in stretches if stretch)))
    return Chart(
        name=name,
        lines=tuple(lines),
        x_ticks=tuple((across(value), f"{value:g}") for value in x_ticks if x_low <= value <= x_high),
        y_ticks=tuple((down(value), f"{value:g}") for value in y_ticks),
    )


def ticks(low: float, high: float, *, count: int) -> list[float]:
    """About ``count`` round numbers (1, 2 or 5 times a power of ten), from ``low`` or below to ``high`` or above."""
    if high <= low:
        low, high = low - 0.5, low + 0.5
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def _finite(point: Sequence[object]) -> bool:
    return all(isinstance(value, (int, float)) and math.isfinite(value) for value in point)


def _thinned(points: list[tuple[float, float | None]]) -> list[tuple[float, float | None]]:
    """Every so many points, so that a chart has at most about 400; the last one stays."""
    step = max(1, len(points) // MOST_POINTS)
    return points[:-1:step] + points[-1:]
