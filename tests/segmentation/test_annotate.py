"""From a model and a slide to annotations: which classes, where, and measured in their final shape."""

from dataclasses import replace
from uuid import uuid4

import numpy as np
import pytest
from shapely import box, union_all

from wsplf_cli.options import SegmentOptions
from wsplf_cli.review.memory import Review
from wsplf_cli.review.regions import ReviewRegions
from wsplf_cli.schema import Annotation, Entry, SlideLabel
from wsplf_cli.segmentation.annotate import is_ruled_out, segment_slide
from wsplf_cli.segmentation.checkpoint import Checkpoint
from wsplf_cli.segmentation.loading import LoadedModel
from wsplf_cli.synthetic.pyramid import write_pyramid

AREA, CONFIDENCE = "wsplf: area um^2", "wsplf: confidence"
#: Both areas are dark, and the second one is blue as well.
AREAS = {"LUAD": box(160, 200, 460, 360), "LUSC": box(360, 280, 600, 520)}


@pytest.fixture(scope="module")
def slide_path(tmp_path_factory):
    """800 x 700 pixels at 0.5 um per pixel: pale tissue with a red area, and a blue one over it."""
    rgb = np.full((700, 800, 3), 243, np.uint8)
    rgb[80:620, 80:720] = (230, 175, 205)
    rgb[200:360, 160:460] = (150, 60, 120)
    rgb[280:520, 360:600] = (100, 100, 200)
    path = tmp_path_factory.mktemp("slides") / "a.tif"
    write_pyramid(path, rgb, mpp=0.5, quality=95)
    return path


def dark_and_blue(windows):
    """Probabilities of two classes: what is dark; and what is blue, which is more certain."""
    values = windows.astype(np.float32)
    dark = np.where(values.mean(axis=3) < 160, 0.8, 0.05)
    blue = np.where(values[..., 2] - values[..., 0] > 40, 0.9, 0.05)
    return np.stack([dark, blue], axis=1).astype(np.float32)


def model(*classes, confidences=(), slide_confidences=()):
    classes = classes or tuple(AREAS)

    def infer(windows):
        return dark_and_blue(windows)[:, [list(AREAS).index(name) for name in classes]]

    described = Checkpoint(
        "unet",
        settings={},
        classes=classes,
        tile_px=64,
        mpp=1.0,
        run_id="run 0",
        confidences=confidences,
        slide_confidences=slide_confidences,
    )
    return LoadedModel(infer, described, 0.5)


def segmented(path, *, label, annotations=(), regions=None, split=None, network=None, min_area_um2=200.0):
    entry = Entry("7", "a.tif", path, 800, 700, 0.5, "slide", split=split)
    entry = replace(entry, label=None if label is None else SlideLabel(frozenset(label)))
    review = Review("7", tuple(annotations), regions or {})
    options, network = SegmentOptions(min_area_um2=min_area_um2), network or model()
    return segment_slide(entry, review, network, options, run_id="run 1", advance=lambda windows: None)


def of_class(result, path_class):
    return [annotation for annotation in result.annotations if annotation.path_class == path_class]


def area(annotations):
    return union_all([annotation.shape for annotation in annotations])


def overlap(shape, other):
    return shape.intersection(other).area / shape.union(other).area


@pytest.mark.parametrize(
    ("label", "split", "ruled_out"),
    [
        (set(), None, True),
        (set(), "train", True),
        (set(), "test", False),
        (set(), "Held-out", False),
        ({"Stroma"}, None, True),
        ({"Tumor"}, None, False),
        (None, None, False),
    ],
)
def test_a_label_rules_a_class_out_unless_the_slide_is_held_out(make_entry, label, split, ruled_out):
    assert is_ruled_out(make_entry(label=label, split=split), "Tumor") is ruled_out


def test_a_prediction_says_where_it_comes_from(slide_path):
    result = segmented(slide_path, label=None, network=model("LUSC"))
    (annotation,) = result.annotations
    assert overlap(annotation.shape, AREAS["LUSC"]) > 0.97
    assert (annotation.path_class, annotation.origin, annotation.review) == ("LUSC", "prediction", "pending")
    assert (annotation.run_id, annotation.metadata["wsplf.model"]) == ("run 1", "run 0")
    assert annotation.measurements[AREA] == pytest.approx(annotation.shape.area * 0.25, rel=1e-3)
    assert 0.8 < annotation.measurements[CONFIDENCE] <= 0.9
    assert (result.counts["polygons"], result.counts["suppressed_um2"], result.counts["damaged_windows"]) == (1, 0, 0)
    assert result.counts["area_um2"] == pytest.approx(annotation.shape.area * 0.25)
    assert set(result.maps) == {"LUSC"}


def test_a_polygon_whose_confidence_is_too_low_is_left_out(slide_path):
    assert of_class(segmented(slide_path, label=None, network=model(confidences=(0.6, 0.6))), "LUAD")
    result = segmented(slide_path, label=None, network=model(confidences=(0.85, 0.6)))
    assert {annotation.path_class for annotation in result.annotations} == {"LUSC"}


def test_a_class_of_which_the_slide_is_not_confident_is_left_out_and_its_area_is_counted(slide_path):
    assert "unsure_um2" not in segmented(slide_path, label=None, network=model(slide_confidences=(0.7, 0.8))).counts
    network = model(slide_confidences=(0.85, 0.8))
    result = segmented(slide_path, label=None, network=network)
    assert {annotation.path_class for annotation in result.annotations} == {"LUSC"}
    shown = AREAS["LUAD"].difference(AREAS["LUSC"]).area * 0.25
    assert result.counts["unsure_um2"] == pytest.approx(shown, rel=0.05)
    assert of_class(segmented(slide_path, label={"LUAD"}, network=network), "LUAD"), "the label says that it is there"


