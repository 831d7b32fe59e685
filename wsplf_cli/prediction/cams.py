"""The class activation map of a whole slide, computed in blocks over its tissue."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from wsplf_cli.models.mil import MilNetwork, as_batch
from wsplf_cli.runtime import autocast
from wsplf_cli.schema import TissueMask
from wsplf_cli.slides import Slide

HALO_CELLS = 8
#: The CAM is smoothed by a Gaussian of this width: two cells, the size of a large nucleus at 1 um per pixel.
SMOOTH_CELLS = 2.0


@dataclass(frozen=True, slots=True)
class HeatMap:
    """CAM logits of one slide. ``logits`` float32 [C, rows, columns], NaN where there is no tissue.

    One cell is ``downsample`` level-0 pixels wide and high; cell [0, 0] begins at (0, 0).
    """

    logits: NDArray[np.float32]
    downsample: float


@dataclass(frozen=True, slots=True)
class _Block:
    """Where a block's own cells lie in the map: rows ``top`` to ``bottom``, columns ``left`` to ``right``."""

    top: int
    bottom: int
    left: int
    right: int


def heat_map(
    slide: Slide,
    tissue: TissueMask,
    network: MilNetwork,
    *,
    mpp: float,
    mpp_slide: float,
    block_px: int,
    device: torch.device,
    batch: int = 4,
    turns: int = 1,
) -> HeatMap:
    """The CAM of a network over the tissue of a slide.

    The slide is read in blocks of ``block_px`` with a border that is read but not kept, so that no cell is at the
    edge of what the network saw.

    Args:
        slide: An open slide.
        tissue: Its tissue; cells outside are NaN.
        network: Trained on tiles of the same mpp, in eval mode.
        mpp: Micrometres per pixel of the tiles.
        mpp_slide: Micrometres per pixel at level 0.
        block_px: Side of a block with its border, a multiple of the stride; the side of a training tile or more.
        device: Where the network is.
        batch: Blocks in one pass.
        turns: Quarter turns over which the CAM is averaged: 1 for none, or 4.
    """
    stride = network.backbone.stride
    downsample = stride * mpp / mpp_slide
    rows, columns = (max(1, round(side / downsample)) for side in (slide.height_px0, slide.width_px0))
    inside = cells_of(tissue, shape=(rows, columns), downsample=downsample)
    side = block_px // stride - 2 * HALO_CELLS
    blocks = list(_blocks(inside, side))
    classes = len(network.classifier.bias)
    logits = np.full((classes, rows, columns), np.nan, np.float32)
    for start in range(0, len(blocks), batch):
        some = blocks[start : start + batch]
        tiles = np.stack(
            [
                slide.read(
                    (block.left - HALO_CELLS) * downsample,
                    (block.top - HALO_CELLS) * downsample,
                    size_px=(block_px, block_px),
                    downsample=mpp / mpp_slide,
                )
                for block in some
            ]
        )
        values = _cam(network, tiles, device=device, turns=turns)
        for block, cam in zip(some, values, strict=True):
            height, width = block.bottom - block.top, block.right - block.left
            logits[:, block.top : block.bottom, block.left : block.right] = cam[
                :, HALO_CELLS : HALO_CELLS + height, HALO_CELLS : HALO_CELLS + width
            ]
    return HeatMap(smooth(logits, inside), downsample)


def smooth(logits: NDArray[np.float32], inside: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Logits [C, rows, columns] as means over their tissue neighbours; NaN where ``inside`` is false."""
    known = inside & ~np.isnan(logits).any(axis=0)
    weight = ndimage.gaussian_filter(known.astype(np.float32), SMOOTH_CELLS)
    smoothed = np.full_like(logits, np.nan)
    for layer, source in zip(smoothed, logits, strict=True):
        total = ndimage.gaussian_filter(np.where(known, source, np.float32(0)), SMOOTH_CELLS)
        layer[known] = total[known] / weight[known]
    return smoothed


def cells_of(tissue: TissueMask, *, shape: tuple[int, int], downsample: float) -> NDArray[np.bool_]:
    """The tissue at the centres of cells: bool [rows, columns] of a map with the given cell size."""
    row = ((np.arange(shape[0]) + 0.5) * downsample / tissue.downsample).astype(np.intp)
    column = ((np.arange(shape[1]) + 0.5) * downsample / tissue.downsample).astype(np.intp)
    height, width = tissue.mask.shape
    cells: NDArray[np.bool_] = tissue.mask[np.minimum(row, height - 1)[:, None], np.minimum(column, width - 1)[None]]
    return cells


def _blocks(inside: NDArray[np.bool_], side: int) -> Iterator[_Block]:
    rows, columns = inside.shape
    for top in range(0, rows, side):
        for left in range(0, columns, side):
            block = _Block(top, min(rows, top + side), left, min(columns, left + side))
            if inside[block.top : block.bottom, block.left : block.right].any():
                yield block


@torch.no_grad()
def _cam(network: MilNetwork, tiles: NDArray[np.uint8], *, device: torch.device, turns: int) -> NDArray[np.float32]:
    """CAM logits float32 [B, C, h, w] of square tiles uint8 [B, H, W, 3], the mean over quarter turns, in one pass."""
    upright = as_batch(tiles).to(device)
    turned = torch.cat([torch.rot90(upright, turn, (2, 3)) for turn in range(turns)])
    with autocast(device):
        cams = network.cam(turned).float().chunk(turns)
    back = torch.stack([torch.rot90(cam, -turn, (2, 3)) for turn, cam in enumerate(cams)])
    logits: NDArray[np.float32] = back.mean(dim=0).cpu().numpy()
    return logits
