"""The one sliding window: what is read, in which order, and how the values are stitched."""

import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from wsplf_cli.errors import SlideError
from wsplf_cli.schema import TissueMask
from wsplf_cli.slides import window as sliding_window
from wsplf_cli.slides.window import (
    READ_AHEAD,
    DenseInference,
    MapRegion,
    StripInference,
    TissueTest,
    Window,
    WindowCounter,
    infer_map,
    infer_strips,
    read_batches,
    tissue_cells,
)


class ArraySlide:
    """A slide in memory, white outside. ``damaged`` is a level-0 point: windows that hold it cannot be read."""

    def __init__(self, rgb: NDArray[np.uint8], *, damaged: tuple[int, int] | None = None) -> None:
        self.rgb = rgb
        self.height_px0, self.width_px0 = rgb.shape[:2]
        self.damaged = damaged

    def read(self, x_px0: float, y_px0: float, *, size_px: tuple[int, int], downsample: float) -> NDArray[np.uint8]:
        step = round(downsample)
        assert step == downsample
        x, y = round(x_px0), round(y_px0)
        width, height = size_px[0] * step, size_px[1] * step
        if self.damaged is not None and 0 <= self.damaged[0] - x < width and 0 <= self.damaged[1] - y < height:
            raise SlideError("the data is damaged")
        pixels = np.full((height, width, 3), 255, np.uint8)
        top, left = max(0, y), max(0, x)
        part = self.rgb[top : max(0, y + height), left : max(0, x + width)]
        pixels[top - y : top - y + part.shape[0], left - x : left - x + part.shape[1]] = part
        return pixels.reshape(size_px[1], step, size_px[0], step, 3).mean(axis=(1, 3)).astype(np.uint8)


