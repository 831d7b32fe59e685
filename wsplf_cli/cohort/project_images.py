"""The images of a new project: the slide files, and what QuPath records of each, with thumbnail and label."""

import io
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture

from wsplf_cli.cohort.label_table import LABEL_COLUMN, match_table
from wsplf_cli.cohort.names import IMAGE_SUFFIX
from wsplf_cli.errors import ConfigError, SlideError
from wsplf_cli.qupath.create import THUMBNAIL_COMMENT, Image, level_sizes
from wsplf_cli.qupath.images import file_identity, files_in
from wsplf_cli.schema import Entry, Tracker
from wsplf_cli.slides.checks import check_pixels, is_palette, require_colour
from wsplf_cli.slides.entry import MAX_DIFFERENCE
from wsplf_cli.slides.file_format import PICTURES
from wsplf_cli.slides.numbers import number
from wsplf_cli.slides.open import Slide
from wsplf_cli.slides.properties import PLAUSIBLE_MPP

#: QuPath's thumbnails fit into this (width, height).
THUMBNAIL_PX = (1000, 600)
#: The column of a table of labels that holds the micrometres per pixel of a slide.
MPP_COLUMN = "mpp"


def slide_files(paths: Sequence[Path], tracker: Tracker) -> list[Path]:
    """The files among ``paths``, and those in the folders among them that look like slides, each once.

    Links are followed. A file that two paths of one name lead to counts once; under two names it counts twice, and the
    user is told.

    Raises:
        ConfigError: a folder holds no slides.
    """
    files: list[Path] = []
    left_out: list[Path] = []
    for path in paths:
        slides, pictures = _slides_in(path) if path.is_dir() else ([path], [])
        files += slides
        left_out += pictures
    first_name: dict[Hashable, str] = {}
    distinct: dict[tuple[Hashable, str], Path] = {}
    for path in files:
        try:
            identity = file_identity(path)
        except OSError:  # opening it says what is wrong
            distinct.setdefault((path.absolute(), path.name), path)
            continue
        distinct.setdefault((identity, path.name), path)
        if first_name.setdefault(identity, path.name) != path.name:
            tracker.say(f"warning: {path.name} and {first_name[identity]} are one file; it is added under both names")
    not_named = {path.absolute() for path in left_out} - {path.absolute() for path in files}
    if not_named:
        tracker.say(f"warning: {len(not_named)} PNG or JPEG files beside the slides are left out; name them if wanted")
    return list(distinct.values())


def _slides_in(folder: Path) -> tuple[list[Path], list[Path]]:
    """The slides in a folder and below it, and the PNG and JPEG files that are left out, since scans bring some.

    Where there are only PNG and JPEG files, they are the slides.

    Raises:
        ConfigError: there is none of either.
    """
    images = sorted(file for file in files_in(folder) if IMAGE_SUFFIX.search(file.name.casefold()))
    if not images:
        raise ConfigError(f"{folder}: no slides in this folder", hint="name the slide files")
    slides = [file for file in images if file.suffix.lower() not in PICTURES]
    pictures = [file for file in images if file.suffix.lower() in PICTURES]
    return (slides, pictures) if slides else (pictures, [])


def slide_entry(index: int, path: Path, name: str = "") -> Entry:
    """An entry for a slide file that is in no project yet, with ``index`` as its id."""
    return Entry(str(index), name or path.name, path, 0, 0, None, "")


