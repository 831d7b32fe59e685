"""One prompt for each piece of the CAM: its box, the points where it is highest, negatives in the box where it is low.

For large pieces and for SAMs trained on boxes; a box around scattered structure holds much that is not of it, which
is what the negative points are for.
"""

import numpy as np
from numpy.typing import NDArray

from wsplf_cli.schema import Prompt
from wsplf_cli.weak.prompts import BACKGROUND, Strategy
from wsplf_cli.weak.prompts._points import Piece, pieces, spread

PEAKS = 2
NEGATIVES = 4
#: In sides of the tile. CAMs are blurred, so that the box of a piece is more often too large than too small.
MARGIN = 0.02
APART = 0.08


def build() -> Strategy:
    """The strategy."""
    return prompt


def prompt(cam: NDArray[np.float32], rng: np.random.Generator) -> list[Prompt]:
    """One prompt of a box and points for each piece of the foreground of the CAM float32 [h, w]."""
    return [_prompt(piece, cam, rng) for piece in pieces(cam)]


def _prompt(piece: Piece, cam: NDArray[np.float32], rng: np.random.Generator) -> Prompt:
    height, width = cam.shape
    side = max(cam.shape)
    rows, columns = np.nonzero(piece.mask)
    edges = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], np.float64)
    margin = max(1.0, MARGIN * side)
    box = np.clip(edges + np.array([-margin, -margin, margin, margin]), 0, [width, height, width, height])
    left, top, right, bottom = box.round().astype(int)
    within = np.zeros(cam.shape, bool)
    within[top:bottom, left:right] = True
    peaks = spread(piece.mask, cam * np.sqrt(piece.depth), rng, count=PEAKS, apart_px=2 * APART * side)
    outside = spread(within & (cam <= BACKGROUND), 1.0 - cam, rng, count=NEGATIVES, apart_px=APART * side)
    labels = np.repeat(np.array([1, 0], np.int8), [len(peaks), len(outside)])
    return Prompt(points_px=np.concatenate([peaks, outside]), point_labels=labels, box_px=box.astype(np.float32))
