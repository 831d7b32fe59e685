"""The painter: from a plan of zones and glands to a picture of H&E-like tissue with its label maps."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsplf_cli.synthetic.glands import Plan, empty_plan, fill_zone, structure_map
from wsplf_cli.synthetic.kinds import Cells
from wsplf_cli.synthetic.noise import Fibres, Field, fibres, octaves, scatter, smooth
from wsplf_cli.synthetic.prior import random_zones
from wsplf_cli.synthetic.stain import jpeg, random_look, render
from wsplf_cli.synthetic.stamps import Blobs, stamp


@dataclass(frozen=True, slots=True)
class Painted:
    """A picture and what is on it, all [rows, columns].

    ``rgb`` uint8 [H, W, 3]; ``nuclei`` bool; ``nucleus_radius_um`` float32, the mean radius of the nucleus at a pixel,
    0 outside nuclei; ``structure`` uint8, index into ``kinds.STRUCTURES``; ``instance`` int32, one number per gland or
    nest including its lumen, 0 outside.
    """

    rgb: NDArray[np.uint8]
    nuclei: NDArray[np.bool_]
    nucleus_radius_um: Field
    structure: NDArray[np.uint8]
    instance: NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Inks:
    """Dyes on a canvas, optical density float32 [H, W] (``h``, ``e``, ``red``), and the nuclei as in ``Painted``."""

    h: Field
    e: Field
    red: Field
    nuclei: NDArray[np.bool_]
    nucleus_radius_um: Field


@dataclass(slots=True)
class _Layers:
    """Sums over blobs on a flat canvas."""

    nucleus: Field
    cover: Field
    clear: Field
    red: Field
    radius: Field


def paint_generic(rng: np.random.Generator, *, size_px: tuple[int, int] = (256, 256), mpp: float = 1.0) -> Painted:
    """A random picture of ``size_px`` (width, height) at ``mpp`` um/px, from a wide prior of tissues and scanners."""
    return paint_planned(rng, random_plan(rng, (size_px[1], size_px[0]), mpp))


def paint_planned(rng: np.random.Generator, plan: Plan) -> Painted:
    """A plan, painted, as a random laboratory and scanner would show it."""
    inks = paint(rng, plan)
    look = random_look(rng)
    rgb = jpeg(render(rng, (inks.h, inks.e, inks.red), look), look.jpeg_quality)
    return Painted(rgb, inks.nuclei, inks.nucleus_radius_um, structure_map(plan), plan.instance)


def random_plan(rng: np.random.Generator, shape: tuple[int, int], mpp: float) -> Plan:
    """A layout of one to three zones drawn from the prior."""
    plan = empty_plan(shape, mpp)
    zones = random_zones(rng)
    part = np.zeros(shape, np.uint8)
    if len(zones) > 1:
        period = rng.uniform(150, 500) / mpp
        part = np.argmax([octaves(rng, shape, period_px=period, count=4) for _ in zones], axis=0).astype(np.uint8)
    for number, zone in enumerate(zones):
        if (part == number).any():
            fill_zone(rng, plan, zone=zone, where=part == number)
    return plan


def paint(rng: np.random.Generator, plan: Plan) -> Inks:
    """The dyes of a planned canvas."""
    shape = plan.kind.shape
    flow = fibres(rng, shape, mpp=plan.mpp, width_um=rng.uniform(2.0, 5.0), wave_um=rng.uniform(80, 400))
    haematoxylin, eosin, red = _ground(rng, plan, flow)
    layers = _Layers(*(np.zeros(shape[0] * shape[1], np.float32) for _ in range(5)))
    slope: tuple[Field, Field] | None = None
    for number, kind in enumerate(plan.kinds):
        if not kind.cells:
            continue
        here = plan.kind == number
        if not here.any():
            continue
        for cells in kind.cells:
            if cells.orient == "normal" and slope is None:
                slope = _slope(plan.depth)
            _add_cells(rng, plan, cells=cells, here=here, flow=flow, slope=slope, layers=layers)
    return _compose(rng, plan, ground=(haematoxylin, eosin, red), layers=layers)


def _slope(depth: Field) -> tuple[Field, Field]:
    """The gradient of the depth, down and right."""
    down, right = np.gradient(depth)
    return np.asarray(down, np.float32), np.asarray(right, np.float32)


def _ground(rng: np.random.Generator, plan: Plan, flow: Fibres) -> tuple[Field, Field, Field]:
    """Dyes of the tissue without its cells."""
    shape = plan.kind.shape
    values = np.array(
        [(k.h, k.e, k.red, k.texture, k.fibre, k.gap, k.apical, k.grain_um) for k in plan.kinds], np.float32
    )
    h, e, red, texture, fibre, gap, apical, grain_um = (values[:, i][plan.kind] for i in range(8))
    fine = octaves(rng, shape, period_px=2.5 / plan.mpp, count=2)
    coarse = octaves(rng, shape, period_px=9.0 / plan.mpp, count=2)
    own = fine + np.clip((grain_um - 2) / 6, 0, 1) * (coarse - fine)
    grain = 1 + texture * own + fibre * flow.texture
    grain = np.maximum(grain, 0.1)
    # Slits: where the fibre texture is lowest. A standard normal is below -1.3 + 1.6 g for about that share g.
    loose = smooth(rng, shape, 60 / plan.mpp)
    slit = np.clip(1.6 * (3.2 * gap - 1.75 - 0.75 * flow.texture - 0.35 * coarse + 0.4 * loose * (gap > 0)), 0, 1)
    slit *= gap > 0
    open_ = (1 - 0.95 * slit) * np.where(plan.cleft, np.float32(0.08), np.float32(1))
    thick = (1 + 0.10 * smooth(rng, shape, 350 / plan.mpp)) * open_ * grain
    fade = np.clip(1 - apical * plan.depth / 20, 0.25, 1)
    return h * thick * fade, e * thick, red * open_ * grain


def _add_cells(
    rng: np.random.Generator,
    plan: Plan,
    *,
    cells: Cells,
    here: NDArray[np.bool_],
    flow: Fibres,
    slope: tuple[Field, Field] | None,
    layers: _Layers,
) -> None:
    shape = plan.kind.shape
    allowed = here & ~plan.cleft if plan.cleft.any() else here
    if cells.band_um != (0.0, 1e9):
        allowed = allowed & (plan.depth >= cells.band_um[0]) & (plan.depth <= cells.band_um[1])
    if cells.cluster > 0:
        allowed = allowed & (smooth(rng, shape, cells.cluster_um / plan.mpp) > cells.cluster)
    xy = scatter(rng, allowed, spacing_px=cells.spacing_um / plan.mpp, crowding=2.5 if cells.spacing_um < 20 else 10)
    xy = xy[rng.random(len(xy)) < cells.keep]
    if not len(xy):
        return
    count = len(xy)
    rows = np.clip(np.rint(xy[:, 1]).astype(np.intp), 0, shape[0] - 1)
    columns = np.clip(np.rint(xy[:, 0]).astype(np.intp), 0, shape[1] - 1)
    angle = rng.uniform(0, np.pi, count).astype(np.float32)
    if cells.orient == "normal" and slope is not None:
        sway = rng.normal(0, 0.15, count).astype(np.float32)
        angle = np.arctan2(slope[0][rows, columns], slope[1][rows, columns]) + sway
    elif cells.orient == "fibre":
        angle = flow.angle(rows, columns) + rng.normal(0, 0.2, count).astype(np.float32)
    radius = cells.radius_um * np.exp(cells.spread * rng.standard_normal(count)).astype(np.float32)
    stretch = np.sqrt(1 + (cells.elongation - 1) * rng.uniform(0.5, 1.5, count)).astype(np.float32)
    dark = cells.dark * np.exp(cells.dark_spread * rng.standard_normal(count)).astype(np.float32)
    blobs = Blobs(
        xy=xy,
        long=radius * stretch / plan.mpp,
        short=radius / stretch / plan.mpp,
        angle=angle.astype(np.float32),
        wobble=(cells.wobble * rng.uniform(0.4, 1.6, count)).astype(np.float32),
    )
    for pixels in stamp(rng, blobs, shape):
        if cells.ink == "clear":
            np.maximum.at(layers.clear, pixels.index, pixels.cover * dark[pixels.owner].clip(0, 1))
        elif cells.ink == "red":
            np.maximum.at(layers.red, pixels.index, pixels.cover * dark[pixels.owner])
        else:
            profile = 1 - cells.vesicle * np.clip(1.15 - pixels.radius**2, 0, 1)
            np.add.at(layers.nucleus, pixels.index, pixels.cover * profile * dark[pixels.owner])
            np.add.at(layers.cover, pixels.index, pixels.cover)
            if cells.ink == "nucleus":
                solid = pixels.cover > 0.5
                layers.radius[pixels.index[solid]] = radius[pixels.owner[solid]]
    if cells.nucleolus > 0:
        _add_nucleoli(rng, blobs, cells=cells, mpp=plan.mpp, shape=shape, layers=layers)


def _add_nucleoli(
    rng: np.random.Generator, blobs: Blobs, *, cells: Cells, mpp: float, shape: tuple[int, int], layers: _Layers
) -> None:
    some = rng.random(len(blobs)) < cells.nucleolus
    count = int(some.sum())
    shift = rng.normal(0, 0.2, (count, 2)).astype(np.float32) * blobs.short[some][:, None]
    size = (rng.uniform(0.8, 1.5, count) / mpp).astype(np.float32)
    dots = Blobs(blobs.xy[some] + shift, size, size, np.zeros(count, np.float32), np.zeros(count, np.float32))
    for pixels in stamp(rng, dots, shape):
        np.add.at(layers.nucleus, pixels.index, pixels.cover * np.float32(0.6 * cells.dark))


def _compose(rng: np.random.Generator, plan: Plan, *, ground: tuple[Field, Field, Field], layers: _Layers) -> Inks:
    shape = plan.kind.shape
    haematoxylin, eosin, red = ground
    clear = layers.clear.reshape(shape)
    haematoxylin = haematoxylin * (1 - clear)
    eosin = eosin * (1 - clear)
    cover = layers.cover.reshape(shape)
    chromatin = 1 + np.float32(rng.uniform(0.08, 0.25)) * octaves(rng, shape, period_px=1.6 / plan.mpp, count=2)
    nucleus = layers.nucleus.reshape(shape) / np.maximum(cover, 1) * (1 + 0.25 * np.clip(cover - 1, 0, 1))
    cover = np.minimum(cover, 1)
    haematoxylin = haematoxylin * (1 - cover) + nucleus * np.maximum(chromatin, 0.3)
    eosin = eosin * (1 - np.float32(rng.uniform(0.2, 0.7)) * cover)
    cells_red = layers.red.reshape(shape)
    red = np.maximum(red, cells_red)
    eosin = eosin * (1 - np.minimum(cells_red, 0.7))
    radius = layers.radius.reshape(shape)
    return Inks(haematoxylin, eosin, red, nuclei=radius > 0, nucleus_radius_um=radius)
