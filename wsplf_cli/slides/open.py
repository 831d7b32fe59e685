"""Open a slide, learn its micrometres per pixel and where they came from, read any region at any exact scale.

Coordinates are QuPath's: level-0 pixels, (x, y), with the origin at the corner of OpenSlide's *bounds* unless the image
was added without cropping; for an image that QuPath derives from a slide (turned, cropped ...), those of that image.
Every exception of OpenSlide leaves this module as a SlideError.
"""

import math
import os
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import openslide
from numpy.typing import NDArray
from PIL import Image

from wsplf_cli.errors import SlideError
from wsplf_cli.schema import Step
from wsplf_cli.slides import properties
from wsplf_cli.slides import transforms as views

#: Largest area read from one level at once; larger requests are split, so that memory stays bounded.
MAX_READ_PX = 1 << 24
#: Plain pictures are held in memory whole; larger ones are work for a pyramid.
PICTURES = {".png", ".jpg", ".jpeg"}
MAX_PICTURE_PX = 1 << 26
CACHE_BYTES = 64 << 20
OPEN_SLIDES = 4


@dataclass(frozen=True, slots=True)
class Level:
    """One level of the pyramid. ``downsample`` (x, y) is the exact ratio of its size to level 0, per axis."""

    width_px: int
    height_px: int
    downsample: tuple[float, float]


