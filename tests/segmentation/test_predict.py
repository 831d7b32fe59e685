import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage
from shapely import union_all

from wsplf_cli.geometry import rasterise
from wsplf_cli.segmentation.models.unet import build
from wsplf_cli.segmentation.predict import Outlined, Sweep, outline, predictor, sweep, windows_of


def _scene(height: int, width: int, *, seed: int = 0, sigma: float = 9.0) -> NDArray[np.float32]:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(height, width)), sigma)
    return (1 / (1 + np.exp(-noise / noise.std() * 2))).astype(np.float32)


def _reader(scene: NDArray[np.float32], side: int):
    padded = np.pad(scene, ((0, side), (0, side)))
    rgb = np.repeat((padded[..., None] * 255).round().astype(np.uint8), 3, axis=2)
    return lambda x, y: np.pad(
        rgb[y : y + side, x : x + side],
        ((0, side - len(rgb[y : y + side])), (0, side - rgb[y : y + side, x : x + side].shape[1]), (0, 0)),
    )


def _as_is(windows: NDArray[np.uint8]) -> NDArray[np.float32]:
    return windows[:, None, ..., 0].astype(np.float32) / 255


def _canvas(scene: NDArray[np.float32], side: int, predict=_as_is, wanted=lambda x, y: True) -> NDArray[np.float32]:
    plan = Sweep(scene.shape[1], scene.shape[0], side)
    read = _reader(scene, side)
    strips = list(sweep(plan, classes=1, read=read, predict=predict, wanted=wanted, advance=lambda done: None))
    (canvas,) = np.concatenate(strips, axis=1)
    return canvas


def _outlines(canvas: NDArray[np.float32], *, band_rows: int = 1024, **changes: float) -> list[Outlined]:
    values = {"threshold": 0.6, "downsample": 2.0, "tolerance_px0": 0.0, "min_area_px0": 0.0, "min_hole_px0": 0.0}
    (found,) = outline(iter(np.array_split(canvas[None], 7, axis=1)), **(values | changes), band_rows=band_rows)
    return found


@pytest.mark.parametrize("size", [(200, 300), (64, 64), (30, 500), (129, 65)])
def test_windows_of_what_is_already_right_give_it_back(size: tuple[int, int]) -> None:
    scene = _scene(*size)
    canvas = _canvas(scene, 64)
    assert canvas.shape == scene.shape
    assert np.abs(canvas - scene).max() < 1 / 255


def test_no_seams_where_windows_disagree() -> None:
    def biased(windows: NDArray[np.uint8]) -> NDArray[np.float32]:
        ramp = np.linspace(0, 1, windows.shape[2], dtype=np.float32)
        return np.broadcast_to(ramp, windows.shape[:3])[:, None].copy()

    canvas = _canvas(np.zeros((64, 400), np.float32), 64, predict=biased)
    steps = np.abs(np.diff(canvas, axis=1))
    assert steps.max() < 0.15  # set side by side, the windows would jump by 1


def test_two_halves_stitched_are_one_tile() -> None:
    torch.manual_seed(0)
    model = build(1, pretrained=False).eval()
    torch.nn.init.normal_(model.logits.weight)
    predict = predictor(model, device=torch.device("cpu"))
    scene = _scene(64, 112)
    whole = _canvas(scene, 64, predict=predict)
    alone = _canvas(scene[:, :64].copy(), 64, predict=predict)
    assert np.allclose(whole[:, :48], alone[:, :48], atol=1e-5)
    assert np.array_equal(whole, _canvas(scene, 64, predict=predict))


def test_only_wanted_windows_are_predicted() -> None:
    seen = []

    def predict(windows: NDArray[np.uint8]) -> NDArray[np.float32]:
        seen.append(len(windows))
        return np.ones(windows.shape[:3], np.float32)[:, None]

    def left(x: int, y: int) -> bool:
        return x < 100

    canvas = _canvas(np.ones((64, 500), np.float32), 64, predict=predict, wanted=left)
    assert (canvas[:, :100] == 1).all()
    assert (canvas[:, 200:] == 0).all()
    assert sum(seen) == windows_of(Sweep(500, 64, 64), left) == 3


@pytest.mark.parametrize("band_rows", [8, 40, 64])
def test_bands_do_not_change_the_polygons(band_rows: int) -> None:
    canvas = _scene(250, 180, sigma=4)
    whole, banded = _outlines(canvas), _outlines(canvas, band_rows=band_rows)
    assert len(whole) > 10
    assert [round(one.shape.area, 6) for one in whole] == [round(one.shape.area, 6) for one in banded]
    difference = union_all([one.shape for one in whole]) ^ union_all([one.shape for one in banded])
    assert difference.area < 1e-6
    for one, other in zip(whole[:5], banded[:5], strict=True):
        assert one.confidence == pytest.approx(other.confidence, abs=1e-6)


def test_polygons_are_the_mask_at_level_0() -> None:
    canvas = _scene(250, 180)
    found = _outlines(canvas, downsample=3.0)
    mask = rasterise([one.shape for one in found], origin_px0=(0, 0), downsample=3.0, size_px=(180, 250))
    truth = canvas >= 0.6
    assert (mask & truth).sum() / (mask | truth).sum() > 0.99


def test_small_pieces_and_small_holes_go_and_confidence_is_the_mean_inside() -> None:
    canvas = np.full((200, 200), 0.1, np.float32)
    canvas[20:120, 20:120] = 0.9
    canvas[60:64, 60:64] = 0.1
    canvas[80:110, 80:110] = 0.1
    canvas[150:154, 150:154] = 1.0
    found = _outlines(canvas, downsample=1.0, min_area_px0=100.0, min_hole_px0=100.0)
    assert len(found) == 1
    assert len(found[0].shape.interiors) == 1
    assert 0.8 < found[0].confidence <= 0.9


def test_no_foreground_gives_no_polygon() -> None:
    assert _outlines(np.zeros((64, 64), np.float32)) == []
