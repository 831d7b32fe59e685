"""Several classes on one slide: a cell belongs to one of them, and polygons do not overlap."""

import numpy as np
import pytest
from shapely import box, union_all

from wsplf_cli.slides.map import SlideMap
from wsplf_cli.weak.overlap import argmax_cams, split_polygons


def test_a_cell_belongs_to_the_highest_cam():
    first, second = np.full((6, 12), 0.1, np.float32), np.full((6, 12), 0.1, np.float32)
    first[1:5, 0:6] = 0.9
    second[1:5, 4:10] = 0.95
    first[1:5, 9] = 0.97
    own, other = argmax_cams([first, second], peaks=[None, None])
    assert (own >= 0.5).sum() == 4 * 4 + 4
    assert not ((own >= 0.5) & (other >= 0.5)).any()


def test_a_component_without_its_peak_goes_to_the_other_class():
    first, second = np.full((6, 12), 0.1, np.float32), np.full((6, 12), 0.1, np.float32)
    first[1:5, 0:6] = 0.9
    second[1:5, 4:10] = 0.95
    first[1:5, 9] = 0.96
    own, other = argmax_cams([np.where(first > 0.95, first, first * 0.99), second], peaks=[0.99, None])
    assert not (own >= 0.5).any(), "no component has a peak"
    assert (other >= 0.5).sum() == 4 * 6, "the other class gets its cells back"


def half_and_half():
    """CAMs of two classes in cells of 8 pixels: the first is higher up to x = 96, the second beyond."""
    cams = [np.zeros((12, 50), np.float32), np.zeros((12, 50), np.float32)]
    cams[0][:, :12], cams[1][:, 12:] = 0.9, 0.9
    return [SlideMap(cam, 8.0) for cam in cams]


def test_the_overlap_of_polygons_goes_to_the_higher_cam():
    left, right, far = box(0, 0, 120, 80), box(80, 0, 200, 80), box(300, 0, 340, 40)
    ((left_parts,), (right_parts, far_parts)) = split_polygons(
        [[left], [right, far]], half_and_half(), min_area_px0=100.0
    )
    (left_part,), (right_part,) = left_parts, right_parts
    assert left_part.bounds == (0, 0, pytest.approx(96, abs=3), 80)
    assert right_part.bounds[0] == pytest.approx(96, abs=3)
    assert left_part.intersection(right_part).area == 0
    assert far_parts == [far]
    assert far_parts[0] is far


def test_small_parts_of_a_polygon_that_is_cut_are_dropped_and_small_polygons_stay():
    cams = half_and_half()
    speck, whole, over = box(20, 90, 24, 94), box(0, 0, 200, 80), box(100, 0, 200, 76)
    ((speck_parts, whole_parts), over_parts) = split_polygons([[speck, whole], [over]], cams, min_area_px0=500.0)
    assert speck_parts == [speck]
    assert all(part.area >= 500 for part in whole_parts)
    assert union_all(whole_parts).area == pytest.approx(100 * 80, rel=0.05)
    assert over_parts[0][0].equals(over)


def test_a_single_class_is_left_alone():
    shapes = [box(0, 0, 50, 50), box(40, 0, 90, 50)]
    assert split_polygons([shapes], half_and_half()[:1], min_area_px0=0.0) == [[[shape] for shape in shapes]]
