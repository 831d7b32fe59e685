"""Paint one whole slide of a cohort: tissue on glass, tumour where asked, distractors, and the scanner's faults."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from shapely import MultiPolygon

from wsplf_cli.synthetic import recipes
from wsplf_cli.synthetic.glands import Plan, empty_plan, fill_zone
from wsplf_cli.synthetic.kinds import BACKGROUND, Kind
from wsplf_cli.synthetic.noise import Field, octaves, smooth
from wsplf_cli.synthetic.regions import GRID_PX, draw, enlarge, outline, tissue_level, tumour_level
from wsplf_cli.synthetic.stain import random_look, render
from wsplf_cli.synthetic.tissue import paint

PEN_TRIES = 8
GLASS = Kind(BACKGROUND, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class SlidePicture:
    """``rgb`` uint8 [H, W, 3] at level 0; ``tumour`` in level-0 pixels; ``tumour_share`` of the tissue, 0..1."""

    rgb: NDArray[np.uint8]
    tumour: MultiPolygon
    tumour_share: float
    quality: int


def paint_slide(rng: np.random.Generator, *, size_px: int, mpp: float, share: float, pen: bool) -> SlidePicture:
    """A square slide of ``size_px`` with tumour on ``share`` (0..1, 0: a negative slide) of its tissue.

    ``pen``: somebody drew on it, beside the tumour.
    """
    shape = (size_px, size_px)
    level = tissue_level(rng, shape, share=rng.uniform(0.5, 0.65))
    tissue = draw(shape, outline(level))
    polygons = MultiPolygon()
    if share > 0:
        pieces = 1 if share < 0.04 else int(rng.integers(1, 4))
        holes = int(rng.integers(0, 3)) if share > 0.06 else 0
        polygons = outline(tumour_level(rng, level, share=share, pieces=pieces, holes=holes, mpp=mpp))
    tumour = draw(shape, polygons)
    plan = _plan(rng, shape, mpp=mpp, tissue=tissue, tumour=tumour)
    inks = paint(rng, plan)
    look = random_look(rng, jitter=0.8)
    edge = np.clip(0.5 + enlarge(np.clip(level, -0.2, 0.2), shape) * 25, 0, 1)
    layers = [inks.h * edge, inks.e * edge, inks.red * edge]
    for _ in range(int(rng.integers(0, 3))):
        _fold(rng, layers, mpp=mpp)
    rgb = render(rng, (layers[0], layers[1], layers[2]), look)
    for _ in range(int(rng.integers(0, 3))):
        _defocus(rng, rgb, mpp=mpp)
    if pen:
        _pen(rng, rgb, mpp=mpp, keep_off=tumour)
    covered = float(tissue.sum())
    return SlidePicture(rgb, polygons, float((tumour & tissue).sum()) / max(covered, 1.0), look.jpeg_quality)


def _plan(
    rng: np.random.Generator,
    shape: tuple[int, int],
    *,
    mpp: float,
    tissue: NDArray[np.bool_],
    tumour: NDArray[np.bool_],
) -> Plan:
    plan = empty_plan(shape, mpp)
    plan.kind[:] = plan.index(GLASS)
    if tumour.any():
        fill_zone(rng, plan, zone=recipes.tumour(rng), where=tumour)
    normal = tissue & ~tumour
    for zone, count, radius_um in (
        (recipes.aggregate(rng), int(rng.integers(2, 6)), (50.0, 110.0)),
        (recipes.dark_glands(rng), int(rng.integers(1, 4)), (90.0, 200.0)),
    ):
        for _ in range(count):
            spot = _spot(rng, normal, radius_um=rng.uniform(*radius_um), mpp=mpp)
            fill_zone(rng, plan, zone=zone, where=spot)
            normal &= ~spot
    zones = recipes.normal_zones(rng)
    coarse = (-(-shape[0] // GRID_PX), -(-shape[1] // GRID_PX))
    period = 700 / mpp / GRID_PX
    likely = (0.2, 0.2, 0.2, -0.3, -0.3, -0.8)
    bias = [float(rng.normal(middle, 0.25)) for middle in likely]
    fields = [octaves(rng, coarse, period_px=period, count=5) + np.float32(value) for value in bias]
    best, part = np.full(shape, -np.inf, np.float32), np.zeros(shape, np.uint8)
    for number, field in enumerate(fields):
        fine = enlarge(field, shape)
        part[fine > best] = number
        np.maximum(best, fine, out=best)
    for number, zone in enumerate(zones):
        where = normal & (part == number)
        if where.any():
            fill_zone(rng, plan, zone=zone, where=where)
    return plan


def _spot(rng: np.random.Generator, allowed: NDArray[np.bool_], *, radius_um: float, mpp: float) -> NDArray[np.bool_]:
    """A roundish spot on allowed pixels."""
    places = np.flatnonzero(allowed[::8, ::8])
    spot = np.zeros(allowed.shape, bool)
    if not places.size:
        return spot
    row, column = (8 * int(v) for v in divmod(int(places[rng.integers(places.size)]), allowed[::8, ::8].shape[1]))
    half = int(1.6 * radius_um / mpp)
    box = (slice(max(row - half, 0), row + half), slice(max(column - half, 0), column + half))
    y, x = np.ogrid[: allowed.shape[0], : allowed.shape[1]]
    away = np.hypot(y[box[0]] - row, x[:, box[1]] - column) * mpp
    spot[box] = away + 0.25 * radius_um * smooth(rng, away.shape, radius_um / mpp) < radius_um
    return spot & allowed


def _fold(rng: np.random.Generator, layers: list[Field], *, mpp: float) -> None:
    """A fold: along a bent line the tissue lies double, so that it is dark and out of register."""
    shape = layers[0].shape
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    angle = rng.uniform(0, np.pi)
    row, column = rng.uniform(0.2, 0.8, 2) * np.array(shape)
    across = (x - np.float32(column)) * np.float32(np.sin(angle)) - (y - np.float32(row)) * np.float32(np.cos(angle))
    along = (x - np.float32(column)) * np.float32(np.cos(angle)) + (y - np.float32(row)) * np.float32(np.sin(angle))
    across = across * np.float32(mpp) + 25 * smooth(rng, shape, 250 / mpp)
    taper = 1 - (along * np.float32(mpp) / np.float32(rng.uniform(150, 450))) ** 2
    width = np.float32(rng.uniform(10, 22)) * np.sqrt(np.maximum(taper, 0))
    strength = np.clip((width - np.abs(across)) / 3, 0, 1).astype(np.float32)
    shift = int(rng.integers(5, 15))
    for number, layer in enumerate(layers):
        layers[number] = layer + strength * np.roll(layer, shift, axis=1)


def _defocus(rng: np.random.Generator, rgb: NDArray[np.uint8], *, mpp: float) -> None:
    """Blur a round part of the picture, in place."""
    radius = int(rng.uniform(100, 220) / mpp)
    row, column = (int(rng.integers(0, side)) for side in rgb.shape[:2])
    box = (slice(max(row - radius, 0), row + radius), slice(max(column - radius, 0), column + radius))
    part = rgb[box].astype(np.float32)
    y, x = np.ogrid[: part.shape[0], : part.shape[1]]
    away = np.hypot(y + box[0].start - row, x + box[1].start - column) / radius
    weight = np.clip((1 - away) * 4, 0, 1)[..., None]
    soft = gaussian_filter(part, (rng.uniform(1.2, 2.2) / mpp,) * 2 + (0,))
    rgb[box] = np.clip(part * (1 - weight) + soft * weight + 0.5, 0, 255).astype(np.uint8)


def _pen(rng: np.random.Generator, rgb: NDArray[np.uint8], *, mpp: float, keep_off: NDArray[np.bool_]) -> None:
    """A stroke of a marker pen over the picture, in place; beside ``keep_off``, as pathologists draw around tumour."""
    strokes = (_stroke(rng, keep_off.shape, mpp=mpp) for _ in range(PEN_TRIES))
    cover = next((stroke for stroke in strokes if not keep_off[stroke > 0].any()), None)
    if cover is None:
        return
    dyes = ((40, 60, 140), (30, 110, 70), (40, 40, 45))
    ink = np.array(dyes[int(rng.integers(len(dyes)))], np.float32) / 255
    through = 1 - (cover * np.float32(rng.uniform(0.7, 0.95)))[..., None] * (1 - ink)
    rgb[:] = np.clip(rgb * through + 0.5, 0, 255).astype(np.uint8)


def _stroke(rng: np.random.Generator, shape: tuple[int, ...], *, mpp: float) -> Field:
    """How much ink lies on each pixel, 0..1."""
    height, width = shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    angle = rng.uniform(0, np.pi)
    row, column = rng.uniform(0.05, 0.95, 2) * np.array((height, width))
    across = (x - np.float32(column)) * np.float32(np.sin(angle)) - (y - np.float32(row)) * np.float32(np.cos(angle))
    along = (x - np.float32(column)) * np.float32(np.cos(angle)) + (y - np.float32(row)) * np.float32(np.sin(angle))
    across = across * np.float32(mpp) + 60 * smooth(rng, (height, width), 500 / mpp)
    reach = np.abs(along) * np.float32(mpp) < rng.uniform(150, 500)
    return np.asarray(np.clip((rng.uniform(25, 45) - np.abs(across)) / 6, 0, 1) * reach, np.float32)
