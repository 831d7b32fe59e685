"""EP-SAM's CAM: each tile has its own scale and threshold. It is here for comparison, not for use."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from wsplf_cli.weak.calibration import BELOW_FOREGROUND
from wsplf_cli.weak.prompts import FOREGROUND

#: This share of a tile's CAM above its lowest value is cut off: the higher one of the two that EP-SAM uses.
PERCENTILE = 30.0
#: The opening that removes specks: 21 of 512 pixels in EP-SAM, rounded up to cells of a tile of 192.
OPENING = np.ones((3, 3), bool)


def tile_cam(logits: NDArray[np.float32], *, side: int, least: float = -np.inf) -> NDArray[np.float32]:
    """A slide's CAM float32 [rows, columns] in 0..1, foreground from 0.5 on, scaled tile by tile.

    In each tile the CAM goes from 0 at the lowest logit to 1 at the highest and is foreground above a percentile of its
    values. As in EP-SAM, every tile has foreground.

    Args:
        logits: Float32 [rows, columns], NaN where there is no tissue.
        side: Cells on a side of a tile.
        least: A tile whose mean logit is not above this is background. With 0 these are the tiles that the classifier
            calls negative; EP-SAM does not need this, since it knows from pixel masks which tiles hold tumour.
    """
    cam = np.zeros_like(logits)
    for top in range(0, logits.shape[0], side):
        for left in range(0, logits.shape[1], side):
            part = np.s_[top : top + side, left : left + side]
            tile = logits[part]
            tissue = ~np.isnan(tile)
            if tissue.any() and tile[tissue].mean() > least:
                cam[part] = np.where(tissue, _scaled(np.where(tissue, tile, tile[tissue].min())), 0)
    return cam


def _scaled(tile: NDArray[np.float32]) -> NDArray[np.float32]:
    """One tile scaled by minimum and maximum, bent so that its percentile comes to 0.5, without specks."""
    lowest, highest = float(tile.min()), float(tile.max())
    if highest <= lowest:
        return np.zeros_like(tile)
    values = (tile - lowest) / (highest - lowest)
    cut = float(np.clip(np.percentile(values[values > 0], PERCENTILE), 1e-6, 1 - 1e-6))
    bent = np.interp(values, (0.0, cut, 1.0), (0.0, FOREGROUND, 1.0)).astype(np.float32)
    kept = ndimage.binary_opening(bent >= FOREGROUND, OPENING)
    scaled: NDArray[np.float32] = np.where(kept | (bent < FOREGROUND), bent, BELOW_FOREGROUND)
    return scaled
