import time

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage
from shapely import GeometryCollection, LineString, MultiPolygon, Point, Polygon, box

from wsplf_cli.geometry import MAX_VERTICES, mask_polygons, polygonal, rasterise, rasterise_disjoint, simplify, union

WHOLE = {"origin_px0": (0.0, 0.0), "downsample": 1.0, "tolerance_px0": 0.0, "min_area_px0": 0.0}


def blobs(side, *, scale, seed=0):
    field = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((side, side)), scale)
    return field > 0.6 * field.std()


def iou(first, second):
    return (first & second).sum() / (first | second).sum()


@pytest.mark.parametrize("downsample", [0.7, 4.0, 12.11])
def test_mask_to_polygon_to_mask_is_the_same(downsample):
    mask = blobs(600, scale=14)
    place = {"origin_px0": (1203.5, -77.25), "downsample": downsample}
    polygons = mask_polygons(mask, **place, tolerance_px0=downsample / 2, min_area_px0=0)
    assert iou(rasterise(polygons, **place, size_px=(600, 600)), mask) > 0.99
    assert len(polygons) == ndimage.label(mask)[1]


def test_a_pixel_of_the_mask_lands_on_its_place_on_the_slide():
    mask = np.zeros((40, 60), bool)
    mask[10:30, 20:50] = True
    (polygon,) = mask_polygons(mask, origin_px0=(1000, 500), downsample=8, tolerance_px0=0, min_area_px0=0)
    assert polygon.bounds == (1160, 580, 1400, 740)
    assert polygon.area == pytest.approx(240 * 160, rel=0.01)


def test_holes_and_islands_in_holes_are_kept():
    mask = np.zeros((100, 100), bool)
    mask[10:90, 10:90] = True
    mask[25:75, 25:75] = False
    mask[40:60, 40:60] = True
    mask[48:52, 48:52] = False
    outer, island = mask_polygons(mask, **WHOLE)
    assert [len(polygon.interiors) for polygon in (outer, island)] == [1, 1]
    assert outer.area == pytest.approx(80**2 - 50**2, rel=0.01)
    assert island.area == pytest.approx(20**2 - 4**2, rel=0.02)
    assert not outer.intersects(island)


def test_the_mask_may_touch_its_border_or_be_full_or_empty():
    (full,) = mask_polygons(np.ones((30, 40), bool), **WHOLE)
    assert full.bounds == (0, 0, 40, 30)
    assert mask_polygons(np.zeros((30, 40), bool), **WHOLE) == []


def test_small_pieces_and_small_holes_go():
    mask = np.zeros((100, 100), bool)
    mask[10:60, 10:60] = True
    mask[20:25, 20:25] = mask[40:55, 40:55] = False
    mask[80:84, 80:84] = True
    options = WHOLE | {"downsample": 2.0}
    assert len(mask_polygons(mask, **options)) == 2
    (polygon,) = mask_polygons(mask, **options | {"min_area_px0": 100}, min_hole_px0=200)
    assert len(polygon.interiors) == 1
    assert polygon.area == pytest.approx(4 * (50**2 - 15**2), rel=0.01)


def test_a_hole_of_a_dropped_piece_does_not_cut_the_piece_around_it():
    mask = np.zeros((100, 100), bool)
    mask[5:95, 5:95] = True
    mask[30:70, 30:70] = False
    mask[40:50, 40:50] = True
    mask[42:48, 42:48] = False
    (polygon,) = mask_polygons(mask, **WHOLE | {"min_area_px0": 200})
    assert len(polygon.interiors) == 1
    assert polygon.is_valid


