"""The layout of a canvas: zones of ground tissue, and glands grown into them one by one."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from wsplf_cli.synthetic.kinds import Glands, Kind, Zone
from wsplf_cli.synthetic.noise import Field, scatter, smooth

#: A distance larger than any on a canvas.
FAR_UM = 1e3


@dataclass(slots=True)
class Layout:
    """The layout of a canvas, all arrays [rows, columns].

    Attributes:
        mpp: Micrometres per pixel.
        kind: uint8 index into ``kinds``.
        instance: int32, one number per gland from 1 on, 0 outside of glands.
        depth: float32, depth under the surface of the gland in um, 0 outside of glands.
        cleft: bool, the white shrinkage around glands.
        surface: float32, signed distance to the surface of the nearest gland grown so far in um, positive inside.
        kinds: The kinds of tissue on the canvas.
        gland_types: The type of each gland, by ``instance`` - 1.
    """

    mpp: float
    kind: NDArray[np.uint8]
    instance: NDArray[np.int32]
    depth: Field
    cleft: NDArray[np.bool_]
    surface: Field
    kinds: list[Kind] = field(default_factory=list)
    gland_types: list[Glands] = field(default_factory=list)

    def index(self, kind: Kind) -> int:
        """The index of a kind, which is added if it is new."""
        if kind not in self.kinds:
            self.kinds.append(kind)
        return self.kinds.index(kind)


def empty_layout(shape: tuple[int, int], mpp: float) -> Layout:
    """A layout of ``shape`` (rows, columns) with nothing on it."""
    return Layout(
        mpp=mpp,
        kind=np.zeros(shape, np.uint8),
        instance=np.zeros(shape, np.int32),
        depth=np.zeros(shape, np.float32),
        cleft=np.zeros(shape, bool),
        surface=np.full(shape, -FAR_UM, np.float32),
    )


def fill_zone(rng: np.random.Generator, layout: Layout, *, zone: Zone, where: NDArray[np.bool_]) -> None:
    """Put the ground tissue of a zone on the pixels ``where`` (bool [H, W]), and grow its glands there."""
    layout.kind[where] = layout.index(zone.ground)
    for glands in zone.glands:
        _grow_glands(rng, layout, glands=glands, where=where)


def _grow_glands(rng: np.random.Generator, layout: Layout, *, glands: Glands, where: NDArray[np.bool_]) -> None:
    """Grow glands of one type, around scattered centres, where there is room for them."""
    low, high = np.log(glands.radius_um[0]), np.log(glands.radius_um[1])
    mean_radius_um = float(np.exp((low + high) / 2))
    links = (glands.links[0] + glands.links[1]) / 2
    spacing_um = (2 * mean_radius_um + glands.gap_um) * np.sqrt(1 + 0.4 * (links - 1)) / glands.packing
    centres = scatter(rng, where, spacing_px=float(spacing_um / layout.mpp), crowding=4)
    direction = rng.uniform(0, np.pi)
    shape = layout.kind.shape
    warp_um = glands.warp * mean_radius_um
    for x, y in centres:
        if layout.surface[min(int(y), shape[0] - 1), min(int(x), shape[1] - 1)] > -glands.gap_um:
            continue
        radius = float(np.exp(rng.uniform(low, high)))
        angle = direction + rng.normal(0, 0.15) if glands.aligned else rng.uniform(0, 2 * np.pi)
        spine = _spine(rng, radius, count=int(rng.integers(glands.links[0], glands.links[1] + 1)), angle=float(angle))
        reach = np.abs(spine[:, :2]).max() + spine[:, 2].max() + 2.5 * warp_um + glands.cleft_um + 4
        half = int(reach / layout.mpp) + 1
        rows = slice(max(int(y) - half, 0), min(int(y) + half, shape[0]))
        columns = slice(max(int(x) - half, 0), min(int(x) + half, shape[1]))
        box = (rows, columns)
        across, along = _bent_axes(
            rng, box, centre=(float(x), float(y)), warp_um=warp_um, bump_um=1.4 * mean_radius_um, mpp=layout.mpp
        )
        roughness = smooth(rng, across.shape, 7 / layout.mpp)
        signed = np.full(across.shape, -FAR_UM, np.float32)
        for sx, sy, sr in spine:
            np.maximum(signed, np.float32(sr) - np.hypot(along - np.float32(sx), across - np.float32(sy)), out=signed)
        signed += 0.5 * roughness
        _place_gland(rng, layout, glands=glands, box=box, signed=signed, allowed=where[box], roughness=roughness)


def _bent_axes(
    rng: np.random.Generator,
    box: tuple[slice, slice],
    *,
    centre: tuple[float, float],
    warp_um: float,
    bump_um: float,
    mpp: float,
) -> tuple[Field, Field]:
    """The distances (um) of the pixels of a box below and right of a centre (x, y), along randomly bent axes."""
    rows, columns = box
    shape = (rows.stop - rows.start, columns.stop - columns.start)
    bent_y, bent_x = (np.float32(warp_um) * np.clip(smooth(rng, shape, bump_um / mpp), -2.5, 2.5) for _ in range(2))
    bent_y += (np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] - np.float32(centre[1])) * np.float32(mpp)
    bent_x += (np.arange(columns.start, columns.stop, dtype=np.float32) - np.float32(centre[0])) * np.float32(mpp)
    return bent_y, bent_x


def _spine(rng: np.random.Generator, radius: float, *, count: int, angle: float) -> Field:
    """Circles (x, y, radius) in um along a bent line about the origin, float32 [count, 3]."""
    angles = angle + np.cumsum(rng.normal(0, 0.3, count))
    steps = radius * rng.uniform(0.6, 0.9, count)
    xy = np.cumsum(np.stack([np.cos(angles) * steps, np.sin(angles) * steps], axis=1), axis=0)
    radii = radius * rng.uniform(0.8, 1.15, count)
    return np.concatenate([xy - xy.mean(axis=0), radii[:, None]], axis=1).astype(np.float32)


def _place_gland(  # noqa: PLR0913  the state of a layout in progress
    rng: np.random.Generator,
    layout: Layout,
    *,
    glands: Glands,
    box: tuple[slice, slice],
    signed: Field,
    allowed: NDArray[np.bool_],
    roughness: Field,
) -> None:
    """Write one gland, given by the signed distance to its surface, into the layout where there is room for it."""
    room = -np.float32(glands.gap_um) - layout.surface[box]
    inside = (signed > 0) & (room > 0) & allowed
    if inside.sum() * layout.mpp**2 < 150:
        return
    layout.gland_types.append(glands)
    depth = np.minimum(signed, room)
    layout.kind[box][inside] = layout.index(glands.kind)
    layout.instance[box][inside] = len(layout.gland_types)
    layout.depth[box][inside] = depth[inside]
    if glands.cleft_um > 0:
        width = glands.cleft_um * (0.4 + 0.6 * roughness)
        layout.cleft[box] |= (signed > -width) & ~inside & (layout.instance[box] == 0) & allowed
    np.maximum(layout.surface[box], signed, out=layout.surface[box])
    if glands.lumens == "one":
        hollow = inside & (depth > glands.wall_um * (1 + 0.12 * roughness))
    else:
        hollow = inside & _sieve(rng, depth, wall_um=glands.wall_um, mpp=layout.mpp) & (depth > 0.5 * glands.wall_um)
    if glands.content and hollow.any():
        content = glands.content[int(rng.integers(len(glands.content)))]
        layout.kind[box][hollow] = layout.index(content)


def _sieve(rng: np.random.Generator, depth: Field, *, wall_um: float, mpp: float) -> NDArray[np.bool_]:
    """Several round holes, as in a cribriform gland; bool, as ``depth``."""
    spacing = wall_um * rng.uniform(1.6, 2.4)
    holes: NDArray[np.bool_] = np.zeros(depth.shape, bool)
    y, x = np.ogrid[: depth.shape[0], : depth.shape[1]]
    for column, row in scatter(rng, depth > 0.8 * wall_um, spacing_px=spacing / mpp, crowding=4):
        radius = wall_um * rng.uniform(0.3, 0.8) / mpp
        stretch = rng.uniform(0.6, 1.6)
        holes = np.asarray(holes | (((x - column) * stretch) ** 2 + ((y - row) / stretch) ** 2 < radius**2))
    return holes


def structure_map(layout: Layout) -> NDArray[np.uint8]:
    """The structure code (``kinds.STRUCTURES``) of every pixel, uint8 [H, W]."""
    codes = np.array([kind.structure for kind in layout.kinds], np.uint8)
    return np.asarray(codes[layout.kind])
