"""Whether a slide holds a class at all.

A slide is negative unless some area of it is clearly positive, as in multiple-instance learning. On the slides of new
patients a model draws false polygons, each of which alone looks confident enough. A slide that holds the class has an
area that is more confident still. The confidence of a slide is the highest probability that a connected area of at
least ``LEAST_AREA_UM2`` reaches everywhere.
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.special import expit, logit

#: A disc of 71 um, twice the least area of a polygon: isolated tumour cells are smaller, micrometastases larger.
LEAST_AREA_UM2 = 4000.0
#: By how much a slide's confidence may be below the least of the positive slides out of fold, in logits. On slides of
#: another kind a model is less confident: by up to 0.6 where it learned on synthetic tissue and predicted glands.
_MARGIN = 0.75
_LEVELS = np.concatenate([np.arange(0.20, 0.90, 0.02), np.arange(0.90, 0.999, 0.005)])


def reaches(cells: NDArray[np.float32], level: float, *, cell_um: float) -> bool:
    """Whether an area of a map, float32 [h, w] with cells of ``cell_um``, reaches a level; every map reaches 0."""
    if level <= 0:
        return True
    labels, count = ndimage.label(cells >= level)  # NaN is not
    areas = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    return bool(count) and int(areas.max()) >= math.ceil(LEAST_AREA_UM2 / cell_um**2)


def slide_confidence(maps: Iterable[NDArray[np.float32]], *, cell_um: float) -> float:
    """The confidence of a slide of which these are parts; 0 where no area is more than 0.2."""
    reached = -1
    for cells in maps:
        while reached + 1 < len(_LEVELS) and reaches(cells, _LEVELS[reached + 1], cell_um=cell_um):
            reached += 1
    return float(_LEVELS[reached]) if reached >= 0 else 0.0


def least_slide_confidence(positives: Sequence[float], negatives: Sequence[float] = ()) -> float:
    """What a new slide must reach, from the confidences of slides out of fold; 0 without positive ones: all do.

    It is the middle, in logits, between the least of the positive and the largest of the negative slides. But it is not
    above the former, nor below it by more than ``_MARGIN``.
    """
    if not positives or min(positives) <= 0:
        return 0.0
    positive, negative = logit(min(positives)), logit(max(negatives, default=0.0))
    return float(expit(np.clip((positive + negative) / 2, positive - _MARGIN, positive)))
