"""Scores of polygons against the truth. Areas come from exact polygon intersections, so no pixel size enters them.

With T the truth and P the prediction, both unions of polygons, and |.| an area:

    Dice         2 |T & P| / (|T| + |P|)
    IoU          |T & P| / |T | P|
    boundary F1  2 p r / (p + r): p is the share of P's boundary within a tolerance of T's, r that of T's near P's
    fp share     |P - T| / |tissue|
    AUROC        chance that a correct polygon (IoU >= 0.5) has a higher confidence than a wrong one

Where T and P are both empty, Dice, IoU and boundary F1 are 1: there was nothing to find and nothing was predicted.
Where only one of them is empty, they are 0.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

#: A boundary has no width: without any tolerance it would not even match itself.
MIN_TOLERANCE = 1e-3
#: Samples on each closed part of a boundary at least, and (about) on a whole boundary at most.
MIN_SAMPLES = 100
MAX_SAMPLES = 1_000_000
#: 95 % of a normal distribution lie within so many standard deviations.
_NORMAL_95 = 1.959964
#: How near to the area its bounds are looked for, as a share of the way.
_NEAR = 1e-9


@dataclass(frozen=True, slots=True)
class Overlap:
    """Areas of the truth, of the prediction, and of their intersection, in any one unit.

    Overlaps add up with ``+``. The Dice of a sum is the pooled Dice.
    """

    truth: float = 0.0
    predicted: float = 0.0
    common: float = 0.0

    def __add__(self, other: "Overlap") -> "Overlap":
        return Overlap(self.truth + other.truth, self.predicted + other.predicted, self.common + other.common)

    @property
    def dice(self) -> float:
        """2 |T & P| / (|T| + |P|), in 0..1; 1 where both are empty."""
        total = self.truth + self.predicted
        return 2 * self.common / total if total > 0 else 1.0

    @property
    def iou(self) -> float:
        """|T & P| / |T | P|, in 0..1; 1 where both are empty."""
        union = self.truth + self.predicted - self.common
        return self.common / union if union > 0 else 1.0

    @property
    def false_positive(self) -> float:
        """|P - T|, in the unit of the areas."""
        return max(self.predicted - self.common, 0.0)


def overlap(truth: BaseGeometry, predicted: BaseGeometry, *, unit: float = 1.0) -> Overlap:
    """The areas of two valid polygonal geometries, each times ``unit`` (um2 per square pixel, say)."""
    common = truth.intersection(predicted).area
    return Overlap(truth.area * unit, predicted.area * unit, common * unit)


def fp_share(overlap: Overlap, *, tissue: float) -> float | None:
    """|P - T| / |tissue|, with the tissue's area in the unit of the overlap; None where there is no tissue."""
    return overlap.false_positive / tissue if tissue > 0 else None


def boundary_f1(truth: BaseGeometry, predicted: BaseGeometry, *, tolerance: float) -> float:
    """The boundary F1 of two shapes, in 0..1, to about 0.01. Boundaries of holes count too.

    Args:
        truth: Valid polygonal geometry, or an empty one.
        predicted: Valid polygonal geometry, or an empty one.
        tolerance: Distance within which boundaries count as the same, in the unit of the coordinates.
    """
    if truth.is_empty or predicted.is_empty:
        return 1.0 if truth.is_empty and predicted.is_empty else 0.0
    precision = _share_near(predicted.boundary, truth.boundary, tolerance=tolerance)
    recall = _share_near(truth.boundary, predicted.boundary, tolerance=tolerance)
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0


#: A part of the truth belongs to a polygon if they share at least this part of its area or of the polygon's area.
MIN_SHARED = 0.05


