"""The pixels of a slide's file as its library gives them, read past ``Slide``, to prove that ``Slide`` reads the same.

QuPath shows OpenSlide's pixels, cropped to the scanned bounds, and those of a PNG or JPEG file as they are stored.
Nothing here is shared with ``Slide``: neither its bounds, nor its levels, nor its resampling.
"""

from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import openslide
from numpy.typing import NDArray
from PIL import Image

from wsplf_cli.errors import SlideError

#: The EXIF tag of the orientation; 1 stands for pixels that are shown as they are stored.
_ORIENTATION = 0x0112


class FilePixels:
    """Level 0 of a slide's file. Use it with ``with``.

    Args:
        path: The file.
        by_openslide: Read it with OpenSlide; else it must be a PNG or JPEG file.
        crop_to_bounds: Put the origin at the corner of the scanned bounds; only OpenSlide's files have some.

    Raises:
        SlideError: The library cannot open the file, or an EXIF orientation makes it uncertain how QuPath shows it.
    """

    def __init__(self, path: Path, *, by_openslide: bool, crop_to_bounds: bool) -> None:
        self._slide: openslide.OpenSlide | None = None
        self._origin_px0 = (0, 0)
        try:
            if by_openslide:
                self._slide = openslide.OpenSlide(path)
                corner = [self._slide.properties.get(f"openslide.bounds-{axis}") for axis in ("x", "y")]
                if crop_to_bounds and corner[0] is not None and corner[1] is not None:
                    self._origin_px0 = int(corner[0]), int(corner[1])
            else:
                with Image.open(path, formats=("PNG", "JPEG")) as picture:
                    orientation = picture.getexif().get(_ORIENTATION, 1)
                    white = Image.new("RGBA", picture.size, "white")
                    self._picture = Image.alpha_composite(white, picture.convert("RGBA")).convert("RGB")
        except (openslide.OpenSlideError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise SlideError(f"{path.name} cannot be read to compare ({error})") from error
        if self._slide is None and orientation != 1:
            raise SlideError(f"{path.name} has the EXIF orientation {orientation}, which not every program follows")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._slide is not None:
            self._slide.close()

    def read(self, x_px0: int, y_px0: int, *, side_px: int) -> NDArray[np.uint8]:
        """The square whose top-left corner lies at (x, y), uint8 [side, side, 3], white where there are no pixels.

        Raises:
            SlideError: The file is damaged there.
        """
        if self._slide is None:
            return np.array(self._picture.crop((x_px0, y_px0, x_px0 + side_px, y_px0 + side_px)))
        location = (self._origin_px0[0] + x_px0, self._origin_px0[1] + y_px0)
        try:
            pixels = np.array(self._slide.read_region(location, 0, (side_px, side_px)))
        except openslide.OpenSlideError as error:
            raise SlideError(f"damaged image data near x {x_px0}, y {y_px0} ({error})") from error
        pixels[pixels[..., 3] == 0] = 255
        return pixels[..., :3]
