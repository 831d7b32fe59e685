"""Smooth random shapes: the outline of the tissue, and of the tumour in it, with exact polygons."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from shapely import MultiPolygon, Polygon
from shapely.geometry.polygon import orient
from skimage.measure import find_contours

from wsplf_cli.geometry import rasterise
from wsplf_cli.synthetic.noise import Field, octaves, smooth

#: Shapes are laid out on a grid of this many level-0 pixels and drawn smoothly at level 0.
GRID_PX = 8


def tissue_level(rng: np.random.Generator, shape: tuple[int, int], *, share: float) -> Field:
    """A field on the coarse grid, float32 [H / 8, W / 8], positive on tissue, which covers about ``share``."""
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
    """A field positive on tumour that covers ``share`` of the tissue, in up to ``pieces`` pieces with ``holes``.

    Pieces are at least about 150 um across, unless the share asked for is too small for that.
    """
    um = GRID_PX * mpp
    inside = tissue > 0
    deep = ndimage.distance_transform_edt(inside).astype(np.float32) * um
    area = share * float(inside.sum())
    radius = np.sqrt(area / pieces / np.pi) * um
    places = np.argwhere(deep > min(0.8 * radius + 20, 0.7 * float(deep.max())))
    seeds = [places[rng.integers(len(places))]]
    for _ in range(pieces - 1):
        far = np.min([np.hypot(*(places - seed).T) for seed in seeds], axis=0)
        good = places[far * um > min(2.6 * radius, 0.6 * float(far.max()) * um)]
        seeds.append(good[rng.integers(len(good))])
    y, x = np.mgrid[: tissue.shape[0], : tissue.shape[1]].astype(np.float32)
    wave = octaves(rng, tissue.shape, period_px=max(1.3 * radius, 120) / um, count=2)
    level = np.full(tissue.shape, -1e6, np.float32)
    for row, column in seeds:
        stretch = np.exp(rng.uniform(-0.35, 0.35))
        angle = rng.uniform(0, np.pi)
        along = ((x - column) * np.cos(angle) + (y - row) * np.sin(angle)) * um * stretch
        across = ((y - row) * np.cos(angle) - (x - column) * np.sin(angle)) * um / stretch
        level = np.maximum(level, -np.hypot(along, across) * np.exp(rng.uniform(-0.2, 0.2)))
    level = np.asarray(level + 0.22 * radius * wave, np.float32)
    level = np.minimum(level, deep * 6 - 1.5 * radius)
    ordered = np.sort(level[inside])
    level = level - ordered[max(len(ordered) - round(area) - 1, 0)]
    pierced = [_hole(rng, _largest(level, keep=pieces), um=um) for _ in range(holes)]
    walls = np.min([np.full(level.shape, np.float32(1e6)), *pierced], axis=0)
    low, high = -2 * radius, 2 * radius
    for _ in range(14):
        cut = (low + high) / 2
        wide = (np.minimum(_largest(level - cut, keep=pieces), walls) > 0).sum() > area
        low, high = (cut, high) if wide else (low, cut)
    return np.asarray(np.minimum(_largest(level - np.float32(high), keep=pieces), walls), np.float32)


def _largest(level: Field, *, keep: int) -> Field:
    """The level without all but its ``keep`` largest pieces."""
    labels, count = ndimage.label(level > 0)
    if count <= keep:
        return level
    sizes = np.bincount(labels.ravel())[1:]
    kept = np.argsort(sizes)[::-1][:keep] + 1
    return np.where((labels > 0) & ~np.isin(labels, kept), np.float32(-1), level)


def _hole(rng: np.random.Generator, level: Field, *, um: float) -> Field:
    """A field that is negative in a hole of 60 to 120 um radius well inside the level, positive where there is none."""
    deep = ndimage.distance_transform_edt(level > 0).astype(np.float32) * np.float32(um)
    radius = rng.uniform(60, 120)
    places = np.argwhere(deep > radius + 90)
    if not len(places):
        return np.full(level.shape, np.float32(1e6))
    row, column = places[rng.integers(len(places))]
    y, x = np.mgrid[: level.shape[0], : level.shape[1]].astype(np.float32)
    away = np.hypot(x - column, y - row) * um + 0.2 * radius * smooth(rng, level.shape, 100 / um)
    return np.asarray(away - radius, np.float32)


def outline(level: Field, *, least_px0: float = 400.0) -> MultiPolygon:
    """The area where a coarse level is positive, as polygons with holes in level-0 pixels."""
    padded = np.pad(level, 1, constant_values=-1e3)
    rings = []
    for line in find_contours(np.clip(padded, -40, 40), 0):
        xy = (line[:, ::-1] - 1 + 0.5) * GRID_PX
        ring = Polygon(xy).simplify(0.7)
        if ring.is_valid and ring.area >= least_px0:
            rings.append(ring)
    area = MultiPolygon()
    for ring in rings:
        area = area.symmetric_difference(ring)
    polygons = [area] if isinstance(area, Polygon) else area.geoms
    return MultiPolygon([orient(polygon) for polygon in polygons if isinstance(polygon, Polygon)])


def draw(shape: tuple[int, int], polygons: MultiPolygon) -> NDArray[np.bool_]:
    """The pixels whose centre lies in the polygons, bool [rows, columns]."""
    return rasterise([polygons], origin_px0=(0.0, 0.0), downsample=1.0, size_px=(shape[1], shape[0]))


def enlarge(level: Field, shape: tuple[int, int]) -> Field:
    """A coarse level at level 0, float32 [rows, columns]."""
    box = (0, 0, shape[1] / GRID_PX, shape[0] / GRID_PX)
    resized = Image.fromarray(level).resize((shape[1], shape[0]), Image.Resampling.BICUBIC, box=box)
    return np.asarray(resized, np.float32)


def _coarse(shape: tuple[int, int]) -> tuple[int, int]:
    return -(-shape[0] // GRID_PX), -(-shape[1] // GRID_PX)
