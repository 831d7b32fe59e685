"""Apply a segmentation model to a whole slide: overlapping windows, blended, and outlined without seams.

Memory is bounded by the slide's width: windows are worked on row by row, a row of the result is handed on as soon as
no further window touches it, and outlines are drawn in bands of rows and then joined.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import shapely
import torch
from numpy.typing import NDArray
from shapely import Polygon, STRtree
from torch import nn

from wsplf_cli.geometry import GRID_PX0, mask_polygons, polygonal, rasterise, simplify
from wsplf_cli.networks.device import autocast

OVERLAP = 0.25
"""Share of a window's side that it has in common with the next: what one sees at its edge, the other sees whole."""
BAND_ROWS = 1024
_COARSE_PX = 8

Read = Callable[[int, int], NDArray[np.uint8]]
"""Window uint8 [S, S, 3] whose top-left corner is at (x, y) in pixels of the canvas; white outside the slide."""
Predict = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Windows uint8 [B, S, S, 3] to the probabilities float32 [B, C, S, S] of each class."""
Wanted = Callable[[int, int], bool]
"""Whether the window at (x, y) holds tissue; elsewhere the probability is 0."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """How windows go over a canvas, the slide at the model's mpp. All in pixels of the canvas."""

    width_px: int
    height_px: int
    window_px: int
    batch: int = 8

    @property
    def stride_px(self) -> int:
        """From one window to the next."""
        return max(1, round(self.window_px * (1 - OVERLAP)))

    def starts(self, length_px: int) -> range:
        """Left (or top) edges of the windows that cover a length."""
        count = max(1, math.ceil((length_px - self.window_px) / self.stride_px) + 1)
        return range(0, count * self.stride_px, self.stride_px)


@dataclass(frozen=True, slots=True)
class Outlined:
    """A polygon in level-0 pixels and the mean probability inside it."""

    shape: Polygon
    confidence: float


def sweep(
    plan: Sweep, *, classes: int, read: Read, predict: Predict, wanted: Wanted, advance: Callable[[int], None]
) -> Iterator[NDArray[np.float32]]:
    """The probabilities of a canvas as strips float32 [C, rows, width_px], from the top, that together are the canvas.

    Where windows overlap, each counts the less the nearer its own edge is. ``advance`` is told how many windows are
    done.
    """
    blend = _blend(plan.window_px)
    width = plan.starts(plan.width_px)[-1] + plan.window_px
    total = np.zeros((classes, plan.window_px, width), np.float32)
    weight = np.zeros((plan.window_px, width), np.float32)
    tops = plan.starts(plan.height_px)
    for top in tops:
        lefts = [left for left in plan.starts(plan.width_px) if wanted(left, top)]
        for first in range(0, len(lefts), plan.batch):
            some = lefts[first : first + plan.batch]
            for left, values in zip(some, predict(np.stack([read(left, top) for left in some])), strict=True):
                total[..., left : left + plan.window_px] += values * blend
                weight[:, left : left + plan.window_px] += blend
            advance(len(some))
        rows = plan.window_px if top == tops[-1] else plan.stride_px
        strip = total[:, :rows] / np.maximum(weight[:rows], np.float32(1e-9))
        yield strip[:, : plan.height_px - top, : plan.width_px].astype(np.float32, copy=False)
        total, weight = (_scroll(canvas, rows) for canvas in (total, weight))


def windows_of(plan: Sweep, wanted: Wanted) -> int:
    """How many windows a sweep will predict."""
    return sum(wanted(left, top) for top in plan.starts(plan.height_px) for left in plan.starts(plan.width_px))


def outline(
    strips: Iterable[NDArray[np.float32]],
    *,
    threshold: float,
    downsample: float,
    tolerance_px0: float,
    min_area_px0: float,
    min_hole_px0: float,
    rivals: Sequence[bool] = (True,),
    band_rows: int = BAND_ROWS,
) -> list[list[Outlined]]:
    """For each class one polygon with holes for each connected piece that is of it, largest first.

    A pixel is of a class where its probability reaches the threshold and no other of the ``rivals`` has a higher one.

    Args:
        strips: The canvas from the top, float32 [C, rows, width].
        threshold: Probability 0..1.
        downsample: Level-0 pixels per pixel of the canvas.
        tolerance_px0: How far a simplified outline may be from the exact one.
        min_area_px0: Smaller polygons are dropped.
        min_hole_px0: Smaller holes are filled.
        rivals: Of each class whether it takes pixels from others; one that does not loses none either.
        band_rows: Rows outlined at a time, a multiple of 8; it does not change the result.
    """
    traces = [_Trace(downsample) for _ in rivals]
    for bands in _bands(strips, rows=band_rows):
        for trace, band, mask in zip(traces, bands, _masks(bands, rivals, threshold=threshold), strict=True):
            trace.add(band, mask)
    return [
        trace.outlined(tolerance_px0=tolerance_px0, min_area_px0=min_area_px0, min_hole_px0=min_hole_px0)
        for trace in traces
    ]


def _masks(bands: NDArray[np.float32], rivals: Sequence[bool], *, threshold: float) -> NDArray[np.bool_]:
    """Which pixels are of each class, bool [C, rows, width], from their probabilities."""
    masks = bands >= threshold
    ranked = np.flatnonzero(rivals)
    if len(ranked) > 1:
        masks[ranked] &= ranked[np.argmax(bands[ranked], axis=0)] == ranked[:, None, None]
    return masks


