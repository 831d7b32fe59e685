from dataclasses import replace
from xml.etree import ElementTree

from wsplf_cli.benchmark.charts import plot
from wsplf_cli.benchmark.table import FIGURES, PREDICTIONS, PSEUDO_LABELS, Row

EMPTY = Row("<a> $b$", PSEUDO_LABELS, (0, 1), {figure.key: () for figure in FIGURES})


def with_dice(row, *values):
    return replace(row, figures={**row.figures, "mean_dice": values})


def test_a_plot_of_nothing_is_left_out():
    assert plot(FIGURES[0], [EMPTY]) == b""


def test_names_are_text_as_it_is():
    document = plot(FIGURES[0], [with_dice(EMPTY, 0.4)])
    texts = [element.text for element in ElementTree.fromstring(document).iter("{http://www.w3.org/2000/svg}text")]
    assert "<a> $b$" in texts


def test_every_seed_has_a_mark_and_rows_without_a_value_are_left_out():
    rows = [with_dice(EMPTY, 0.4, 0.4), EMPTY, with_dice(replace(EMPTY, measured=PREDICTIONS), 0.6)]
    root = ElementTree.fromstring(plot(FIGURES[0], rows))
    assert [len(root.findall(f".//*[@id='row-{line}']//{{*}}use")) for line in range(3)] == [2, 1, 0]


def test_the_same_rows_give_the_same_bytes():
    rows = [with_dice(EMPTY, 0.4, 0.5)]
    assert plot(FIGURES[0], rows) == plot(FIGURES[0], rows)
