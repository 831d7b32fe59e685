"""Means of features and logits over Gaussian neighbourhoods of the tissue."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

#: Standard deviations of the neighbourhoods over which features are averaged, in pixels of a tile. Small ones give the
#: outline; large ones tell a gland within tumour from a gland within normal tissue.
CONTEXT_SIGMAS_PX = (8.0, 32.0, 96.0)


def pool_context(
    features: NDArray[np.float32],
    rows: NDArray[np.integer],
    columns: NDArray[np.integer],
    *,
    sigmas: Sequence[float],
) -> NDArray[np.float16]:
    """The features of instances with their context, float16 [N, len(sigmas) * D]: for each sigma the D means.

    Args:
        features: Dense features float32 [D, h, w], NaN where there is no tissue.
        rows: Rows of the instances, [N].
        columns: Columns of the instances, [N].
        sigmas: Standard deviations of the neighbourhoods, in cells.
    """
    inside = ~np.isnan(features[0])
    filled = np.where(inside, features, np.float32(0))
    pooled = []
    for sigma in sigmas:
        down, across = (_gaussian_matrix(size, sigma) for size in inside.shape)
        weight = (down @ inside.astype(np.float32) @ across)[rows, columns]
        total = np.matmul(down, filled) @ across  # [D, h, w]
        pooled.append((total[:, rows, columns] / np.maximum(weight, 1e-6)).T.astype(np.float16))
    return np.concatenate(pooled, axis=1)


def _gaussian_matrix(size: int, sigma: float) -> NDArray[np.float32]:
    """The symmetric matrix [size, size] that takes Gaussian means along an axis."""
    apart = np.abs(np.arange(size)[:, None] - np.arange(size)[None])
    weight = np.where(apart <= 4 * sigma, np.exp(-0.5 * (apart / sigma) ** 2), 0.0)
    normed: NDArray[np.float32] = (weight / (sigma * np.sqrt(2 * np.pi))).astype(np.float32)
    return normed


def masked_gaussian(logits: NDArray[np.float32], inside: NDArray[np.bool_], *, sigma: float) -> NDArray[np.float32]:
    """Maps [C, rows, columns] as Gaussian means over the tissue around each cell; NaN where ``inside`` is false.

    ``sigma`` is the standard deviation in cells.
    """
    known = inside & ~np.isnan(logits).any(axis=0)
    weight = ndimage.gaussian_filter(known.astype(np.float32), sigma, mode="constant")
    smoothed = np.full_like(logits, np.nan)
    for layer, source in zip(smoothed, logits, strict=True):
        total = ndimage.gaussian_filter(np.where(known, source, np.float32(0)), sigma, mode="constant")
        layer[known] = total[known] / weight[known]
    return smoothed
