"""The probabilities of a model around a polygon, and which model it was."""

import json
from uuid import uuid4

import numpy as np
import pytest
from shapely import box

from wsplf_cli.explain.pictures import peak_of, shown_probabilities, values_inside
from wsplf_cli.explain.prediction import probability_map, read_model
from wsplf_cli.schema import MODEL_KEY, Annotation, Entry
from wsplf_cli.segmentation.checkpoint import Checkpoint
from wsplf_cli.segmentation.loading import LoadedModel
from wsplf_cli.segmentation.predict import model_canvas
from wsplf_cli.slides.entry import slide_of
from wsplf_cli.slides.tissue import tissue_mask
from wsplf_cli.slides.window import WindowCounter, infer_strips
from wsplf_cli.synthetic.pyramid import write_pyramid

MPP = 0.5


@pytest.fixture(scope="module")
def entry(tmp_path_factory):
    rng = np.random.default_rng(0)
    rgb = rng.integers(150, 200, (700, 900, 3), dtype=np.uint8)
    rgb[..., 1] = 120
    path = tmp_path_factory.mktemp("slides") / "a.tif"
    write_pyramid(path, rgb, mpp=MPP)
    return Entry("1", "a.tif", path, 900, 700, MPP, "slide")


def redness(windows):
    """Probabilities that depend on where in its window a pixel lies: other windows give other maps."""
    ramp = np.linspace(0.8, 1.0, windows.shape[1])[None, :, None]
    return (windows[..., 0] / 255.0 * ramp)[:, None].astype(np.float32)


MODEL = LoadedModel(redness, Checkpoint("unet", {}, ("Tumor",), tile_px=64, mpp=1.0, run_id="r"), 0.65)


def test_the_map_around_a_polygon_is_that_of_the_whole_slide(entry):
    slide = slide_of(entry)
    tissue = tissue_mask(slide, mpp_slide=MPP)
    canvas = model_canvas(slide, mpp=1.0, window_px=64, mpp_slide=MPP)
    strips = infer_strips(slide, tissue, redness, canvas, channels=1, counter=WindowCounter())
    whole = np.concatenate(list(strips), axis=1)[0]
    annotation = Annotation(uuid4(), box(400, 300, 500, 380), "Tumor", "prediction")
    around = probability_map(MODEL, entry, tissue, annotation, mpp=MPP)
    left, top = (int(value / 2) for value in around.origin_px0)
    part = np.s_[150 - top : 190 - top, 200 - left : 250 - left]
    assert around.values.values[part] == pytest.approx(whole[150:190, 200:250], abs=1e-4)
    assert values_inside(annotation.shape, around).size == 40 * 50


def test_the_threshold_is_where_the_colour_changes_and_the_peak_is_in_the_polygon(entry):
    tissue = tissue_mask(slide_of(entry), mpp_slide=MPP)
    annotation = Annotation(uuid4(), box(400, 300, 500, 380), "Tumor", "prediction")
    around = probability_map(MODEL, entry, tissue, annotation, mpp=MPP)
    shown = shown_probabilities(around, 0.65)
    assert np.array_equal(shown.values >= 128, around.values.values >= 0.65)
    (x, y), value = peak_of(annotation.shape, shown)
    assert annotation.shape.buffer(1).contains(box(x, y, x, y).centroid)
    row, column = int((y - around.origin_px0[1]) / 2), int((x - around.origin_px0[0]) / 2)
    assert shown.values[row, column] / 255 == value


def test_a_model_that_is_gone_or_was_trained_again_is_said(tmp_path):
    annotation = Annotation(uuid4(), box(0, 0, 1, 1), "Tumor", "prediction", metadata={MODEL_KEY: "run-1"})
    model = read_model(tmp_path, annotation, {"options": {"model": "mine"}})
    assert (model.name, model.run_id, model.loaded) == ("mine", "run-1", None)
    assert model.missing.startswith("The model mine cannot be loaded: no model at")
    run = tmp_path / "wsplf" / "runs" / "run-1"
    run.mkdir(parents=True)
    (run / "run.json").write_text(json.dumps({"stage": "train", "seed": 3}))
    assert read_model(tmp_path, annotation, {}).training == {"stage": "train", "seed": 3}