class _Trace:
    """The outlines of one class, band by band."""

    def __init__(self, downsample: float) -> None:
        self.downsample = downsample
        self.pieces: list[Polygon] = []
        self.coarse: list[NDArray[np.float32]] = []
        self.top = 0
        self.above: NDArray[np.bool_] | None = None

    def add(self, band: NDArray[np.float32], mask: NDArray[np.bool_]) -> None:
        """The next rows: probabilities float32 [rows, width] and which pixels are of the class."""
        self.coarse.append(_pooled(band))
        # two rows of the band above come along: outlines cut corners by half a pixel, and in the union no cut is left
        joined = mask if self.above is None else np.concatenate([self.above, mask])
        first = self.top - (0 if self.above is None else len(self.above))
        origin_px0 = (0.0, first * self.downsample)
        self.pieces += mask_polygons(
            joined, origin_px0=origin_px0, downsample=self.downsample, tolerance_px0=0.0, min_area_px0=0.0
        )
        self.top, self.above = self.top + len(mask), mask[-2:]

    def outlined(self, *, tolerance_px0: float, min_area_px0: float, min_hole_px0: float) -> list[Outlined]:
        """The whole polygons, largest first."""
        probability = np.concatenate(self.coarse)
        found = []
        for piece in _joined(self.pieces):
            parts = _finished(piece, tolerance_px0=tolerance_px0, min_hole_px0=min_hole_px0)
            found += [part for part in parts if part.area >= max(min_area_px0, 1e-9)]
        found.sort(key=lambda shape: -shape.area)
        return [Outlined(shape, _mean_inside(shape, probability, downsample=self.downsample)) for shape in found]


def predictor(model: nn.Module, *, device: torch.device) -> Predict:
    """The model's probability of each class, as numpy in and out."""

    @torch.inference_mode()
    def predict(windows: NDArray[np.uint8]) -> NDArray[np.float32]:
        batch = torch.from_numpy(windows).to(device).permute(0, 3, 1, 2).float() / 255
        with autocast(device):
            logits = model(batch)
        probability: NDArray[np.float32] = torch.sigmoid(logits.float()).cpu().numpy()
        return probability

    return predict


def _blend(side_px: int) -> NDArray[np.float32]:
    """Weight float32 [S, S] of a window's pixels: 1 inside, falling to nearly 0 over the overlap."""
    place = np.arange(side_px) + 0.5
    edge = np.minimum(place, side_px - place) / max(1.0, OVERLAP * side_px)
    ramp = np.clip(edge, 0.0, 1.0)
    return np.outer(ramp, ramp).astype(np.float32)


def _scroll(canvas: NDArray[np.float32], rows: int) -> NDArray[np.float32]:
    """The canvas moved up by some rows, zeros below."""
    moved = np.zeros_like(canvas)
    moved[..., : canvas.shape[-2] - rows, :] = canvas[..., rows:, :]
    return moved


def _bands(strips: Iterable[NDArray[np.float32]], *, rows: int) -> Iterator[NDArray[np.float32]]:
    """The same canvas in bands of ``rows`` rows; the last one has what is left."""
    waiting: list[NDArray[np.float32]] = []
    for strip in strips:
        waiting.append(strip)
        while sum(one.shape[1] for one in waiting) >= rows:
            canvas = np.concatenate(waiting, axis=1)
            yield canvas[:, :rows]
            waiting = [canvas[:, rows:]]
    if sum(one.shape[1] for one in waiting):
        yield np.concatenate(waiting, axis=1)


def _pooled(band: NDArray[np.float32]) -> NDArray[np.float32]:
    """Means of 8 x 8 pixels, float32 [rows / 8, width / 8], rounded up; the last ones of what there is."""
    height, width = band.shape
    padded = np.pad(band, ((0, -height % _COARSE_PX), (0, -width % _COARSE_PX)), mode="edge")
    cells = padded.reshape(padded.shape[0] // _COARSE_PX, _COARSE_PX, padded.shape[1] // _COARSE_PX, _COARSE_PX)
    means: NDArray[np.float32] = cells.mean(axis=(1, 3), dtype=np.float32)
    return means


def _joined(pieces: list[Polygon]) -> list[Polygon]:
    """The pieces, those that overlap in one; only pieces at the seams of bands do."""
    if not pieces:
        return []
    tree = STRtree(pieces)
    first, second = tree.query(pieces, predicate="intersects")
    at_seam = np.zeros(len(pieces), bool)
    at_seam[first[first != second]] = True
    alone = [piece for piece, seam in zip(pieces, at_seam, strict=True) if not seam]
    return alone + polygonal(shapely.union_all([piece for piece, seam in zip(pieces, at_seam, strict=True) if seam]))


def _finished(polygon: Polygon, *, tolerance_px0: float, min_hole_px0: float) -> list[Polygon]:
    """Without small holes, simplified, on QuPath's grid; in parts where it has too many vertices."""
    holes = [ring for ring in polygon.interiors if Polygon(ring).area >= min_hole_px0]
    parts = simplify(Polygon(polygon.exterior, holes), tolerance_px0=tolerance_px0)
    return [piece for part in parts for piece in polygonal(shapely.set_precision(part, GRID_PX0))]


def _mean_inside(shape: Polygon, probability: NDArray[np.float32], *, downsample: float) -> float:
    """Mean of the coarse probabilities whose cells have their centre inside; that at a point inside if none has."""
    cell_px0 = downsample * _COARSE_PX
    left, top, right, bottom = (int(value // cell_px0) for value in shape.bounds)
    part = probability[top : bottom + 1, left : right + 1]
    inside = rasterise(
        [shape],
        origin_px0=(left * cell_px0, top * cell_px0),
        downsample=cell_px0,
        size_px=(part.shape[1], part.shape[0]),
    )
    if inside.any():
        return float(part[inside].mean())
    point = shape.representative_point()
    return float(probability[int(point.y // cell_px0), int(point.x // cell_px0)])
