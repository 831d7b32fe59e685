import numpy as np
import pytest
from scipy.special import logit

from wsplf_cli.segmentation.slide_confidence import least_slide_confidence, reaches, slide_confidence

CELL_UM = 8.0
#: Cells of 64 um2: 63 of them are 4,032 um2, the first whole number that is large enough.
ENOUGH = (7, 9)


def map_of(*areas, shape=(20, 20), background=0.05):
    cells = np.full(shape, background, np.float32)
    for (top, left), (rows, columns), value in areas:
        cells[top : top + rows, left : left + columns] = value
    return cells


def test_a_slide_is_as_confident_as_its_most_confident_area_that_is_large_enough():
    small = ((0, 0), (7, 8), 0.99)
    large = ((9, 0), ENOUGH, 0.93)
    assert slide_confidence([map_of(small, large)], cell_um=CELL_UM) == pytest.approx(0.93, abs=0.006)
    assert slide_confidence([map_of(small)], cell_um=CELL_UM) == 0.0
    assert slide_confidence([map_of(small)], cell_um=2 * CELL_UM) == pytest.approx(0.99, abs=0.006)


def test_an_area_is_as_confident_as_its_least_cell():
    rim = map_of(((0, 0), (12, 12), 0.4), ((2, 2), (7, 8), 0.99))
    assert slide_confidence([rim], cell_um=CELL_UM) == pytest.approx(0.4, abs=0.02)


def test_the_parts_of_a_slide_count_as_their_best_one():
    parts = [map_of(((0, 0), ENOUGH, value)) for value in (0.3, 0.85, 0.6)]
    assert slide_confidence(parts, cell_um=CELL_UM) == pytest.approx(0.85, abs=0.02)
    assert slide_confidence([], cell_um=CELL_UM) == 0.0


def test_a_map_reaches_a_level_where_an_area_does_and_off_tissue_there_is_none():
    cells = map_of(((0, 0), ENOUGH, 0.9))
    assert reaches(cells, 0.9, cell_um=CELL_UM)
    assert not reaches(cells, 0.91, cell_um=CELL_UM)
    cells[0, 0] = np.nan
    assert not reaches(cells, 0.9, cell_um=CELL_UM)
    assert reaches(map_of(), 0, cell_um=CELL_UM)


def test_a_new_slide_may_be_somewhat_less_confident_than_the_least_of_the_positive_ones():
    assert least_slide_confidence([0.97, 0.9, 0.95]) == pytest.approx(1 / (1 + np.exp(0.75) / 9))
    assert least_slide_confidence([]) == 0.0
    assert least_slide_confidence([0.97, 0.0]) == 0.0, "a positive slide was missed: no level tells them apart"


@pytest.mark.parametrize(
    ("negative", "expected"),
    [
        (0.6, logit(0.95) - 0.75),  # far below the positive slides: a margin
        (0.9, (logit(0.95) + logit(0.9)) / 2),
        (0.97, logit(0.95)),  # above the least of the positive slides
    ],
)
def test_a_new_slide_must_be_more_confident_where_negative_ones_come_near_the_positive_ones(negative, expected):
    assert logit(least_slide_confidence([0.97, 0.95], [0.2, negative])) == pytest.approx(expected)


def test_negative_slides_without_any_confident_area_leave_the_margin_as_it_is():
    assert least_slide_confidence([0.9], [0.0, 0.0]) == least_slide_confidence([0.9])
