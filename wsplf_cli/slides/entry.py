"""The slide of a project's entry, open in the entry's coordinates, and its pixel size with the source of it."""

from dataclasses import dataclass

from wsplf_cli.errors import SlideError
from wsplf_cli.schema import Entry
from wsplf_cli.slides.open import Slide, slide_for

#: Relative difference from which on two sources of the pixel size disagree.
MAX_DIFFERENCE = 0.05


@dataclass(frozen=True, slots=True)
class PixelSize:
    """Micrometres per pixel at level 0, their source, and a warning where two sources disagree."""

    mpp: float
    source: str
    warning: str = ""


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
        return PixelSize(slide.mpp, slide.mpp_source)
    warning = ""
    if slide.mpp is not None and abs(entry.mpp / slide.mpp - 1) > MAX_DIFFERENCE:
        warning = (
            f"{entry.name}: the project says {entry.mpp:.4g} um per pixel, the {slide.mpp_source} {slide.mpp:.4g}; "
            "using the project's"
        )
    return PixelSize(entry.mpp, entry.mpp_source or "QuPath", warning)
