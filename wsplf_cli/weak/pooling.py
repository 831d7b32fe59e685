"""Gaussian means of features and logits over the tissue around a cell, for training and for inference."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

#: Standard deviations of the neighbourhoods over which features are averaged, in pixels of a tile. Small ones give the
#: outline; large ones tell a gland within tumour from a gland within normal tissue.
CONTEXT_SIGMAS_PX = (8.0, 32.0, 96.0)

#: The Gaussian ends at so many standard deviations.
TRUNCATE = 4.0
#: Cells of an axis that are smoothed at once, so that the matrices stay small on large maps.
_CHUNK = 256
#: Rows that are smoothed at once where only some cells are wanted: less is multiplied by zeros then.
_ROWS = 64


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
    cells = np.ascontiguousarray(np.where(inside[..., None], np.moveaxis(features, 0, -1), np.float32(0)))
    pooled = []
    for sigma in sigmas:
        weight = _gaussian(inside.astype(np.float32)[None], sigma)[0]
        pooled.append((_sums_at(cells, rows, columns, sigma) / weight[rows, columns, None]).astype(np.float16))
    return np.concatenate(pooled, axis=1)


def _sums_at(
    cells: NDArray[np.float32], rows: NDArray[np.integer], columns: NDArray[np.integer], sigma: float
) -> NDArray[np.float32]:
    """The weighted sums of cells [h, w, D], which are 0 outside of the tissue, around some of them, [N, D]."""
    height, width, channels = cells.shape
    sums = np.empty((len(rows), channels), np.float32)
    across = _kernel(np.arange(width), np.arange(width), sigma)
    for chunk in _chunks(height, sigma, side=_ROWS):
        wanted = np.flatnonzero((rows >= chunk.start) & (rows < chunk.start + len(chunk.kernel)))
        if not len(wanted):
            continue
        down = (chunk.kernel @ cells[chunk.cells].reshape(-1, width * channels)).reshape(-1, width, channels)
        for row in np.unique(rows[wanted]):
            in_row = wanted[rows[wanted] == row]
            sums[in_row] = across[columns[in_row]] @ down[row - chunk.start]
    return sums


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
    down = _joined([chunk.kernel @ maps[:, chunk.cells] for chunk in _chunks(maps.shape[1], sigma)], axis=1)
    return _joined([down[:, :, chunk.cells] @ chunk.kernel.T for chunk in _chunks(maps.shape[2], sigma)], axis=2)


def _joined(parts: list[NDArray[np.float32]], *, axis: int) -> NDArray[np.float32]:
    """The parts in one array, without a copy where there is one part."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=axis)


class _Chunk(NamedTuple):
    """Some cells of an axis after smoothing, from ``start`` on: the product of ``kernel`` and the ``cells`` before."""

    start: int
    cells: slice
    kernel: NDArray[np.float32]


def _chunks(size: int, sigma: float, *, side: int = _CHUNK) -> Iterator[_Chunk]:
    """An axis in chunks of ``side`` cells."""
    radius = int(TRUNCATE * sigma)
    for start in range(0, size, side):
        stop = min(size, start + side)
        first, last = max(0, start - radius), min(size, stop + radius)
        kernel = _kernel(np.arange(start, stop), np.arange(first, last), sigma)
        yield _Chunk(start, slice(first, last), kernel)


def _kernel(to: NDArray[np.integer], of: NDArray[np.integer], sigma: float) -> NDArray[np.float32]:
    """The weights of some cells of an axis at others, float32 [to, of]."""
    apart = np.abs(to[:, None] - of[None])
    weights = np.exp(-0.5 * (apart / sigma) ** 2) / (sigma * np.sqrt(2 * np.pi))
    kernel: NDArray[np.float32] = np.where(apart <= int(TRUNCATE * sigma), weights, 0.0).astype(np.float32)
    return kernel
