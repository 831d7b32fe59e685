"""Images of H&E-like tissue with their label maps, from a layout of zones and glands."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsplf_cli.synthetic.blobs import Blobs, rasterise_blobs
from wsplf_cli.synthetic.glands import Layout, empty_layout, fill_zone, structure_map
from wsplf_cli.synthetic.kinds import Cells
from wsplf_cli.synthetic.noise import Fibres, Field, fibres, octaves, scatter, smooth
from wsplf_cli.synthetic.prior import random_zones
from wsplf_cli.synthetic.stain import jpeg, random_appearance, render


@dataclass(frozen=True, slots=True)
class SyntheticImage:
    """An image of tissue and its label maps, all [rows, columns].

    Attributes:
        rgb: uint8 [H, W, 3].
        nuclei: bool, the mask of the nuclei.
        nucleus_radius_um: float32, the mean radius of the nucleus at a pixel, 0 outside of nuclei.
        structure: uint8, index into ``kinds.STRUCTURES``.
        instance: int32, one number per gland or nest with its lumen, 0 outside.
    """

    rgb: NDArray[np.uint8]
    nuclei: NDArray[np.bool_]
    nucleus_radius_um: Field
    structure: NDArray[np.uint8]
    instance: NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class StainDensities:
    """Optical densities on a canvas, float32 [H, W]: ``h``, ``e``, ``red``; and the nuclei as in ``SyntheticImage``."""

    h: Field
    e: Field
    red: Field
    nuclei: NDArray[np.bool_]
    nucleus_radius_um: Field


@dataclass(slots=True)
class _Directions:
    """What orients cells: the flow of fibres, and the gradient of the depth (computed when a cell needs it)."""

    flow: Fibres
    depth: Field
    _gradient: tuple[Field, Field] | None = None

    def depth_gradient(self) -> tuple[Field, Field]:
        """The gradient of the depth, downwards and to the right."""
        if self._gradient is None:
            down, right = np.gradient(self.depth)
            self._gradient = np.asarray(down, np.float32), np.asarray(right, np.float32)
        return self._gradient


@dataclass(slots=True)
class _Layers:
    """Sums or maxima over blobs, on a flat canvas."""

    nucleus: Field
    cover: Field
    clear: Field
    red: Field
    radius: Field


def render_layout(rng: np.random.Generator, layout: Layout) -> SyntheticImage:
    """The image of a layout, with a random stain and scanner."""
    densities = stain_densities(rng, layout)
    appearance = random_appearance(rng)
    rgb = jpeg(render(rng, (densities.h, densities.e, densities.red), appearance), appearance.jpeg_quality)
    return SyntheticImage(rgb, densities.nuclei, densities.nucleus_radius_um, structure_map(layout), layout.instance)


def random_layout(rng: np.random.Generator, shape: tuple[int, int], mpp: float) -> Layout:
    """A layout of ``shape`` (rows, columns) with one to three random zones."""
    layout = empty_layout(shape, mpp)
    zones = random_zones(rng)
    zone_index = np.zeros(shape, np.uint8)
    if len(zones) > 1:
        period = rng.uniform(150, 500) / mpp
        fields = [octaves(rng, shape, period_px=period, count=4) for _ in zones]
        zone_index = np.argmax(fields, axis=0).astype(np.uint8)
    for index, zone in enumerate(zones):
        where = zone_index == index
        if where.any():
            fill_zone(rng, layout, zone=zone, where=where)
    return layout


def stain_densities(rng: np.random.Generator, layout: Layout) -> StainDensities:
    """The optical densities of a layout."""
    shape = layout.kind.shape
    flow = fibres(rng, shape, mpp=layout.mpp, width_um=rng.uniform(2.0, 5.0), wave_um=rng.uniform(80, 400))
    haematoxylin, eosin, red = _ground(rng, layout, flow)
    layers = _Layers(*(np.zeros(shape[0] * shape[1], np.float32) for _ in range(5)))
    directions = _Directions(flow, layout.depth)
    for index, kind in enumerate(layout.kinds):
        if not kind.cells:
            continue
        here = layout.kind == index
        if not here.any():
            continue
        for cells in kind.cells:
            _add_cells(rng, layout, cells=cells, here=here, directions=directions, layers=layers)
    return _compose(rng, layout, ground=(haematoxylin, eosin, red), layers=layers)


def _ground(rng: np.random.Generator, layout: Layout, flow: Fibres) -> tuple[Field, Field, Field]:
    """The optical densities (h, e, red) of the tissue without its cells."""
    shape = layout.kind.shape
    values = np.array(
        [
            (kind.h, kind.e, kind.red, kind.texture, kind.fibre, kind.gap, kind.apical, kind.grain_um)
            for kind in layout.kinds
        ],
        np.float32,
    )
    h, e, red, texture, fibre, gap, apical, grain_um = (column[layout.kind] for column in values.T)
    fine = octaves(rng, shape, period_px=2.5 / layout.mpp, count=2)
    coarse = octaves(rng, shape, period_px=9.0 / layout.mpp, count=2)
    mixed = fine + np.clip((grain_um - 2) / 6, 0, 1) * (coarse - fine)
    grain = 1 + texture * mixed + fibre * flow.texture
    grain = np.maximum(grain, 0.1)
    # slits are where the fibre texture is lowest: a standard normal is below -1.3 + 1.6 g for about a share g
    loose = smooth(rng, shape, 60 / layout.mpp)
    slit = np.clip(1.6 * (3.2 * gap - 1.75 - 0.75 * flow.texture - 0.35 * coarse + 0.4 * loose * (gap > 0)), 0, 1)
    slit *= gap > 0
    filled = (1 - 0.95 * slit) * np.where(layout.cleft, np.float32(0.08), np.float32(1))
    thick = (1 + 0.10 * smooth(rng, shape, 350 / layout.mpp)) * filled * grain
    fade = np.clip(1 - apical * layout.depth / 20, 0.25, 1)
    return h * thick * fade, e * thick, red * filled * grain


def _add_cells(
    rng: np.random.Generator,
    layout: Layout,
    *,
    cells: Cells,
    here: NDArray[np.bool_],
    directions: _Directions,
    layers: _Layers,
) -> None:
    """Scatter one population of cells on the pixels ``here`` and add them to the layers, in place."""
    shape = layout.kind.shape
    allowed = here & ~layout.cleft if layout.cleft.any() else here
    if cells.band_um != (0.0, 1e9):
        allowed = allowed & (layout.depth >= cells.band_um[0]) & (layout.depth <= cells.band_um[1])
    if cells.cluster > 0:
        allowed = allowed & (smooth(rng, shape, cells.cluster_um / layout.mpp) > cells.cluster)
    xy = scatter(rng, allowed, spacing_px=cells.spacing_um / layout.mpp, crowding=2.5 if cells.spacing_um < 20 else 10)
    xy = xy[rng.random(len(xy)) < cells.keep]
    if not len(xy):
        return
    count = len(xy)
    rows = np.clip(np.rint(xy[:, 1]).astype(np.intp), 0, shape[0] - 1)
    columns = np.clip(np.rint(xy[:, 0]).astype(np.intp), 0, shape[1] - 1)
    angle = rng.uniform(0, np.pi, count).astype(np.float32)
    if cells.orient == "normal":
        down, right = directions.depth_gradient()
        deviation = rng.normal(0, 0.15, count).astype(np.float32)
        angle = np.arctan2(down[rows, columns], right[rows, columns]) + deviation
    elif cells.orient == "fibre":
        angle = directions.flow.angle(rows, columns) + rng.normal(0, 0.2, count).astype(np.float32)
    radius = cells.radius_um * np.exp(cells.spread * rng.standard_normal(count)).astype(np.float32)
    stretch = np.sqrt(1 + (cells.elongation - 1) * rng.uniform(0.5, 1.5, count)).astype(np.float32)
    dark = cells.dark * np.exp(cells.dark_spread * rng.standard_normal(count)).astype(np.float32)
    blobs = Blobs(
        xy=xy,
        long=radius * stretch / layout.mpp,
        short=radius / stretch / layout.mpp,
        angle=angle.astype(np.float32),
        wobble=(cells.wobble * rng.uniform(0.4, 1.6, count)).astype(np.float32),
    )
    for pixels in rasterise_blobs(rng, blobs, shape):
        if cells.stain == "clear":
            np.maximum.at(layers.clear, pixels.index, pixels.cover * dark[pixels.owner].clip(0, 1))
        elif cells.stain == "red":
            np.maximum.at(layers.red, pixels.index, pixels.cover * dark[pixels.owner])
        else:
            profile = 1 - cells.vesicle * np.clip(1.15 - pixels.radius**2, 0, 1)
            np.add.at(layers.nucleus, pixels.index, pixels.cover * profile * dark[pixels.owner])
            np.add.at(layers.cover, pixels.index, pixels.cover)
            if cells.stain == "nucleus":
                solid = pixels.cover > 0.5
                layers.radius[pixels.index[solid]] = radius[pixels.owner[solid]]
    if cells.nucleolus > 0:
        _add_nucleoli(rng, blobs, cells=cells, mpp=layout.mpp, shape=shape, layers=layers)


def _add_nucleoli(
    rng: np.random.Generator, blobs: Blobs, *, cells: Cells, mpp: float, shape: tuple[int, int], layers: _Layers
) -> None:
    """Add nucleoli to a share of the nuclei, in place."""
    selected = rng.random(len(blobs)) < cells.nucleolus
    count = int(selected.sum())
    shift = rng.normal(0, 0.2, (count, 2)).astype(np.float32) * blobs.short[selected][:, None]
    size = (rng.uniform(0.8, 1.5, count) / mpp).astype(np.float32)
    dots = Blobs(blobs.xy[selected] + shift, size, size, np.zeros(count, np.float32), np.zeros(count, np.float32))
    for pixels in rasterise_blobs(rng, dots, shape):
        np.add.at(layers.nucleus, pixels.index, pixels.cover * np.float32(0.6 * cells.dark))


def _compose(
    rng: np.random.Generator, layout: Layout, *, ground: tuple[Field, Field, Field], layers: _Layers
) -> StainDensities:
    """The optical densities of the tissue with its cells."""
    shape = layout.kind.shape
    haematoxylin, eosin, red = ground
    clear = layers.clear.reshape(shape)
    haematoxylin = haematoxylin * (1 - clear)
    eosin = eosin * (1 - clear)
    cover = layers.cover.reshape(shape)
    chromatin = 1 + np.float32(rng.uniform(0.08, 0.25)) * octaves(rng, shape, period_px=1.6 / layout.mpp, count=2)
    nucleus = layers.nucleus.reshape(shape) / np.maximum(cover, 1) * (1 + 0.25 * np.clip(cover - 1, 0, 1))
    cover = np.minimum(cover, 1)
    haematoxylin = haematoxylin * (1 - cover) + nucleus * np.maximum(chromatin, 0.3)
    eosin = eosin * (1 - np.float32(rng.uniform(0.2, 0.7)) * cover)
    cells_red = layers.red.reshape(shape)
    red = np.maximum(red, cells_red)
    eosin = eosin * (1 - np.minimum(cells_red, 0.7))
    radius = layers.radius.reshape(shape)
    return StainDensities(haematoxylin, eosin, red, nuclei=radius > 0, nucleus_radius_um=radius)
