"""One slide of a cohort: tissue on glass, tumour where asked for, distractors, folds, blur and pen."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from shapely import MultiPolygon

from wsplf_cli.synthetic import zones
from wsplf_cli.synthetic.glands import Layout, empty_layout, fill_zone
from wsplf_cli.synthetic.kinds import BACKGROUND, Kind
from wsplf_cli.synthetic.noise import Field, octaves, smooth
from wsplf_cli.synthetic.regions import GRID_PX, outline, rasterise_polygons, tissue_level, tumour_level, upsample
from wsplf_cli.synthetic.stain import random_appearance, render
from wsplf_cli.synthetic.tissue import stain_densities

#: Strokes of pen that are tried until one does not touch tumour.
PEN_TRIES = 8
GLASS = Kind(BACKGROUND, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class GeneratedSlide:
    """A slide in memory, with its truth.

    ``rgb`` is uint8 [H, W, 3] at level 0, ``tumour`` in level-0 pixels, ``tumour_share`` the share of tumour in the
    tissue, 0..1, and ``quality`` the scanner's JPEG quality.
    """

    rgb: NDArray[np.uint8]
    tumour: MultiPolygon
    tumour_share: float
    quality: int


def generate_slide(
    rng: np.random.Generator, *, size_px: int, mpp: float, tumour_share: float, pen: bool
) -> GeneratedSlide:
    """A square slide with tumour on a share of its tissue.

    Args:
        rng: Random numbers, which determine the slide.
        size_px: Side of the slide.
        mpp: Micrometres per pixel.
        tumour_share: Share of tumour in the tissue, 0..1; 0 for a negative slide.
        pen: Draw a stroke of pen on the slide, not on tumour.
    """
    shape = (size_px, size_px)
    level = tissue_level(rng, shape, share=rng.uniform(0.5, 0.65))
    tissue = rasterise_polygons(shape, outline(level))
    polygons = MultiPolygon()
    if tumour_share > 0:
        pieces = 1 if tumour_share < 0.04 else int(rng.integers(1, 4))
        holes = int(rng.integers(0, 3)) if tumour_share > 0.06 else 0
        polygons = outline(tumour_level(rng, level, share=tumour_share, pieces=pieces, holes=holes, mpp=mpp))
    tumour = rasterise_polygons(shape, polygons)
    layout = _layout(rng, shape, mpp=mpp, tissue=tissue, tumour=tumour)
    densities = stain_densities(rng, layout)
    appearance = random_appearance(rng, jitter=0.8)
    edge = np.clip(0.5 + upsample(np.clip(level, -0.2, 0.2), shape) * 25, 0, 1)
    layers = [densities.h * edge, densities.e * edge, densities.red * edge]
    for _ in range(int(rng.integers(0, 3))):
        _fold(rng, layers, mpp=mpp)
    rgb = render(rng, (layers[0], layers[1], layers[2]), appearance)
    for _ in range(int(rng.integers(0, 3))):
        _defocus(rng, rgb, mpp=mpp)
    if pen:
        _pen(rng, rgb, mpp=mpp, tumour=tumour)
    covered = float(tissue.sum())
    return GeneratedSlide(rgb, polygons, float((tumour & tissue).sum()) / max(covered, 1.0), appearance.jpeg_quality)


def _layout(
    rng: np.random.Generator,
    shape: tuple[int, int],
    *,
    mpp: float,
    tissue: NDArray[np.bool_],
    tumour: NDArray[np.bool_],
) -> Layout:
    """The layout of a slide: tumour, distractors in the normal tissue, and zones of normal tissue."""
    layout = empty_layout(shape, mpp)
    layout.kind[:] = layout.index(GLASS)
    if tumour.any():
        fill_zone(rng, layout, zone=zones.tumour(rng), where=tumour)
    normal = tissue & ~tumour
    for zone, count, radius_um in (
        (zones.aggregate(rng), int(rng.integers(2, 6)), (50.0, 110.0)),
        (zones.dark_glands(rng), int(rng.integers(1, 4)), (90.0, 200.0)),
    ):
        for _ in range(count):
            spot = _spot(rng, normal, radius_um=rng.uniform(*radius_um), mpp=mpp)
            fill_zone(rng, layout, zone=zone, where=spot)
            normal &= ~spot
    normal_zones = zones.normal_zones(rng)
    coarse = (-(-shape[0] // GRID_PX), -(-shape[1] // GRID_PX))
    period = 700 / mpp / GRID_PX
    mean_bias = (0.2, 0.2, 0.2, -0.3, -0.3, -0.8)  # the larger, the more of the zone
    biases = [float(rng.normal(mean, 0.25)) for mean in mean_bias]
    fields = [octaves(rng, coarse, period_px=period, count=5) + np.float32(bias) for bias in biases]
    highest, zone_index = np.full(shape, -np.inf, np.float32), np.zeros(shape, np.uint8)
    for index, field in enumerate(fields):
        fine = upsample(field, shape)
        zone_index[fine > highest] = index
        np.maximum(highest, fine, out=highest)
    for index, zone in enumerate(normal_zones):
        where = normal & (zone_index == index)
        if where.any():
            fill_zone(rng, layout, zone=zone, where=where)
    return layout


def _spot(rng: np.random.Generator, allowed: NDArray[np.bool_], *, radius_um: float, mpp: float) -> NDArray[np.bool_]:
    """The mask of a roundish spot on allowed pixels, empty where none is allowed."""
    candidates = np.flatnonzero(allowed[::8, ::8])
    spot = np.zeros(allowed.shape, bool)
    if not candidates.size:
        return spot
    centre = int(candidates[rng.integers(candidates.size)])
    row, column = (8 * index for index in divmod(centre, allowed[::8, ::8].shape[1]))
    half = int(1.6 * radius_um / mpp)
    box = (slice(max(row - half, 0), row + half), slice(max(column - half, 0), column + half))
    y, x = np.ogrid[: allowed.shape[0], : allowed.shape[1]]
    distance_um = np.hypot(y[box[0]] - row, x[:, box[1]] - column) * mpp
    spot[box] = distance_um + 0.25 * radius_um * smooth(rng, distance_um.shape, radius_um / mpp) < radius_um
    return spot & allowed


def _fold(rng: np.random.Generator, layers: list[Field], *, mpp: float) -> None:
    """Add a fold to the layers, in place: along a bent line the tissue lies double, dark and shifted."""
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
    for index, layer in enumerate(layers):
        layers[index] = layer + strength * np.roll(layer, shift, axis=1)


def _defocus(rng: np.random.Generator, rgb: NDArray[np.uint8], *, mpp: float) -> None:
    """Blur a round part of the image, in place."""
    radius = int(rng.uniform(100, 220) / mpp)
    row, column = (int(rng.integers(0, side)) for side in rgb.shape[:2])
    box = (slice(max(row - radius, 0), row + radius), slice(max(column - radius, 0), column + radius))
    sharp = rgb[box].astype(np.float32)
    y, x = np.ogrid[: sharp.shape[0], : sharp.shape[1]]
    distance = np.hypot(y + box[0].start - row, x + box[1].start - column) / radius
    weight = np.clip((1 - distance) * 4, 0, 1)[..., None]
    soft = gaussian_filter(sharp, (rng.uniform(1.2, 2.2) / mpp,) * 2 + (0,))
    rgb[box] = np.clip(sharp * (1 - weight) + soft * weight + 0.5, 0, 255).astype(np.uint8)


def _pen(rng: np.random.Generator, rgb: NDArray[np.uint8], *, mpp: float, tumour: NDArray[np.bool_]) -> None:
    """Draw a stroke of a marker pen on the image, in place, beside the tumour, as pathologists draw around it."""
    strokes = (_stroke(rng, tumour.shape, mpp=mpp) for _ in range(PEN_TRIES))
    cover = next((stroke for stroke in strokes if not tumour[stroke > 0].any()), None)
    if cover is None:
        return
    dyes = ((40, 60, 140), (30, 110, 70), (40, 40, 45))
    ink = np.array(dyes[int(rng.integers(len(dyes)))], np.float32) / 255
    transmission = 1 - (cover * np.float32(rng.uniform(0.7, 0.95)))[..., None] * (1 - ink)
    rgb[:] = np.clip(rgb * transmission + 0.5, 0, 255).astype(np.uint8)


def _stroke(rng: np.random.Generator, shape: tuple[int, ...], *, mpp: float) -> Field:
    """The amount of ink on each pixel of a random stroke, 0..1."""
    height, width = shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    angle = rng.uniform(0, np.pi)
    row, column = rng.uniform(0.05, 0.95, 2) * np.array((height, width))
    across = (x - np.float32(column)) * np.float32(np.sin(angle)) - (y - np.float32(row)) * np.float32(np.cos(angle))
    along = (x - np.float32(column)) * np.float32(np.cos(angle)) + (y - np.float32(row)) * np.float32(np.sin(angle))
    across = across * np.float32(mpp) + 60 * smooth(rng, (height, width), 500 / mpp)
    reach = np.abs(along) * np.float32(mpp) < rng.uniform(150, 500)
    return np.asarray(np.clip((rng.uniform(25, 45) - np.abs(across)) / 6, 0, 1) * reach, np.float32)
