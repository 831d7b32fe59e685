"""Write a picture as a pyramidal tiled TIFF that OpenSlide and QuPath read, with its pixel size.

tifffile compresses JPEG tiles only with a codec package of its own, so the few tags are written here and the tiles
are compressed by Pillow.
"""

import io
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsplf_cli.files import replacing

TILE_PX = 256
SHRINK = 4
SHORT, LONG, RATIONAL = 3, 4, 5
LETTERS = {SHORT: "H", LONG: "I", RATIONAL: "I"}


def write_pyramid(path: Path, rgb: NDArray[np.uint8], *, mpp: float, quality: int = 85, levels: int = 3) -> None:
    """Write uint8 [H, W, 3] as JPEG tiles in ``levels`` levels, each a quarter of the side of the one before.

    Raises:
        OSError: the file cannot be written; nothing is left behind.
    """
    with replacing(path) as part, part.open("wb") as stream:
        stream.write(struct.pack("<2sHI", b"II", 42, 0))
        link = 4
        for level in range(levels):
            if level:
                rgb = np.asarray(Image.fromarray(rgb).reduce(SHRINK))
            offsets, sizes = [], []
            for tile in _tiles(rgb, quality):
                offsets.append(stream.tell())
                sizes.append(len(tile))
                stream.write(tile + b"\0" * (len(tile) % 2))
            directory = stream.tell()
            block, next_link = _directory(
                directory, rgb.shape, mpp=mpp * SHRINK**level, reduced=level > 0, offsets=offsets, sizes=sizes
            )
            stream.write(block)
            stream.seek(link)
            stream.write(struct.pack("<I", directory))
            stream.seek(0, io.SEEK_END)
            link = next_link


def _directory(
    start: int, shape: tuple[int, ...], *, mpp: float, reduced: bool, offsets: list[int], sizes: list[int]
) -> tuple[bytes, int]:
    """One image directory that lies at ``start``, and the place in the file of its link to the next one."""
    per_cm = (round(1e4 / mpp * 10_000), 10_000)
    tags: list[tuple[int, int, tuple[int, ...]]] = [
        (254, LONG, (int(reduced),)),  # NewSubfileType
        (256, LONG, (shape[1],)),  # ImageWidth
        (257, LONG, (shape[0],)),  # ImageLength
        (258, SHORT, (8, 8, 8)),  # BitsPerSample
        (259, SHORT, (7,)),  # Compression: JPEG
        (262, SHORT, (6,)),  # PhotometricInterpretation: YCbCr
        (277, SHORT, (3,)),  # SamplesPerPixel
        (282, RATIONAL, per_cm),  # XResolution
        (283, RATIONAL, per_cm),  # YResolution
        (284, SHORT, (1,)),  # PlanarConfiguration
        (296, SHORT, (3,)),  # ResolutionUnit: centimetre
        (322, LONG, (TILE_PX,)),  # TileWidth
        (323, LONG, (TILE_PX,)),  # TileLength
        (324, LONG, tuple(offsets)),  # TileOffsets
        (325, LONG, tuple(sizes)),  # TileByteCounts
        (530, SHORT, (2, 2)),  # YCbCrSubSampling
    ]
    link = start + 2 + 12 * len(tags)
    entries, extra = b"", b""
    for tag, kind, values in tags:
        content = struct.pack(f"<{len(values)}{LETTERS[kind]}", *values)
        count = len(values) // 2 if kind == RATIONAL else len(values)
        if len(content) > 4:
            place = struct.pack("<I", link + 4 + len(extra))
            extra += content + b"\0" * (len(content) % 2)
        else:
            place = content.ljust(4, b"\0")
        entries += struct.pack("<HHI", tag, kind, count) + place
    return struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0) + extra, link


def _tiles(rgb: NDArray[np.uint8], quality: int) -> Iterator[bytes]:
    for top in range(0, rgb.shape[0], TILE_PX):
        for left in range(0, rgb.shape[1], TILE_PX):
            tile = np.asarray(rgb[top : top + TILE_PX, left : left + TILE_PX])
            missing = ((0, TILE_PX - tile.shape[0]), (0, TILE_PX - tile.shape[1]), (0, 0))
            stream = io.BytesIO()
            Image.fromarray(np.pad(tile, missing, mode="edge")).save(stream, "JPEG", quality=quality, subsampling=2)
            yield stream.getvalue()
