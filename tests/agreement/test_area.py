"""Dice and kappa of areas, against values computed by hand or by another library."""

import numpy as np
import pytest
from shapely import box
from sklearn.metrics import cohen_kappa_score

from wsplf_cli.agreement.area import AreaAgreement, Confusion, Votes, compare_areas
from wsplf_cli.agreement.parts import disjoint_parts
from wsplf_cli.agreement.reading import ReadEntry, Reading
from wsplf_cli.geometry import rasterise
from wsplf_cli.metrics import Overlap
from wsplf_cli.schema import TissueMask

ENTRY = ReadEntry((), {}, reviewed=False, read=True)


def reading(*positive, undecided=()):
    return Reading(ENTRY, (), disjoint_parts(positive), disjoint_parts(undecided))


def test_cohens_kappa_is_that_of_scikit_learn():
    confusion = Confusion(both=30, first=12, second=5, neither=53)
    first, second, weights = [1, 1, 0, 0], [1, 0, 1, 0], [30, 12, 5, 53]
    assert confusion.kappa == pytest.approx(cohen_kappa_score(first, second, sample_weight=weights))


@pytest.mark.parametrize("confusion", [Confusion(), Confusion(neither=9.0), Confusion(both=3.0)])
def test_kappa_is_not_defined_where_all_say_the_same_everywhere(confusion):
    assert confusion.kappa is None


def test_fleiss_kappa_of_two_readers_on_balanced_votes_by_hand():
    # 4 of 10 units both, 4 neither, 2 split: P = 0.8, share 0.5, chance 0.5
    assert Votes((4.0, 2.0, 4.0)).kappa == pytest.approx((0.8 - 0.5) / 0.5)


def test_fleiss_kappa_of_three_readers_by_hand():
    # of 10 units 5 with no vote, 2 with one, 1 with two, 2 with three; per unit agreement 1 or 1/3; share 10/30
    observed, share = (5 + 2 + 3 / 3) / 10, (2 * 1 + 1 * 2 + 2 * 3) / 30
    by_chance = share**2 + (1 - share) ** 2
    assert Votes((5.0, 2.0, 1.0, 2.0)).kappa == pytest.approx((observed - by_chance) / (1 - by_chance))
    assert Votes().kappa is None


def test_the_majority_of_four_is_what_three_mark():
    shapes = [box(0, 0, right, 10) for right in (10, 8, 6, 2)]
    readings = {index: reading(shape) for index, shape in enumerate(shapes)}
    agreement = compare_areas(readings, readers=4, unit_um2=1.0, tissue=None)
    assert {overlap.truth for overlap in agreement.majority.values()} == {60.0}
    assert agreement.majority[3].dice == pytest.approx(2 * 20 / (60 + 20))


@pytest.mark.parametrize("readers", [2, 3, 4, 5])
def test_the_overlap_with_the_majority_is_that_of_pixels(readers):
    rng = np.random.default_rng(readers)
    corners = rng.integers(0, 12, (readers, 4, 2))
    shapes = {reader: [box(x, y, x + 6, y + 5) for x, y in boxes] for reader, boxes in enumerate(corners.tolist())}
    readings = {reader: reading(*boxes) for reader, boxes in shapes.items()}
    agreement = compare_areas(readings, readers=readers, unit_um2=1.0, tissue=None)
    masks = [rasterise(boxes, origin_px0=(0, 0), downsample=1.0, size_px=(20, 20)) for boxes in shapes.values()]
    majority = np.sum(masks, axis=0) > readers / 2
    for reader, mask in enumerate(masks):
        expected = Overlap(float(majority.sum()), float(mask.sum()), float((majority & mask).sum()))
        assert agreement.majority[reader].truth == pytest.approx(expected.truth)
        assert agreement.majority[reader].predicted == pytest.approx(expected.predicted)
        assert agreement.majority[reader].common == pytest.approx(expected.common)


def test_the_majority_of_two_is_what_both_mark():
    readings = {0: reading(box(0, 0, 10, 10)), 1: reading(box(5, 0, 15, 10))}
    agreement = compare_areas(readings, readers=2, unit_um2=0.25, tissue=None)
    assert agreement.majority[0].truth == 50 * 0.25
    assert agreement.pairs[0, 1].dice == pytest.approx(0.5)
    assert agreement.confusions == {}
    assert agreement.votes == Votes()


def test_what_a_reader_left_undecided_is_left_out_of_comparisons_with_that_reader_only():
    pending = box(20, 0, 30, 10)
    readings = {
        0: reading(box(0, 0, 10, 10), pending),
        1: reading(box(0, 0, 10, 10), undecided=[pending]),
        2: reading(box(0, 0, 10, 10)),
    }
    tissue = TissueMask(np.ones((10, 40), bool), 1.0)
    agreement = compare_areas(readings, readers=3, unit_um2=1.0, tissue=tissue)
    assert agreement.pairs[0, 1].dice == 1.0
    assert agreement.pairs[0, 2].dice == pytest.approx(2 * 100 / 300)
    assert agreement.confusions[0, 1] == Confusion(both=100, neither=200)
    assert agreement.confusions[0, 2] == Confusion(both=100, first=100, neither=200)
    assert agreement.votes == Votes((200.0, 0.0, 0.0, 100.0))
    assert agreement.undecided == {0: 0.0, 1: 100.0, 2: 0.0}


def test_votes_are_of_slides_that_all_readers_read():
    tissue = TissueMask(np.ones((4, 4), bool), 1.0)
    readings = {0: reading(box(0, 0, 2, 2)), 2: reading()}
    assert compare_areas(readings, readers=3, unit_um2=1.0, tissue=tissue).votes == Votes()


def test_pixels_outside_the_tissue_do_not_count():
    mask = np.zeros((10, 10), bool)
    mask[:, :5] = True
    readings = {0: reading(box(0, 0, 20, 4)), 1: reading(box(0, 0, 20, 8))}
    agreement = compare_areas(readings, readers=2, unit_um2=0.25, tissue=TissueMask(mask, 2.0))
    assert agreement.confusions[0, 1] == Confusion(both=10, first=0, second=10, neither=30)


def test_figures_of_slides_add_up():
    whole, half = reading(box(0, 0, 10, 10)), reading(box(0, 0, 5, 10))
    one = compare_areas({0: whole, 1: half}, readers=2, unit_um2=1.0, tissue=None)
    other = compare_areas({0: whole, 1: whole}, readers=2, unit_um2=1.0, tissue=None)
    assert (one + other).pairs[0, 1].dice == pytest.approx(2 * 150 / 350)
    assert (AreaAgreement() + one).pairs == one.pairs
