"""One sliding window over a slide, for dense features, CAMs and segmentation.

Windows are read ahead in threads while a function works on the batch before; at most ``READ_AHEAD`` + 1 batches are in
memory. What the function returns is stitched in one of two ways. ``infer_map`` keeps the middle of each window: for
dense features and CAMs over the tissue. ``infer_strips`` blends windows that overlap: for probabilities over the whole
slide, in strips from the top, so that memory is bounded by the slide's width. Arrays go in and out; the function may be
a network.
"""

import logging
import math
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from wsplf_cli.errors import SlideError
from wsplf_cli.schema import TissueMask
from wsplf_cli.slides.open import Slide
from wsplf_cli.slides.tissue import hide_ink

log = logging.getLogger(__name__)

#: Width of the margin of a window that is read and not kept by ``infer_map``.
MARGIN_PX = 64
#: Share of a window's side that ``infer_strips`` has in common with the next window.
OVERLAP = 0.25
#: Batches that are read while one is worked on: 8 windows of 512 pixels are 6 MB, so the queue holds 13 MB of them.
READ_AHEAD = 2
#: Threads that read, at most. Each holds what one window is resampled from: mostly under 20 MB, never over 120 MB.
MOST_READERS = 8

Infer = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Windows uint8 [B, S, S, 3], RGB, to maps float32 [B, C, s, s]."""


@dataclass(frozen=True, slots=True)
class Window:
    """A square of a slide, not read yet: ``side_px`` pixels of ``downsample`` level-0 pixels from (x, y) on."""

    slide: Slide
    x_px0: float
    y_px0: float
    side_px: int
    downsample: float

    def read(self) -> NDArray[np.uint8]:
        """Its pixels uint8 [S, S, 3], RGB.

        Raises:
            SlideError: The slide's data is damaged there.
        """
        size_px = (self.side_px, self.side_px)
        return self.slide.read(self.x_px0, self.y_px0, size_px=size_px, downsample=self.downsample)


def read_without_ink(window: Window, tissue: TissueMask) -> NDArray[np.uint8]:
    """The pixels of a window, uint8 [S, S, 3], white where marker ink lies.

    Raises:
        SlideError: The slide's data is damaged there.
    """
    return hide_ink(window.read(), tissue, origin_px0=(window.x_px0, window.y_px0), downsample=window.downsample)


def reader_threads() -> int:
    """Threads that read while others compute: one per core of this process, as far as ``OMP_NUM_THREADS`` allows."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    allowed = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(MOST_READERS, cores, int(allowed) if allowed.isdecimal() else cores))


def read_batches(
    batches: Sequence[Sequence[Window]], read: Callable[[Window], NDArray[np.uint8]] = Window.read
) -> Iterator[NDArray[np.uint8]]:
    """The pixels of each batch of windows, uint8 [B, S, S, 3]. The next batches are read while one is worked on."""
    with ThreadPoolExecutor(reader_threads(), thread_name_prefix="wsplf-read") as readers:
        waiting: deque[list[Future[NDArray[np.uint8]]]] = deque()
        try:
            for batch in batches:
                waiting.append([readers.submit(read, window) for window in batch])
                if len(waiting) > READ_AHEAD:
                    yield np.stack([window.result() for window in waiting.popleft()])
            while waiting:
                yield np.stack([window.result() for window in waiting.popleft()])
        finally:
            for pending in (window for batch_waiting in waiting for window in batch_waiting):
                pending.cancel()