def noise(height: int, width: int, *, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def all_tissue(height: int, width: int) -> TissueMask:
    return TissueMask(np.ones((-(-height // 8), -(-width // 8)), bool), 8.0)


def mean_colour(windows: NDArray[np.uint8], stride: int = 8) -> NDArray[np.float32]:
    """The mean colour of each cell, float32 [B, 3, s, s] in 0..1: a local function."""
    count, side = len(windows), windows.shape[1] // stride
    cells = windows.astype(np.float32).reshape(count, side, stride, side, stride, 3) / 255
    return cells.mean(axis=(2, 4)).transpose(0, 3, 1, 2)


def pixel_values(windows: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Each pixel's red, float32 [B, 1, S, S] in 0..1: a function of single pixels."""
    return windows[:, None, ..., 0].astype(np.float32) / 255


def windows_at(slide: ArraySlide, positions: list[tuple[int, int]], *, side_px: int = 8) -> list[Window]:
    return [Window(slide, x, y, side_px, 1.0) for x, y in positions]  # type: ignore[arg-type]


def reader_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("wsplf-read") and thread.is_alive()]


def test_batches_come_in_order_with_their_own_pixels() -> None:
    slide = ArraySlide(noise(64, 64))
    positions = [(x, y) for y in range(0, 56, 8) for x in range(0, 56, 8)]
    batches = [windows_at(slide, positions[start : start + 5]) for start in range(0, len(positions), 5)]
    pixels = np.concatenate(list(read_batches(batches)))
    assert pixels.dtype == np.uint8
    for (x, y), window in zip(positions, pixels, strict=True):
        assert np.array_equal(window, slide.rgb[y : y + 8, x : x + 8])
    assert list(read_batches([])) == []
    assert not reader_threads()


def test_the_next_batches_are_read_while_one_is_worked_on_and_not_all_of_them() -> None:
    slide = ArraySlide(noise(16, 160))
    batches = [windows_at(slide, [(8 * index, 0)]) for index in range(12)]
    reads = []

    def read(window: Window) -> NDArray[np.uint8]:
        reads.append(window.x_px0)
        return window.read()

    pixels = read_batches(batches, read)
    next(pixels)
    deadline = time.monotonic() + 5
    while len(reads) < 1 + READ_AHEAD and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(0.05)
    assert len(reads) == 1 + READ_AHEAD
    pixels.close()


def test_as_many_threads_read_as_there_are_cores_and_never_more_than_omp_allows(monkeypatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(4)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert sliding_window.reader_threads() == 4
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert sliding_window.reader_threads() == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert sliding_window.reader_threads() == 1
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(64)), raising=False)
    assert sliding_window.reader_threads() == sliding_window.MOST_READERS


def test_windows_of_a_batch_are_read_at_the_same_time_and_come_in_order(monkeypatch) -> None:
    monkeypatch.setattr(sliding_window, "reader_threads", lambda: 2)
    slide = ArraySlide(noise(16, 160))
    together = threading.Barrier(2)  # both windows of a batch must be in a reader before one goes on

    def read(part: Window) -> NDArray[np.uint8]:
        together.wait(timeout=20)
        return part.read()

    batches = [windows_at(slide, [(16 * index, 0), (16 * index + 8, 0)]) for index in range(6)]
    pixels = np.concatenate(list(read_batches(batches, read)))
    for index, tile in enumerate(pixels):
        assert np.array_equal(tile, slide.rgb[:8, 8 * index : 8 * index + 8])


def test_an_error_of_the_reader_is_raised_in_the_caller_and_its_thread_ends() -> None:
    slide = ArraySlide(noise(16, 160), damaged=(60, 4))
    batches = [windows_at(slide, [(8 * index, 0)]) for index in range(12)]
    pixels = read_batches(batches)
    for _ in range(7):
        next(pixels)
    with pytest.raises(SlideError, match="the data is damaged"):
        next(pixels)
    assert not reader_threads()


def test_the_thread_ends_when_the_consumer_stops_early() -> None:
    slide = ArraySlide(noise(16, 160))
    batches = [windows_at(slide, [(8 * index, 0)]) for index in range(12)]
    pixels = read_batches(batches)
    next(pixels)
    assert reader_threads()
    pixels.close()
    assert not reader_threads()


def test_the_thread_ends_when_the_consumer_fails() -> None:
    slide = ArraySlide(noise(400, 560))
    inference = DenseInference(mpp=1.0, mpp_slide=1.0, window_px=192, stride=8, batch=1)
    with pytest.raises(ZeroDivisionError):
        infer_map(slide, all_tissue(400, 560), lambda windows: 1 / 0, inference, channels=3)  # type: ignore[arg-type]
    assert not reader_threads()


@pytest.mark.parametrize("window_px", [192, 256, 320])
@pytest.mark.parametrize("batch", [1, 4])
def test_a_map_of_a_local_function_is_the_direct_one_whatever_the_window(window_px: int, batch: int) -> None:
    rgb = noise(400, 560)
    inference = DenseInference(mpp=1.0, mpp_slide=1.0, window_px=window_px, stride=8, batch=batch)
    values = infer_map(ArraySlide(rgb), all_tissue(400, 560), mean_colour, inference, channels=3)  # type: ignore[arg-type]
    assert values.dtype == np.float32
    direct = rgb.astype(np.float32).reshape(50, 8, 70, 8, 3).mean(axis=(1, 3)).transpose(2, 0, 1) / 255
    np.testing.assert_allclose(values, direct, atol=1e-6)


def test_a_map_at_another_scale_is_of_the_shrunk_slide() -> None:
    rgb = noise(160, 224).repeat(4, axis=0).repeat(4, axis=1)
    inference = DenseInference(mpp=2.0, mpp_slide=0.5, window_px=192, stride=8)
    assert inference.downsample == 32.0
    values = infer_map(ArraySlide(rgb), all_tissue(640, 896), mean_colour, inference, channels=3)  # type: ignore[arg-type]
    direct = rgb.astype(np.float32).reshape(20, 32, 28, 32, 3).mean(axis=(1, 3)).transpose(2, 0, 1) / 255
    np.testing.assert_allclose(values, direct, atol=2 / 255)


def test_every_cell_of_tissue_has_a_value_and_no_other() -> None:
    tissue = TissueMask(np.zeros((50, 70), bool), 8.0)
    tissue.mask[5:20, 30:60] = True
    inference = DenseInference(mpp=1.0, mpp_slide=1.0, window_px=256, stride=8)
    values = infer_map(ArraySlide(noise(400, 560)), tissue, mean_colour, inference, channels=3)  # type: ignore[arg-type]
    assert values.shape == (3, 50, 70)
    assert (~np.isnan(values) == tissue.mask).all()


def test_a_region_of_a_map_is_as_in_the_whole() -> None:
    slide, tissue = ArraySlide(noise(400, 560)), TissueMask(np.ones((50, 70), bool), 8.0)
    tissue.mask[20:24] = False
    inference = DenseInference(mpp=1.0, mpp_slide=1.0, window_px=256, stride=8)
    region = MapRegion(top=16, bottom=44, left=32, right=70)
    whole, part = (
        infer_map(slide, tissue, mean_colour, inference, channels=3, region=chosen)  # type: ignore[arg-type]
        for chosen in (None, region)
    )
    assert whole.shape == (3, 50, 70)
    assert part.shape == (3, 28, 38)
    np.testing.assert_allclose(part, whole[:, 16:44, 32:], atol=1e-6)
    assert (np.isnan(part[0]) == ~tissue.mask[region.slices]).all()


def test_a_map_of_damaged_data_is_an_error() -> None:
    slide = ArraySlide(noise(400, 560), damaged=(300, 200))
    inference = DenseInference(mpp=1.0, mpp_slide=1.0, window_px=256, stride=8)
    with pytest.raises(SlideError, match="damaged"):
        infer_map(slide, all_tissue(400, 560), mean_colour, inference, channels=3)  # type: ignore[arg-type]


def test_cells_follow_the_tissue_at_any_scale() -> None:
    tissue = TissueMask(np.zeros((10, 10), bool), 10.0)
    tissue.mask[2:4, 6:9] = True
    rows, columns = np.nonzero(tissue_cells(tissue, shape=(25, 25), downsample=4.0))
    assert (rows.min(), rows.max() + 1) == (5, 10)
    assert (columns.min(), columns.max() + 1) == (15, 22)  # the centre of cell 22 is at 90, where the tissue ends


def canvas_of(rgb, *, infer=pixel_values, window_px=64, tissue=None, channels=1, damaged=None, counter=None, scale=1):
    """The stitched strips of a slide, float32 [C, rows, columns]."""
    height, width = rgb.shape[0] // scale, rgb.shape[1] // scale
    strips = infer_strips(
        ArraySlide(rgb, damaged=damaged),  # type: ignore[arg-type]
        tissue or all_tissue(*rgb.shape[:2]),
        infer,
        StripInference(width_px=width, height_px=height, window_px=window_px, downsample=float(scale)),
        channels=channels,
        counter=counter or WindowCounter(),
    )
    canvas = np.concatenate(list(strips), axis=1)
    assert canvas.dtype == np.float32
    return canvas


@pytest.mark.parametrize("size", [(200, 300), (64, 64), (30, 500), (129, 65)])
@pytest.mark.parametrize("window_px", [64, 96])
def test_strips_of_a_function_of_pixels_are_the_direct_values(size: tuple[int, int], window_px: int) -> None:
    rgb = noise(*size)
    (canvas,) = canvas_of(rgb, window_px=window_px)
    assert canvas.shape == size
    np.testing.assert_allclose(canvas, rgb[..., 0] / 255, atol=1e-5)


def test_strips_at_another_scale_are_of_the_shrunk_slide() -> None:
    rgb = noise(60, 90).repeat(2, axis=0).repeat(2, axis=1)
    (canvas,) = canvas_of(rgb, scale=2)
    np.testing.assert_allclose(canvas, rgb[::2, ::2, 0] / 255, atol=1e-5)


def test_every_channel_is_stitched() -> None:
    rgb = noise(100, 150)
    canvas = canvas_of(rgb, infer=lambda windows: windows.transpose(0, 3, 1, 2).astype(np.float32), channels=3)
    np.testing.assert_allclose(canvas, rgb.transpose(2, 0, 1), atol=1e-3)


def test_there_are_no_seams_where_windows_disagree() -> None:
    def biased(windows: NDArray[np.uint8]) -> NDArray[np.float32]:
        ramp = np.linspace(0, 1, windows.shape[2], dtype=np.float32)
        return np.broadcast_to(ramp, windows.shape[:3])[:, None].copy()

    (canvas,) = canvas_of(np.zeros((64, 400, 3), np.uint8), infer=biased)
    assert np.abs(np.diff(canvas, axis=1)).max() < 0.15  # set side by side, the windows would jump by 1


def test_only_windows_with_tissue_are_read_and_the_rest_is_zero() -> None:
    tissue = TissueMask(np.zeros((8, 63), bool), 8.0)
    tissue.mask[:, :12] = True  # 96 pixels: windows at 0 and 48 hold tissue, and that at 96 does not
    counts, progress = [], []

    def ones(windows: NDArray[np.uint8]) -> NDArray[np.float32]:
        counts.append(len(windows))
        return np.ones(windows.shape[:3], np.float32)[:, None]

    (canvas,) = canvas_of(noise(64, 500), infer=ones, tissue=tissue, counter=WindowCounter(progress.append))
    assert (canvas[:, :96] == 1).all()
    assert (canvas[:, 112:] == 0).all()
    assert sum(counts) == progress[-1] == 2


def test_damaged_windows_are_white_and_counted() -> None:
    rgb = np.zeros((64, 400, 3), np.uint8)
    counter = WindowCounter()
    (canvas,) = canvas_of(rgb, damaged=(220, 30), counter=counter)
    assert (counter.damaged, counter.done) == (1, 8)  # the window from 192 to 256
    assert (canvas[:, 208:240] == 1).all()
    assert (canvas[:, :192] == 0).all()
    assert (canvas[:, 256:] == 0).all()


def test_a_square_holds_tissue_where_any_of_the_mask_lies_in_it() -> None:
    tissue = TissueMask(np.zeros((10, 10), bool), 10.0)
    tissue.mask[4, 7] = True
    has_tissue = TissueTest(tissue, side_px0=20)
    assert has_tissue(70, 40)
    assert has_tissue(51, 21)
    assert not has_tissue(80, 40)
    assert not has_tissue(50, 20)
    assert not has_tissue(500, 500)


def test_functions_do_not_see_marker_ink() -> None:
    slide = ArraySlide(np.full((128, 128, 3), 50, np.uint8))
    ink = np.zeros((16, 16), bool)
    ink[:, 4:6] = True
    tissue = TissueMask(~ink, 8.0, ink=ink)
    inference = DenseInference(mpp=1.0, mpp_slide=1.0, window_px=192, stride=8)
    seen = infer_map(slide, replace(tissue, mask=np.ones((16, 16), bool)), mean_colour, inference, channels=3)  # type: ignore[arg-type]
    assert np.allclose(seen[:, :, 4:6], 1.0)
    assert np.allclose(seen[:, :, :4], 50 / 255)
    strips = StripInference(width_px=128, height_px=128, window_px=64, downsample=1.0)
    canvas = np.concatenate(
        list(infer_strips(slide, tissue, pixel_values, strips, channels=1, counter=WindowCounter())), axis=1
    )  # type: ignore[arg-type]
    assert np.allclose(canvas[0, :, 32:48], 1.0)
    assert np.allclose(canvas[0, :, 48:], 50 / 255)
