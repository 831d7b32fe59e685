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

#: Width of the border of a block that is read but not kept.
HALO_PX = 64
#: The CAM is smoothed by a Gaussian of this width: the size of a large nucleus at 1 um per pixel.
SMOOTH_PX = 16.0


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
        block_px: Side of a block with its border, the side of a training tile or more. Blocks are so much larger that
            their side is a multiple of the network's stride, else a turned block's cells would not lie on the others.
        device: Where the network is.
        batch: Blocks in one pass.
        turns: Quarter turns over which the CAM is averaged: 1 for none, or 4.
    """
    stride = network.backbone.stride
    downsample = stride * mpp / mpp_slide
    rows, columns = (max(1, round(side / downsample)) for side in (slide.height_px0, slide.width_px0))
    inside = cells_of(tissue, shape=(rows, columns), downsample=downsample)
    cells = -(-block_px // stride)
    halo = -(-HALO_PX // stride)
    size = cells * stride
    blocks = list(_blocks(inside, cells - 2 * halo))
    classes = len(network.classifier.bias)
    logits = np.full((classes, rows, columns), np.nan, np.float32)
    for start in range(0, len(blocks), batch):
        some = blocks[start : start + batch]
        tiles = np.stack(
            [
                slide.read(
                    (block.left - halo) * downsample,
                    (block.top - halo) * downsample,
                    size_px=(size, size),
                    downsample=mpp / mpp_slide,
                )
                for block in some
            ]
        )
        values = _cam(network, tiles, device=device, turns=turns)
        for block, cam in zip(some, values, strict=True):
            height, width = block.bottom - block.top, block.right - block.left
            logits[:, block.top : block.bottom, block.left : block.right] = cam[
                :, halo : halo + height, halo : halo + width
            ]
    return HeatMap(smooth(logits, inside, width=SMOOTH_PX / stride), downsample)


def smooth(logits: NDArray[np.float32], inside: NDArray[np.bool_], *, width: float) -> NDArray[np.float32]:
    """Logits [C, rows, columns] as means over their tissue neighbours, by a Gaussian ``width`` cells wide.

    NaN where ``inside`` is false.
    """
    known = inside & ~np.isnan(logits).any(axis=0)
    weight = ndimage.gaussian_filter(known.astype(np.float32), width)
    smoothed = np.full_like(logits, np.nan)
    for layer, source in zip(smoothed, logits, strict=True):
        total = ndimage.gaussian_filter(np.where(known, source, np.float32(0)), width)
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
