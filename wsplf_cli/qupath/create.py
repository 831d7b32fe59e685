"""Writes a new QuPath project of existing slides, in a form that every version from 0.2 to 0.7 opens."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from wsplf_cli.errors import ProjectError
from wsplf_cli.files import is_apple_double
from wsplf_cli.qupath import gson
from wsplf_cli.qupath.addresses import file_uri
from wsplf_cli.qupath.atomic import write_files
from wsplf_cli.qupath.entry_data import new_data, summary_file
from wsplf_cli.qupath.project_file import class_record, classes_path, now_ms
from wsplf_cli.schema import PathClass

#: Comment in a thumbnail's file that says that wsplf made it; QuPath's own thumbnails have none.
THUMBNAIL_COMMENT = b"wsplf"

#: A reader of QuPath's, and the arguments that it takes.
_OPENSLIDE: tuple[str, list[str]] = ("qupath.lib.images.servers.openslide.OpenslideServerBuilder", [])
_BIO_FORMATS = ("qupath.lib.images.servers.bioformats.BioFormatsServerBuilder", ["--series", "0"])
_CHANNELS = (("Red", -65536), ("Green", -16711936), ("Blue", -16776961))


@dataclass(frozen=True, slots=True)
class Image:
    """A slide to put into a new project.

    ``mpp`` is one number, or a pair for x and y. ``levels`` are (downsample, width, height) from level 0 on, see
    ``level_sizes``. ``thumbnail`` is a JPEG file for QuPath's list of images; without it QuPath makes one.
    ``is_picture``: a PNG or JPEG file, which QuPath reads with Bio-Formats instead of OpenSlide.
    """

    path: Path
    name: str
    width_px0: int
    height_px0: int
    mpp: float | tuple[float, float] | None
    levels: Sequence[tuple[float, int, int]]
    metadata: Mapping[str, str] = field(default_factory=dict)
    tags: Sequence[str] = ()
    magnification: float | None = None
    tile_px: tuple[int, int] = (256, 256)
    thumbnail: bytes | None = None
    is_picture: bool = False


def create_project(
    folder: Path,
    images: Sequence[Image],
    *,
    classes: Sequence[PathClass],
    version: str = "0.6.0",
    image_type: str = "UNSET",
) -> Path:
    """Write a new project into a folder, which is made if needed; returns its project.qpproj.

    The slides stay where they are. An entry has no data until annotations are written into it, unless ``image_type`` is
    one of QuPath's types: that stands in its data.

    Raises:
        ProjectError: the folder holds a project already, or cannot be written.
    """
    path = folder.absolute() / "project.qpproj"
    refuse_project(folder)
    builders = [_builder(image) for image in images]
    records = [
        {
            "serverBuilder": builder,
            "entryID": index,
            "randomizedName": str(uuid4()),
            "imageName": image.name,
            "metadata": dict(image.metadata),
            "tags": list(image.tags),
        }
        for index, (image, builder) in enumerate(zip(images, builders, strict=True), start=1)
    ]
    now = now_ms()
    document = {
        "version": version,
        "createTimestamp": now,
        "modifyTimestamp": now,
        "uri": file_uri(path.as_posix()),
        "lastID": len(images),
        "images": records,
    }
    data = path.parent / "data"
    files: dict[Path, Any] = {data / "metadata.json": {}}
    thumbnails = {
        data / str(index) / "thumbnail.jpg": image.thumbnail
        for index, image in enumerate(images, start=1)
        if image.thumbnail is not None
    }
    for index, builder in enumerate(builders, start=1):
        files[data / str(index) / "server.json"] = builder
    if classes:
        files[classes_path(path.parent)] = {"pathClasses": [class_record(path_class) for path_class in classes]}
    files[path] = document
    entry_files: dict[Path, bytes] = {}
    for record in records if image_type != "UNSET" else []:
        entry_id = str(record["entryID"])
        entry_data = new_data(record, entry_id, project=path, version=version, image_type=image_type)
        entry_files[data / entry_id / "data.qpdata"] = entry_data.dumps()
        entry_files[data / entry_id / "summary.json"] = summary_file(record, entry_data)
    texts = {file: gson.dumps(value, indent=True).encode("utf-8") for file, value in files.items()}
    write_files({**thumbnails, **entry_files, **texts})
    return path


def refuse_project(folder: Path) -> None:
    """Check that a folder holds no QuPath project, nor data that one left: a new entry would show it.

    Raises:
        ProjectError: it does.
    """
    files = [*sorted(folder.glob("*.qpproj")), *sorted(folder.glob("data/*/data.qpdata*"))] if folder.is_dir() else []
    leftovers = [path for path in files if not is_apple_double(path.name)]
    if leftovers:
        raise ProjectError(f"{leftovers[0]} already exists", hint="choose another folder")


def level_sizes(levels_px: Sequence[tuple[int, int]], *, shown_px: tuple[int, int]) -> list[tuple[float, int, int]]:
    """(downsample, width, height) of the levels as QuPath records them for a slide read by OpenSlide.

    Args:
        levels_px: (width, height) of the levels in the slide's file.
        shown_px: size of the part at level 0 that QuPath shows.
    """
    sizes: list[tuple[float, int, int]] = []
    for level_px in levels_px:
        downsample = _downsample(levels_px[0], level_px)
        if sizes and downsample <= sizes[-1][0]:
            break  # QuPath refuses levels that are out of order
        cropped = (int(shown_px[0] / downsample), int(shown_px[1] / downsample))
        sizes.append((downsample, *(level_px if shown_px == levels_px[0] else cropped)))
    return sizes


def _downsample(whole_px: tuple[int, int], level_px: tuple[int, int]) -> float:
    """The downsample of a level: a power of two or a whole number where one fits, else the mean of both axes."""
    ratios = [whole / level for whole, level in zip(whole_px, level_px, strict=True)]
    power = 2.0 ** round(math.log2(sum(ratios) / 2))
    if all(abs(whole / power - level) < 2 for whole, level in zip(whole_px, level_px, strict=True)):
        return power
    meant = [
        float(round(ratio)) if abs(whole / max(round(ratio), 1) - level) <= 1 else ratio
        for ratio, whole, level in zip(ratios, whole_px, level_px, strict=True)
    ]
    return power if power in meant else sum(meant) / 2


def _builder(image: Image) -> dict[str, Any]:
    if image.mpp is None:
        sides = [{"value": 1.0, "unit": "px"}] * 2
    else:
        mpp_xy = image.mpp if isinstance(image.mpp, tuple) else (image.mpp, image.mpp)
        sides = [{"value": float(mpp), "unit": "µm"} for mpp in mpp_xy]
    reader, arguments = _BIO_FORMATS if image.is_picture else _OPENSLIDE
    power = {} if image.magnification is None else {"magnification": float(image.magnification)}
    return {
        "builderType": "uri",
        "providerClassName": reader,
        "uri": file_uri(image.path.absolute().as_posix()),
        "args": list(arguments),
        "metadata": {
            "name": image.name,
            "width": image.width_px0,
            "height": image.height_px0,
            "sizeZ": 1,
            "sizeT": 1,
            "channelType": "DEFAULT",
            "isRGB": True,
            "pixelType": "UINT8",
            "levels": [
                {"downsample": float(downsample), "width": width, "height": height}
                for downsample, width, height in image.levels
            ],
            "channels": [{"name": name, "color": color} for name, color in _CHANNELS],
            "pixelCalibration": {
                "pixelWidth": sides[0],
                "pixelHeight": sides[1],
                "zSpacing": {"value": 1.0, "unit": "z-slice"},
                "timeUnit": "SECONDS",
                "timepoints": [],
            },
            **power,
            "preferredTileWidth": image.tile_px[0],
            "preferredTileHeight": image.tile_px[1],
        },
    }
