"""Open slides, with their micrometres per pixel and the source of them, and read any region at any exact scale.

Coordinates are QuPath's: level-0 pixels, (x, y), with the origin at the corner of OpenSlide's *bounds* unless the image
was added without cropping. For an image that QuPath derives from a slide (rotated, cropped ...), they are those of that
image. Every exception of OpenSlide leaves this module as a SlideError.
"""

import logging
import math
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import openslide
from numpy.typing import NDArray
from PIL import Image, ImageFile, JpegImagePlugin, PngImagePlugin

from wsplf_cli.errors import SlideError
from wsplf_cli.schema import Step
from wsplf_cli.slides import properties
from wsplf_cli.slides import transforms as views
from wsplf_cli.slides.file_format import (
    PICTURE_ERRORS,
    PICTURES,
    colour_error,
    conversion,
    damaged_picture,
    damaged_pixels,
    picture_kind,
    unreadable,
)

log = logging.getLogger(__name__)

#: Largest area read from one level at once. Larger requests are split, so that memory stays bounded.
MAX_READ_PX = 1 << 24
#: Plain images are held in memory whole, up to a size; a larger image should be a pyramid.
MAX_PICTURE_PX = 1 << 26
#: Side of the square that shows whether a slide is transparent.
TRIAL_PX = 256
#: Size of the tile cache that all open slides of a process share.
CACHE_BYTES = 64 << 20
#: Slides that stay open in a process.
MAX_OPEN_SLIDES = 4


@dataclass(frozen=True, slots=True)
class Level:
    """One level of the pyramid. ``downsample`` (x, y) is the exact ratio of level 0 to its size, per axis."""

    width_px: int
    height_px: int
    downsample: tuple[float, float]


