import numpy as np
import pytest
from scipy.special import expit, logit
from shapely import box
from training_slides import training_slide

from wsplf_cli.review.regions import ReviewRegions
from wsplf_cli.segmentation.operating_point import DEFAULT_THRESHOLD, OutOfFold, describe_bounds
from wsplf_cli.segmentation.sampling import IGNORE, Block

SIDE = 64


def block_of(target):
    return Block(np.zeros((SIDE, SIDE, 3), np.uint8), target[None].astype(np.uint8), np.full((1, SIDE, SIDE), 100))


def probability_of(*rectangles, background=0.05):
    """Probabilities [1, 1, S, S] with rectangles of cells of 8 pixels: (left, top, right, bottom, probability)."""
    probability = np.full((1, 1, SIDE, SIDE), background, np.float32)
    for left, top, right, bottom, value in rectangles:
        probability[0, 0, 8 * top : 8 * bottom, 8 * left : 8 * right] = value
    return probability


def less_confident(confidence):
    """What polygons of that confidence out of fold may have on new slides."""
    return float(expit(logit(confidence) - 0.5))


def add_negative(measured, name, *rectangles, group=""):
    slide = training_slide(name, positive=False, group=group)
    measured.add(slide, [0], [block_of(np.zeros((SIDE, SIDE)))], probability_of(*rectangles))


def add_positive(measured, name, inside=0.72, outside=0.05):
    target = np.zeros((SIDE, SIDE))
    target[:32] = 1
    slide = training_slide(name, regions=ReviewRegions(pending=((box(0, 0, 64, 32), 1.0),)))
    measured.add(slide, [0], [block_of(target)], np.where(target == 1, inside, outside)[None, None].astype(np.float32))


def test_the_threshold_is_the_middle_of_the_best_ones():
    clear = OutOfFold(1)
    add_positive(clear, "a", inside=0.99, outside=0.01)
    point = clear.operating_point(alpha=0.01)
    assert (point.threshold, point.dice) == (0.6, 1.0)
    raised = OutOfFold(1)
    add_positive(raised, "a", inside=0.88, outside=0.62)
    point = raised.operating_point(alpha=0.01)
    assert 0.65 < point.threshold < 0.88
    assert point.dice == 1.0


def test_ignored_pixels_do_not_count():
    measured = OutOfFold(1)
    target = np.full((SIDE, SIDE), IGNORE)
    target[:8] = 1
    measured.add(training_slide("a"), [0], [block_of(target)], probability_of((0, 0, 8, 8, 0.9)))
    assert measured.operating_point(alpha=0.01).dice == 1.0


def test_a_polygon_needs_a_confidence_above_those_of_negative_slides():
    measured = OutOfFold(1)
    add_positive(measured, "p", inside=0.97)
    add_negative(measured, "n0", (0, 0, 6, 6, 0.8))
    add_negative(measured, "n1", (1, 1, 7, 7, 0.7))
    point = measured.operating_point(alpha=0.01)
    assert 0.8 < point.confidences[0] < less_confident(0.97)
    assert point.bounds[0].measured == 0
    assert point.bounds[0].guaranteed == pytest.approx((2 * 0.01 + 1) / 3)
    assert (point.bounds[0].slides, point.bounds[0].patients, point.bounds[0].patients_needed) == (2, 2, 99)


def test_the_confidence_is_as_high_as_costs_no_dice_where_polygons_of_new_slides_are_less_confident():
    measured = OutOfFold(1)
    add_positive(measured, "p", inside=0.8)
    point = measured._point_at(0.4, truth=32, alpha=0.01)
    assert point.confidences[0] == pytest.approx(less_confident(0.8), abs=0.01)
    assert point.confidences[0] < less_confident(0.8)


def with_an_unlucky_slide(patients):
    """Two of five positive slides are pale, and one of the negative slides has a large false polygon."""
    measured = OutOfFold(1)
    for name, inside in zip("abcde", (0.95, 0.95, 0.95, 0.75, 0.75), strict=True):
        add_positive(measured, name, inside=inside)
    add_negative(measured, "n0", (0, 0, 6, 6, 0.85))
    for number in range(1, patients):
        add_negative(measured, f"n{number}")
    return measured


def test_alpha_may_cost_little_dice_where_it_cannot_be_guaranteed_and_what_it_takes_where_it_can():
    few = with_an_unlucky_slide(4)._point_at(0.5, truth=160, alpha=0.05)
    assert few.confidences[0] < less_confident(0.75)
    assert few.bounds[0].measured == pytest.approx(36 / 64 / 4)
    assert few.bounds[0].guaranteed == pytest.approx((36 / 64 + 1) / 5), "of what is measured, and not of alpha"
    enough = with_an_unlucky_slide(19)._point_at(0.5, truth=160, alpha=0.05)
    assert enough.confidences[0] == pytest.approx(0.85, abs=1e-3)
    assert enough.bounds[0].measured == 0
    assert enough.bounds[0].guaranteed == pytest.approx(0.05)


