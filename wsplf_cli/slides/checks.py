"""Checks that a slide can be learned from: it is a colour image with 8 bits per channel, and its file is whole."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsplf_cli.errors import SlideError
from wsplf_cli.slides.file_format import COPY_AGAIN, PICTURES, colour_error, first_page, picture_kind
from wsplf_cli.slides.open import Slide, open_picture
from wsplf_cli.slides.properties import GENERIC_TIFF

#: Vendors whose files hold level 0 in their first page.
LEVEL_0_FIRST = {GENERIC_TIFF, "aperio"}
#: Pixels whose channels differ by no more than this are grey, if their brightness differs by at least the contrast.
MAX_GREY_SPREAD = 2
MIN_CONTRAST = 16
#: An image is dark if half of its pixels are below the first, and hardly any lighter than the second in all channels.
MAX_DARK = 40
MIN_LIGHT = 150
MIN_LIGHT_SHARE = 0.01


def require_colour(slide: Slide) -> None:
    """Refuse a slide whose file says that it is no colour image with 8 bits per channel.

    OpenSlide and Pillow show such files in grey or scaled to 8 bits, so that no tissue would be found on them.

    Raises:
        SlideError: The message says what the image is, and the hint what to do.
    """
    if slide.path.suffix.lower() in PICTURES:
        with open_picture(slide.path) as picture:
            kind = picture_kind(picture)
    else:
        page = first_page(slide.path) if slide.vendor in LEVEL_0_FIRST else None
        kind = "" if page is None else page.kind
    if kind:
        raise colour_error(slide.path, kind)


def check_pixels(slide: Slide, overview: NDArray[np.uint8]) -> None:
    """Refuse a colour slide that shows nothing to learn from. ``overview``: the whole of it, uint8 [h, w, 3].

    Raises:
        SlideError: Every pixel is grey or transparent, the background is dark, or the file is cut short.
    """
    page = first_page(slide.path) if slide.vendor in LEVEL_0_FIRST else None
    if page is not None and page.end > slide.path.stat().st_size:
        raise SlideError(f"{slide.path.name}: cut short: some of its pixels are not in the file", hint=COPY_AGAIN)
    if overview.min() == 255 and slide.is_transparent():
        raise SlideError(
            f"{slide.path.name}: transparent by its fourth channel, so that no pixel shows",
            hint="save it as RGB without transparency",
        )
    if np.median(overview.max(axis=2)) < MAX_DARK and (overview.min(axis=2) > MIN_LIGHT).mean() < MIN_LIGHT_SHARE:
        raise colour_error(slide.path, "a dark image without light background, as of several fluorescence channels")
    values = overview.astype(np.int16)
    if np.ptp(values, axis=2).max() <= MAX_GREY_SPREAD and np.ptp(values) >= MIN_CONTRAST:
        raise colour_error(slide.path, "a colour file in which every pixel is grey")


def is_palette(path: Path) -> bool:
    """Whether the pixels of a PNG file are numbers of colours in a palette: Bio-Formats, and so QuPath, shows those."""
    with open_picture(path) as picture:
        return picture.mode == "P"