class Slide:
    """An open slide. Use ``open_slide(...)`` in a ``with`` statement, or ``slide_of(...)`` for a shared slide.

    Several threads may read at the same time.

    ``width_px0``, ``height_px0``, ``mpp`` and all pixels are those of the image that ``steps`` make of the slide.
    ``mpp`` is the mean of ``view_mpp_xy``, the micrometres per pixel along x and y (see ``properties.mean_mpp``).
    ``shown`` is which part of the file that image is, and after which steps.
    ``levels``, ``mpp_xy``, ``magnification``, ``tile_px``, ``scan_id`` and ``vendor`` are those of the slide's file.
    """

    def __init__(self, path: Path, *, crop_to_bounds: bool = True, steps: Sequence[Step] = ()) -> None:
        self.path = path
        self.shown = (crop_to_bounds, tuple(steps))
        self._lock = threading.Lock()
        self._handle = _open_handle(path)
        file_properties = self._handle.properties
        full_width, full_height = self._handle.dimensions
        bounds = (0, 0, full_width, full_height)
        if crop_to_bounds:
            bounds = properties.bounds(file_properties, full_width, full_height)
        self._left, self._top, self._width_px0, self._height_px0 = bounds
        self.levels = tuple(
            Level(width, height, (full_width / width, full_height / height))
            for width, height in self._handle.level_dimensions
        )
        self._openslide_ratios = self._handle.level_downsamples
        self._view = views.view_of(steps, bounds[2:]) if steps else None
        view = self._view or views.View(*bounds[2:])
        self.width_px0, self.height_px0 = view.width_px0, view.height_px0
        self.mpp_xy, self.mpp_source = properties.mpp_xy(file_properties)
        self.mpp = None if self.mpp_xy is None else properties.mean_mpp(self.mpp_xy) * view.scale
        self.view_mpp_xy = None if self.mpp_xy is None else view.mpp_xy(self.mpp_xy)
        self.magnification = properties.magnification(file_properties)
        self.tile_px = properties.tile_px(file_properties)
        self.scan_id = properties.scan_id(file_properties)
        self.vendor = file_properties.get(openslide.PROPERTY_NAME_VENDOR, "")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def from_file(self, xy_px0: NDArray[np.float64]) -> NDArray[np.float64]:
        """Points of this image, [N, 2], from points of the file's uncropped level 0, which other programs use."""
        a, b, c, d, e, f = self._view.slide_from_view if self._view else views.IDENTITY
        offset = xy_px0 - (self._left + c, self._top + f)
        points: NDArray[np.float64] = offset @ np.linalg.inv([[a, b], [d, e]]).T
        return points

    def close(self) -> None:
        """Close the file. The slide cannot be read afterwards."""
        self._handle.close()

    def read(self, x_px0: float, y_px0: float, *, size_px: tuple[int, int], downsample: float) -> NDArray[np.uint8]:
        """The region whose top-left corner lies at (x, y), as an RGB image.

        Scale and location are exact: the best level is read and resampled from its sub-pixel location, so that
        neighbouring regions fit without drift.

        Args:
            x_px0: Left edge; may lie outside the slide.
            y_px0: Top edge; may lie outside the slide.
            size_px: (width, height) of the result.
            downsample: Level-0 pixels per pixel of the result; any positive number, below 1 to enlarge.

        Returns:
            uint8 [height, width, 3], white outside the slide and where the slide has no pixels.

        Raises:
            SlideError: The slide's data is damaged there. Other regions may still be read.
        """
        if self._view is None:
            return self._read_untransformed(x_px0, y_px0, size_px=size_px, downsample=downsample)
        return views.read(self._view, self._read_untransformed, (x_px0, y_px0), size_px=size_px, downsample=downsample)

    def thumbnail(self, max_px: int) -> tuple[NDArray[np.uint8], float]:
        """The whole slide, uint8 [h, w, 3] with a longer side of at most ``max_px``, and its downsample."""
        downsample = max(self.width_px0, self.height_px0) / max_px
        size_px = (max(1, round(self.width_px0 / downsample)), max(1, round(self.height_px0 / downsample)))
        return self.read(0, 0, size_px=size_px, downsample=downsample), downsample

    def is_transparent(self) -> bool:
        """Whether no pixel at the centre of the slide is opaque; ``read`` shows such pixels white."""
        sides_px = [(self._left, self._width_px0), (self._top, self._height_px0)]
        corner = [start + max(0, length - TRIAL_PX) // 2 for start, length in sides_px]
        pixels = self._read_level((corner[0], corner[1]), 0, (TRIAL_PX, TRIAL_PX))
        return bool(pixels.getchannel("A").getextrema()[1] == 0)

    def _read_untransformed(
        self, x_px0: float, y_px0: float, *, size_px: tuple[int, int], downsample: float
    ) -> NDArray[np.uint8]:
        """``read`` in the slide's own coordinates, without ``steps``."""
        level = self._level_for(downsample)
        scale_x, scale_y = (downsample / ratio for ratio in self.levels[level].downsample)
        width, height = size_px
        if width * scale_x * height * scale_y > MAX_READ_PX and max(size_px) > 1:
            axis = 1 if width * scale_x >= height * scale_y and width > 1 else 0
            return self._read_halves(x_px0, y_px0, size_px=size_px, downsample=downsample, axis=axis)
        return self._read_at(level, (x_px0, y_px0), size_px=size_px, scale=(scale_x, scale_y))

    def _read_halves(
        self, x_px0: float, y_px0: float, *, size_px: tuple[int, int], downsample: float, axis: int
    ) -> NDArray[np.uint8]:
        """``_read_untransformed`` in two parts, side by side (axis 1) or one above the other (axis 0)."""
        width, height = size_px
        half = (width if axis == 1 else height) // 2
        first_px, second_px = (
            ((half, height), (width - half, height)) if axis else ((width, half), (width, height - half))
        )
        second_x, second_y = (x_px0 + half * downsample, y_px0) if axis else (x_px0, y_px0 + half * downsample)
        first = self._read_untransformed(x_px0, y_px0, size_px=first_px, downsample=downsample)
        second = self._read_untransformed(second_x, second_y, size_px=second_px, downsample=downsample)
        return np.concatenate([first, second], axis=axis)

    def _level_for(self, downsample: float) -> int:
        """The coarsest level that is at least as fine as ``downsample`` (with 0.1 % of slack for odd level sizes)."""
        fine = [index for index, level in enumerate(self.levels) if max(level.downsample) <= downsample * 1.001]
        return max(fine, key=lambda index: max(self.levels[index].downsample), default=0)

    def _read_at(
        self, level: int, corner_px0: tuple[float, float], *, size_px: tuple[int, int], scale: tuple[float, float]
    ) -> NDArray[np.uint8]:
        """Read ``size_px`` result pixels of ``scale`` level pixels each from one level."""
        ratio_x, ratio_y = self.levels[level].downsample
        openslide_ratio = self._openslide_ratios[level]
        x_px0, y_px0 = corner_px0
        across = _Span.plan(
            x_px0,
            size_px[0],
            scale[0],
            ratio=ratio_x,
            bounds=(self._left, self._width_px0),
            openslide_ratio=openslide_ratio,
        )
        down = _Span.plan(
            y_px0,
            size_px[1],
            scale[1],
            ratio=ratio_y,
            bounds=(self._top, self._height_px0),
            openslide_ratio=openslide_ratio,
        )
        canvas = Image.new("RGB", (across.canvas_px, down.canvas_px), (255, 255, 255))
        if across.read_px > 0 and down.read_px > 0:
            location = (across.location_px0, down.location_px0)
            pixels = self._read_level(location, level, (across.read_px, down.read_px))
            canvas.paste(pixels.convert("RGB"), (across.paste_px, down.paste_px), mask=pixels.getchannel("A"))
        box = (across.box[0], down.box[0], across.box[1], down.box[1])
        if scale == (1.0, 1.0) and box[0].is_integer() and box[1].is_integer():
            return np.array(canvas.crop(box))
        return np.array(canvas.resize(size_px, Image.Resampling.BILINEAR, box=box))

    def _read_level(self, location: tuple[int, int], level: int, size_px: tuple[int, int]) -> Image.Image:
        """RGBA pixels of one level.

        After an error OpenSlide refuses every read of a handle, also those of other threads. So the slide is opened
        again, and the region is read from a handle that no other thread uses: it alone tells what is damaged.
        """
        handle = self._handle
        try:
            return handle.read_region(location, level, size_px)
        except openslide.OpenSlideError as error:
            log.info("%s: %s", self.path, error)
        with self._lock:
            if self._handle is handle:
                self._handle = _open_handle(self.path)  # the old one is closed when no thread uses it any more
        with _open_handle(self.path) as alone:
            try:
                return alone.read_region(location, level, size_px)
            except openslide.OpenSlideError as error:
                where = f"near x {location[0]}, y {location[1]}, level {level}"
                raise damaged_pixels(self.path, where) from error


@dataclass(frozen=True, slots=True)
class _Span:
    """One axis of a read: the level pixels to fetch, where to paste them, and the part of the canvas to resample."""

    location_px0: int
    read_px: int
    paste_px: int
    canvas_px: int
    box: tuple[float, float]

    @classmethod
    def plan(
        cls,
        start_px0: float,
        count: int,
        step: float,
        *,
        ratio: float,
        bounds: tuple[int, int],
        openslide_ratio: float,
    ) -> Self:
        """The span of ``count`` result pixels of ``step`` level pixels each, from ``start_px0`` on.

        ``ratio`` is the exact downsample of the level along this axis. ``bounds`` are the start and the length of the
        slide's bounds in level-0 pixels. OpenSlide reads a region at ``location / openslide_ratio`` level
        pixels, with one ratio for both axes and whole-number locations. ``box`` corrects the shift of that rounding.
        """
        offset, length = bounds
        first = (start_px0 + offset) / ratio
        edge_start, edge_end = math.floor(offset / ratio), math.ceil((offset + length) / ratio)
        # the resampling filter needs a margin around the box, but not beyond the slide: its edge would turn pale
        margin = 0 if step == 1 and first.is_integer() else math.ceil(step) + 1
        box_start, box_end = math.floor(first), math.ceil(first + count * step - 1e-6)
        canvas_start = min(box_start, max(box_start - margin, edge_start))
        canvas_end = max(box_end, min(box_end + margin, edge_end))
        read_start, read_end = max(canvas_start, edge_start), min(canvas_end, edge_end)
        location = round(read_start * openslide_ratio)
        drift = location / openslide_ratio - read_start
        if abs(drift) < 1e-6:
            drift = 0.0
        begin = max(first - canvas_start - drift, 0.0)
        return cls(
            location_px0=location,
            read_px=read_end - read_start,
            paste_px=read_start - canvas_start,
            canvas_px=canvas_end - canvas_start,
            box=(begin, min(begin + count * step, float(canvas_end - canvas_start))),
        )


def open_slide(path: Path, *, crop_to_bounds: bool = True, steps: Sequence[Step] = ()) -> Slide:
    """Open a slide for use in a ``with`` statement.

    Args:
        path: Any file that OpenSlide reads, or a PNG or JPEG image.
        crop_to_bounds: Put the origin at the corner of the scanned bounds, as QuPath does by default.
        steps: The steps by which QuPath derives the image from the slide, from the slide outward.

    Raises:
        SlideError: The file is missing, is not a slide, or is damaged.
    """
    return Slide(path, crop_to_bounds=crop_to_bounds, steps=steps)


def measure(path: Path, *, crop_to_bounds: bool) -> tuple[int, int] | None:
    """Width and height of a slide at level 0, or None where the file is not a slide."""
    try:
        with open_slide(path, crop_to_bounds=crop_to_bounds) as slide:
            return slide.width_px0, slide.height_px0
    except SlideError:
        return None


_shared: OrderedDict[tuple[Path, bool, tuple[Step, ...]], Slide] = OrderedDict()
_caches: dict[int, openslide.OpenSlideCache] = {}
_inherited: list[Slide] = []
_owner = [os.getpid()]


def slide_for(path: Path, *, crop_to_bounds: bool = True, steps: tuple[Step, ...] = ()) -> Slide:
    """A shared open slide of this process. Do not close it.

    The slides used last stay open and share one bounded tile cache. Safe after a fork: a child never uses the handles
    of its parent, it opens its own.

    Raises:
        SlideError: As in ``open_slide``.
    """
    if _owner[0] != os.getpid():
        _inherited.extend(_shared.values())  # kept, so that the child does not close the slides of the parent
        _shared.clear()
        _owner[0] = os.getpid()
    key = (path, crop_to_bounds, steps)
    slide = _shared.pop(key, None) or Slide(path, crop_to_bounds=crop_to_bounds, steps=steps)
    _shared[key] = slide
    while len(_shared) > MAX_OPEN_SLIDES:
        _shared.popitem(last=False)  # closed when nothing uses it any more
    return slide


def _open_handle(path: Path) -> openslide.AbstractSlide:
    """OpenSlide's handle of a file, with the shared cache.

    Raises:
        SlideError: As in ``open_slide``.
    """
    if not path.is_file():
        raise SlideError(f"slide not found: {path}", hint="name its folder with --slides DIR")
    try:
        handle = _picture(path) or openslide.OpenSlide(path)
    except openslide.OpenSlideError as error:
        log.info("%s: %s", path, error)
        raise unreadable(path) from error
    if os.getpid() not in _caches:
        _caches[os.getpid()] = openslide.OpenSlideCache(CACHE_BYTES)
    if isinstance(handle, openslide.OpenSlide):
        handle.set_cache(_caches[os.getpid()])
    return handle


def _picture(path: Path) -> openslide.ImageSlide | None:
    """A PNG or JPEG file as a slide of one level, held in memory, or None for other files.

    Raises:
        SlideError: The image is damaged, too large, or its pixels are not of 8 bits.
    """
    if path.suffix.lower() not in PICTURES:
        return None
    with open_picture(path) as picture:
        if picture.width * picture.height > MAX_PICTURE_PX:
            raise SlideError(
                f"{path.name}: a flat picture of {picture.width} x {picture.height} pixels, too large to be read whole"
                f" (at most {MAX_PICTURE_PX / 1e6:.0f} million)",
                hint=conversion(path, "flatten" if picture.has_transparency_data else "copy"),
            )
        if picture.mode not in {"1", "L", "LA", "P", "RGB", "RGBA"}:
            raise colour_error(path, picture_kind(picture))
        try:
            return openslide.ImageSlide(picture.convert("RGBA" if picture.has_transparency_data else "RGB"))
        except PICTURE_ERRORS as error:
            log.info("%s: %s", path, error)
            raise damaged_picture(path) from error


def open_picture(path: Path) -> ImageFile.ImageFile:
    """A PNG or JPEG file, its pixels not yet read, of any size: Pillow's own classes of the formats have no limit.

    Raises:
        SlideError: The file is none of these, or damaged.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(8)
        if head.startswith(b"\x89PNG"):
            return PngImagePlugin.PngImageFile(path)
        if head.startswith(b"\xff\xd8"):
            return JpegImagePlugin.JpegImageFile(path)
    except PermissionError as error:
        raise unreadable(path) from error
    except PICTURE_ERRORS as error:
        log.info("%s: %s", path, error)
        raise damaged_picture(path) from error
    raise unreadable(path)
