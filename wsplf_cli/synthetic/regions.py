"""Smooth random shapes, the tissue and the tumour in it, as level-set functions and as exact polygons."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from shapely import MultiPolygon, Polygon
from shapely.geometry.polygon import orient
from skimage.measure import find_contours

from wsplf_cli.geometry import rasterise
from wsplf_cli.synthetic.noise import Field, octaves, smooth

#: Shapes are computed on a grid of this many level-0 pixels.
GRID_PX = 8


def tissue_level(rng: np.random.Generator, shape: tuple[int, int], *, share: float) -> Field:
    """The level-set function of tissue that covers about ``share`` of a slide.

    It is float32 [H / 8, W / 8] and positive on tissue.
    """
    coarse = _coarse(shape)
    y, x = np.mgrid[: coarse[0], : coarse[1]].astype(np.float32)
    u, v = 2 * x / coarse[1] - 1, 2 * y / coarse[0] - 1
    level = -(np.abs(u) ** 2.5 + np.abs(v) ** 2.5) + 0.28 * octaves(rng, coarse, period_px=coarse[0] / 3, count=4)
    edge = np.minimum(1 - np.abs(u), 1 - np.abs(v))
    level = level - np.quantile(level, 1 - share)
    margin = 0.07 + 0.02 * octaves(rng, coarse, period_px=coarse[0] / 6, count=3)
    return np.asarray(np.minimum(level, 4 * (edge - np.maximum(margin, 0.02))), np.float32)


def tumour_level(
    rng: np.random.Generator, tissue: Field, *, share: float, pieces: int, holes: int, mpp: float
) -> Field:
    """The level-set function of tumour that covers ``share`` of the tissue, in up to ``pieces`` pieces with ``holes``.

    It is positive on tumour, on the grid of ``tissue``. Pieces are at least about 150 um across, unless ``share`` is
    too small for that.
    """
    grid_um = GRID_PX * mpp
    inside = tissue > 0
    depth_um = ndimage.distance_transform_edt(inside).astype(np.float32) * grid_um
    area = share * float(inside.sum())
    radius = np.sqrt(area / pieces / np.pi) * grid_um
    candidates = np.argwhere(depth_um > min(0.8 * radius + 20, 0.7 * float(depth_um.max())))
    seeds = [candidates[rng.integers(len(candidates))]]
    for _ in range(pieces - 1):
        far = np.min([np.hypot(*(candidates - seed).T) for seed in seeds], axis=0)
        far_enough = candidates[far * grid_um > min(2.6 * radius, 0.6 * float(far.max()) * grid_um)]
        seeds.append(far_enough[rng.integers(len(far_enough))])
    y, x = np.mgrid[: tissue.shape[0], : tissue.shape[1]].astype(np.float32)
    wave = octaves(rng, tissue.shape, period_px=max(1.3 * radius, 120) / grid_um, count=2)
    level = np.full(tissue.shape, -1e6, np.float32)
    for row, column in seeds:
        stretch = np.exp(rng.uniform(-0.35, 0.35))
        angle = rng.uniform(0, np.pi)
        along = ((x - column) * np.cos(angle) + (y - row) * np.sin(angle)) * grid_um * stretch
        across = ((y - row) * np.cos(angle) - (x - column) * np.sin(angle)) * grid_um / stretch
        level = np.maximum(level, -np.hypot(along, across) * np.exp(rng.uniform(-0.2, 0.2)))
    level = np.asarray(level + 0.22 * radius * wave, np.float32)
    level = np.minimum(level, depth_um * 6 - 1.5 * radius)
    ordered = np.sort(level[inside])
    level = level - ordered[max(len(ordered) - round(area) - 1, 0)]
    hole_levels = [_hole(rng, _largest(level, keep=pieces), grid_um=grid_um) for _ in range(holes)]
    walls = np.min([np.full(level.shape, np.float32(1e6)), *hole_levels], axis=0)
    low, high = -2 * radius, 2 * radius
    for _ in range(14):
        cut = (low + high) / 2
        too_large = (np.minimum(_largest(level - cut, keep=pieces), walls) > 0).sum() > area
        low, high = (cut, high) if too_large else (low, cut)
    return np.asarray(np.minimum(_largest(level - np.float32(high), keep=pieces), walls), np.float32)


def _largest(level: Field, *, keep: int) -> Field:
    """The level-set function with only its ``keep`` largest pieces."""
    labels, count = ndimage.label(level > 0)
    if count <= keep:
        return level
    sizes = np.bincount(labels.ravel())[1:]
    kept = np.argsort(sizes)[::-1][:keep] + 1
    return np.where((labels > 0) & ~np.isin(labels, kept), np.float32(-1), level)


def _hole(rng: np.random.Generator, level: Field, *, grid_um: float) -> Field:
    """A function that is negative in a hole with a radius of 60 to 120 um well inside ``level``, else positive.

    It is positive everywhere if no hole fits in.
    """
    depth_um = ndimage.distance_transform_edt(level > 0).astype(np.float32) * np.float32(grid_um)
    radius = rng.uniform(60, 120)
    candidates = np.argwhere(depth_um > radius + 90)
    if not len(candidates):
        return np.full(level.shape, np.float32(1e6))
    row, column = candidates[rng.integers(len(candidates))]
    y, x = np.mgrid[: level.shape[0], : level.shape[1]].astype(np.float32)
    distance_um = np.hypot(x - column, y - row) * grid_um + 0.2 * radius * smooth(rng, level.shape, 100 / grid_um)
    return np.asarray(distance_um - radius, np.float32)


def outline(level: Field, *, min_area_px0: float = 400.0) -> MultiPolygon:
    """Polygons with holes, in level-0 pixels, around the area where a level-set function is positive."""
    padded = np.pad(level, 1, constant_values=-1e3)
    rings = []
    for line in find_contours(np.clip(padded, -40, 40), 0):
        xy = (line[:, ::-1] - 1 + 0.5) * GRID_PX
        ring = Polygon(xy).simplify(0.7)
        if ring.is_valid and ring.area >= min_area_px0:
            rings.append(ring)
    area = MultiPolygon()
    for ring in rings:
        area = area.symmetric_difference(ring)
    polygons = [area] if isinstance(area, Polygon) else area.geoms
    return MultiPolygon([orient(polygon) for polygon in polygons if isinstance(polygon, Polygon)])


def rasterise_polygons(shape: tuple[int, int], polygons: MultiPolygon) -> NDArray[np.bool_]:
    """The mask of the polygons, bool [rows, columns]: the pixels whose centre lies in them."""
    return rasterise([polygons], origin_px0=(0.0, 0.0), downsample=1.0, size_px=(shape[1], shape[0]))


def upsample(level: Field, shape: tuple[int, int]) -> Field:
    """A function on the coarse grid at level-0 resolution, float32 [rows, columns]."""
    box = (0, 0, shape[1] / GRID_PX, shape[0] / GRID_PX)
    resized = Image.fromarray(level).resize((shape[1], shape[0]), Image.Resampling.BICUBIC, box=box)
    return np.asarray(resized, np.float32)


def _coarse(shape: tuple[int, int]) -> tuple[int, int]:
    """The shape of the coarse grid."""
    return -(-shape[0] // GRID_PX), -(-shape[1] // GRID_PX)