def image_of_slide(slide: Slide, name: str) -> Image:
    """What a project records of a slide, or of a PNG or JPEG picture.

    Raises:
        SlideError: The slide cannot be read or learned from, or QuPath shows such a picture without its colours.
    """
    require_colour(slide)
    is_picture = slide.path.suffix.lower() in PICTURES
    if is_picture and is_palette(slide.path):
        target = f"{slide.path.stem}_rgb.png"
        raise SlideError(
            f"{name}: its colours are in a palette, which QuPath does not show",
            hint=f'magick "{slide.path.name}" "PNG24:{target}"',
        )
    downsample = max(1.0, slide.width_px0 / THUMBNAIL_PX[0], slide.height_px0 / THUMBNAIL_PX[1])
    thumbnail_px = (max(1, int(slide.width_px0 / downsample)), max(1, int(slide.height_px0 / downsample)))
    overview = slide.read(0, 0, size_px=thumbnail_px, downsample=downsample)
    check_pixels(slide, overview)
    size_px0 = (slide.width_px0, slide.height_px0)
    return Image(
        path=slide.path,
        name=name,
        width_px0=slide.width_px0,
        height_px0=slide.height_px0,
        mpp=slide.mpp_xy,
        levels=level_sizes([(level.width_px, level.height_px) for level in slide.levels], shown_px=size_px0),
        magnification=slide.magnification,
        tile_px=slide.tile_px,
        thumbnail=_jpeg(overview),
        is_picture=is_picture,
    )


def _jpeg(pixels: NDArray[np.uint8]) -> bytes:
    """The JPEG file of a thumbnail, with the mark of wsplf."""
    stream = io.BytesIO()
    Picture.fromarray(pixels).save(stream, "JPEG", quality=85, comment=THUMBNAIL_COMMENT)
    return stream.getvalue()


def label_images(
    images: Sequence[Image], rows: Sequence[Mapping[str, str]], *, table: Path, label_key: str, tracker: Tracker
) -> list[Image]:
    """The images with the labels of the rows of ``table`` as metadata, and with the pixel sizes of its column mpp.

    Warnings say what does not match.

    Raises:
        ConfigError: no row belongs to an image, or a pixel size is none.
    """
    entries = [slide_entry(index, image.path, image.name) for index, image in enumerate(images, start=1)]
    metadata, warnings = match_table(rows, entries, label_key=label_key)
    if not metadata:
        raise ConfigError(f"{table}: no row belongs to a slide", hint=warnings[0] if warnings else "")
    for warning in warnings:
        tracker.say(f"warning: {warning}")
    sized_rows = [{**row, LABEL_COLUMN: row[MPP_COLUMN]} for row in rows if row.get(MPP_COLUMN)]
    sizes, _ = match_table(sized_rows, entries, label_key=MPP_COLUMN)
    return [
        _with_mpp(replace(image, metadata=metadata.get(entry.id, {})), sizes.get(entry.id, {}), tracker)
        for image, entry in zip(images, entries, strict=True)
    ]


def _with_mpp(image: Image, row: Mapping[str, str], tracker: Tracker) -> Image:
    """The image with the pixel size that a person typed for it, which comes before the file's own.

    Raises:
        ConfigError: it is not a pixel size of a microscope in micrometres.
    """
    text = row.get(MPP_COLUMN, "")
    if not text:
        return image
    mpp = number(text.replace(",", ".")) or 0.0
    if not PLAUSIBLE_MPP[0] <= mpp <= PLAUSIBLE_MPP[1]:
        lowest, highest = PLAUSIBLE_MPP
        hint = f"micrometres per pixel at full size, between {lowest:g} and {highest:g}"
        raise ConfigError(f"{image.name}: the table gives {text!r} as its mpp", hint=hint)
    own = math.sqrt(math.prod(image.mpp)) if isinstance(image.mpp, tuple) else mpp
    if abs(mpp / own - 1) > MAX_DIFFERENCE:
        sizes = f"the table says {mpp:.4g} um per pixel, its file {own:.4g}"
        tracker.say(f"warning: {image.name}: {sizes}; using the table's")
    return replace(image, mpp=mpp)


def fill_in_mpp(images: Sequence[Image], mpp: float | None, tracker: Tracker) -> list[Image]:
    """The images with ``mpp`` where nothing else says their pixel size; a warning names those that stay without."""
    filled = [replace(image, mpp=mpp) if image.mpp is None else image for image in images]
    without = [image.name for image in filled if image.mpp is None]
    if without:
        more = f" and {len(without) - 5} more" if len(without) > 5 else ""
        ways = "--mpp-override, a column mpp in the table of labels, or QuPath"
        tracker.say(f"warning: no micrometres per pixel for {', '.join(without[:5])}{more}: give them with {ways}")
    return filled
