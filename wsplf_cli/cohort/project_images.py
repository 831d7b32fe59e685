"""The images of a new project: the slide files, and what QuPath records of each, with thumbnail and label."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image as Picture

from wsplf_cli.cohort.label_table import match_table
from wsplf_cli.cohort.names import IMAGE_SUFFIX
from wsplf_cli.errors import ConfigError, SlideError
from wsplf_cli.qupath.create import THUMBNAIL_COMMENT, Image, level_sizes
from wsplf_cli.qupath.images import file_identity, files_in
from wsplf_cli.schema import Entry, Tracker
from wsplf_cli.slides.open import PICTURES, Slide

#: QuPath's thumbnails fit into this (width, height).
THUMBNAIL_PX = (1000, 600)


def slide_files(paths: Sequence[Path], tracker: Tracker) -> list[Path]:
    """The files among ``paths``, and those in the folders among them that look like slides, each once.

    Links are followed. A file that two paths of one name lead to counts once; under two names it counts twice, and the
    user is told.

    Raises:
        ConfigError: a folder holds no slides.
    """
    files: list[Path] = []
    for path in paths:
        files += _slides_in(path) if path.is_dir() else [path]
    first_name: dict[tuple[int, int], str] = {}
    distinct: dict[tuple[object, str], Path] = {}
    for path in files:
        try:
            identity = file_identity(path)
        except OSError:  # opening it says what is wrong
            distinct.setdefault((path.absolute(), path.name), path)
            continue
        distinct.setdefault((identity, path.name), path)
        if first_name.setdefault(identity, path.name) != path.name:
            tracker.say(f"warning: {path.name} and {first_name[identity]} are one file; it is added under both names")
    return list(distinct.values())


def _slides_in(folder: Path) -> list[Path]:
    """The slides in a folder and below it.

    Raises:
        ConfigError: there are none.
    """
    slides = [
        file
        for file in files_in(folder)
        if IMAGE_SUFFIX.search(file.name.casefold()) and file.suffix.lower() not in PICTURES
    ]
    if not slides:
        raise ConfigError(f"{folder}: no slides in this folder", hint="name the slide files")
    return sorted(slides)


def slide_entry(index: int, path: Path, name: str = "") -> Entry:
    """An entry for a slide file that is in no project yet, with ``index`` as its id."""
    return Entry(str(index), name or path.name, path, 0, 0, None, "")


def image_of_slide(slide: Slide, name: str) -> Image:
    """What a project records of a slide.

    Raises:
        SlideError: QuPath's OpenSlide reader does not read such a file, or the slide cannot be read.
    """
    if slide.path.suffix.lower() in PICTURES:
        raise SlideError(f"{name}: a plain picture, not a slide", hint="add it in QuPath")
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
        thumbnail=_thumbnail(slide),
    )


def _thumbnail(slide: Slide) -> bytes:
    """A JPEG file of the whole slide that fits into THUMBNAIL_PX."""
    downsample = max(1.0, slide.width_px0 / THUMBNAIL_PX[0], slide.height_px0 / THUMBNAIL_PX[1])
    size_px = (max(1, int(slide.width_px0 / downsample)), max(1, int(slide.height_px0 / downsample)))
    stream = io.BytesIO()
    pixels = slide.read(0, 0, size_px=size_px, downsample=downsample)
    Picture.fromarray(pixels).save(stream, "JPEG", quality=85, comment=THUMBNAIL_COMMENT)
    return stream.getvalue()


def label_images(
    images: Sequence[Image], rows: Sequence[Mapping[str, str]], *, table: Path, label_key: str, tracker: Tracker
) -> list[Image]:
    """The images with the labels of the rows of ``table`` as metadata. Warnings say what does not match.

    Raises:
        ConfigError: no row belongs to an image.
    """
    entries = [slide_entry(index, image.path, image.name) for index, image in enumerate(images, start=1)]
    metadata, warnings = match_table(rows, entries, label_key=label_key)
    if not metadata:
        raise ConfigError(f"{table}: no row belongs to a slide", hint=warnings[0] if warnings else "")
    for warning in warnings:
        tracker.say(f"warning: {warning}")
    return [replace(image, metadata=metadata.get(entry.id, {})) for image, entry in zip(images, entries, strict=True)]