@settings(max_examples=60, deadline=None)
@given(arrays.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_any_mask_gives_valid_polygons_one_per_piece_and_comes_back(mask):
    polygons = mask_polygons(mask, **WHOLE)
    assert all(polygon.is_valid for polygon in polygons)
    assert len(polygons) == ndimage.label(mask)[1]
    assert np.array_equal(rasterise(polygons, origin_px0=(0, 0), downsample=1, size_px=mask.shape[::-1]), mask)


def test_coordinates_lie_on_the_grid_of_qupath():
    (polygon, *_) = mask_polygons(
        blobs(200, scale=20), origin_px0=(0.123456, 7.7777), downsample=3.3333, tolerance_px0=1, min_area_px0=500
    )
    coordinates = shapely.get_coordinates(polygon)
    assert np.abs(coordinates - coordinates.round(2)).max() < 1e-9
    assert polygon.is_valid


def test_simplifying_changes_the_area_by_less_than_one_percent():
    mask = blobs(500, scale=10)
    exact = mask_polygons(mask, **WHOLE | {"min_area_px0": 30})
    simple = [part for polygon in exact for part in simplify(polygon, tolerance_px0=5.0)]
    assert all(polygon.is_valid for polygon in simple)
    assert [polygon.area for polygon in simple] == pytest.approx([polygon.area for polygon in exact], rel=0.01)
    assert shapely.get_num_coordinates(simple).sum() < 0.5 * shapely.get_num_coordinates(exact).sum()


def test_no_polygon_has_more_vertices_than_the_cap():
    mask = ~blobs(600, scale=2)
    polygons = mask_polygons(mask, **WHOLE | {"tolerance_px0": 0.5, "min_area_px0": 20})
    assert max(shapely.get_num_coordinates(polygons)) <= MAX_VERTICES
    assert all(polygon.is_valid for polygon in polygons)
    back = rasterise(polygons, origin_px0=(0, 0), downsample=1, size_px=(600, 600))
    assert iou(back, mask) > 0.95


def test_a_large_mask_takes_seconds():
    mask = np.zeros((8000, 8000), bool)
    small = blobs(1000, scale=12)
    mask[2000:6000, 2000:6000] = np.kron(small, np.ones((4, 4), bool))
    start = time.process_time()
    polygons = mask_polygons(mask, **WHOLE | {"tolerance_px0": 2.0, "min_area_px0": 100})
    assert time.process_time() - start < 15
    assert len(polygons) > 20


def test_a_pixel_is_in_when_its_centre_is():
    triangle = Polygon([(0, 0), (6, 0), (0, 6)])
    mask = rasterise([triangle], origin_px0=(0, 0), downsample=1, size_px=(6, 6))
    centres = np.arange(6) + 0.5
    inside = centres[:, None] + centres[None, :] < 6
    assert np.array_equal(mask[inside], np.ones(inside.sum(), bool))
    assert not mask[centres[:, None] + centres[None, :] > 6].any()


def test_rasterising_agrees_with_points_in_polygons():
    polygons = mask_polygons(blobs(120, scale=6), **WHOLE | {"origin_px0": (3.3, 4.7), "downsample": 2.9})
    mask = rasterise(polygons, origin_px0=(-8, 5), downsample=5.1, size_px=(80, 70))
    y, x = np.mgrid[:70, :80]
    points = shapely.points(-8 + (x + 0.5) * 5.1, 5 + (y + 0.5) * 5.1)
    assert np.array_equal(mask, shapely.contains(MultiPolygon(polygons), points))
    assert mask.any()


def test_a_hole_stays_unless_another_polygon_covers_it():
    ring = Polygon(box(0, 0, 20, 20).exterior, [box(5, 5, 15, 15).exterior.coords])
    view = {"origin_px0": (0, 0), "downsample": 1, "size_px": (20, 20)}
    assert rasterise([ring], **view).sum() == 300
    assert rasterise([ring, box(0, 0, 10, 20)], **view).sum() == 350
    assert rasterise([ring, ring], **view).sum() == 300


def test_shapes_outside_the_view_and_without_area_leave_it_empty():
    shapes = [box(100, 100, 120, 120), box(-50, -50, -1, -1), Point(3, 3), LineString([(0, 0), (9, 9)]), Polygon()]
    assert not rasterise(shapes, origin_px0=(0, 0), downsample=1, size_px=(20, 20)).any()


def test_repair_keeps_the_polygonal_parts():
    bow_tie = Polygon([(0, 0), (2, 2), (2, 0), (0, 2)])
    assert [part.area for part in polygonal(bow_tie)] == [1, 1]
    mixed = GeometryCollection(
        [Point(0, 0), box(0, 0, 1, 1), MultiPolygon([box(3, 3, 4, 4)]), LineString([(0, 0), (1, 1)])]
    )
    assert [part.area for part in polygonal(mixed)] == [1, 1]
    assert polygonal(Polygon()) == []
    assert polygonal(Point(1, 1)) == []


def test_the_union_counts_what_overlaps_once():
    assert union([box(0, 0, 2, 1), box(1, 0, 3, 1), Point(9, 9)]).area == 3
    assert union([]).is_empty


def test_polygons_that_do_not_overlap_are_rasterised_at_once_as_one_by_one():
    ring = Polygon([(3.2, 2.1), (40, 5), (38.7, 44), (6, 30)], [[(10, 10), (10, 20), (22, 22)]])
    polygons = np.array([ring, box(50, 3, 70.5, 90), box(-10, 60, 20, 100)], object)
    one_by_one = rasterise(polygons, origin_px0=(0, 0), downsample=2.0, size_px=(30, 40))
    assert np.array_equal(rasterise_disjoint(polygons, downsample=2.0, size_px=(30, 40)), one_by_one)
    assert not rasterise_disjoint(polygons[:0], downsample=2.0, size_px=(30, 40)).any()
