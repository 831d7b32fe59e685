"""The grid of tiles over the tissue of a slide, and the reading of those tiles."""

import logging
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from wsplf_cli.errors import SlideError
from wsplf_cli.schema import Entry, TileGrid, TissueMask
from wsplf_cli.slides.entry import slide_of
from wsplf_cli.slides.open import Slide
from wsplf_cli.slides.tissue import hide_ink

log = logging.getLogger(__name__)


def make_grid(  # noqa: PLR0913  a grid has these sizes
    entry_id: str,
    mask: TissueMask,
    *,
    tile_px: int,
    mpp: float,
    mpp_slide: float,
    min_tissue: float,
    overlap: float = 0.0,
) -> TileGrid:
    """The square tiles that cover the tissue, row by row from the top left.

    Args:
        entry_id: Id of the entry.
        mask: The tissue of the entry.
        tile_px: Side of a tile as read.
        mpp: Micrometres per pixel of a tile as read.
        mpp_slide: Micrometres per pixel at level 0.
        min_tissue: Smallest share of tissue in a tile, 0..1. A tile without any tissue is never kept.
        overlap: Share of a tile's side that the next tile covers too, 0 <= overlap < 1.

    Raises:
        SlideError: There is no tissue, or no tile has enough of it.
    """
    if not mask.mask.any():
        raise SlideError(
            "no tissue found on the slide", hint="look at the slide in QuPath; exclude it with --images REGEX"
        )
    side_px0 = tile_px * mpp / mpp_slide
    height_px0, width_px0 = (length * mask.downsample for length in mask.mask.shape)
    x, y = np.meshgrid(
        _tile_starts(width_px0, side_px0, overlap=overlap), _tile_starts(height_px0, side_px0, overlap=overlap)
    )
    xy_px0 = np.stack([x.ravel(), y.ravel()], axis=1)
    tissue_share = _tissue_share(mask, xy_px0, side_px0=side_px0)
    kept = (tissue_share >= min_tissue) & (tissue_share > 0)
    if not kept.any():
        raise SlideError(
            f"no tile has {min_tissue:.0%} tissue; the best has {tissue_share.max():.1%}",
            hint="lower min-tissue or tile-px of the recipe in wsplf.toml",
        )
    return TileGrid(
        entry_id=entry_id,
        tile_px=tile_px,
        mpp=mpp,
        side_px0=side_px0,
        xy_px0=xy_px0[kept].astype(np.int32),
        tissue=tissue_share[kept].astype(np.float32),
    )


def read_tile(slide: Slide, grid: TileGrid, index: int) -> NDArray[np.uint8]:
    """One RGB tile of the grid, uint8 [tile_px, tile_px, 3], white outside the slide.

    Raises:
        SlideError: The slide's data is damaged there.
    """
    x_px0, y_px0 = grid.xy_px0[index]
    downsample = grid.side_px0 / grid.tile_px
    return slide.read(int(x_px0), int(y_px0), size_px=(grid.tile_px, grid.tile_px), downsample=downsample)


def read_tiles(
    entry: Entry, grid: TileGrid, indices: Sequence[int] | NDArray[np.integer], *, mask: TissueMask | None = None
) -> NDArray[np.uint8]:
    """RGB tiles of an entry, uint8 [len(indices), tile_px, tile_px, 3], read through this process's shared slide.

    A tile whose data is damaged is white, as if it held no tissue, and is logged. The marker ink of ``mask`` is white.

    Raises:
        SlideError: The slide cannot be opened, or none of the tiles can be read.
    """
    slide = slide_of(entry)
    tiles = np.full((len(indices), grid.tile_px, grid.tile_px, 3), 255, np.uint8)
    damaged = 0
    for position, index in enumerate(indices):
        try:
            tiles[position] = read_tile(slide, grid, int(index))
            if mask is not None:
                x_px0, y_px0 = (float(coordinate) for coordinate in grid.xy_px0[index])
                downsample = grid.side_px0 / grid.tile_px
                tiles[position] = hide_ink(tiles[position], mask, origin_px0=(x_px0, y_px0), downsample=downsample)
        except SlideError as error:
            damaged += 1
            log.warning("%s: a tile is left white: %s", entry.name, error.message)
            if damaged == len(indices):
                raise
    return tiles


def _tile_starts(length_px0: float, side_px0: float, *, overlap: float) -> NDArray[np.float64]:
    """The whole-number starts of the tiles along one axis. The last tile reaches the end of the axis or beyond it."""
    stride = side_px0 * (1 - overlap)
    count = max(1, math.ceil((length_px0 - side_px0) / stride - 1e-6) + 1)
    return np.round(np.arange(count) * stride)


def _tissue_share(mask: TissueMask, xy_px0: NDArray[np.float64], *, side_px0: float) -> NDArray[np.float64]:
    """The share of tissue of each tile, float64 [N] in 0..1, exact to parts of mask pixels, by an integral image."""
    integral = np.pad(mask.mask.cumsum(axis=0, dtype=np.float64).cumsum(axis=1), ((1, 0), (1, 0)))
    left, top = (xy_px0 / mask.downsample).T
    side = side_px0 / mask.downsample

    def sum_above_left(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        sums: NDArray[np.float64] = ndimage.map_coordinates(integral, [y, x], order=1, mode="nearest")
        return sums

    right, bottom = left + side, top + side
    area = (
        sum_above_left(right, bottom)
        - sum_above_left(left, bottom)
        - sum_above_left(right, top)
        + sum_above_left(left, top)
    )
    share: NDArray[np.float64] = np.clip(area / side**2, 0, 1)
    return share
