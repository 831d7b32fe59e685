"""The pictures of a polygon: its tissue at two scales, with its outline, the map that it came from, and SAM's masks."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from scipy import ndimage
from shapely.affinity import affine_transform, translate
from shapely.geometry.base import BaseGeometry

from wsplf_cli.errors import ProjectError
from wsplf_cli.explain.prediction import ProbabilityMap
from wsplf_cli.geometry import rasterise
from wsplf_cli.pages.pictures import CAM_THRESHOLD, map_layer, outline_path, window_picture
from wsplf_cli.schema import Annotation, PromptedMask
from wsplf_cli.slides.map import SlideMap
from wsplf_cli.slides.open import Slide

#: The close view is this much wider than the polygon; the other shows its surroundings; both at least so wide.
CLOSE_FACTOR, CLOSE_UM = 1.5, 200.0
CONTEXT_FACTOR, CONTEXT_UM = 6.0, 1500.0
#: Sides of the pictures in pixels, with up to so many polygons on a page and with more.
SIDE_PX, FULL_SIZE_POLYGONS, SMALL_SIDE_PX = 560, 10, 360
#: Side of the thumbnail of an instance in pixels, and of the tissue that it shows in micrometres.
INSTANCE_PX, INSTANCE_UM = 160, 224.0


@dataclass(frozen=True, slots=True)
class MaskDrawing:
    """One of SAM's masks in pixels of the close view, with its positive and negative points and its box."""

    outline: str
    used: bool
    inside: tuple[tuple[float, float], ...]
    outside: tuple[tuple[float, float], ...]
    box: tuple[float, float, float, float] | None


@dataclass(frozen=True, slots=True)
class Views:
    """The pictures of a polygon, all squares of ``side_px``: data URLs and data of SVG paths.

    ``layer`` is the CAM, or the probability map, over the close view; empty where there is none. ``peak`` is the marked
    point in the close view.
    """

    side_px: int
    close: str
    close_outline: str
    close_um: float
    context: str
    context_outline: str
    context_um: float
    layer: str = ""
    masks: tuple[MaskDrawing, ...] = field(default_factory=tuple)
    peak: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class MapOfSlide:
    """A map as it is shown: uint8 [rows, columns], ``CAM_THRESHOLD`` at the decision threshold, and its scale."""

    values: NDArray[np.uint8]
    downsample: tuple[float, float]
    origin_px0: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True, slots=True)
class ViewContent:
    """What is drawn over the tissue: a map where there is one, SAM's masks, and the marked point."""

    shown: MapOfSlide | None
    masks: Sequence[PromptedMask]
    peak_px0: tuple[float, float]


def read_cam(path: Path, slide: Slide) -> MapOfSlide:
    """The CAM of a slide.

    Raises:
        ProjectError: The file is no picture.
    """
    try:
        with Image.open(path) as image:
            values = np.asarray(image.convert("L"))
    except (OSError, UnidentifiedImageError) as error:
        raise ProjectError(f"{path} is no CAM: {error}", hint="delete the file") from error
    rows, columns = values.shape
    return MapOfSlide(values, (slide.width_px0 / columns, slide.height_px0 / rows))


def shown_probabilities(probabilities: ProbabilityMap, threshold: float) -> MapOfSlide:
    """Probabilities so that the threshold has the grey value of a decision threshold."""
    values = probabilities.values.values
    below = values / max(threshold, 1e-6) * CAM_THRESHOLD
    above = CAM_THRESHOLD + (values - threshold) / max(1 - threshold, 1e-6) * (255 - CAM_THRESHOLD)
    grey = np.where(values >= threshold, above, np.minimum(below, CAM_THRESHOLD - 1)).clip(0, 255).astype(np.uint8)
    downsample = probabilities.values.downsample
    return MapOfSlide(grey, (downsample, downsample), probabilities.origin_px0)


def peak_of(shape: BaseGeometry, shown: MapOfSlide | None) -> tuple[tuple[float, float], float | None]:
    """The point of a polygon where a map is highest, the deepest of several, and its value 0..1 (0.5: threshold).

    Without a map, or where no cell's centre lies inside, a point in the polygon and None.
    """
    inner = shape.representative_point()
    if shown is None:
        return (inner.x, inner.y), None
    (across, down), (origin_x, origin_y) = shown.downsample, shown.origin_px0
    scaled = _in_cells(shape, shown)
    left, top = (max(0, int(start)) for start in scaled.bounds[:2])
    right, bottom = (int(np.ceil(end)) + 1 for end in scaled.bounds[2:])
    values = shown.values[top:bottom, left:right]
    if not values.size:
        return (inner.x, inner.y), None
    inside = rasterise([scaled], origin_px0=(left, top), downsample=1.0, size_px=(values.shape[1], values.shape[0]))
    if not inside.any():
        return (inner.x, inner.y), None
    depth = ndimage.distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1]
    highest = values[inside].max()
    row, column = np.unravel_index(int(np.argmax(depth * (inside & (values == highest)))), inside.shape)
    centre = (origin_x + (left + int(column) + 0.5) * across, origin_y + (top + int(row) + 0.5) * down)
    return centre, float(highest) / 255


