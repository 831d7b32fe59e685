"""What there is to do on a slide."""

import numpy as np
import pytest

from wsplf_cli.backends.embedded import open_project
from wsplf_cli.cohort.labels import resolve_labels
from wsplf_cli.errors import ConfigError
from wsplf_cli.options import ProjectOptions, PseudolabelOptions, SegmentOptions, TrainOptions
from wsplf_cli.plan.measure import sizer_of
from wsplf_cli.plan.sizes import FOREGROUND_SHARE, SegmentSize, TrainSize, foreground, require_planned
from wsplf_cli.recipes import RECIPES
from wsplf_cli.schema import Silent
from wsplf_cli.segmentation.checkpoint import Checkpoint
from wsplf_cli.weak import features

MODEL = Checkpoint("unet", {}, ("Tumor",), tile_px=192, mpp=1.0, run_id="run")


@pytest.fixture
def entries(tiny_project):
    """Of 512 x 384 um, with labels."""
    return resolve_labels(open_project(tiny_project, ProjectOptions()).entries(), ProjectOptions())


def test_the_windows_of_segment_are_those_that_hold_tissue(entries):
    size = SegmentSize(SegmentOptions(), MODEL)(entries[0], Silent())
    assert size.work["canvas"] == pytest.approx(0.512 * 0.384)
    assert size.work["windows"] == size.tiles == 11  # of 4 x 3, every 144 um: none in the bottom right corner
    assert size.tissue_mm2 == pytest.approx(np.pi * 0.190 * 0.140, rel=0.05)


def test_sam_outlines_a_fifth_of_the_slides_that_may_be_positive(entries):
    sizes = [SegmentSize(SegmentOptions(), MODEL, sam_side_px=128)(entry, Silent()) for entry in entries]
    assert [size.work["outlines"] > 0 for size in sizes] == [True, False, True]  # the last one has no label
    assert SegmentSize(SegmentOptions(), MODEL)(entries[0], Silent()).work["outlines"] == 0


def test_the_blocks_of_train_are_two_tiles_wide(entries):
    size = TrainSize(TrainOptions())(entries[0], Silent())
    assert size.tiles == 4
    assert size.kept_bytes == 4 * 256**2 * 5


def test_only_slides_labelled_positive_are_outlined(entries, monkeypatch):
    monkeypatch.setattr(features, "SMALL_BYTES", 0)
    sizer = sizer_of(PseudolabelOptions(backbone="small"))
    positive, negative, _ = (sizer(entry, Silent()) for entry in entries)
    assert positive.work["polygons"] > 0 == negative.work["polygons"]
    assert positive.work["CAM"] == negative.work["CAM"] == 4
    assert positive.most_prompted > positive.work["polygons"]
    assert negative.most_prompted == 0


def test_the_features_of_a_slide_with_little_tissue_serve_its_map_too(entries):
    size = sizer_of(PseudolabelOptions(backbone="small"))(entries[0], Silent())
    assert (size.work["features"], size.work["CAM"]) == (4, 0)
    assert size.waiting_bytes > 0


def test_half_the_scale_has_a_quarter_of_the_windows(entries):
    fine = SegmentSize(SegmentOptions(), MODEL)(entries[0], Silent())
    coarse_model = Checkpoint("unet", {}, ("Tumor",), tile_px=192, mpp=2.0, run_id="run")
    coarse = SegmentSize(SegmentOptions(), coarse_model)(entries[0], Silent())
    assert coarse.work["canvas"] == pytest.approx(fine.work["canvas"] / 4)


def test_the_assumed_tumour_lies_in_the_tissue():
    inside = np.zeros((40, 50), bool)
    inside[10:30, 10:40] = True
    cam = foreground(inside)
    assert cam.sum() == FOREGROUND_SHARE * inside.sum()
    assert not cam[~inside].any()
    assert np.array_equal(foreground(inside, 1.0) > 0, inside)


@pytest.mark.parametrize("name", ["fine-tuned", "both", "ep-sam", "round-1"])
def test_recipes_that_train_networks_are_refused(name):
    with pytest.raises(ConfigError, match=f"recipe {name} takes"):
        require_planned(PseudolabelOptions(recipe=RECIPES[name]))


def test_the_default_recipe_is_planned():
    require_planned(PseudolabelOptions())