class Slide:
    """An open slide. Use ``open_slide(...)`` in a ``with`` statement, or ``slide_of(...)`` for a shared handle.

    ``width_px0``, ``height_px0``, ``mpp`` and all that is read are those of the image that ``steps`` make of the slide;
    ``levels``, ``mpp_xy``, ``magnification``, ``tile_px`` and ``scan_id`` are what the slide's file says.
    """

    def __init__(self, path: Path, *, crop_to_bounds: bool = True, steps: Sequence[Step] = ()) -> None:
        self.path = path
        self._handle = _open_handle(path)
        said = self._handle.properties
        full_width, full_height = self._handle.dimensions
        whole = (0, 0, full_width, full_height)
        bounds = properties.bounds(said, full_width, full_height) if crop_to_bounds else whole
        self._left, self._top, self._width_px0, self._height_px0 = bounds
        self.levels = tuple(
            Level(width, height, (full_width / width, full_height / height))
            for width, height in self._handle.level_dimensions
        )
        self._view = views.view_of(steps, bounds[2:]) if steps else None
        shown = self._view or views.View(*bounds[2:])
        self.width_px0, self.height_px0 = shown.width_px0, shown.height_px0
        self.mpp_xy, self.mpp_source = properties.mpp_xy(said)
        self.mpp = None if self.mpp_xy is None else math.sqrt(self.mpp_xy[0] * self.mpp_xy[1]) * shown.scale
        self.magnification = properties.magnification(said)
        self.tile_px = properties.tile_px(said)
        self.scan_id = properties.scan_id(said)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def from_file(self, xy_px0: NDArray[np.float64]) -> NDArray[np.float64]:
        """Points of the file's uncropped level 0, in which other programs count -> points of this image; [N, 2]."""
        a, b, c, d, e, f = self._view.slide_from_view if self._view else views.IDENTITY
        there = xy_px0 - (self._left + c, self._top + f)
        placed: NDArray[np.float64] = there @ np.linalg.inv([[a, b], [d, e]]).T
        return placed

    def close(self) -> None:
        """Release the file; the slide cannot be read afterwards."""
        self._handle.close()

    def read(self, x_px0: float, y_px0: float, *, size_px: tuple[int, int], downsample: float) -> NDArray[np.uint8]:
        """The region whose top-left corner lies at (x, y), ``downsample`` level-0 pixels per pixel of the result.

        The scale and the place are exact: the best level is read and resampled from its sub-pixel location, so
        neighbouring regions fit without drift. Any positive ``downsample`` will do; below 1 enlarges.

        Args:
            x_px0: left edge; may lie outside the slide.
            y_px0: top edge; may lie outside the slide.
            size_px: (width, height) of the result.
            downsample: level-0 pixels per result pixel.

        Returns:
            uint8 [height, width, 3], RGB; white outside the slide and where the slide has no pixels.

        Raises:
            SlideError: the slide's data is damaged there. Other regions may still be read.
        """
        if self._view is None:
            return self._read_own(x_px0, y_px0, size_px=size_px, downsample=downsample)
        return views.read(self._view, self._read_own, (x_px0, y_px0), size_px=size_px, downsample=downsample)

    def thumbnail(self, max_px: int) -> tuple[NDArray[np.uint8], float]:
        """The whole slide as uint8 [h, w, 3] with its longer side at most ``max_px``, and the downsample of it."""
        downsample = max(self.width_px0, self.height_px0) / max_px
        size_px = (max(1, round(self.width_px0 / downsample)), max(1, round(self.height_px0 / downsample)))
        return self.read(0, 0, size_px=size_px, downsample=downsample), downsample

    def _read_own(
        self, x_px0: float, y_px0: float, *, size_px: tuple[int, int], downsample: float
    ) -> NDArray[np.uint8]:
        """``read`` in the slide's own coordinates, without the steps."""
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
        """``_read_own`` in two parts, side by side (axis 1) or one above the other (axis 0)."""
        width, height = size_px
        half = (width if axis == 1 else height) // 2
        first_px, second_px = (
            ((half, height), (width - half, height)) if axis else ((width, half), (width, height - half))
        )
        second_x, second_y = (x_px0 + half * downsample, y_px0) if axis else (x_px0, y_px0 + half * downsample)
        first = self._read_own(x_px0, y_px0, size_px=first_px, downsample=downsample)
        second = self._read_own(second_x, second_y, size_px=second_px, downsample=downsample)
        return np.concatenate([first, second], axis=axis)

    def _level_for(self, downsample: float) -> int:
        """The coarsest level that is still at least as fine as asked for (0.1 % of slack for odd level sizes)."""
        fine = [index for index, level in enumerate(self.levels) if max(level.downsample) <= downsample * 1.001]
        return max(fine, key=lambda index: max(self.levels[index].downsample), default=0)

    def _read_at(
        self, level: int, corner_px0: tuple[float, float], *, size_px: tuple[int, int], scale: tuple[float, float]
    ) -> NDArray[np.uint8]:
        """Read ``size_px`` result pixels of ``scale`` level pixels each from one level."""
        ratio_x, ratio_y = self.levels[level].downsample
        placed = self._handle.level_downsamples[level]
        x_px0, y_px0 = corner_px0
        across = _Span.plan(
            x_px0, size_px[0], scale[0], ratio=ratio_x, offset=self._left, length=self._width_px0, placed=placed
        )
        down = _Span.plan(
            y_px0, size_px[1], scale[1], ratio=ratio_y, offset=self._top, length=self._height_px0, placed=placed
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
        """RGBA pixels of one level. OpenSlide refuses everything after an error, so the slide is opened anew."""
        try:
            return self._handle.read_region(location, level, size_px)
        except openslide.OpenSlideError as error:
            self._handle.close()
            self._handle = _open_handle(self.path)
            raise SlideError(
                f"{self.path.name}: damaged image data near x {location[0]}, y {location[1]}, level {level} ({error})",
                hint="copy the slide again from its source",
            ) from error


@dataclass(frozen=True, slots=True)
class _Span:
    """One axis of a read: which level pixels to fetch, where to paste them, which part of the canvas to resample."""

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
        offset: int,
        length: int,
        placed: float,
    ) -> Self:
        """Plan ``count`` result pixels of ``step`` level pixels from ``start_px0`` on an axis of ``length`` px0.

        OpenSlide places a region at ``location / placed``, with one ratio for both axes and whole-number
        locations; what that rounding moves is taken back in ``box``.
        """
        first = (start_px0 + offset) / ratio
        edge_start, edge_end = math.floor(offset / ratio), math.ceil((offset + length) / ratio)
        # the resampling filter looks a margin beyond the box, but not beyond the slide: its edge would turn pale
        margin = 0 if step == 1 and first.is_integer() else math.ceil(step) + 1
        box_start, box_end = math.floor(first), math.ceil(first + count * step - 1e-6)
        canvas_start = min(box_start, max(box_start - margin, edge_start))
        canvas_end = max(box_end, min(box_end + margin, edge_end))
        read_start, read_end = max(canvas_start, edge_start), min(canvas_end, edge_end)
        location = round(read_start * placed)
        drift = location / placed - read_start
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
        path: any file that OpenSlide reads, or a PNG or JPEG image.
        crop_to_bounds: put the origin at the corner of the scanned bounds, as QuPath does by default.
        steps: how QuPath derives the image that is wanted from the slide, from the slide outward.

    Raises:
        SlideError: the file is missing, is no slide, or is damaged.
    """
    return Slide(path, crop_to_bounds=crop_to_bounds, steps=steps)


def measure(path: Path, *, crop_to_bounds: bool) -> tuple[int, int] | None:
    """Width and height of a slide at level 0, or None when the file is none."""
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
    """A shared open slide of this process; do not close it. The few used last stay open, with one bounded tile cache.

    Safe after a fork: a child never touches the handles of its parent, it opens its own.

    Raises:
        SlideError: as ``open_slide``.
    """
    if _owner[0] != os.getpid():
        _inherited.extend(_shared.values())  # kept, so that the child does not close what the parent is reading
        _shared.clear()
        _owner[0] = os.getpid()
    key = (path, crop_to_bounds, steps)
    slide = _shared.pop(key, None) or Slide(path, crop_to_bounds=crop_to_bounds, steps=steps)
    _shared[key] = slide
    while len(_shared) > OPEN_SLIDES:
        _shared.popitem(last=False)  # closed when its last user lets go of it
    return slide


def _open_handle(path: Path) -> openslide.AbstractSlide:
    if not path.is_file():
        raise SlideError(f"slide not found: {path}", hint="name its folder with --slides DIR")
    try:
        handle = _picture(path) or openslide.OpenSlide(path)
    except openslide.OpenSlideUnsupportedFormatError as error:
        raise SlideError(
            f"{path.name}: not a slide that OpenSlide can read, or damaged",
            hint="check the file, or convert it into a tiled pyramidal TIFF",
        ) from error
    except openslide.OpenSlideError as error:
        raise SlideError(f"{path.name}: cannot be opened ({error})", hint="check the file") from error
    if os.getpid() not in _caches:
        _caches[os.getpid()] = openslide.OpenSlideCache(CACHE_BYTES)
    if isinstance(handle, openslide.OpenSlide):
        handle.set_cache(_caches[os.getpid()])
    return handle


def _picture(path: Path) -> openslide.ImageSlide | None:
    """A PNG or JPEG file as a slide of one level, held in memory; None for other files.

    Raises:
        SlideError: it is damaged, too large, or has other pixels than 8-bit ones.
    """
    if path.suffix.lower() not in PICTURES:
        return None
    try:
        picture = Image.open(path, formats=("PNG", "JPEG"))
        if picture.width * picture.height <= MAX_PICTURE_PX and picture.mode in {"1", "L", "LA", "P", "RGB", "RGBA"}:
            return openslide.ImageSlide(picture.convert("RGBA" if picture.has_transparency_data else "RGB"))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # SyntaxError: what Pillow says of broken PNG
        raise SlideError(f"{path.name}: cannot be opened ({error})", hint="check the file") from error
    raise SlideError(
        f"{path.name}: a picture of {picture.width} x {picture.height} pixels ({picture.mode}) cannot be read",
        hint="convert it into a tiled pyramidal TIFF with 8 bits per channel",
    )
