"""One prompt for each piece of the CAM: positive points spread deep inside it, negative ones where the CAM is low."""

import numpy as np
from numpy.typing import NDArray

from wsplf_cli.schema import Prompt
from wsplf_cli.weak.prompts import BACKGROUND, Strategy
from wsplf_cli.weak.prompts._points import Piece, pieces, spread, within

POSITIVES = 6
NEGATIVES = 6
#: One positive point for every 1.5 % of the tile: a gland gets one or two, a tile full of tumour six.
SHARE_PER_POINT = 0.015
#: In sides of the tile: how far points keep from each other, and how far from the piece a negative still says anything.
APART = 0.08
NEAR = 0.25


def build() -> Strategy:
    """The strategy."""
    return prompt


def prompt(cam: NDArray[np.float32], rng: np.random.Generator) -> list[Prompt]:
    """One prompt of points, without a box, for each piece of the foreground of the CAM float32 [h, w]."""
    return [_prompt(piece, cam, rng) for piece in pieces(cam)]


def _prompt(piece: Piece, cam: NDArray[np.float32], rng: np.random.Generator) -> Prompt:
    side = max(cam.shape)
    high = cam[piece.mask]
    sure = piece.mask & (cam >= np.median(high))
    count = int(np.clip(round(float(piece.mask.mean()) / SHARE_PER_POINT), 1, POSITIVES))
    inside = spread(sure, cam * np.sqrt(piece.depth), rng, count=count, apart_px=APART * side)
    low = (cam <= BACKGROUND) & within(piece.mask, NEAR * side)
    outside = spread(low, 1.0 - cam, rng, count=NEGATIVES, apart_px=APART * side)
    labels = np.repeat(np.array([1, 0], np.int8), [len(inside), len(outside)])
    return Prompt(points_px=np.concatenate([inside, outside]), point_labels=labels)