def test_nothing_is_drawn_on_a_slide_that_is_less_confident_than_positive_ones():
    measured = OutOfFold(1)
    target = np.ones((SIDE, SIDE))
    regions = ReviewRegions(pending=((box(0, 0, 64, 64), 1.0),))
    measured.add(training_slide("p", regions=regions), [0], [block_of(target)], probability_of((0, 0, 8, 8, 0.95)))
    add_negative(measured, "n0", (0, 0, 6, 6, 0.99))  # a polygon, but less than 4,000 um2
    add_negative(measured, "n1", (0, 0, 8, 8, 0.7))
    point = measured._point_at(0.5, truth=64, alpha=0.01)
    assert point.slide_confidences[0] == pytest.approx(expit(logit(0.945) - 0.75))
    assert point.bounds[0].measured == 0
    add_negative(measured, "n2", (0, 0, 8, 8, 0.96))
    point = measured._point_at(0.5, truth=64, alpha=0.01)
    assert point.slide_confidences[0] == pytest.approx(0.945), "of the positive slide: n2 is above it"
    assert point.bounds[0].measured == pytest.approx(1 / 3), "on n2 alone"


def test_the_confidence_is_the_mean_and_not_the_largest_probability():
    measured = OutOfFold(1)
    add_positive(measured, "p", inside=0.9)
    add_negative(measured, "n0", (0, 0, 6, 6, 0.6), (2, 2, 3, 3, 0.99))
    (negative,) = [slide.components(0.5) for slide in measured._of_classes[0] if slide.negative]
    assert negative.confidence == pytest.approx([(35 * 0.6 + 0.99) / 36], abs=1e-3)
    point = measured._point_at(0.5, truth=32, alpha=0.01)
    assert (35 * 0.6 + 0.99) / 36 < point.confidences[0] <= less_confident(0.9)
    assert point.dice == 1.0


def test_a_low_threshold_is_chosen_where_confidence_keeps_false_polygons_away():
    """The tumour's pale rim is drawn at 0.3 only; the negative slide has a large polygon of 0.45 then."""
    measured = OutOfFold(1)
    target = np.zeros((SIDE, SIDE))
    target[:48] = 1
    probability = probability_of((0, 0, 8, 6, 0.36), (0, 0, 8, 4, 0.95))
    measured.add(training_slide("p"), [0], [block_of(target)], probability)
    add_negative(measured, "n0", (0, 0, 7, 7, 0.45))
    point = measured.operating_point(alpha=0.01)
    assert point.threshold in (0.3, 0.35)
    assert 0.45 < point.confidences[0] < 0.76, "the mean of the tumour with its rim is 0.75"
    assert point.dice == 1.0


def test_the_slides_of_a_patient_count_as_one():
    measured = OutOfFold(1)
    add_positive(measured, "p")
    for name in "abcd":
        add_negative(measured, name, (0, 0, 6, 6, 0.8), group="same")
    add_negative(measured, "n1", group="other")
    bound = measured.operating_point(alpha=0.01).bounds[0]
    assert (bound.slides, bound.patients) == (5, 2)


def test_what_is_too_small_to_be_drawn_does_not_count():
    measured = OutOfFold(1)
    add_positive(measured, "p")
    add_negative(measured, "n0", (0, 0, 5, 6, 0.9))  # 30 cells of 64 um2: below 2,000 um2
    point = measured._point_at(0.75, truth=32, alpha=0.01)
    assert (point.confidences, point.bounds[0].measured) == ((0.75,), 0)


def test_without_negative_slides_there_is_no_bound():
    measured = OutOfFold(1)
    add_positive(measured, "p")
    point = measured.operating_point(alpha=0.01)
    assert point.confidences[0] == pytest.approx(less_confident(0.72), abs=0.01)
    assert point.bounds == (None,)
    assert "no bound" in describe_bounds(point.bounds, point.confidences, point.slide_confidences)[0]


def test_without_a_pixel_of_the_class_the_threshold_is_the_default():
    measured = OutOfFold(1)
    add_negative(measured, "n0")
    assert measured.unvalidated == (0,)
    point = measured.operating_point(alpha=0.01)
    assert (point.threshold, point.dice) == (DEFAULT_THRESHOLD, None)


def test_the_sentence_says_what_is_guaranteed_and_what_alpha_would_take():
    measured = OutOfFold(1)
    add_positive(measured, "p")
    add_negative(measured, "n0")
    bound = measured.operating_point(alpha=0.05).bounds[0]
    (said,) = describe_bounds([bound], [0.6], [0.9])
    assert "a confidence of 0.600 (mean probability inside) and its slide an area of 4,000 um2 above 0.900, so" in said
    assert "52.5% is guaranteed on average" in said
    assert "0.05 itself would take negative slides of 19 patients" in said
