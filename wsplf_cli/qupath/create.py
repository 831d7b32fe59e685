"""A new QuPath project from slides that are there, in a form that every version from 0.2 to 0.7 opens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from wsplf_cli.errors import ProjectError
from wsplf_cli.qupath import gson
from wsplf_cli.qupath.atomic import write_files
from wsplf_cli.qupath.project_file import class_record, classes_path, now_ms
from wsplf_cli.schema import PathClass

_OPENSLIDE = "qupath.lib.images.servers.openslide.OpenslideServerBuilder"
_CHANNELS = (("Red", -65536), ("Green", -16711936), ("Blue", -16776961))


@dataclass(frozen=True, slots=True)
class Image:
    """A slide to put into a new project. ``levels`` are (downsample, width, height) from level 0 on."""

    path: Path
    name: str
    width_px0: int
    height_px0: int
    mpp: float | None
    levels: Sequence[tuple[float, int, int]]
    metadata: Mapping[str, str] = field(default_factory=dict)
    tags: Sequence[str] = ()


def create_project(
    folder: Path, images: Sequence[Image], *, classes: Sequence[PathClass], version: str = "0.6.0"
) -> Path:
    """Write a new project into a folder, which is made when it is not there; returns its project.qpproj.

    The slides stay where they are; the entries have no data until something is written into them.

    Raises:
        ProjectError: the folder holds a project already, or cannot be written.
    """
    path = folder.absolute() / "project.qpproj"
    if path.exists():
        raise ProjectError(f"{path} is there already", hint="choose another folder")
    builders = [_builder(image) for image in images]
    now = now_ms()
    document = {
        "version": version,
        "createTimestamp": now,
        "modifyTimestamp": now,
        "uri": path.as_uri(),
        "lastID": len(images),
        "images": [
            {
                "serverBuilder": builder,
                "entryID": number,
                "randomizedName": str(uuid4()),
                "imageName": image.name,
                "metadata": dict(image.metadata),
                "tags": list(image.tags),
            }
            for number, (image, builder) in enumerate(zip(images, builders, strict=True), start=1)
        ],
    }
    data = path.parent / "data"
    files: dict[Path, Any] = {data / "metadata.json": {}}
    for number, builder in enumerate(builders, start=1):
        files[data / str(number) / "server.json"] = builder
    if classes:
        files[classes_path(path.parent)] = {"pathClasses": [class_record(one) for one in classes]}
    files[path] = document
    write_files({file: gson.dumps(value, indent=True).encode("utf-8") for file, value in files.items()})
    return path


def _builder(image: Image) -> dict[str, Any]:
    unit = "px" if image.mpp is None else "µm"
    side = {"value": 1.0 if image.mpp is None else float(image.mpp), "unit": unit}
    return {
        "builderType": "uri",
        "providerClassName": _OPENSLIDE,
        "uri": image.path.absolute().as_uri(),
        "args": [],
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
                "pixelWidth": side,
                "pixelHeight": dict(side),
                "zSpacing": {"value": 1.0, "unit": "z-slice"},
                "timeUnit": "SECONDS",
                "timepoints": [],
            },
            "preferredTileWidth": 256,
            "preferredTileHeight": 256,
        },
    }
