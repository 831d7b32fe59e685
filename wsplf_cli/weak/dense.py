"""The class activation map of a whole slide, computed in blocks over its tissue."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from wsplf_cli.networks.device import autocast
from wsplf_cli.networks.mil import MilNetwork, as_batch
from wsplf_cli.schema import TissueMask
from wsplf_cli.slides.open import Slide

#: Width of the border of a block that is read but not kept.
HALO_PX = 64
#: The CAM is smoothed by a Gaussian of this width: the size of a large nucleus at 1 um per pixel.
SMOOTH_PX = 16.0


@dataclass(frozen=True, slots=True)
class LogitMap:
    """CAM logits of one slide. ``logits`` float32 [C, rows, columns], NaN where there is no tissue.

    One cell is ``downsample`` level-0 pixels wide and high; cell [0, 0] begins at (0, 0).
    """

    logits: NDArray[np.float32]
    downsample: float


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a map: rows ``top`` to ``bottom``, columns ``left`` to ``right``."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """To cut it out of a map [rows, columns]."""
        return slice(self.top, self.bottom), slice(self.left, self.right)


@dataclass(frozen=True, slots=True)
class DenseInference:
    """How a slide is looked at.

    ``mpp`` and ``mpp_slide`` are micrometres per pixel of what a network sees and of level 0, ``block_px`` the least
    side of a block with its border, ``stride`` the network's, ``batch`` the blocks in one pass, ``turns`` the quarter
    turns over which a map is averaged: 1 for none, or 4.
    """

    mpp: float
    mpp_slide: float
    block_px: int
    stride: int
    device: torch.device
    batch: int = 4
    turns: int = 1

    @property
    def downsample(self) -> float:
        """Level-0 pixels on a side of a cell of the map."""
        return self.stride * self.mpp / self.mpp_slide

    @property
    def cells(self) -> int:
        """Cells on a side of a block: whole ones, else a turned block's cells would not lie on the others."""
        return -(-self.block_px // self.stride)

    @property
    def border(self) -> int:
        """Cells of a block's border, which are looked at and not kept."""
        return -(-HALO_PX // self.stride)

    def shape(self, slide: Slide) -> tuple[int, int]:
        """Rows and columns of the map of a slide."""
        rows, columns = (max(1, round(side / self.downsample)) for side in (slide.height_px0, slide.width_px0))
        return rows, columns


def cam_logits(
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
) -> LogitMap:
    """The CAM of a network over the tissue of a slide, smoothed by ``SMOOTH_PX``.

    Args:
        slide: An open slide.
        tissue: Its tissue; cells outside are NaN.
        network: Trained on tiles of the same mpp, in eval mode.
        mpp: Micrometres per pixel of the tiles.
        mpp_slide: Micrometres per pixel at level 0.
        block_px: Side of a block, see ``DenseInference``; the side of a training tile or more.
        device: Where the network is.
        batch: Blocks in one pass.
        turns: Quarter turns over which the CAM is averaged: 1 for none, or 4.
    """
    looking = DenseInference(mpp, mpp_slide, block_px, network.backbone.stride, device, batch, turns)
    logits = infer_map(slide, tissue, network.cam, looking, channels=len(network.classifier.bias))
    return LogitMap(smooth(logits, ~np.isnan(logits[0]), width=SMOOTH_PX / looking.stride), looking.downsample)


def infer_map(
    slide: Slide,
    tissue: TissueMask,
    network: Callable[[Tensor], Tensor],
    looking: DenseInference,
    *,
    channels: int,
    part: Part | None = None,
) -> NDArray[np.float32]:
    """What a network says of each cell of the tissue, float32 [channels, rows, columns]; NaN where there is none.

    The slide is read in blocks with a border that is read but not kept, so that no cell is at the edge of what the
    network saw.

    Args:
        slide: An open slide.
        tissue: Its tissue.
        network: Maps tiles float [B, 3, H, W] to float [B, channels, H / stride, W / stride], in eval mode.
        looking: How the slide is looked at.
        channels: Of the network's map.
        part: Of the slide's map that is wanted; all of it when None.
    """
    downsample = looking.downsample
    inside = cells_of(tissue, shape=looking.shape(slide), downsample=downsample)
    whole = part or Part(0, inside.shape[0], 0, inside.shape[1])
    border, size_px = looking.border, looking.cells * looking.stride
    blocks = list(blocks_of(inside, looking.cells - 2 * border, whole))
    found = np.full((channels, whole.bottom - whole.top, whole.right - whole.left), np.nan, np.float32)
    for start in range(0, len(blocks), looking.batch):
        some = blocks[start : start + looking.batch]
        tiles = np.stack(
            [
                slide.read(
                    (block.left - border) * downsample,
                    (block.top - border) * downsample,
                    size_px=(size_px, size_px),
                    downsample=looking.mpp / looking.mpp_slide,
                )
                for block in some
            ]
        )
        values = _turned(network, tiles, device=looking.device, turns=looking.turns)
        for block, value in zip(some, values, strict=True):
            rows = slice(block.top - whole.top, block.bottom - whole.top)
            columns = slice(block.left - whole.left, block.right - whole.left)
            height, width = block.bottom - block.top, block.right - block.left
            found[:, rows, columns] = value[:, border : border + height, border : border + width]
    found[:, ~inside[whole.slices]] = np.nan
    return found


def smooth(logits: NDArray[np.float32], inside: NDArray[np.bool_], *, width: float) -> NDArray[np.float32]:
    """Logits [C, rows, columns] as Gaussian means over their tissue neighbours; NaN where ``inside`` is false.

    ``width`` is the standard deviation in cells.
    """
    known = inside & ~np.isnan(logits).any(axis=0)
    weight = ndimage.gaussian_filter(known.astype(np.float32), width, mode="constant")
    smoothed = np.full_like(logits, np.nan)
    for layer, source in zip(smoothed, logits, strict=True):
        total = ndimage.gaussian_filter(np.where(known, source, np.float32(0)), width, mode="constant")
        layer[known] = total[known] / weight[known]
    return smoothed


def cells_of(tissue: TissueMask, *, shape: tuple[int, int], downsample: float) -> NDArray[np.bool_]:
    """The tissue at the centres of cells: bool [rows, columns] of a map with the given cell size."""
    row = ((np.arange(shape[0]) + 0.5) * downsample / tissue.downsample).astype(np.intp)
    column = ((np.arange(shape[1]) + 0.5) * downsample / tissue.downsample).astype(np.intp)
    height, width = tissue.mask.shape
    cells: NDArray[np.bool_] = tissue.mask[np.minimum(row, height - 1)[:, None], np.minimum(column, width - 1)[None]]
    return cells


def blocks_of(inside: NDArray[np.bool_], side: int, whole: Part) -> Iterator[Part]:
    """Squares of ``side`` cells that cover a part of a map, those with tissue (``inside`` bool [rows, columns])."""
    for top in range(whole.top, whole.bottom, side):
        for left in range(whole.left, whole.right, side):
            block = Part(top, min(whole.bottom, top + side), left, min(whole.right, left + side))
            if inside[block.slices].any():
                yield block


@torch.no_grad()
def _turned(
    network: Callable[[Tensor], Tensor], tiles: NDArray[np.uint8], *, device: torch.device, turns: int
) -> NDArray[np.float32]:
    """Maps float32 [B, C, h, w] of square tiles uint8 [B, H, W, 3], the mean over quarter turns, in one pass."""
    upright = as_batch(tiles).to(device)
    turned = torch.cat([torch.rot90(upright, turn, (2, 3)) for turn in range(turns)])
    with autocast(device):
        maps = network(turned).float().chunk(turns)
    back = torch.stack([torch.rot90(one, -turn, (2, 3)) for turn, one in enumerate(maps)])
    values: NDArray[np.float32] = back.mean(dim=0).cpu().numpy()
    return values
