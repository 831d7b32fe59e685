"""A colour baseline: the best threshold on one channel, chosen with the truth of the same slides.

A cohort on which this baseline is nearly as good as the method would prove nothing about the method.
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

    ``mean_dice`` is its mean Dice on the positive slides that it was chosen on.
    """

    channel: str
    smoothing_um: float
    above: bool
    value: float
    mean_dice: float

    def mask(self, rgb: NDArray[np.uint8], tissue: NDArray[np.bool_], *, mpp: float) -> NDArray[np.bool_]:
        """The predicted tumour, bool [H, W], of an image uint8 [H, W, 3] at ``mpp`` with its tissue bool [H, W]."""
        field = _smoothed(_channels(rgb)[CHANNELS.index(self.channel)], self.smoothing_um / mpp)
        return np.asarray(((field > self.value) == self.above) & tissue)


def best_threshold(
    images: Sequence[NDArray[np.uint8]],
    truths: Sequence[NDArray[np.bool_]],
    tissues: Sequence[NDArray[np.bool_]],
    *,
    mpp: float,
) -> ColourThreshold:
    """The threshold with the best mean Dice over the slides that have tumour.

    Args:
        images: uint8 [H, W, 3], one per slide, all at ``mpp``.
        truths: Bool [H, W], the tumour of each slide.
        tissues: Bool [H, W], the tissue of each slide; nothing outside of it is predicted.
        mpp: Micrometres per pixel of the images.
    """
    positive = [index for index, truth in enumerate(truths) if truth.any()]
    best = ColourThreshold("haematoxylin", 0.0, True, np.inf, 0.0)
    stacks = [_channels(images[index]) for index in positive]
    for channel_index, channel in enumerate(CHANNELS):
        for smoothing in SMOOTHING_UM:
            fields = [_smoothed(stack[channel_index], smoothing / mpp) for stack in stacks]
            inside = [field[tissues[index]] for field, index in zip(fields, positive, strict=True)]
            edges = np.linspace(float(min(map(np.min, inside))), float(max(map(np.max, inside))), BINS + 1)
            scores = np.mean(
                [
                    _dice_at_edges(
                        values, truths[index][tissues[index]], truth_px=int(truths[index].sum()), edges=edges
                    )
                    for values, index in zip(inside, positive, strict=True)
                ],
                axis=0,
            )
            row, column = np.unravel_index(int(np.argmax(scores)), scores.shape)
            if scores[row, column] > best.mean_dice:
                value, dice = float(edges[column]), float(scores[row, column])
                best = ColourThreshold(channel, smoothing, bool(row == 0), value, dice)
    return best


def _dice_at_edges(
    values: NDArray[np.float32], truth: NDArray[np.bool_], *, truth_px: int, edges: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The Dice of each threshold in ``edges``, float64 [2, BINS + 1], for above (row 0) and not above it (row 1)."""
    counts = np.stack([np.histogram(part, edges)[0] for part in (values, values[truth])])
    below = np.concatenate([np.zeros((2, 1)), np.cumsum(counts, axis=1)], axis=1)
    above = below[:, -1:] - below
    return np.stack([2 * part[1] / np.maximum(part[0] + truth_px, 1) for part in (above, below)])


def _channels(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """All channels of an image, float32 [9, H, W]."""
    stack = np.concatenate([rgb / np.float32(255), rgb2hsv(rgb), rgb2hed(rgb)], axis=2)
    return np.moveaxis(stack, 2, 0).astype(np.float32)


def _smoothed(field: NDArray[np.float32], sigma_px: float) -> NDArray[np.float32]:
    """The field after a Gaussian filter."""
    return np.asarray(ndimage.gaussian_filter(field, sigma_px)) if sigma_px > 0 else field