def values_inside(shape: BaseGeometry, probabilities: ProbabilityMap) -> NDArray[np.float32]:
    """The probabilities whose pixel centres lie in a shape, float32 [N]."""
    values: SlideMap = probabilities.values
    rows, columns = values.values.shape
    inside = rasterise(
        [shape], origin_px0=probabilities.origin_px0, downsample=values.downsample, size_px=(columns, rows)
    )
    chosen: NDArray[np.float32] = values.values[inside]
    return chosen


def side_px(polygons: int) -> int:
    """The side of the pictures on a page of so many polygons."""
    return SIDE_PX if polygons <= FULL_SIZE_POLYGONS else SMALL_SIDE_PX


def draw_views(
    slide: Slide,
    annotation: Annotation,
    content: "ViewContent",
    *,
    mpp: float,
    side: int,
) -> Views:
    """The pictures of a polygon, squares of ``side`` pixels.

    Raises:
        SlideError: The slide's image data is damaged.
    """
    shown, masks, peak_px0 = content.shown, content.masks, content.peak_px0
    left, top, right, bottom = annotation.shape.bounds
    centre = ((left + right) / 2, (top + bottom) / 2)
    extent_px0 = max(right - left, bottom - top, 1.0)
    close_px0 = max(CLOSE_FACTOR * extent_px0, CLOSE_UM / mpp)
    context_px0 = max(CONTEXT_FACTOR * extent_px0, CONTEXT_UM / mpp)
    corners = [(centre[0] - window / 2, centre[1] - window / 2) for window in (close_px0, context_px0)]
    close, context = (
        window_picture(slide, corner, window, side_px=side)
        for corner, window in zip(corners, (close_px0, context_px0), strict=True)
    )
    scale = close_px0 / side
    return Views(
        side_px=side,
        close=close,
        close_outline=_outline(annotation.shape, corners[0], scale),
        close_um=close_px0 * mpp,
        context=context,
        context_outline=_outline(annotation.shape, corners[1], context_px0 / side),
        context_um=context_px0 * mpp,
        layer="" if shown is None else _layer(shown, corners[0], close_px0, side_px=side),
        masks=tuple(_drawing(mask, corners[0], scale) for mask in masks),
        peak=((peak_px0[0] - corners[0][0]) / scale, (peak_px0[1] - corners[0][1]) / scale),
    )


def instance_picture(slide: Slide, centre_px0: tuple[float, float], *, mpp: float) -> str:
    """The tissue around an instance as a data URL.

    Raises:
        SlideError: The slide's image data is damaged.
    """
    window_px0 = INSTANCE_UM / mpp
    corner = (centre_px0[0] - window_px0 / 2, centre_px0[1] - window_px0 / 2)
    return window_picture(slide, corner, window_px0, side_px=INSTANCE_PX)


def _in_cells(shape: BaseGeometry, shown: MapOfSlide) -> BaseGeometry:
    across, down = shown.downsample
    x, y = shown.origin_px0
    return affine_transform(shape, [1 / across, 0, 0, 1 / down, -x / across, -y / down])


def _layer(shown: MapOfSlide, corner_px0: tuple[float, float], window_px0: float, *, side_px: int) -> str:
    (across, down), (x, y) = shown.downsample, shown.origin_px0
    left, top = (corner_px0[0] - x) / across, (corner_px0[1] - y) / down
    cells = (left, top, left + window_px0 / across, top + window_px0 / down)
    return map_layer(shown.values, cells=cells, side_px=side_px)


def _outline(shape: BaseGeometry, corner_px0: tuple[float, float], downsample: float) -> str:
    """The outline of a shape as the data of an SVG path in pixels of a picture."""
    return outline_path([translate(shape, -corner_px0[0], -corner_px0[1])], downsample=downsample)


def _drawing(mask: PromptedMask, corner_px0: tuple[float, float], downsample: float) -> MaskDrawing:
    corner = np.array(corner_px0)
    points = (mask.points_px0 - corner) / downsample
    inside, outside = (tuple((float(x), float(y)) for x, y in points[mask.point_labels == label]) for label in (1, 0))
    box = None
    if mask.box_px0 is not None:
        left, top, right, bottom = ((mask.box_px0 - np.tile(corner, 2)) / downsample).tolist()
        box = (left, top, right - left, bottom - top)
    outline = _outline(mask.shape, corner_px0, downsample)
    return MaskDrawing(outline, mask.used, inside, outside, box)
