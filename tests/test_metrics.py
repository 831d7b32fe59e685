import pytest
from shapely import Point, Polygon, box, union_all

from wsplf_cli.metrics import Overlap, auroc, auroc_interval, boundary_f1, fp_share, overlap, polygon_ious

EMPTY = Polygon()


def test_dice_and_iou_of_half_overlapping_boxes():
    found = overlap(box(0, 0, 2, 2), box(1, 0, 3, 2))
    assert (found.truth, found.predicted, found.common) == (4, 4, 2)
    assert found.dice == pytest.approx(0.5)
    assert found.iou == pytest.approx(1 / 3)


def test_holes_are_not_area():
    ring = Polygon(box(0, 0, 10, 10).exterior, [box(2, 2, 8, 8).exterior.coords])
    assert overlap(ring, box(0, 0, 10, 10)).dice == pytest.approx(2 * 64 / 164)


def test_the_same_shape_scores_one():
    shape = Point(0, 0).buffer(50)
    assert overlap(shape, shape).dice == pytest.approx(1)
    assert overlap(shape, shape).iou == pytest.approx(1)
    assert boundary_f1(shape, shape, tolerance=1) == pytest.approx(1)
    assert boundary_f1(shape, shape, tolerance=0) == pytest.approx(1)


@pytest.mark.parametrize(("truth", "predicted", "score"), [(EMPTY, EMPTY, 1), (EMPTY, box(0, 0, 1, 1), 0)])
def test_both_empty_is_full_agreement_and_one_empty_is_none(truth, predicted, score):
    for first, second in [(truth, predicted), (predicted, truth)]:
        assert overlap(first, second).dice == score
        assert overlap(first, second).iou == score
        assert boundary_f1(first, second, tolerance=1) == score


def test_areas_are_in_the_unit_asked_for_and_pool_by_adding():
    first = overlap(box(0, 0, 10, 10), box(0, 0, 10, 5), unit=0.25)
    second = overlap(EMPTY, box(0, 0, 10, 10), unit=4)
    assert (first.truth, first.predicted, first.common) == (25, 12.5, 12.5)
    pooled = sum([first, second], Overlap())
    assert pooled.dice == pytest.approx(2 * 12.5 / (25 + 412.5))


def test_false_positives_are_measured_against_the_tissue():
    found = overlap(box(0, 0, 10, 10), box(5, 0, 15, 10))
    assert found.false_positive == 50
    assert fp_share(found, tissue=1000) == 0.05
    assert fp_share(found, tissue=0) is None


def test_the_boundary_score_falls_when_boundaries_are_further_apart_than_the_tolerance():
    truth = box(0, 0, 100, 100)
    assert boundary_f1(truth, box(3, 0, 103, 100), tolerance=5) == pytest.approx(1)
    shifted = boundary_f1(truth, box(20, 0, 120, 100), tolerance=5)
    assert shifted == pytest.approx((80 + 2 * 2.5) * 2 / 400, abs=0.05)
    assert boundary_f1(truth, box(500, 500, 600, 600), tolerance=5) == 0


def test_what_is_claimed_too_much_lowers_the_boundary_score_as_what_is_missed():
    truth, more = box(0, 0, 100, 100), box(0, 0, 100, 100).union(box(300, 0, 400, 100))
    assert boundary_f1(truth, more, tolerance=2) == pytest.approx(2 / 3)
    assert boundary_f1(more, truth, tolerance=2) == pytest.approx(2 / 3)


def test_a_polygon_is_compared_with_the_pieces_that_it_shows_and_not_with_its_neighbours():
    truth = union_all([box(0, 0, 10, 10), box(10.5, 0, 40, 10), box(100, 0, 110, 10)])
    exact, bold, apart = polygon_ious([box(0, 0, 10, 10), box(0, 0, 10.6, 10), box(50, 0, 60, 10)], truth)
    assert exact == pytest.approx(1)
    assert bold == pytest.approx(100 / 106)
    assert apart == 0
    (both,) = polygon_ious([box(0, 0, 40, 10)], truth)
    assert both == pytest.approx(395 / 400)
    assert polygon_ious([box(0, 0, 1, 1)], EMPTY) == [0]
    assert polygon_ious([], truth) == []


def test_auroc_is_the_chance_that_a_good_one_is_ranked_higher():
    assert auroc([0.9, 0.8, 0.2, 0.1], [True, True, False, False]) == 1
    assert auroc([0.1, 0.2, 0.8, 0.9], [True, True, False, False]) == 0
    assert auroc([0.5, 0.5], [True, False]) == 0.5
    assert auroc([0.9, 0.3, 0.5], [True, True, False]) == 0.5
    assert auroc([0.9, 0.3], [True, True]) is None
    assert auroc([], []) is None


def test_the_interval_of_an_auroc_is_as_far_as_chance_reaches_from_its_own_bounds():
    """The defining equation of Newcombe's method 5, on bounds rounded to four digits."""
    low, high = auroc_interval(0.8, positives=10, negatives=14)
    for bound in (low, high):
        spread = 1 + 11 * (1 - bound) / (2 - bound) + 11 * bound / (1 + bound)
        assert abs(0.8 - bound) == pytest.approx(1.96 * (bound * (1 - bound) * spread / 140) ** 0.5, rel=1e-3)
    assert low < 0.8 < high


def test_the_interval_of_a_perfect_auroc_is_wide_where_slides_are_few():
    few, many = (auroc_interval(1.0, positives=count, negatives=count) for count in (2, 100))
    assert few[1] == many[1] == 1.0
    assert few[0] < 0.5 < 0.95 < many[0]
    assert auroc_interval(0.0, positives=2, negatives=2) == pytest.approx((0.0, 1 - few[0]))
