"""Polygons from a CAM, and their measurements, which are those of the final shape."""

from dataclasses import replace

import numpy as np
import pytest
from shapely import box

from wsplf_cli.cohort.slide import CohortSlide
from wsplf_cli.options import PseudolabelOptions
from wsplf_cli.review.memory import Review
from wsplf_cli.review.regions import ReviewRegions
from wsplf_cli.schema import PromptedMask, TileGrid, TissueMask
from wsplf_cli.slides.map import SlideMap
from wsplf_cli.weak.polygons import (
    DrawnPolygon,
    draw_polygons,
    measure,
    outside_of_review,
    prompted_masks,
    separate_classes,
)
from wsplf_cli.weak.sam.refine import RefinedRegion
from wsplf_cli.weak.sam.refiners import CamOnly

AREA, CONFIDENCE = "wsplf: area um^2", "wsplf: confidence"


@pytest.fixture
def slide(make_entry, tiny_slide):
    grid = TileGrid("1", 64, 1.0, 64.0, np.zeros((0, 2), np.int32), np.zeros(0, np.float32))
    entry = make_entry("a.tif", label={"Tumor"}, slide_path=tiny_slide)
    return CohortSlide(entry, 0.5, TissueMask(np.ones((96, 128), bool), 8.0), grid)


def region(*, sam=None):
    """A region of 100 x 100 pixels of 2 level-0 pixels, from (1000, 500) on: 0.6 on its left half, 0.8 on its right."""
    probability = np.full((100, 100), 0.6, np.float32)
    probability[:, 50:] = 0.8
    nothing = np.zeros((100, 100), np.float32)
    return RefinedRegion((1000.0, 500.0), 2.0, probability, probability - 0.1, nothing if sam is None else sam)


def test_a_cam_becomes_polygons_in_level_0_pixels(slide):
    cam = np.full((96, 128), 0.1, np.float32)
    cam[20:50, 30:70] = 0.9
    cam[30:33, 40:43] = 0.1  # a lumen of 576 px, 144 um2
    cam[80:82, 100:102] = 0.9  # 256 px, 64 um2
    options, rng = PseudolabelOptions(), np.random.default_rng(0)
    (polygon,) = draw_polygons(slide, SlideMap(cam, 8.0), CamOnly(256), options, rng)
    assert polygon.shape.bounds == pytest.approx((240, 160, 560, 400), abs=6)
    assert len(polygon.shape.interiors) == 0
    small = replace(options, min_area_um2=20.0)
    assert len(draw_polygons(slide, SlideMap(cam, 8.0), CamOnly(256), small, rng)) == 2


def test_measurements_are_of_the_shape():
    sam = np.zeros((100, 100), np.float32)
    sam[:, :75] = 0.9
    measurements = measure(DrawnPolygon(box(1000, 500, 1200, 700), region(sam=sam)), mpp_slide=0.5)
    assert measurements == {
        CONFIDENCE: pytest.approx(0.7, abs=1e-4),
        "wsplf: CAM": pytest.approx(0.6, abs=1e-4),
        "wsplf: SAM IoU": pytest.approx(0.9, abs=1e-4),
        "wsplf: SAM share": pytest.approx(0.75, abs=1e-4),
        AREA: 10_000.0,
    }
    assert all(type(value) is float for value in measurements.values())


def test_a_part_has_its_own_measurements():
    sam = np.zeros((100, 100), np.float32)
    sam[:, :75] = 0.9
    measurements = measure(DrawnPolygon(box(1100, 500, 1200, 580), region(sam=sam)), mpp_slide=0.5)
    assert measurements[AREA] == 2_000.0
    assert measurements[CONFIDENCE] == pytest.approx(0.8, abs=1e-4)
    assert measurements["wsplf: SAM share"] == pytest.approx(0.5, abs=1e-4)


def test_the_iou_of_sam_is_left_out_where_no_mask_covers_the_polygon():
    measurements = measure(DrawnPolygon(box(1000, 500, 1200, 700), region()), mpp_slide=0.5)
    assert "wsplf: SAM IoU" not in measurements
    assert measurements["wsplf: SAM share"] == 0
    assert all(np.isfinite(value) for value in measurements.values())


def test_a_sliver_between_the_pixels_has_an_area_and_nothing_else():
    measurements = measure(DrawnPolygon(box(1000.1, 500, 1000.3, 700), region()), mpp_slide=0.5)
    assert measurements == {AREA: pytest.approx(0.2 * 200 * 0.25)}


def test_what_a_person_decided_is_cut_out_and_the_rest_measured_anew(slide):
    regions = ReviewRegions(positive=(box(1000, 500, 1100, 700),), negative=(box(1100, 580, 1200, 700),))
    slide = replace(slide, review=Review("1", (), {"Tumor": regions}))
    drawn = [DrawnPolygon(box(1000, 500, 1200, 700), region())]
    (part,) = outside_of_review(drawn, slide, "Tumor", min_area_px0=100.0)
    assert part.shape.equals(box(1100, 500, 1200, 580))
    measurements = measure(part, mpp_slide=0.5)
    assert measurements[AREA] == 2_000.0
    assert measurements[CONFIDENCE] == pytest.approx(0.8, abs=1e-4)
    assert outside_of_review(drawn, slide, "Tumor", min_area_px0=10_000.0) == []
    assert outside_of_review(drawn, slide, "Stroma", min_area_px0=10_000.0) == drawn


def test_polygons_of_two_classes_are_separated_and_keep_their_own_regions():
    left, right = (DrawnPolygon(box(first, 500, first + 120, 700), region()) for first in (1000, 1080))
    cams = [SlideMap(np.zeros((100, 200), np.float32), 8.0) for _ in range(2)]
    cams[0].values[:, :137], cams[1].values[:, 137:] = 0.9, 0.9
    ((first,), (second,)) = separate_classes([[left], [right]], cams, min_area_px0=10.0)
    assert first.region is left.region
    assert second.region is right.region
    assert first.shape.intersection(second.shape).area == 0
    assert first.shape.area + second.shape.area == pytest.approx(200 * 200, rel=1e-6)
    assert measure(first, mpp_slide=1.0)[AREA] == pytest.approx(first.shape.area)


def test_polygons_leave_out_marker_ink(slide):
    ink = np.zeros((96, 128), bool)
    ink[:, 65:70] = True  # a line from top to bottom, from x = 520 to 560
    inked = replace(slide, tissue=replace(slide.tissue, ink=ink))
    drawn = [DrawnPolygon(box(400, 300, 700, 500), region())]
    parts = [polygon.shape for polygon in outside_of_review(drawn, inked, "Tumor", min_area_px0=0.0)]
    assert sorted(part.bounds for part in parts) == [
        pytest.approx((400, 300, 520, 500), abs=1),
        pytest.approx((560, 300, 700, 500), abs=1),
    ]
    assert outside_of_review(drawn, slide, "Tumor", min_area_px0=0.0) == drawn


def test_a_polygon_keeps_the_masks_that_touch_it_or_were_prompted_in_it():
    def mask(shape, *point):
        return PromptedMask(np.array([point], np.float32), np.ones(1, np.int8), None, shape, 0.9, 0.8, True)

    touching, prompted, other = (
        mask(box(1050, 550, 1150, 650), 2000, 2000),
        mask(box(3000, 3000, 3001, 3001), 1020, 520),
        mask(box(1190, 690, 1200, 700), 1195, 695),
    )
    drawn = DrawnPolygon(box(1000, 500, 1100, 600), replace(region(), prompted=(other, prompted, touching)))
    assert prompted_masks(drawn) == [touching, prompted]
