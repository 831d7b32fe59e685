"""Where a prompt can put its points: the pieces of the CAM, and places in them that lie far apart."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, label

from wsplf_cli.weak.prompts import FOREGROUND

#: Smaller pieces are noise of the CAM: 0.5 % of the tile, a square of 18 pixels in 256.
MIN_SHARE = 0.005
CANDIDATES = 1500


@dataclass(frozen=True, slots=True)
class Piece:
    """One connected piece of the foreground.

    ``mask`` bool [h, w]; ``depth`` float [h, w] is the distance to what is not the piece, in pixels, 0 outside of it;
    the border of the tile does not count, since the piece goes on there.
    """

    mask: NDArray[np.bool_]
    depth: NDArray[np.float64]


def pieces(cam: NDArray[np.float32]) -> list[Piece]:
    """The connected pieces of ``cam >= FOREGROUND`` that are large enough, largest first."""
    labels, _ = label(cam >= FOREGROUND, structure=np.ones((3, 3)))
    areas = np.bincount(labels.ravel())[1:]
    least = max(4.0, MIN_SHARE * cam.size)
    chosen = [int(index) + 1 for index in np.argsort(-areas, kind="stable") if areas[index] >= least]
    return [Piece(mask=labels == number, depth=distance(labels == number)) for number in chosen]


def distance(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Distance in pixels from each pixel of ``mask`` to the nearest one that is not; 0 outside; huge if all are."""
    if mask.all():
        return np.full(mask.shape, 1e6)
    around = _around(mask, 1)  # what lies nearest is there
    depth = np.zeros(mask.shape)
    depth[around] = distance_transform_edt(mask[around])
    return depth


def within(mask: NDArray[np.bool_], reach_px: float) -> NDArray[np.bool_]:
    """The pixels that lie at most so far from ``mask``, bool [h, w]."""
    around = _around(mask, int(np.ceil(reach_px)) + 1)
    near = np.zeros(mask.shape, bool)
    near[around] = distance_transform_edt(~mask[around]) <= reach_px
    return near


def _around(mask: NDArray[np.bool_], margin_px: int) -> tuple[slice, slice]:
    """The smallest part of an image that holds a mask, with a margin; the mask holds a pixel."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    first_row, first_column = (max(0, int(indices[0]) - margin_px) for indices in (rows, columns))
    return slice(first_row, int(rows[-1]) + margin_px + 1), slice(first_column, int(columns[-1]) + margin_px + 1)


def spread(
    allowed: NDArray[np.bool_],
    weight: NDArray[np.floating],
    rng: np.random.Generator,
    *,
    count: int,
    apart_px: float,
) -> NDArray[np.float32]:
    """Up to ``count`` points float32 [K, 2] (x, y) in ``allowed`` bool [h, w], at least ``apart_px`` apart.

    The first is where ``weight`` is highest; each next one is where weight times the distance to those before is
    highest. No place allowed gives [0, 2].
    """
    rows, columns = np.nonzero(allowed)
    if len(rows) == 0:
        return np.zeros((0, 2), np.float32)
    # drawn in any order, so that equal weights do not favour the top left
    some = rng.permutation(len(rows))
    some = np.append(some[np.argmax(weight[rows[some], columns[some]])], some[:CANDIDATES])
    rows, columns = rows[some], columns[some]
    value = weight[rows, columns].astype(np.float64)
    places = np.stack([columns, rows], axis=1) + 0.5
    taken = [int(np.argmax(value))]
    nearest = np.linalg.norm(places - places[taken[0]], axis=1)
    while len(taken) < count:
        gain = np.where(nearest >= apart_px, nearest * value, -1.0)
        best = int(np.argmax(gain))
        if gain[best] < 0:
            break
        taken.append(best)
        nearest = np.minimum(nearest, np.linalg.norm(places - places[best], axis=1))
    return places[taken].astype(np.float32)
