import io

import numpy as np
import pytest
from PIL import Image
from shapely import box

from wsplf_cli.slides.map import SlideMap


def test_a_map_knows_which_cells_are_tissue():
    values = np.array([[1.0, np.nan], [3.0, 2.0]], np.float32)
    assert SlideMap(values, 8.0).of_tissue.tolist() == [1.0, 3.0, 2.0]


def test_the_mean_inside_a_shape_is_that_of_the_cells_whose_centre_it_holds():
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    slide_map = SlideMap(values, 10.0)
    assert slide_map.mean_inside(box(10, 0, 30, 20)) == pytest.approx((1 + 2 + 5 + 6) / 4)
    assert slide_map.mean_inside(box(-50, -50, 500, 500)) == pytest.approx(values.mean())


def test_a_shape_between_the_centres_has_the_value_at_a_point_of_it():
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert SlideMap(values, 10.0).mean_inside(box(21, 11, 23, 13)) == 6
    assert SlideMap(values, 10.0).mean_inside(box(100, 11, 103, 13)) == 7, "beyond the map: its nearest cell"


def test_a_picture_has_one_grey_pixel_per_cell():
    values = np.array([[0.0, 0.5, 1.0]], np.float32)
    with Image.open(io.BytesIO(SlideMap(values, 8.0).picture())) as picture:
        assert picture.size == (3, 1)
        assert np.asarray(picture).tolist() == [[0, 128, 255]]
