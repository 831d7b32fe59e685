"""Thumbnails, CAM layers and outlines."""

import base64
import io
import re
from uuid import uuid4

import numpy as np
from PIL import Image
from shapely import LineString, Polygon, box

from wsplf_cli.pages.pictures import cam_layer, outline_path
from wsplf_cli.schema import Annotation


def annotation(shape, **values):
    return Annotation(uuid4(), shape, "Tumor", **values)


def test_an_outline_is_in_thumbnail_pixels_with_its_holes():
    ring = Polygon(box(0, 0, 100, 100).exterior, [box(40, 40, 60, 60).exterior.coords])
    path = outline_path([ring, LineString([(0, 0), (5, 5)])], downsample=10)
    assert path.count("M") == path.count("Z") == 2
    numbers = [float(number) for number in re.findall(r"[\d.]+", path)]
    assert (min(numbers), max(numbers)) == (0, 10)
    assert {4.0, 6.0} <= set(numbers)


def test_a_cam_is_clear_where_it_is_low_and_changes_colour_at_the_threshold(tmp_path):
    path = tmp_path / "cam.png"
    Image.fromarray(np.array([[0, 127, 128, 255]], np.uint8)).save(path)
    content = base64.b64decode(cam_layer(path, size_px=(100, 100)).partition(",")[2])
    none, below, above, high = np.asarray(Image.open(io.BytesIO(content)))[0].astype(int)
    assert none[3] == 0
    assert below[2] > below[0]
    assert above[0] > above[2]
    assert high[3] > above[3] > 0


def test_a_cam_that_is_no_image_is_left_out(tmp_path, caplog):
    (tmp_path / "cam.png").write_text("no image")
    assert cam_layer(tmp_path / "cam.png", size_px=(10, 10)) == ""
    assert "cam.png" in caplog.text
