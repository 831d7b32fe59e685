"""A segmentation model on a whole slide: outlines without seams, whatever the bands and windows."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage
from shapely import union_all

from wsplf_cli.geometry import rasterise
from wsplf_cli.networks.inference import on_arrays
from wsplf_cli.schema import TissueMask
from wsplf_cli.segmentation.models.unet import build
from wsplf_cli.segmentation.predict import ClassPrediction, OutlineSettings, model_canvas, outline, predict_slide
from wsplf_cli.slides.open import open_slide
from wsplf_cli.slides.tissue import tissue_mask
from wsplf_cli.slides.window import StripInference, WindowCounter, infer_strips


def scene(height: int, width: int, *, seed: int = 0, sigma: float = 9.0) -> NDArray[np.float32]:
    """Smooth probabilities with islands and lakes."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(height, width)), sigma)
    return (1 / (1 + np.exp(-noise / noise.std() * 2))).astype(np.float32)


def settings(**fields: Any) -> OutlineSettings:
    return OutlineSettings(
        **({"threshold": 0.6, "tolerance_px0": 0.0, "min_area_px0": 0.0, "min_hole_px0": 0.0} | fields)
    )


def outlined(
    canvas: NDArray[np.float32], *, downsample: float = 2.0, band_rows: int = 1024, **fields: Any
) -> ClassPrediction:
    strips = iter(np.array_split(canvas[None], 7, axis=1))
    (prediction,) = outline(strips, settings(**fields), downsample=downsample, band_rows=band_rows)
    return prediction


@pytest.mark.parametrize("band_rows", [8, 40, 64])
def test_bands_do_not_change_the_polygons(band_rows: int) -> None:
    canvas = scene(250, 180, sigma=4)
    whole, banded = outlined(canvas), outlined(canvas, band_rows=band_rows)
    assert len(whole.polygons) > 10
    assert [round(shape.area, 6) for shape in whole.polygons] == [round(shape.area, 6) for shape in banded.polygons]
    assert (union_all(whole.polygons) ^ union_all(banded.polygons)).area < 1e-6
    for first, second in zip(whole.polygons[:5], banded.polygons[:5], strict=True):
        confidences = whole.probability.mean_inside(first), banded.probability.mean_inside(second)
        assert confidences[0] == pytest.approx(confidences[1], abs=1e-6)


def test_polygons_are_the_mask_at_level_0() -> None:
    canvas = scene(250, 180)
    polygons = outlined(canvas, downsample=3.0).polygons
    mask = rasterise(polygons, origin_px0=(0, 0), downsample=3.0, size_px=(180, 250))
    truth = canvas >= 0.6
    assert (mask & truth).sum() / (mask | truth).sum() > 0.99


def test_small_components_and_small_holes_are_dropped_and_confidence_is_the_mean_inside() -> None:
    canvas = np.full((200, 200), 0.1, np.float32)
    canvas[20:120, 20:120] = 0.9
    canvas[60:64, 60:64] = 0.1
    canvas[80:110, 80:110] = 0.1
    canvas[150:154, 150:154] = 1.0
    prediction = outlined(canvas, downsample=1.0, min_area_px0=100.0, min_hole_px0=100.0)
    (polygon,) = prediction.polygons
    assert len(polygon.interiors) == 1
    assert 0.8 < prediction.probability.mean_inside(polygon) <= 0.9


def test_no_foreground_gives_no_polygon() -> None:
    assert outlined(np.zeros((64, 64), np.float32)).polygons == []


def test_the_map_of_confidences_has_cells_of_eight_canvas_pixels() -> None:
    canvas = scene(100, 90)
    probability = outlined(canvas, downsample=3.0).probability
    assert probability.downsample == 24.0
    assert probability.values.shape == (13, 12)
    assert probability.values[0, 0] == pytest.approx(canvas[:8, :8].mean(), abs=1e-5)


def test_a_class_that_does_not_compete_neither_takes_nor_loses_pixels() -> None:
    canvas = np.zeros((2, 64, 64), np.float32)
    canvas[0, 10:40, 10:40], canvas[1, 20:50, 20:50] = 0.8, 0.9
    areas = {}
    for competing in ((True, True), (True, False), (False, True)):
        predictions = outline([canvas], settings(threshold=0.5, competing=competing), downsample=1.0)
        areas[competing] = [sum(shape.area for shape in prediction.polygons) for prediction in predictions]
    assert areas[True, True] == pytest.approx([500, 900], abs=3)
    assert areas[True, False] == areas[False, True] == pytest.approx([900, 900], abs=3)


class ArraySlide:
    """Grey values of a canvas as a slide, black outside."""

    def __init__(self, canvas: NDArray[np.float32]) -> None:
        self.rgb = np.repeat((canvas[..., None] * 255).round().astype(np.uint8), 3, axis=2)

    def read(self, x_px0: float, y_px0: float, *, size_px: tuple[int, int], downsample: float) -> NDArray[np.uint8]:
        x, y = int(x_px0), int(y_px0)
        part = self.rgb[y : y + size_px[1], x : x + size_px[0]]
        return np.pad(part, ((0, size_px[1] - part.shape[0]), (0, size_px[0] - part.shape[1]), (0, 0)))


def network_canvas(canvas: NDArray[np.float32], network: torch.nn.Module) -> NDArray[np.float32]:
    height, width = canvas.shape
    strips = infer_strips(
        ArraySlide(canvas),  # type: ignore[arg-type]
        TissueMask(np.ones((height // 8, width // 8), bool), 8.0),
        on_arrays(network, device=torch.device("cpu"), activation=torch.sigmoid),
        StripInference(width_px=width, height_px=height, window_px=64, downsample=1.0),
        channels=1,
        counter=WindowCounter(),
    )
    (probability,) = np.concatenate(list(strips), axis=1)
    return probability


def test_a_window_of_a_stitched_canvas_is_as_the_network_gives_it_alone() -> None:
    torch.manual_seed(0)
    model = build(1, pretrained=False).eval()
    torch.nn.init.normal_(model.logits.weight)
    canvas = scene(64, 112)
    whole = network_canvas(canvas, model)
    alone = network_canvas(canvas[:, :64].copy(), model)
    assert np.allclose(whole[:, :48], alone[:, :48], atol=1e-5)
    assert np.array_equal(whole, network_canvas(canvas, model))


def darkness(windows: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The probability of one class: what is dark."""
    return (windows.mean(axis=3, dtype=np.float32) < 190).astype(np.float32)[:, None]


@pytest.mark.parametrize("tile_px", [64, 160])
def test_a_whole_slide_is_predicted_where_its_tissue_is(tiny_slide, tile_px) -> None:
    progress = []
    counter = WindowCounter(progress.append)
    with open_slide(tiny_slide) as slide:
        canvas = model_canvas(slide, mpp=2.0, window_px=tile_px, mpp_slide=0.5)
        tissue = tissue_mask(slide, mpp_slide=0.5)
        outlines = settings(threshold=0.5, min_area_px0=2000.0, min_hole_px0=1e6)
        (prediction,) = predict_slide(slide, tissue, darkness, canvas, outlines, counter=counter)
    assert counter.damaged == 0
    assert progress == sorted(progress)
    assert progress[-1] == counter.done
    truth = np.pi * 380 * 280
    (polygon,) = prediction.polygons
    assert polygon.area == pytest.approx(truth, rel=0.05)
    assert polygon.centroid.coords[0] == pytest.approx((500, 380), abs=8)