def test_a_pixel_belongs_to_the_most_probable_class_and_polygons_never_overlap(slide_path):
    result = segmented(slide_path, label=None)
    luad, lusc = (area(of_class(result, name)) for name in AREAS)
    assert overlap(lusc, AREAS["LUSC"]) > 0.95
    assert overlap(luad, AREAS["LUAD"].difference(AREAS["LUSC"])) > 0.95
    assert luad.intersection(lusc).area < 1e-6
    for annotation in result.annotations:
        assert annotation.measurements[AREA] == pytest.approx(annotation.shape.area * 0.25, abs=0.06)
    assert [result.counts[key] for key in ("polygons", "polygons LUAD", "polygons LUSC")] == [2, 1, 1]


def test_a_class_that_the_label_rules_out_is_counted_and_takes_no_pixel(slide_path):
    result = segmented(slide_path, label={"LUAD"})
    assert of_class(result, "LUSC") == []
    assert overlap(area(of_class(result, "LUAD")), AREAS["LUAD"].union(AREAS["LUSC"])) > 0.95, "all that is dark"
    assert result.counts["suppressed_um2"] == pytest.approx(AREAS["LUSC"].area * 0.25, rel=0.05)


def test_a_negative_slide_gets_no_polygon_and_a_held_out_one_does(slide_path):
    negative = segmented(slide_path, label=set(), network=model("LUAD"))
    assert negative.annotations == ()
    everything = AREAS["LUAD"].union(AREAS["LUSC"]).area
    assert negative.counts["suppressed_um2"] == pytest.approx(everything * 0.25, rel=0.05)
    held_out = segmented(slide_path, label=set(), network=model("LUAD"), split="test")
    assert len(held_out.annotations) == 1
    assert held_out.counts["suppressed_um2"] == 0


def test_a_prediction_that_a_review_cuts_has_the_area_and_confidence_of_what_is_left(slide_path):
    (whole,) = segmented(slide_path, label=None, network=model("LUSC")).annotations
    accepted = Annotation(uuid4(), box(300, 200, 480, 600), "LUSC", origin="prediction", review="accepted")
    (cut,) = segmented(slide_path, label=None, network=model("LUSC"), annotations=[accepted]).annotations
    assert cut.shape.intersection(accepted.shape).area == 0
    assert cut.shape.area == pytest.approx(0.5 * whole.shape.area, rel=0.05)
    assert cut.measurements[AREA] == pytest.approx(cut.shape.area * 0.25, abs=0.06)
    assert cut.measurements[AREA] < 0.6 * whole.measurements[AREA]


def test_nothing_is_drawn_where_a_person_said_that_it_is_not_of_the_class(slide_path):
    half = box(360, 280, 480, 520)
    for role in ("negative", "ignored"):
        regions = {"LUSC": ReviewRegions(**{role: (half,)})}
        result = segmented(slide_path, label=None, network=model("LUSC"), regions=regions)
        assert area(result.annotations).intersection(half).area < 1e-6
        assert area(result.annotations).area == pytest.approx(0.5 * AREAS["LUSC"].area, rel=0.05)


def test_parts_and_polygons_below_the_least_area_are_dropped(slide_path):
    assert segmented(slide_path, label=None, min_area_um2=1e6).annotations == ()
    most = box(380, 200, 700, 700)
    regions = {"LUSC": ReviewRegions(negative=(most,))}
    strip = {"label": None, "network": model("LUSC"), "regions": regions}
    assert len(segmented(slide_path, **strip).annotations) == 1
    assert segmented(slide_path, **strip, min_area_um2=2000.0).annotations == ()


def test_the_same_slide_gives_the_same_polygons(slide_path):
    results = [segmented(slide_path, label=None) for _ in range(2)]
    first, second = (
        [(annotation.shape.wkb, dict(annotation.measurements)) for annotation in result.annotations]
        for result in results
    )
    assert first == second


@pytest.mark.parametrize("word", ["luad", " LUAD", "LUAD: acinar"])
def test_a_label_in_another_spelling_than_the_models_class_does_not_rule_it_out(slide_path, word):
    assert not is_ruled_out(Entry("7", "a", slide_path, 8, 7, 0.5, "", label=SlideLabel(frozenset({word}))), "LUAD")
    assert [part.path_class for part in segmented(slide_path, label={word}, network=model("LUAD")).annotations] == [
        "LUAD"
    ]


def test_predictions_leave_out_marker_ink(tmp_path):
    rgb = np.full((700, 800, 3), 243, np.uint8)
    rgb[80:620, 80:720] = (230, 175, 205)
    rgb[200:360, 160:460] = (150, 60, 120)
    rgb[40:680, 300:360] = (12, 11, 13)  # a line of black ink, dark as the class
    write_pyramid(tmp_path / "a.tif", rgb, mpp=0.5, quality=95)
    result = segmented(tmp_path / "a.tif", label={"LUAD"}, network=model("LUAD"))
    assert area(result.annotations).intersection(box(300, 0, 360, 700)).area < 10
    assert overlap(area(result.annotations), AREAS["LUAD"] - box(300, 0, 360, 700)) > 0.8
    suppressed = segmented(tmp_path / "a.tif", label=set(), network=model("LUAD")).counts["suppressed_um2"]
    assert suppressed == pytest.approx(result.counts["area_um2"], rel=0.01)
