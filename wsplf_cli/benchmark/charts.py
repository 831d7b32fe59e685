"""The plots of a benchmark as SVG: one line per row, a dot for each seed, a bar from the lowest to the highest."""

from collections.abc import Callable, Sequence
from html import escape

from wsplf_cli.benchmark.table import PREDICTED, Figure, Row, mean
from wsplf_cli.report.charts import ticks

WIDTH, LEFT, RIGHT, TOP, LINE = 720, 230, 20, 40, 24
#: Colour-blind safe; pseudo-labels and predictions also differ by the shape of their mark.
COLOURS = {False: "#0072b2", True: "#d55e00"}


def chart(figure: Figure, rows: Sequence[Row]) -> str:
    """The figure of all rows that have it, as an SVG document; empty where none has."""
    shown = [row for row in rows if row.figures[figure.key]]
    if not shown:
        return ""
    values = [value for row in shown for value in row.figures[figure.key]]
    places = ticks(min(0.0, *values), max(values), count=5)
    low, high = places[0], places[-1]

    def across(value: float) -> float:
        return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    bottom = TOP + LINE * len(shown)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom + 26}" font-family="sans-serif" '
        f'font-size="12" role="img" aria-label="{escape(figure.title)}">',
        f'<rect width="{WIDTH}" height="{bottom + 26}" fill="#fff"/>',
        f'<text x="{LEFT}" y="20" font-size="14" font-weight="bold">{escape(figure.title)}</text>',
    ]
    for place in places:
        x = across(place)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 8}" y2="{bottom}" stroke="#ddd"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle" fill="#555">{place:g}</text>')
    for number, row in enumerate(shown):
        parts += _line(row, row.figures[figure.key], across=across, y=TOP + LINE * (number + 0.5), figure=figure)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _line(
    row: Row, values: Sequence[float], *, across: Callable[[float], float], y: float, figure: Figure
) -> list[str]:
    """One row: its name, its bar, a mark for each seed and a stroke at the mean."""
    colour = COLOURS[row.measured == PREDICTED]
    name = row.recipe if row.measured != PREDICTED else f"{row.recipe} ({row.measured})"
    middle = across(mean(values) or 0.0)
    parts = [
        f'<text x="{LEFT - 10}" y="{y + 4:.1f}" text-anchor="end">{escape(name)}</text>',
        f'<line x1="{across(min(values)):.1f}" x2="{across(max(values)):.1f}" y1="{y}" y2="{y}" '
        f'stroke="{colour}" stroke-width="3" opacity="0.4"/>',
        f'<line x1="{middle:.1f}" x2="{middle:.1f}" y1="{y - 7}" y2="{y + 7}" stroke="{colour}" stroke-width="2"/>',
    ]
    for value in values:
        x = across(value)
        title = f"<title>{escape(figure.write(value))}</title>"
        if row.measured == PREDICTED:
            parts.append(f'<rect x="{x - 3.5:.1f}" y="{y - 3.5}" width="7" height="7" fill="{colour}">{title}</rect>')
        else:
            parts.append(f'<circle cx="{x:.1f}" cy="{y}" r="4" fill="{colour}">{title}</circle>')
    return parts
