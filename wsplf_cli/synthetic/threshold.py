"""The most generous colour baseline: the best threshold on one channel, chosen with the truth on the slides themselves.

A cohort on which this comes near the method would prove nothing about the method.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.color import rgb2hed, rgb2hsv

CHANNELS = ("red", "green", "blue", "hue", "saturation", "value", "haematoxylin", "eosin", "dab")
SMOOTHING_UM = (0.0, 8.0, 24.0)
BINS = 512


@dataclass(frozen=True, slots=True)
class ColourThreshold:
    """One channel, smoothed by a Gaussian of ``smoothing_um``, above (or not above) ``value``.

    ``mean_dice`` is what it reached on the positive slides it was chosen on.
    """

    channel: str
    smoothing_um: float
    above: bool
    value: float
    mean_dice: float

    def mask(self, rgb: NDArray[np.uint8], tissue: NDArray[np.bool_], *, mpp: float) -> NDArray[np.bool_]:
        """Where it says tumour, bool [H, W], for uint8 [H, W, 3] at ``mpp`` and its tissue bool [H, W]."""
        field = _smoothed(_channels(rgb)[CHANNELS.index(self.channel)], self.smoothing_um / mpp)
        return np.asarray(((field > self.value) == self.above) & tissue)


def best_threshold(
    pictures: Sequence[NDArray[np.uint8]],
    truths: Sequence[NDArray[np.bool_]],
    tissues: Sequence[NDArray[np.bool_]],
    *,
    mpp: float,
) -> ColourThreshold:
    """The threshold with the best mean Dice over the slides that have tumour.

    Args:
        pictures: uint8 [H, W, 3], one per slide, all at ``mpp``.
        truths: bool [H, W], tumour.
        tissues: bool [H, W]; outside of it nothing is called tumour.
        mpp: micrometres per pixel of the pictures.
    """
    positive = [number for number, truth in enumerate(truths) if truth.any()]
    best = ColourThreshold("haematoxylin", 0.0, True, np.inf, 0.0)
    stacks = [_channels(pictures[number]) for number in positive]
    for index, channel in enumerate(CHANNELS):
        for smoothing in SMOOTHING_UM:
            fields = [_smoothed(stack[index], smoothing / mpp) for stack in stacks]
            inside = [field[tissues[number]] for field, number in zip(fields, positive, strict=True)]
            edges = np.linspace(min(v.min() for v in inside), max(v.max() for v in inside), BINS + 1)
            scores = np.mean(
                [
                    _dice(values, truths[number][tissues[number]], total=int(truths[number].sum()), edges=edges)
                    for values, number in zip(inside, positive, strict=True)
                ],
                axis=0,
            )
            row, column = np.unravel_index(int(np.argmax(scores)), scores.shape)
            if scores[row, column] > best.mean_dice:
                value, dice = float(edges[column]), float(scores[row, column])
                best = ColourThreshold(channel, smoothing, bool(row == 0), value, dice)
    return best


def _dice(
    values: NDArray[np.float32], truth: NDArray[np.bool_], *, total: int, edges: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Dice at every edge for above (row 0) and not above (row 1), float64 [2, BINS + 1]."""
    counts = np.stack([np.histogram(part, edges)[0] for part in (values, values[truth])])
    below = np.concatenate([np.zeros((2, 1)), np.cumsum(counts, axis=1)], axis=1)
    above = below[:, -1:] - below
    return np.stack([2 * part[1] / np.maximum(part[0] + total, 1) for part in (above, below)])


def _channels(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """All channels of a picture, float32 [9, H, W]."""
    stack = np.concatenate([rgb / np.float32(255), rgb2hsv(rgb), rgb2hed(rgb)], axis=2)
    return np.moveaxis(stack, 2, 0).astype(np.float32)


def _smoothed(field: NDArray[np.float32], sigma_px: float) -> NDArray[np.float32]:
    return np.asarray(ndimage.gaussian_filter(field, sigma_px)) if sigma_px > 0 else field
