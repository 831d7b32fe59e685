"""New polygons keep clear of what a person decided."""

from uuid import uuid4

import pytest
from shapely import box, union_all

from wsplf_cli.review.merge import decided_by_a_person, subtract_regions
from wsplf_cli.schema import Annotation


def test_shapes_that_touch_nothing_stay_the_same_objects():
    shapes = [box(0, 0, 100, 10), box(0, 50, 10, 60)]
    assert subtract_regions(shapes, []) == [[shapes[0]], [shapes[1]]]
    ((first,), (second,)) = subtract_regions(shapes, [box(500, 500, 600, 600)])
    assert first is shapes[0]
    assert second is shapes[1]


def test_each_shape_has_its_own_parts_and_slivers_are_dropped():
    whole, far, region = box(0, 0, 100, 10), box(0, 50, 10, 60), box(40, -5, 97, 15)
    parts, far_parts = subtract_regions([whole, far], [region], min_area_px0=50)
    assert [part.area for part in parts] == [400]
    assert far_parts == [far]
    (all_parts,) = subtract_regions([whole], [region])
    assert sorted(part.area for part in all_parts) == [30, 400]
    assert union_all(all_parts).intersection(region).area == 0


def test_a_small_shape_that_is_not_cut_is_kept():
    assert subtract_regions([box(0, 0, 2, 2)], [box(50, 0, 60, 9)], min_area_px0=50) == [[box(0, 0, 2, 2)]]


def test_overlapping_regions_are_cut_once():
    (parts,) = subtract_regions([box(0, 0, 100, 10)], [box(20, 0, 60, 10), box(50, 0, 80, 10)])
    assert sorted(part.area for part in parts) == [200, 200]


def test_a_shape_that_is_covered_has_no_part():
    assert subtract_regions([box(0, 0, 10, 10)], [box(-1, -1, 50, 50)]) == [[]]


@pytest.mark.parametrize(
    ("changes", "decided"),
    [
        ({}, False),
        ({"review": "accepted"}, True),
        ({"review": "rejected"}, True),
        ({"edited": True}, True),
        ({"locked": True}, True),
    ],
)
def test_what_a_person_decided_of_one_origin_is_found(changes, decided):
    annotation = Annotation(uuid4(), box(0, 0, 9, 9), "Tumor", origin="prediction", **changes)
    others = [
        Annotation(uuid4(), box(0, 0, 9, 9), "Tumor"),
        Annotation(uuid4(), box(0, 0, 9, 9), "Tumor", origin="pseudolabel", review="accepted"),
    ]
    assert decided_by_a_person([annotation, *others], origin="prediction") == ([annotation] if decided else [])
