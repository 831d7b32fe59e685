"""Rasterise many small anti-aliased blobs at once: nuclei, vacuoles, red blood cells."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsplf_cli.synthetic.noise import Field

#: Half sides in pixels of the squares that blobs are rasterised in.
HALF_SIDES_PX = (2, 3, 4, 6, 8, 11, 15, 20, 28, 40, 60, 90, 140)
#: Pixels of the squares of one batch.
BATCH_PX = 4_000_000


@dataclass(frozen=True, slots=True)
class Blobs:
    """Blobs in pixels: ``xy`` [N, 2] centres, ``long``, ``short`` half axes, ``angle``, ``wobble`` 0..0.4. float32."""

    xy: Field
    long: Field
    short: Field
    angle: Field
    wobble: Field

    def __len__(self) -> int:
        return len(self.xy)


@dataclass(frozen=True, slots=True)
class BlobPixels:
    """Pixels of some blobs: flat ``index``, ``cover`` 0..1, ``radius`` (0 centre, 1 edge), ``owner`` (blob index)."""

    index: NDArray[np.int64]
    cover: Field
    radius: Field
    owner: NDArray[np.int64]


def rasterise_blobs(rng: np.random.Generator, blobs: Blobs, shape: tuple[int, int]) -> Iterator[BlobPixels]:
    """The pixels that blobs cover on a canvas of ``shape`` (rows, columns), in batches."""
    phase = rng.uniform(0, 2 * np.pi, (3, len(blobs))).astype(np.float32)
    reach = np.maximum(blobs.long, blobs.short) * (1 + blobs.wobble) + 1.0
    size_index = np.searchsorted(HALF_SIDES_PX, reach)
    for index, half in enumerate(HALF_SIDES_PX):
        members = np.flatnonzero(size_index == index)
        step = max(1, BATCH_PX // (2 * half + 1) ** 2)
        for start in range(0, len(members), step):
            yield _rasterise_one_size(blobs, members[start : start + step], half=half, shape=shape, phase=phase)


def _rasterise_one_size(
    blobs: Blobs, members: NDArray[np.intp], *, half: int, shape: tuple[int, int], phase: Field
) -> BlobPixels:
    """The pixels of the blobs ``members``, each rasterised in a square of 2 * ``half`` + 1 pixels."""
    offset = np.arange(-half, half + 1, dtype=np.float32)
    column0 = np.rint(blobs.xy[members, 0]).astype(np.int64)
    row0 = np.rint(blobs.xy[members, 1]).astype(np.int64)
    dx = offset[None, None, :] - (blobs.xy[members, 0] - column0).astype(np.float32)[:, None, None]
    dy = offset[None, :, None] - (blobs.xy[members, 1] - row0).astype(np.float32)[:, None, None]
    cos, sin = np.cos(blobs.angle[members])[:, None, None], np.sin(blobs.angle[members])[:, None, None]
    long, short = blobs.long[members][:, None, None], blobs.short[members][:, None, None]
    u, v = (dx * cos + dy * sin) / long, (dy * cos - dx * sin) / short
    square = u * u + v * v
    radius = np.sqrt(square)
    # Harmonics 2 and 3 of the outline, written without angles: cos 3t = (u^3 - 3 u v^2) / r^3.
    p, q, r = (phase[k][members][:, None, None] for k in range(3))
    cube = np.maximum(square * radius, np.float32(1e-3))
    third = (u * (square - 4 * v * v) * np.cos(p) + v * (4 * u * u - square) * np.sin(p)) / cube
    second = 2 * u * v * np.sin(q) / np.maximum(square, np.float32(1e-3))
    lean = (u * np.cos(r) + v * np.sin(r)) / np.maximum(radius, np.float32(1e-3))
    radius = radius * (1 + blobs.wobble[members][:, None, None] * (0.45 * third + 0.45 * second + 0.25 * lean))
    cover = np.clip((1 - radius) * np.sqrt(long * short) + 0.5, 0, 1)
    rows = row0[:, None, None] + offset.astype(np.int64)[None, :, None]
    columns = column0[:, None, None] + offset.astype(np.int64)[None, None, :]
    covered = (cover > 0) & (rows >= 0) & (rows < shape[0]) & (columns >= 0) & (columns < shape[1])
    positions = np.nonzero(covered)
    index = rows[positions[0], positions[1], 0] * shape[1] + columns[positions[0], 0, positions[2]]
    return BlobPixels(
        index, cover[covered].astype(np.float32), radius[covered].astype(np.float32), members[positions[0]]
    )
