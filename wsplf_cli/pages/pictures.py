"""The pictures of a slide in a page: a thumbnail, the CAM as a layer over it, and outlines as paths."""

import base64
import io
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import shapely
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from shapely import Polygon
from shapely.geometry.base import BaseGeometry

from wsplf_cli.geometry import polygonal
from wsplf_cli.schema import Annotation, Origin
from wsplf_cli.slides.open import Slide

log = logging.getLogger(__name__)

JPEG_QUALITY = 82
#: Grey value of a CAM image at the decision threshold.
CAM_THRESHOLD = 128
#: Colours of a CAM value: (value, red, green, blue, alpha). Blue below the threshold, orange to yellow above it.
CAM_COLOURS = np.array(
    [
        (0, 0, 90, 160, 0),
        (CAM_THRESHOLD * 0.25, 0, 90, 160, 0),
        (CAM_THRESHOLD - 1, 0, 90, 160, 110),
        (CAM_THRESHOLD, 230, 130, 0, 120),
        (255, 250, 225, 30, 190),
    ]
)


@dataclass(frozen=True, slots=True)
class Pictures:
    """The pictures of one slide, all in a frame of ``width_px`` x ``height_px``.

    ``thumbnail`` and ``cams`` (by class) are data URLs. ``outlines`` has the data of an SVG path for each origin and
    class with annotations to show. The class is empty where the project has only one. ``ink`` is the SVG path of the
    marker ink, empty where there is none.
    """

    width_px: int
    height_px: int
    thumbnail: str
    cams: Mapping[str, str] = field(default_factory=dict)
    outlines: Mapping[tuple[Origin, str], str] = field(default_factory=dict)
    ink: str = ""


def draw_pictures(
    slide: Slide,
    annotations: Mapping[tuple[Origin, str], Sequence[Annotation]],
    *,
    cams: Mapping[str, Path],
    ink: Sequence[Polygon] = (),
    max_px: int,
) -> Pictures:
    """The thumbnail, CAMs and outlines of a slide.

    Args:
        slide: An open slide.
        annotations: The annotations to outline, by origin and class.
        cams: The CAM of each class as an 8-bit grey PNG over the whole entry.
        ink: Where marker ink lies.
        max_px: Longer side of the thumbnail.

    Raises:
        SlideError: the slide's image data is damaged.
    """
    pixels, downsample = slide.thumbnail(max_px)
    outlines = {
        key: outline_path([annotation.shape for annotation in group], downsample=downsample)
        for key, group in annotations.items()
    }
    size_px = (pixels.shape[1], pixels.shape[0])
    layers = {name: cam_layer(path, size_px=size_px) for name, path in cams.items()}
    return Pictures(
        width_px=pixels.shape[1],
        height_px=pixels.shape[0],
        thumbnail=data_url(Image.fromarray(pixels), "JPEG"),
        cams={name: layer for name, layer in layers.items() if layer},
        outlines={key: path for key, path in outlines.items() if path},
        ink=outline_path(ink, downsample=downsample),
    )


def cam_layer(path: Path, *, size_px: tuple[int, int]) -> str:
    """A CAM image as a coloured, transparent layer of at most ``size_px``; empty, and logged, if it is unreadable."""
    try:
        with Image.open(path) as image:
            values = image.convert("L")
    except (OSError, UnidentifiedImageError) as error:
        log.warning("CAM left out of the page: %s: %s", path, error)
        return ""
    values.thumbnail(size_px, Image.Resampling.BOX)
    return data_url(Image.fromarray(colour_cam(np.asarray(values)), "RGBA"), "PNG")


def window_picture(slide: Slide, corner_px0: tuple[float, float], window_px0: float, *, side_px: int) -> str:
    """A square window of a slide as a JPEG data URL of ``side_px`` pixels.

    Raises:
        SlideError: the slide's image data is damaged.
    """
    pixels = slide.read(*corner_px0, size_px=(side_px, side_px), downsample=window_px0 / side_px)
    return data_url(Image.fromarray(pixels), "JPEG")


def map_layer(values: NDArray[np.uint8], *, cells: tuple[float, float, float, float], side_px: int) -> str:
    """A square part of a map as a coloured, transparent layer, clear outside the map.

    Args:
        values: The map uint8 [rows, columns], ``CAM_THRESHOLD`` at the decision threshold.
        cells: Left, top, right and bottom of the part, in cells.
        side_px: Side of the layer.
    """
    part = Image.fromarray(values).transform(
        (side_px, side_px), Image.Transform.EXTENT, cells, resample=Image.Resampling.BILINEAR
    )
    return data_url(Image.fromarray(colour_cam(np.asarray(part)), "RGBA"), "PNG")


def outline_path(shapes: Sequence[BaseGeometry], *, downsample: float) -> str:
    """The outlines of shapes, with holes, as the data of one SVG path in thumbnail pixels with one decimal."""
    rings: list[str] = []
    for shape in shapes:
        for polygon in polygonal(shape):
            for part in polygonal(shapely.simplify(polygon, 0.4 * downsample)):
                rings += [
                    _ring(shapely.get_coordinates(ring) / downsample) for ring in (part.exterior, *part.interiors)
                ]
    return "".join(rings)


def _ring(xy: NDArray[np.float64]) -> str:
    """A closed ring of an SVG path, for points [N, 2]."""
    points = [f"{x:.1f} {y:.1f}" for x, y in xy[:-1]]
    return "M" + "L".join(dict.fromkeys(points)) + "Z"


def colour_cam(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """RGBA uint8 [H, W, 4] of CAM values uint8 [H, W]."""
    values_of_colours, colours = CAM_COLOURS[:, 0], CAM_COLOURS[:, 1:]
    table = np.stack([np.interp(np.arange(256), values_of_colours, channel) for channel in colours.T], axis=1)
    coloured: NDArray[np.uint8] = np.round(table).astype(np.uint8)[values]
    return coloured


def jpeg_base64(pixels: NDArray[np.uint8], *, quality: int) -> str:
    """RGB pixels [H, W, 3] as a JPEG file in base64."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality, optimize=True)
    return base64.b64encode(stream.getvalue()).decode("ascii")


def data_url(image: Image.Image, kind: str) -> str:
    """An image as a data URL."""
    stream = io.BytesIO()
    options = {"quality": JPEG_QUALITY} if kind == "JPEG" else {"optimize": True}
    image.save(stream, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"
