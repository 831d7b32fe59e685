"""The slide of a project's entry, open in the entry's coordinates, and its pixel size with the source of it."""

from dataclasses import dataclass

from shapely import affinity
from shapely.geometry.base import BaseGeometry

from wsplf_cli.cache import FileIdentity, digest_of, identity
from wsplf_cli.errors import SlideError
from wsplf_cli.schema import Entry
from wsplf_cli.slides.open import Slide, slide_for

#: Relative difference from which on two sources of the pixel size disagree.
MAX_DIFFERENCE = 0.05


#: Side of the thumbnail that tells how a file is shown.
_THUMBNAIL_PX = 64


@dataclass(frozen=True, slots=True)
class SlideContent:
    """Identifies what a slide shows: the state of its file, and a digest of its thumbnail.

    The same file may be shown cropped to its bounds or rotated.
    """

    file: FileIdentity
    shown: str


def content_of(slide: Slide) -> SlideContent:
    """What an open slide shows.

    Raises:
        SlideError: The slide cannot be read.
    """
    return SlideContent(file_of(slide), digest_of(slide.thumbnail(_THUMBNAIL_PX)[0]))


def file_of(slide: Slide) -> FileIdentity:
    """The state of the file of an open slide.

    Raises:
        SlideError: The file is no longer there.
    """
    try:
        return identity(slide.path)
    except OSError as error:
        raise SlideError(f"{slide.path}: {error.strerror}") from error


@dataclass(frozen=True, slots=True)
class PixelSize:
    """Micrometres per pixel at level 0, their source, and a warning where two sources disagree.

    ``mpp_xy`` are those along x and y, None where pixels are square. ``mpp`` is their mean, so that ``mpp ** 2`` is the
    exact area of a pixel (see ``properties.mean_mpp``).
    """

    mpp: float
    source: str
    warning: str = ""
    mpp_xy: tuple[float, float] | None = None

    @property
    def text(self) -> str:
        """The pixel size for people: one number, or both sides and their mean where they differ."""
        return _text(self.mpp, self.mpp_xy)

    def in_square_pixels(self, shape: BaseGeometry) -> BaseGeometry:
        """A shape of level-0 pixels as it would be with square pixels of ``mpp``. Lengths are exact there."""
        if self.mpp_xy is None or self.mpp_xy[0] == self.mpp_xy[1]:
            return shape
        mpp_x, mpp_y = self.mpp_xy
        return affinity.scale(shape, mpp_x / self.mpp, mpp_y / self.mpp, origin=(0, 0))


def slide_of(entry: Entry) -> Slide:
    """The shared open slide of an entry, in the entry's coordinates. Do not close it.

    Raises:
        SlideError: The entry has no usable slide, the slide cannot be opened, or its size is not that of the entry.
    """
    if entry.problem or entry.slide_path is None:
        message, _, hint = (entry.problem or f"{entry.name}: slide not found").partition("; ")
        raise SlideError(message, hint=hint)  # the part after the semicolon says what to do
    slide = slide_for(entry.slide_path, crop_to_bounds=entry.crop_to_bounds, steps=entry.steps)
    size, expected = (slide.width_px0, slide.height_px0), (entry.width_px0, entry.height_px0)
    if min(expected) > 0 and size != expected:
        raise SlideError(
            f"{entry.name}: the slide is {size[0]} x {size[1]} pixels, the project says {expected[0]} x {expected[1]}",
            hint=f"check that {entry.slide_path} is the image that was added to the project",
        )
    return slide


def entry_slide(entry: Entry, *, mpp_override: float | None = None) -> tuple[Slide, PixelSize]:
    """The shared open slide of an entry, and its pixel size. Do not close the slide.

    Raises:
        SlideError: The entry has no usable slide, the slide's size is not that of the entry, or its mpp is unknown.
    """
    slide = slide_of(entry)
    return slide, choose_pixel_size(entry, slide, mpp_override=mpp_override)


def choose_pixel_size(entry: Entry, slide: Slide, *, mpp_override: float | None = None) -> PixelSize:
    """The pixel size of an entry: the project's, else the slide's, else ``mpp_override``.

    The project comes first because a person may have corrected the pixel size in QuPath.

    Raises:
        SlideError: None of them is known. The message asks for --mpp-override.
    """
    if entry.mpp is None and slide.mpp is None:
        if mpp_override is None:
            raise SlideError(
                f"{entry.name}: neither the project nor the slide says its micrometres per pixel",
                hint="give it with --mpp-override MPP, or set the pixel size in QuPath (Image tab, double-click)",
            )
        return PixelSize(mpp_override, "--mpp-override")
    if entry.mpp is None:
        assert slide.mpp is not None
        return PixelSize(slide.mpp, slide.mpp_source, mpp_xy=slide.view_mpp_xy)
    mpp_xy = entry.mpp_xy or (entry.mpp, entry.mpp)
    warning = ""
    if slide.mpp is not None and slide.view_mpp_xy is not None and _differ(mpp_xy, slide.view_mpp_xy):
        warning = (
            f"{entry.name}: the project says {_text(entry.mpp, mpp_xy)} um per pixel, the {slide.mpp_source} "
            f"{_text(slide.mpp, slide.view_mpp_xy)}; using the project's"
        )
    return PixelSize(entry.mpp, entry.mpp_source or "QuPath", warning, mpp_xy)


def _differ(first: tuple[float, float], second: tuple[float, float]) -> bool:
    """Whether two pixel sizes disagree along x or y."""
    return any(abs(one / other - 1) > MAX_DIFFERENCE for one, other in zip(first, second, strict=True))


def _text(mpp: float, mpp_xy: tuple[float, float] | None) -> str:
    if mpp_xy is None or f"{mpp_xy[0]:.4g}" == f"{mpp_xy[1]:.4g}":
        return f"{mpp:.4g}"
    return f"{mpp_xy[0]:.4g} x {mpp_xy[1]:.4g} (mean {mpp:.4g})"