@dataclass(frozen=True, slots=True)
class MapRegion:
    """A part of a map: rows ``top`` to ``bottom``, columns ``left`` to ``right``."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """To cut it out of a map [rows, columns]."""
        return slice(self.top, self.bottom), slice(self.left, self.right)


@dataclass(frozen=True, slots=True)
class DenseInference:
    """How the map of a slide is computed.

    Args:
        mpp: Micrometres per pixel of the windows.
        mpp_slide: Micrometres per pixel at level 0.
        window_px: Least side of a window, margin included.
        stride: Pixels of a window per cell of the map.
        batch: Windows in one call of the function.
        rotations: Quarter turns over which the map is averaged (test-time augmentation); 1 for none.
    """

    mpp: float
    mpp_slide: float
    window_px: int
    stride: int
    batch: int = 4
    rotations: int = 1

    @property
    def downsample(self) -> float:
        """Level-0 pixels on a side of a cell of the map."""
        return self.stride * self.mpp / self.mpp_slide

    @property
    def cells(self) -> int:
        """Cells on a side of a window: a whole number, else the cells of a rotated window would not coincide."""
        return -(-self.window_px // self.stride)

    @property
    def margin(self) -> int:
        """Cells of a window's margin, which is computed and not kept."""
        return -(-MARGIN_PX // self.stride)

    def shape(self, slide: Slide) -> tuple[int, int]:
        """Rows and columns of the map of a slide."""
        rows, columns = (max(1, round(side / self.downsample)) for side in (slide.height_px0, slide.width_px0))
        return rows, columns


def infer_map(
    slide: Slide,
    tissue: TissueMask,
    infer: Infer,
    inference: DenseInference,
    *,
    channels: int,
    region: MapRegion | None = None,
) -> NDArray[np.float32]:
    """What a function says of each cell of the tissue, float32 [channels, rows, columns]; NaN outside the tissue.

    The function does not see marker ink.

    Args:
        slide: The open slide.
        tissue: Its tissue.
        infer: Maps windows to [B, channels, S / stride, S / stride].
        inference: Scale, window and stride.
        channels: Channels of the function's map.
        region: The part of the slide's map that is wanted; all of it when None.

    Raises:
        SlideError: The slide's data is damaged.
    """
    downsample = inference.downsample
    inside = tissue_cells(tissue, shape=inference.shape(slide), downsample=downsample)
    whole = region or MapRegion(0, inside.shape[0], 0, inside.shape[1])
    margin, side_px = inference.margin, inference.cells * inference.stride
    blocks = list(tissue_blocks(inside, inference.cells - 2 * margin, whole))
    batches = [blocks[start : start + inference.batch] for start in range(0, len(blocks), inference.batch)]
    windows = [
        [
            Window(
                slide,
                (block.left - margin) * downsample,
                (block.top - margin) * downsample,
                side_px,
                inference.mpp / inference.mpp_slide,
            )
            for block in batch
        ]
        for batch in batches
    ]
    shape = channels, whole.bottom - whole.top, whole.right - whole.left
    values = None
    pixels_of = read_batches(windows, partial(read_without_ink, tissue=tissue))
    for batch, pixels in zip(batches, pixels_of, strict=True):
        for block, block_map in zip(batch, infer(pixels), strict=True):
            if values is None:  # in the order of the function's own arrays: the many features of a cell lie together
                values = np.full_like(block_map, np.nan, shape=shape)
            rows = slice(block.top - whole.top, block.bottom - whole.top)
            columns = slice(block.left - whole.left, block.right - whole.left)
            height, width = block.bottom - block.top, block.right - block.left
            values[:, rows, columns] = block_map[:, margin : margin + height, margin : margin + width]
    if values is None:
        return np.full(shape, np.nan, np.float32)
    values[:, ~inside[whole.slices]] = np.nan
    return values


def tissue_cells(tissue: TissueMask, *, shape: tuple[int, int], downsample: float) -> NDArray[np.bool_]:
    """The tissue at the centres of the cells of a map, bool [rows, columns]; ``downsample`` is that of the map."""
    row = ((np.arange(shape[0]) + 0.5) * downsample / tissue.downsample).astype(np.intp)
    column = ((np.arange(shape[1]) + 0.5) * downsample / tissue.downsample).astype(np.intp)
    height, width = tissue.mask.shape
    cells: NDArray[np.bool_] = tissue.mask[np.minimum(row, height - 1)[:, None], np.minimum(column, width - 1)[None]]
    return cells


def tissue_blocks(inside: NDArray[np.bool_], side: int, whole: MapRegion) -> Iterator[MapRegion]:
    """Squares of ``side`` cells that cover a part of a map, those with tissue (``inside`` bool [rows, columns])."""
    for top in range(whole.top, whole.bottom, side):
        for left in range(whole.left, whole.right, side):
            block = MapRegion(top, min(whole.bottom, top + side), left, min(whole.right, left + side))
            if inside[block.slices].any():
                yield block


@dataclass(frozen=True, slots=True)
class StripInference:
    """How windows cover a canvas, the slide at the model's mpp. ``downsample`` is level-0 pixels per canvas pixel."""

    width_px: int
    height_px: int
    window_px: int
    downsample: float
    batch: int = 8

    @property
    def stride_px(self) -> int:
        """From one window to the next."""
        return max(1, round(self.window_px * (1 - OVERLAP)))

    def starts(self, length_px: int) -> range:
        """Left (or top) edges of the windows that cover a length."""
        count = max(1, math.ceil((length_px - self.window_px) / self.stride_px) + 1)
        return range(0, count * self.stride_px, self.stride_px)


class WindowCounter:
    """Counts windows: those that are ``done``, and those that are ``damaged``, which are left white.

    ``advance`` is called with the number of windows that are done.
    """

    def __init__(self, advance: Callable[[int], None] | None = None) -> None:
        self.done = self.damaged = 0
        self._advance = advance
        self._lock = threading.Lock()  # several threads read

    def add(self, windows: int) -> None:
        """Count windows that are done."""
        self.done += windows
        if self._advance is not None:
            self._advance(self.done)

    def read(self, window: Window, tissue: TissueMask) -> NDArray[np.uint8]:
        """The pixels of a window, uint8 [S, S, 3], white where marker ink lies."""
        try:
            return read_without_ink(window, tissue)
        except SlideError as error:
            with self._lock:
                self.damaged += 1
            log.warning("a window was left white: %s", error.message)
            return np.full((window.side_px, window.side_px, 3), 255, np.uint8)


def infer_strips(
    slide: Slide,
    tissue: TissueMask,
    infer: Infer,
    inference: StripInference,
    *,
    channels: int,
    counter: WindowCounter,
) -> Iterator[NDArray[np.float32]]:
    """The function's values over the canvas, as strips float32 [C, rows, width_px] from the top; 0 without tissue.

    Where windows overlap, a window counts less the nearer its own edge is.

    Args:
        slide: The open slide.
        tissue: Windows without any of it are not read.
        infer: Maps windows to values float32 [B, C, S, S].
        inference: Canvas, window and scale.
        channels: Channels of the values.
        counter: Counts the windows.
    """
    side, scale = inference.window_px, inference.downsample
    batches_of = {
        top: [lefts[first : first + inference.batch] for first in range(0, len(lefts), inference.batch)]
        for top, lefts in windows_with_tissue(tissue, inference).items()
    }
    windows = [
        [Window(slide, left * scale, top * scale, side, scale) for left in lefts]
        for top, batches in batches_of.items()
        for lefts in batches
    ]
    pixels = read_batches(windows, partial(counter.read, tissue=tissue))
    weight_of_window = _blend_weight(side)
    width = inference.starts(inference.width_px)[-1] + side
    total = np.zeros((channels, side, width), np.float32)
    weight = np.zeros((side, width), np.float32)
    last_top = max(batches_of)
    for top, batches in batches_of.items():
        for lefts in batches:
            for left, values in zip(lefts, infer(next(pixels)), strict=True):
                total[..., left : left + side] += values * weight_of_window
                weight[:, left : left + side] += weight_of_window
            counter.add(len(lefts))
        rows = side if top == last_top else inference.stride_px
        strip = total[:, :rows] / np.maximum(weight[:rows], np.float32(1e-9))
        yield strip[:, : inference.height_px - top, : inference.width_px].astype(np.float32, copy=False)
        total, weight = _scroll(total, rows), _scroll(weight, rows)


def windows_with_tissue(tissue: TissueMask, inference: StripInference) -> dict[int, list[int]]:
    """For each row of windows, by its top edge, the left edges of those that hold tissue, in pixels of the canvas."""
    scale = inference.downsample
    has_tissue = TissueTest(tissue, side_px0=inference.window_px * scale)
    return {
        top: [left for left in inference.starts(inference.width_px) if has_tissue(left * scale, top * scale)]
        for top in inference.starts(inference.height_px)
    }


class TissueTest:
    """Whether a square of a slide holds any tissue, from an integral image of the mask."""

    def __init__(self, tissue: TissueMask, *, side_px0: float) -> None:
        self._side_px0 = side_px0
        self._downsample = tissue.downsample
        self._shape = tissue.mask.shape
        self._integral = np.pad(tissue.mask.cumsum(axis=0, dtype=np.int64).cumsum(axis=1), ((1, 0), (1, 0)))

    def __call__(self, x_px0: float, y_px0: float) -> bool:
        """Whether the square whose top-left corner lies at (x, y) holds tissue."""
        height, width = self._shape
        left, top = (int(start / self._downsample) for start in (x_px0, y_px0))
        right, bottom = (math.ceil((start + self._side_px0) / self._downsample) for start in (x_px0, y_px0))
        left, right = min(left, width), min(right, width)
        top, bottom = min(top, height), min(bottom, height)
        sums = self._integral
        return bool(sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left])


def _blend_weight(side_px: int) -> NDArray[np.float32]:
    """Weight float32 [S, S] of a window's pixels: 1 inside, falling to nearly 0 over the overlap."""
    position = np.arange(side_px) + 0.5
    edge = np.minimum(position, side_px - position) / max(1.0, OVERLAP * side_px)
    ramp = np.clip(edge, 0.0, 1.0)
    return np.outer(ramp, ramp).astype(np.float32)


def _scroll(canvas: NDArray[np.float32], rows: int) -> NDArray[np.float32]:
    """The canvas moved up by some rows, zeros below."""
    moved = np.zeros_like(canvas)
    moved[..., : canvas.shape[-2] - rows, :] = canvas[..., rows:, :]
    return moved
