"""Write an image as a pyramidal tiled TIFF that OpenSlide and QuPath read, with its pixel size.

tifffile writes the file and Pillow compresses its JPEG tiles. tifffile takes compressed tiles as they are, but it
accepts the name JPEG only with a codec package of 26 MB, so the file's tags are corrected after the tiles are written.
"""

import io
from collections.abc import Iterator
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
    with replacing(path) as part:
        with TiffWriter(part) as writer:
            for level in range(levels):
                if level:
                    rgb = np.asarray(Image.fromarray(rgb).reduce(LEVEL_DOWNSAMPLE))
                per_cm = (round(1e4 / (mpp * LEVEL_DOWNSAMPLE**level) * 10_000), 10_000)
                writer.write(
                    _jpeg_tiles(rgb, quality),
                    shape=rgb.shape,
                    dtype=rgb.dtype,
                    photometric="ycbcr",
                    compression=COMPRESSION.ADOBE_DEFLATE,  # corrected below
                    tile=(TILE_PX, TILE_PX),
                    subfiletype=1 if level else 0,  # 1: a reduced version of another image
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


def _jpeg_tiles(rgb: NDArray[np.uint8], quality: int) -> Iterator[bytes]:
    """The tiles of one level as JPEG files, row by row. Tiles at the border repeat their last row and column."""
    for top in range(0, rgb.shape[0], TILE_PX):
        for left in range(0, rgb.shape[1], TILE_PX):
            tile = np.asarray(rgb[top : top + TILE_PX, left : left + TILE_PX])
            missing = ((0, TILE_PX - tile.shape[0]), (0, TILE_PX - tile.shape[1]), (0, 0))
            stream = io.BytesIO()
            Image.fromarray(np.pad(tile, missing, mode="edge")).save(stream, "JPEG", quality=quality, subsampling=2)
            yield stream.getvalue()
