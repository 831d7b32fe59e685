"""A segmentation model applied to a whole slide: probabilities of overlapping windows, outlined without seams.

Memory is bounded by the slide's width. The strips of ``slides.window.infer_strips`` are outlined in bands of rows as
they come, and the outlines of neighbouring bands are joined.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import Polygon, STRtree

from wsplf_cli.geometry import GRID_PX0, mask_polygons, polygonal, simplify
from wsplf_cli.schema import TissueMask
from wsplf_cli.slides.map import SlideMap
from wsplf_cli.slides.open import Slide
from wsplf_cli.slides.window import Infer, StripInference, WindowCounter, infer_strips

#: Rows of the canvas that are outlined at a time.
BAND_ROWS = 1024
#: Outlines may differ from the exact ones by this many pixels of the canvas.
TOLERANCE_PX = 0.5
#: Side, in canvas pixels, of a cell of the map that confidences are measured on.
CELL_PX = 8


@dataclass(frozen=True, slots=True)
class OutlineSettings:
    """What becomes a polygon: from which probability on, how exact, how large at least, with which holes.

    ``competing``: for each class whether it competes for pixels; one that does not takes none and loses none.
    """

    threshold: float
    tolerance_px0: float
    min_area_px0: float
    min_hole_px0: float
    competing: tuple[bool, ...] = (True,)


@dataclass(frozen=True, slots=True)
class ClassPrediction:
    """What a model draws of one class on a slide: polygons, largest first, and the map to measure confidence on."""

    polygons: list[Polygon]
    probability: SlideMap


def model_canvas(slide: Slide, *, mpp: float, window_px: int, mpp_slide: float) -> StripInference:
    """How a model's windows of ``window_px`` pixels at ``mpp`` cover a slide of ``mpp_slide``."""
    downsample = mpp / mpp_slide
    return StripInference(
        width_px=math.ceil(slide.width_px0 / downsample - 1e-6),
        height_px=math.ceil(slide.height_px0 / downsample - 1e-6),
        window_px=window_px,
        downsample=downsample,
    )


def predict_slide(
    slide: Slide,
    tissue: TissueMask,
    infer: Infer,
    canvas: StripInference,
    settings: OutlineSettings,
    *,
    counter: WindowCounter,
) -> list[ClassPrediction]:
    """For each class what the model draws on a slide.

    Args:
        slide: The open slide.
        tissue: Its tissue.
        infer: The model's probability of each class, for windows uint8 [B, S, S, 3].
        canvas: How the windows cover the slide.
        settings: What becomes a polygon.
        counter: Counts the windows.

    Raises:
        SlideError: The slide cannot be read at all.
    """
    strips = infer_strips(slide, tissue, infer, canvas, channels=len(settings.competing), counter=counter)
    return outline(strips, settings, downsample=canvas.downsample)


def outline(
    strips: Iterable[NDArray[np.float32]],
    settings: OutlineSettings,
    *,
    downsample: float,
    band_rows: int = BAND_ROWS,
) -> list[ClassPrediction]:
    """For each class one polygon with holes per connected component, largest first.

    A pixel belongs to a class where its probability reaches the threshold and no other competing class has a higher
    one.

    Args:
        strips: The canvas from the top, float32 [C, rows, width].
        settings: What becomes a polygon.
        downsample: Level-0 pixels per pixel of the canvas.
        band_rows: Rows outlined at a time, a multiple of 8; it does not change the result.
    """
    tracers = [_BandTracer(downsample) for _ in settings.competing]
    for band in _bands(strips, rows=band_rows):
        masks = _class_masks(band, settings)
        for tracer, probability, mask in zip(tracers, band, masks, strict=True):
            tracer.add(probability, mask)
    return [tracer.prediction(settings) for tracer in tracers]


def _class_masks(band: NDArray[np.float32], settings: OutlineSettings) -> NDArray[np.bool_]:
    """Which pixels belong to each class, bool [C, rows, width], from their probabilities."""
    masks = band >= settings.threshold
    classes = np.flatnonzero(settings.competing)
    if len(classes) > 1:
        masks[classes] &= classes[np.argmax(band[classes], axis=0)] == classes[:, None, None]
    return masks


