"""Outlines from SAM: where its masks count they replace those of the network, elsewhere the network's stay."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from shapely import Polygon, affinity, box, union_all

from wsplf_cli.geometry import rasterise
from wsplf_cli.networks.sam import load_sam
from wsplf_cli.options import SegmentOptions
from wsplf_cli.review.memory import Review
from wsplf_cli.review.regions import ReviewRegions
from wsplf_cli.schema import Entry, SlideLabel
from wsplf_cli.segmentation.annotate import segment_slide
from wsplf_cli.segmentation.checkpoint import Checkpoint
from wsplf_cli.segmentation.loading import LoadedModel
from wsplf_cli.segmentation.outlines import OutlineRefiner
from wsplf_cli.segmentation.predict import ClassPrediction, OutlineSettings
from wsplf_cli.slides.map import SlideMap
from wsplf_cli.slides.open import open_slide
from wsplf_cli.synthetic.pyramid import write_pyramid
from wsplf_cli.synthetic.slide import generate_slide
from wsplf_cli.weak.sam.refine import RefinedRegion, refine
from wsplf_cli.weak.sam.refiners import prompted_sam

SIDE = 256
SETTINGS = OutlineSettings(threshold=0.3, tolerance_px0=0.5, min_area_px0=50.0, min_hole_px0=100.0)


class Masks:
    """Instead of SAM: draws shapes, of which its masks cover others; keeps the map that it was given."""

    def __init__(self, drawn: list[Polygon], masked: list[Polygon]) -> None:
        self.drawn, self.masked = drawn, masked
        self.cams: list[SlideMap] = []

    def __call__(self, slide, cam, window_downsample, rng):
        self.cams.append(cam)
        at = {"origin_px0": (-8.0, -8.0), "downsample": 2.0, "size_px": (SIDE // 2, SIDE // 2)}
        probability = rasterise(self.drawn, **at).astype(np.float32)
        sam = rasterise(self.masked, **at).astype(np.float32)
        yield RefinedRegion((-8.0, -8.0), 2.0, probability, probability, 0.9 * sam)


def prediction(*polygons: Polygon, inside: float = 0.8) -> ClassPrediction:
    values = rasterise(polygons, origin_px0=(0.0, 0.0), downsample=8.0, size_px=(SIDE // 8, SIDE // 8))
    return ClassPrediction(list(polygons), SlideMap(np.where(values, inside, 0.1).astype(np.float32), 8.0))


def outlined(predicted: ClassPrediction, masks: Masks) -> list[Polygon]:
    refiner = OutlineRefiner(masks, "")
    return refiner(None, predicted, SETTINGS, window_downsample=1.0, rng=np.random.default_rng(0))  # type: ignore[arg-type]


def iou(first, second) -> float:
    return first.intersection(second).area / first.union(second).area


def test_masks_that_count_replace_the_outline() -> None:
    better = box(40, 40, 120, 100)
    (polygon,) = outlined(prediction(box(48, 48, 112, 112)), Masks([better], [better]))
    assert iou(polygon, better) > 0.9


def test_where_masks_do_not_count_the_outline_of_the_network_stays_to_the_vertex() -> None:
    own = box(48, 48, 112, 112)
    assert outlined(prediction(own), Masks([box(40, 40, 120, 100)], [])) == [own]
    assert outlined(prediction(own), Masks([], [])) == [own]


def test_of_polygons_that_touch_masks_replace_all_or_none() -> None:
    left, right, alone = box(40, 40, 60, 60), box(80, 40, 100, 60), box(40, 160, 100, 220)
    both = box(40, 40, 100, 60)
    polygons = outlined(prediction(left, right, alone), Masks([both, alone.buffer(-4)], [both]))
    assert [iou(polygon, expected) > 0.8 for polygon, expected in zip(polygons, (alone, both), strict=True)] == [
        True
    ] * 2
    assert polygons[0] == alone
    assert set(map(id, outlined(prediction(left, right), Masks([both], [left.buffer(-3)])))) <= {id(left), id(right)}


def test_a_refined_polygon_that_touches_none_of_the_network_is_left_out() -> None:
    own, stray = box(48, 48, 112, 112), box(160, 160, 220, 220)
    (polygon,) = outlined(prediction(own), Masks([own, stray], [own, stray]))
    assert iou(polygon, own) > 0.9


def test_the_map_has_the_threshold_at_one_half_and_nothing_away_from_polygons() -> None:
    drawn, dropped = box(32, 32, 96, 96), box(160, 160, 224, 224)
    for inside, expected in ((0.3, 0.5), (1.0, 0.9996)):
        predicted = prediction(drawn, dropped, inside=inside)
        masks = Masks([], [])
        outlined(replace(predicted, polygons=[drawn]), masks)
        values = masks.cams[0].values
        assert values.dtype == np.float32
        assert values[8, 8] == pytest.approx(expected, abs=0.001)
        assert 0 < values[3, 8] < 0.5  # the next cell outside
        assert not values[16:].any()


def test_without_a_polygon_the_slide_is_not_read() -> None:
    masks = Masks([box(0, 0, 50, 50)], [box(0, 0, 50, 50)])
    assert outlined(prediction(), masks) == []
    assert masks.cams == []


def test_the_shipped_sam_finds_borders_that_a_shifted_map_misses(tmp_path: Path) -> None:
    made = generate_slide(np.random.default_rng(13), size_px=512, mpp=1.0, tumour_share=0.3, pen=False)
    write_pyramid(tmp_path / "a.tif", made.rgb, mpp=1.0, quality=95)
    glands = [part for part in made.tumour.geoms if part.area > 2000]
    shifted = [affinity.translate(part, 12, -8) for part in glands]
    values = rasterise(shifted, origin_px0=(0.0, 0.0), downsample=8.0, size_px=(64, 64))
    predicted = ClassPrediction(shifted, SlideMap(np.where(values, 0.9, 0.05).astype(np.float32), 8.0))
    sam = load_sam("tiny", checkpoint=None, device=torch.device("cpu"))
    refiner = OutlineRefiner(partial(refine, refiner=prompted_sam(sam)), "")
    with open_slide(tmp_path / "a.tif") as slide:
        rng = np.random.default_rng(0)
        polygons = refiner(slide, predicted, SETTINGS, window_downsample=1.0, rng=rng)
    truth = union_all(glands)
    assert iou(union_all(polygons), truth) > iou(union_all(shifted), truth) + 0.04


def dark(windows):
    return np.where(windows.astype(np.float32).mean(axis=3) < 160, 0.8, 0.05)[:, None].astype(np.float32)


def segmented(path: Path, masks: Masks, *, label: SlideLabel | None, **review):
    described = Checkpoint("unet", {}, ("Tumor",), 64, 1.0, "run 0", slide_confidences=review.pop("needed", ()))
    entry = Entry("7", "a.tif", path, SIDE, SIDE, 1.0, "slide", label=label)
    reviewed = Review("7", (), {"Tumor": ReviewRegions(**review)})
    model, refiner = LoadedModel(dark, described, 0.5), OutlineRefiner(masks, "")
    options = SegmentOptions(min_area_um2=100.0)
    return segment_slide(entry, reviewed, model, options, run_id="run 1", refiner=refiner, advance=lambda windows: None)


@pytest.fixture
def slide_path(tmp_path: Path) -> Path:
    rgb = np.full((SIDE, SIDE, 3), (230, 175, 205), np.uint8)
    rgb[64:128, 64:128] = (130, 60, 140)
    write_pyramid(tmp_path / "a.tif", rgb, mpp=1.0, quality=95)
    return tmp_path / "a.tif"


def test_predictions_are_measured_with_their_new_outlines_and_a_review_cuts_these(slide_path: Path) -> None:
    wide = box(40, 60, 140, 130)
    (annotation,) = segmented(slide_path, Masks([wide], [wide]), label=None).annotations
    assert iou(annotation.shape, wide) > 0.9
    assert annotation.measurements["wsplf: area um^2"] == pytest.approx(annotation.shape.area, rel=1e-3)
    assert annotation.measurements["wsplf: confidence"] < 0.7
    negative = box(0, 0, 60, SIDE)
    (cut,) = segmented(slide_path, Masks([wide], [wide]), label=None, negative=(negative,)).annotations
    assert cut.shape.intersection(negative).area < 1e-6


def test_new_outlines_stay_on_the_image(slide_path: Path) -> None:
    beyond = box(-6, 60, 130, 130)
    (annotation,) = segmented(slide_path, Masks([beyond], [beyond]), label=None).annotations
    assert annotation.shape.bounds[0] >= 0


def test_what_is_not_drawn_gets_no_outline(slide_path: Path) -> None:
    masks = Masks([box(40, 60, 140, 130)], [box(40, 60, 140, 130)])
    ruled_out = segmented(slide_path, masks, label=SlideLabel(frozenset()))
    unsure = segmented(slide_path, masks, label=None, needed=(0.95,))
    assert ruled_out.annotations == unsure.annotations == ()
    assert (
        ruled_out.counts["suppressed_um2"] == pytest.approx(unsure.counts["unsure_um2"]) == pytest.approx(4096, rel=0.1)
    )
    assert masks.cams == []
