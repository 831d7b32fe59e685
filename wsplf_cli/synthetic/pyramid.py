"""Write an image as a pyramidal tiled TIFF that OpenSlide and QuPath read, with its pixel size.

tifffile writes the file and Pillow compresses its JPEG tiles. tifffile takes compressed tiles as they are, but it
accepts the name JPEG only with a codec package of 26 MB, so the file's tags are corrected after the tiles are written.
"""

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tifffile import COMPRESSION, TiffFile, TiffPage, TiffWriter

from wsplf_cli.files import replacing

TILE_PX = 256
#: Ratio of the sides of two successive levels.
LEVEL_DOWNSAMPLE = 4
#: The tiles hold one pair of colour values for each square of 2 x 2 pixels.
_SUBSAMPLING = (2, 2)


@dataclass(frozen=True, slots=True)
class PyramidLevel:
    """One level to write: its size, and its JPEG tiles row by row."""

    width_px: int
    height_px: int
    tiles: Iterable[bytes]


def write_pyramid(path: Path, rgb: NDArray[np.uint8], *, mpp: float, quality: int = 85, levels: int = 3) -> None:
    """Write an image as JPEG tiles in several levels, each with a quarter of the side of the level before.

    Args:
        path: File to write.
        rgb: uint8 [H, W, 3], level 0.
        mpp: Micrometres per pixel of level 0.
        quality: JPEG quality, 1..95.
        levels: Number of levels.

    Raises:
        OSError: The file cannot be written. Nothing is left behind.
    """

    def made() -> Iterator[PyramidLevel]:
        level_rgb = rgb
        for level in range(levels):
            if level:
                level_rgb = np.asarray(Image.fromarray(level_rgb).reduce(LEVEL_DOWNSAMPLE))
            yield PyramidLevel(level_rgb.shape[1], level_rgb.shape[0], jpeg_tiles(level_rgb, quality))

    write_levels(path, made(), mpp=mpp)


def write_levels(path: Path, levels: Iterable[PyramidLevel], *, mpp: float, tile_px: int = TILE_PX) -> None:
    """Write levels of JPEG tiles that are compressed already, level 0 first.

    Args:
        path: File to write.
        levels: Each has a quarter of the side of the level before.
        mpp: Micrometres per pixel of level 0.
        tile_px: Side of the tiles, a multiple of 16.

    Raises:
        OSError: The file cannot be written. Nothing is left behind.
    """
    with replacing(path) as part:
        with TiffWriter(part) as writer:
            for index, level in enumerate(levels):
                per_cm = (round(1e4 / (mpp * LEVEL_DOWNSAMPLE**index) * 10_000), 10_000)
                writer.write(
                    iter(level.tiles),
                    shape=(level.height_px, level.width_px, 3),
                    dtype=np.uint8,
                    photometric="ycbcr",
                    compression=COMPRESSION.ADOBE_DEFLATE,  # corrected below
                    tile=(tile_px, tile_px),
                    subfiletype=1 if index else 0,  # 1: a reduced version of another image
                    resolution=(per_cm, per_cm),
                    resolutionunit="CENTIMETER",
                    metadata=None,
                    software=False,
                )
        with TiffFile(part, mode="r+") as written:
            for page in written.pages:
                assert isinstance(page, TiffPage)
                page.tags["Compression"].overwrite(COMPRESSION.JPEG)
                page.tags["YCbCrSubSampling"].overwrite(_SUBSAMPLING)


def jpeg_tiles(rgb: NDArray[np.uint8], quality: int, *, tile_px: int = TILE_PX) -> Iterator[bytes]:
    """The tiles of one level as JPEG files, row by row. Tiles at the border repeat their last row and column."""
    for top in range(0, rgb.shape[0], tile_px):
        for left in range(0, rgb.shape[1], tile_px):
            tile = np.asarray(rgb[top : top + tile_px, left : left + tile_px])
            missing = ((0, tile_px - tile.shape[0]), (0, tile_px - tile.shape[1]), (0, 0))
            stream = io.BytesIO()
            Image.fromarray(np.pad(tile, missing, mode="edge")).save(stream, "JPEG", quality=quality, subsampling=2)
            yield stream.getvalue()