class _BandTracer:
    """Outlines one class band by band."""

    def __init__(self, downsample: float) -> None:
        self.downsample = downsample
        self.pieces: list[Polygon] = []
        self.coarse: list[NDArray[np.float32]] = []
        self.top = 0
        self.above: NDArray[np.bool_] | None = None

    def add(self, probability: NDArray[np.float32], mask: NDArray[np.bool_]) -> None:
        """The next rows: probabilities float32 [rows, width], and which pixels belong to the class."""
        self.coarse.append(mean_of_cells(probability))
        # Two rows of the band above are outlined again: outlines cut corners by half a pixel, and the union fills them.
        joined = mask if self.above is None else np.concatenate([self.above, mask])
        first_row = self.top - (0 if self.above is None else len(self.above))
        self.pieces += mask_polygons(
            joined,
            origin_px0=(0.0, first_row * self.downsample),
            downsample=self.downsample,
            tolerance_px0=0.0,
            min_area_px0=0.0,
        )
        self.top, self.above = self.top + len(mask), mask[-2:]

    def prediction(self, settings: OutlineSettings) -> ClassPrediction:
        """The whole polygons, largest first, and the pooled probabilities."""
        polygons = [
            part
            for piece in _joined(self.pieces)
            for part in _finished(piece, settings)
            if part.area >= max(settings.min_area_px0, 1e-9)
        ]
        polygons.sort(key=lambda polygon: -polygon.area)
        probability = SlideMap(np.concatenate(self.coarse), self.downsample * CELL_PX)
        return ClassPrediction(polygons, probability)


def _bands(strips: Iterable[NDArray[np.float32]], *, rows: int) -> Iterator[NDArray[np.float32]]:
    """The same canvas in bands of ``rows`` rows; the last band has the rest."""
    waiting: list[NDArray[np.float32]] = []
    for strip in strips:
        waiting.append(strip)
        while sum(part.shape[1] for part in waiting) >= rows:
            canvas = np.concatenate(waiting, axis=1)
            yield canvas[:, :rows]
            waiting = [canvas[:, rows:]]
    if sum(part.shape[1] for part in waiting):
        yield np.concatenate(waiting, axis=1)


def mean_of_cells(band: NDArray[np.float32]) -> NDArray[np.float32]:
    """Means of 8 x 8 pixels, float32 [rows / 8, width / 8], rounded up; the last ones of what there is."""
    height, width = band.shape
    padded = np.pad(band, ((0, -height % CELL_PX), (0, -width % CELL_PX)), mode="edge")
    cells = padded.reshape(padded.shape[0] // CELL_PX, CELL_PX, padded.shape[1] // CELL_PX, CELL_PX)
    means: NDArray[np.float32] = cells.mean(axis=(1, 3), dtype=np.float32)
    return means


def _joined(pieces: list[Polygon]) -> list[Polygon]:
    """The pieces, overlapping ones as one polygon; only pieces at the seams of bands overlap."""
    if not pieces:
        return []
    tree = STRtree(pieces)
    first, second = tree.query(pieces, predicate="intersects")
    at_seam = np.zeros(len(pieces), bool)
    at_seam[first[first != second]] = True
    separate = [piece for piece, seam in zip(pieces, at_seam, strict=True) if not seam]
    return separate + polygonal(shapely.union_all([piece for piece, seam in zip(pieces, at_seam, strict=True) if seam]))


def _finished(polygon: Polygon, settings: OutlineSettings) -> list[Polygon]:
    """The polygon without small holes, simplified, on QuPath's grid; in parts where it has too many vertices."""
    holes = [ring for ring in polygon.interiors if Polygon(ring).area >= settings.min_hole_px0]
    parts = simplify(Polygon(polygon.exterior, holes), tolerance_px0=settings.tolerance_px0)
    return [piece for part in parts for piece in polygonal(shapely.set_precision(part, GRID_PX0))]