def polygon_ious(polygons: Sequence[BaseGeometry], truth: BaseGeometry) -> list[float]:
    """The IoU of each polygon, 0..1, with the parts of the truth that belong to it, not with all of the truth.

    A part of the truth that the polygon merely touches does not belong to it.
    """
    tree = shapely.STRtree(shapely.get_parts(truth))
    ious = []
    for polygon in polygons:
        parts, common = _parts_of_polygon(polygon, tree)
        union = polygon.area + shapely.area(parts).sum() - common.sum()
        ious.append(float(common.sum() / union) if union > 0 else 0.0)
    return ious


def truth_of_polygon(polygon: BaseGeometry, truth: BaseGeometry) -> list[BaseGeometry]:
    """The parts of the truth that belong to a polygon, as ``polygon_ious`` takes them, whole."""
    return list(_parts_of_polygon(polygon, shapely.STRtree(shapely.get_parts(truth)))[0])


def _parts_of_polygon(polygon: BaseGeometry, tree: shapely.STRtree) -> tuple[NDArray[np.object_], NDArray[np.float64]]:
    """The parts of the truth that belong to a polygon, and the area that each shares with it."""
    near = tree.geometries[tree.query(polygon, predicate="intersects")]
    common = shapely.area(shapely.intersection(near, polygon))
    belongs = common >= MIN_SHARED * np.minimum(shapely.area(near), polygon.area)
    return near[belongs], common[belongs]


def auroc(scores: Sequence[float], correct: Sequence[bool]) -> float | None:
    """The area under the ROC curve, 0..1, with ties counted half; None where all are correct or all are wrong."""
    if len(set(map(bool, correct))) < 2:
        return None
    from sklearn.metrics import roc_auc_score  # its import takes a second

    return float(roc_auc_score(correct, scores))


def auroc_interval(area: float, *, positives: int, negatives: int) -> tuple[float, float]:
    """The 95 % interval of an area under the ROC curve, also of one of 0 or 1 (Newcombe, Stat Med 2006, method 5).

    Args:
        area: The area, 0..1.
        positives: How many positives it was measured on, at least 1.
        negatives: How many negatives, at least 1.
    """
    from scipy.optimize import brentq

    half = (positives + negatives) / 2 - 1

    def beyond(value: float, sign: int) -> float:
        spread = 1 + half * (1 - value) / (2 - value) + half * value / (1 + value)
        deviation = math.sqrt(value * (1 - value) * spread / (positives * negatives))
        return sign * (value - area) - _NORMAL_95 * deviation

    low = brentq(beyond, 0.0, area - area * _NEAR, args=(-1,)) if area > 0 else 0.0
    high = brentq(beyond, area + (1 - area) * _NEAR, 1.0, args=(1,)) if area < 1 else 1.0
    return float(low), float(high)


def _share_near(line: BaseGeometry, other: BaseGeometry, *, tolerance: float) -> float:
    """The share of a line's length that lies within ``tolerance`` of another line.

    The line is sampled; the distance of a sample to the other line's segments is exact. (Intersecting with a buffer
    would need no samples, but fails on some outlines with a topology error.)
    """
    tree = shapely.STRtree(_segments(other))
    spacing = max(tolerance / 4, line.length / MAX_SAMPLES) if tolerance > 0 else line.length / MIN_SAMPLES
    length_near = 0.0
    for part in shapely.get_parts(line):
        count = max(MIN_SAMPLES, math.ceil(part.length / spacing))
        fractions = (np.arange(count) + 0.5) / count
        samples = shapely.line_interpolate_point(part, fractions, normalized=True)
        near = tree.query(samples, predicate="dwithin", distance=max(tolerance, MIN_TOLERANCE))[0]
        length_near += part.length * len(np.unique(near)) / count
    return float(length_near / line.length)


def _segments(line: BaseGeometry) -> NDArray[np.object_]:
    """The straight segments of a line, as an array of LineStrings."""
    vertices, part = shapely.get_coordinates(shapely.get_parts(line), return_index=True)
    joined = part[1:] == part[:-1]
    segments: NDArray[np.object_] = shapely.linestrings(np.stack([vertices[:-1][joined], vertices[1:][joined]], axis=1))
    return segments
