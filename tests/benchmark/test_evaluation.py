"""The scores of one entry: what is measured, and in which unit."""

from dataclasses import replace
from uuid import uuid4

import pytest
from shapely import Polygon, box

from wsplf_cli.benchmark.evaluation import Measured, score_entry
from wsplf_cli.options import EvaluateOptions
from wsplf_cli.schema import Annotation, Plane

CONFIDENCE = {"wsplf: confidence": 0.9}
TRUTH = box(300, 300, 500, 500)


def annotation(shape, **fields):
    return Annotation(uuid4(), shape, "Tumor", **({"origin": "pseudolabel", "measurements": CONFIDENCE} | fields))


@pytest.fixture
def score(make_entry, tiny_slide, recorder):
    """Scores the annotations of a slide of 1024 x 768 pixels against a truth."""

    def run(truth, *annotations, **fields):
        entry = replace(make_entry("a.tif", label={"Tumor"}, slide_path=tiny_slide), **fields)
        return score_entry(Measured(entry, annotations, {"Tumor": truth}), EvaluateOptions(), tracker=recorder)["Tumor"]

    return run


@pytest.mark.parametrize(
    ("drawn", "on_the_image"),
    [
        (box(-500, 100, 200, 300), box(0, 100, 200, 300)),
        (box(900, 100, 5000, 300), box(900, 100, 1024, 300)),
        (box(100, -900, 300, 50), box(100, 0, 300, 50)),
        (box(100, 700, 300, 5000), box(100, 700, 300, 768)),
        (box(-9, -9, 1100, 800), box(0, 0, 1024, 768)),
    ],
    ids=["left", "right", "top", "bottom", "everywhere"],
)
def test_what_is_drawn_past_the_border_counts_nowhere(score, drawn, on_the_image):
    of_truth = score(drawn, annotation(on_the_image))
    of_prediction = score(on_the_image, annotation(drawn))
    for scored in (of_truth, of_prediction):
        assert (scored.overlap.dice, scored.overlap.iou) == pytest.approx((1, 1))
        assert scored.boundary_f1 == pytest.approx(1)
        assert scored.overlap.truth == pytest.approx(on_the_image.area * 0.25)
        assert scored.overlap.predicted == pytest.approx(on_the_image.area * 0.25)
        assert scored.polygons == ((0.9, pytest.approx(1)),)


def test_a_false_polygon_past_the_border_is_as_large_as_what_lies_on_the_image(score):
    scored = score(Polygon(), annotation(box(1000, 0, 9000, 100)))
    assert scored.overlap.false_positive == pytest.approx(24 * 100 * 0.25)


def test_a_polygon_outside_the_image_is_none(score, recorder):
    scored = score(TRUTH, annotation(TRUTH), annotation(box(2000, 0, 2100, 100)))
    assert (scored.overlap.dice, len(scored.polygons)) == (1, 1)
    assert recorder.said == ["a.tif: annotations left out: 1 outside the image"]


def test_annotations_on_other_planes_are_not_measured(score, recorder):
    other = [annotation(box(0, 0, 90, 90), plane=plane) for plane in (Plane(z=1), Plane(t=2))]
    scored = score(TRUTH, annotation(TRUTH, plane=Plane(c=1)), *other, z_slices=2, time_points=3)
    assert scored.overlap.dice == 1
    (said,) = recorder.said
    assert said == "a.tif: annotations left out: 2 on another plane than the first z-slice and time point"


def test_oblong_pixels_are_measured_per_axis(score):
    sides = {"mpp": (1.24 * 0.62) ** 0.5, "mpp_xy": (1.24, 0.62)}
    assert score(TRUTH, annotation(TRUTH), **sides).overlap.truth == pytest.approx(200 * 1.24 * 200 * 0.62)
    # 6 pixels are 7.4 um across and 3.7 um down; the tolerance is 5 um
    wider, higher = box(294, 300, 506, 500), box(300, 294, 500, 506)
    assert score(TRUTH, annotation(higher), **sides).boundary_f1 > 0.97
    assert score(TRUTH, annotation(wider), **sides).boundary_f1 < 0.8
