"""Random fields for synthetic tissue: smooth noise, fibres, and well-spaced random points."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.spatial import cKDTree

Field = NDArray[np.float32]


def smooth(rng: np.random.Generator, shape: tuple[int, int], period_px: float) -> Field:
    """Smooth noise with bumps of ``period_px``, float32 [rows, columns], mean about 0, standard deviation about 1."""
    period = max(period_px, 1.0)
    grid = rng.standard_normal((int(shape[0] / period) + 4, int(shape[1] / period) + 4), dtype=np.float32)
    box = (1.5, 1.5, 1.5 + shape[1] / period, 1.5 + shape[0] / period)
    image = Image.fromarray(grid).resize((shape[1], shape[0]), Image.Resampling.BICUBIC, box=box)
    field = np.frombuffer(image.tobytes("raw", "F"), np.float32).reshape(shape)
    return np.multiply(field, np.float32(1.25), dtype=np.float32)


def octaves(rng: np.random.Generator, shape: tuple[int, int], *, period_px: float, count: int) -> Field:
    """The sum of ``count`` smooth fields, each with half the period and 0.6 of the amplitude of the one before."""
    total = smooth(rng, shape, period_px)
    weight = norm = 1.0
    for octave in range(1, count):
        weight *= 0.6
        norm += weight**2
        total = total + np.float32(weight) * smooth(rng, shape, period_px / 2**octave)
    return total / np.float32(np.sqrt(norm))


@dataclass(frozen=True, slots=True)
class Fibres:
    """A flow of fibres. ``across`` float32 [H, W] is the distance (um) across the flow, ``texture`` is about -1..1."""

    across: Field
    texture: Field

    def angle(self, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> Field:
        """The direction of the flow at pixels, float32 [N], in radians from x towards y."""
        height, width = self.across.shape
        row, column = np.clip(rows, 0, height - 2), np.clip(columns, 0, width - 2)
        here = self.across[row, column]
        along_y = self.across[row + 1, column] - here
        along_x = self.across[row, column + 1] - here
        return np.asarray(np.arctan2(along_x, -along_y), np.float32)


def fibres(rng: np.random.Generator, shape: tuple[int, int], *, mpp: float, width_um: float, wave_um: float) -> Fibres:
    """Fibres of a width of about ``width_um`` that bend over about ``wave_um``."""
    angle = rng.uniform(0, np.pi)
    y = np.arange(shape[0], dtype=np.float32)[:, None] * np.float32(mpp)
    x = np.arange(shape[1], dtype=np.float32)[None, :] * np.float32(mpp)
    across = x * np.float32(np.sin(angle)) - y * np.float32(np.cos(angle))
    across = across + np.float32(wave_um * rng.uniform(0.1, 0.3)) * smooth(rng, shape, wave_um / mpp)
    across = across + np.float32(wave_um * 0.03) * smooth(rng, shape, 0.25 * wave_um / mpp)
    along = x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))
    table = octaves(rng, (256, 1024), period_px=8, count=3)
    fine = (across * np.float32(5.0 / width_um)).astype(np.int32) & 1023
    coarse = (along * np.float32(0.5 / width_um)).astype(np.int32) & 255
    return Fibres(across=across, texture=table[coarse, fine])


def scatter(
    rng: np.random.Generator,
    allowed: NDArray[np.bool_],
    *,
    spacing_px: float,
    crowding: float = 2.5,
) -> Field:
    """Random points (x, y) in pixels, float32 [N, 2], on ``allowed`` pixels and at least ``spacing_px`` apart.

    ``crowding`` is the number of candidates per square of the spacing: 2.5 gives nearly as many points as fit.
    """
    pixels = np.flatnonzero(allowed)
    count = int(pixels.size * crowding / spacing_px**2 + rng.uniform())
    if count == 0:
        return np.zeros((0, 2), np.float32)
    candidates = pixels[rng.integers(0, pixels.size, count)]
    rows, columns = np.divmod(candidates, allowed.shape[1])
    points = np.stack([columns, rows], axis=1).astype(np.float32)
    points += rng.random((count, 2), dtype=np.float32) - np.float32(0.5)
    return points[_well_spaced(points, spacing_px)]


def _well_spaced(points: Field, spacing: float) -> NDArray[np.bool_]:
    """Which points to keep, bool [N], so that no two are nearer than ``spacing``. Earlier points take precedence."""
    kept = np.zeros(len(points), bool)
    undecided = np.ones(len(points), bool)
    pairs = cKDTree(points).query_pairs(spacing, output_type="ndarray")
    while undecided.any():
        blocked = np.zeros(len(points), bool)
        blocked[pairs[:, 1]] = True
        accepted = undecided & ~blocked
        kept |= accepted
        undecided &= ~accepted
        undecided[pairs[accepted[pairs[:, 0]], 1]] = False
        pairs = pairs[undecided[pairs[:, 0]] & undecided[pairs[:, 1]]]
    return kept
