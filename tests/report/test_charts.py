"""Training curves as SVG."""

import re
from xml.etree import ElementTree

import pytest

from wsplf_cli.report.charts import Chart, draw_charts

SVG = "{http://www.w3.org/2000/svg}"


def lines_of(chart: Chart, *, colour: str) -> list[list[list[tuple[float, float]]]]:
    """The stretches of points of each line of a colour, as drawn in the chart; its key comes last."""
    lines = []
    for path in ElementTree.fromstring(chart.svg).iter(f"{SVG}path"):
        if f"stroke: var({colour})" in path.get("style", "") and "fill: none" in path.get("style", ""):
            stretches = path.get("d", "").split("M")[1:]
            lines.append(
                [[(float(x), float(y)) for x, y in re.findall(r"([\d.]+) ([\d.]+)", one)] for one in stretches]
            )
    return lines


def test_a_gap_in_a_series_is_a_gap_in_its_line_and_nothing_leaves_the_frame():
    curve = {"x": [1, 2, 3, 4, 5, 6], "y": {"a": [1, 2, None, 3, 4, float("nan")], "b": [5, 4.5, 3, 2, 1.5, 1]}}
    (chart,) = draw_charts({"loss": curve}, key="run")
    (a, _), (b, _) = lines_of(chart, colour="--s0"), lines_of(chart, colour="--s1")
    assert [len(stretch) for stretch in a] == [2, 2]
    assert len(b) == 1
    width, height = map(float, ElementTree.fromstring(chart.svg).get("viewBox").split()[2:])
    assert all(0 <= x <= width and 0 <= y <= height for line in (a, b) for stretch in line for x, y in stretch)
    heights = [y for _, y in b[0]]
    assert heights == sorted(heights)


def test_a_point_between_gaps_is_a_dot():
    (chart,) = draw_charts({"loss": {"x": [1, 2, 3], "y": {"a": [1, None, 3]}}}, key="run")
    dots = [use for use in ElementTree.fromstring(chart.svg).iter(f"{SVG}use") if "--s0" in use.get("style", "")]
    assert len(dots) == 2


@pytest.mark.parametrize("curve", [{"x": [], "y": {}}, {"x": [1], "y": {"a": [None]}}, {"x": [1], "y": {}}, {}, 3])
def test_a_curve_without_points_has_no_chart(curve):
    assert draw_charts({"loss": curve}, key="run") == []


def test_a_long_curve_is_thinned_and_keeps_its_end():
    values = [index % 7 for index in range(5000)] + [100]
    (chart,) = draw_charts({"loss": {"x": list(range(5001)), "y": {"a": values}}}, key="run")
    line, _ = lines_of(chart, colour="--s0")
    assert len(line[0]) < 500
    assert line[0][-1][1] == min(y for _, y in line[0])


def test_a_chart_is_always_the_same_and_two_charts_of_a_page_share_no_id():
    curve = {"x": [1, 2, 3], "y": {"a": [1, None, 3]}}
    charts = draw_charts({"loss": curve, "other loss": curve}, key="run")
    assert charts == draw_charts({"loss": curve, "other loss": curve}, key="run")
    ids = [identifier for chart in charts for identifier in re.findall(r'id="([^"]*)"', chart.svg)]
    assert ids
    assert len(set(ids)) == len(ids)
    assert "<style" not in charts[0].svg  # it would apply to the whole page


def test_names_of_series_are_text_as_they_are():
    (chart,) = draw_charts({"loss": {"x": [1, 2], "y": {"a < b & $c$": [1, 2]}}}, key="run")
    texts = [text.text for text in ElementTree.fromstring(chart.svg).iter(f"{SVG}text")]
    assert "a < b & $c$" in texts
