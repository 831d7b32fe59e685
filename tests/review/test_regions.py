"""Masks of what a person decided."""

import numpy as np
from shapely import box

from wsplf_cli.review.regions import ReviewRegions, known_area, known_cells
from wsplf_cli.schema import TileGrid


def grid(*corners, side=100.0):
    return TileGrid("1", 32, 1.0, side, np.array(corners, np.int32), np.ones(len(corners), np.float32))


def test_known_cells_lie_where_the_shapes_are():
    regions = ReviewRegions(positive=(box(0, 0, 50, 100),), negative=(box(100, 0, 200, 50),))
    layers = known_cells(regions, grid((0, 0), (100, 0), (300, 0)), np.arange(3), side_px=4)
    assert layers[0, 0].tolist() == [[1, 1, 0, 0]] * 4
    assert layers[1, 1].tolist() == [[1] * 4, [1] * 4, [0] * 4, [0] * 4]
    assert layers[0, 1].sum() == layers[1, 0].sum() == layers[2].sum() == 0


def test_in_a_reviewed_image_all_else_is_known_background_but_what_is_ignored():
    regions = ReviewRegions(positive=(box(0, 0, 50, 100),), ignored=(box(50, 0, 75, 100),), complete=True)
    layers = known_cells(regions, grid((0, 0)), np.arange(1), side_px=4)
    assert layers[0, 0].tolist() == [[1, 1, 0, 0]] * 4
    assert layers[0, 1].tolist() == [[0, 0, 0, 1]] * 4


def test_a_tile_without_a_decision_has_no_known_cells():
    layers = known_cells(ReviewRegions(), grid((0, 0)), np.arange(1), side_px=4)
    assert layers.shape == (1, 2, 4, 4)
    assert not layers.any()


def test_a_known_area_has_its_own_origin_and_scale():
    regions = ReviewRegions(positive=(box(100, 200, 140, 220),), negative=(box(100, 220, 180, 240),))
    positive, negative = known_area(regions, origin_px0=(90.0, 200.0), downsample=10.0, size_px=(10, 5))
    assert positive.shape == negative.shape == (5, 10)
    assert np.argwhere(positive).tolist() == [[row, column] for row in (0, 1) for column in range(1, 5)]
    assert np.argwhere(negative).tolist() == [[row, column] for row in (2, 3) for column in range(1, 9)]


def test_what_teaches_and_what_is_reviewed():
    assert not ReviewRegions(ignored=(box(0, 0, 9, 9),), pending=((box(0, 0, 9, 9), 0.5),)).teaches
    assert ReviewRegions(complete=True).teaches
    assert ReviewRegions(negative=(box(0, 0, 9, 9),)).teaches
    shapes = [box(index, 0, 9, 9) for index in range(3)]
    regions = ReviewRegions(positive=shapes[:1], negative=shapes[1:2], ignored=shapes[2:])
    assert list(regions.reviewed) == shapes
