"""Gaussian means of features and logits over the tissue around a cell, for training and for inference."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

#: Standard deviations of the neighbourhoods over which features are averaged, in pixels of a tile. Small ones give the
#: outline; large ones tell a gland within tumour from a gland within normal tissue.
CONTEXT_SIGMAS_PX = (8.0, 32.0, 96.0)

#: The Gaussian ends at so many standard deviations.
TRUNCATE = 4.0
#: Cells of an axis that are smoothed at once, so that the matrices stay small on large maps.
_CHUNK = 256


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
        rows: Rows of the instances, [N], in the tissue.
        columns: Columns of the instances, [N].
        sigmas: Standard deviations of the neighbourhoods, in cells.
    """
    inside = ~np.isnan(features[0])
    filled = np.where(inside, features, np.float32(0))
    pooled = []
    for sigma in sigmas:
        total, weight = _sums(filled, inside, sigma)
        pooled.append((total[:, rows, columns] / weight[rows, columns]).T.astype(np.float16))
    return np.concatenate(pooled, axis=1)


def masked_gaussian(values: NDArray[np.float32], inside: NDArray[np.bool_], *, sigma: float) -> NDArray[np.float32]:
    """Maps float32 [C, rows, columns] as Gaussian means over the tissue around each cell; NaN outside.

    Args:
        values: The maps; cells that are NaN in any of them count as outside.
        inside: The tissue, bool [rows, columns].
        sigma: Standard deviation in cells.
    """
    known = inside & ~np.isnan(values).any(axis=0)
    total, weight = _sums(np.where(known, values, np.float32(0)), known, sigma)
    means: NDArray[np.float32] = np.where(known, total / np.where(known, weight, np.float32(1)), np.float32(np.nan))
    return means


def _sums(
    filled: NDArray[np.float32], inside: NDArray[np.bool_], sigma: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The weighted sums of maps that are 0 outside, [C, rows, columns], and the sums of the weights [rows, columns]."""
    return _gaussian(filled, sigma), _gaussian(inside.astype(np.float32)[None], sigma)[0]


def _gaussian(maps: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """Maps float32 [C, rows, columns] smoothed along both axes, with zeros beyond the border."""
    down = _joined([kernel @ maps[:, first:last] for first, last, kernel in _chunks(maps.shape[1], sigma)], axis=1)
    return _joined([down[:, :, first:last] @ kernel.T for first, last, kernel in _chunks(maps.shape[2], sigma)], axis=2)


def _joined(parts: list[NDArray[np.float32]], *, axis: int) -> NDArray[np.float32]:
    """The parts in one array, without a copy where there is one part."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=axis)


def _chunks(size: int, sigma: float) -> list[tuple[int, int, NDArray[np.float32]]]:
    """An axis in chunks: each is the product of a kernel and the cells first to last."""
    radius = int(TRUNCATE * sigma)
    chunks = []
    for start in range(0, size, _CHUNK):
        stop = min(size, start + _CHUNK)
        first, last = max(0, start - radius), min(size, stop + radius)
        apart = np.abs(np.arange(start, stop)[:, None] - np.arange(first, last)[None])
        kernel = np.where(apart <= radius, np.exp(-0.5 * (apart / sigma) ** 2), 0.0) / (sigma * np.sqrt(2 * np.pi))
        chunks.append((first, last, kernel.astype(np.float32)))
    return chunks
