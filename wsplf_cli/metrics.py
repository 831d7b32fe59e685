"""What the scores mean. Areas come from exact polygon intersections, so no pixel size enters them.

With T the truth and P the prediction, both unions of polygons, and |.| an area:

    Dice         2 |T & P| / (|T| + |P|)
    IoU          |T & P| / |T | P|
    boundary F1  2 p r / (p + r): p the share of P's boundary within a tolerance of T's, r that of T's near P's
    fp share     |P - T| / |tissue|
    AUROC        chance that a good polygon (IoU >= 0.5) has a higher confidence than a bad one

Where both are empty, Dice, IoU and boundary F1 are 1: there was nothing to find and nothing was claimed. Where only one
is empty they are 0.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

#: A boundary has no width: without any tolerance it would not even match itself.
LEAST_TOLERANCE = 1e-3
#: Samples on each closed piece of a boundary, and (about) on a whole boundary.
LEAST_SAMPLES = 100
MAX_SAMPLES = 1_000_000


@dataclass(frozen=True, slots=True)
class Overlap:
    """Areas in one unit of choice: of the truth, of the prediction, and of what they have in common.

    Overlaps add up with ``+``; the Dice of a sum is the pooled Dice.
    """

    truth: float = 0.0
    predicted: float = 0.0
    common: float = 0.0

    def __add__(self, other: "Overlap") -> "Overlap":
        return Overlap(self.truth + other.truth, self.predicted + other.predicted, self.common + other.common)

    @property
    def dice(self) -> float:
        """2 |T & P| / (|T| + |P|), in 0..1; 1 where both are empty."""
        both = self.truth + self.predicted
        return 2 * self.common / both if both > 0 else 1.0

    @property
    def iou(self) -> float:
        """|T & P| / |T | P|, in 0..1; 1 where both are empty."""
        either = self.truth + self.predicted - self.common
        return self.common / either if either > 0 else 1.0

    @property
    def false_positive(self) -> float:
        """|P - T|, in the unit of the areas."""
        return max(self.predicted - self.common, 0.0)


def overlap(truth: BaseGeometry, predicted: BaseGeometry, *, unit: float = 1.0) -> Overlap:
    """The areas of two valid polygonal geometries, each times ``unit`` (um2 per square pixel, say)."""
    common = truth.intersection(predicted).area
    return Overlap(truth.area * unit, predicted.area * unit, common * unit)


def fp_share(overlap: Overlap, *, tissue: float) -> float | None:
    """|P - T| / |tissue|, tissue in the unit of the overlap; None where there is no tissue to speak of."""
    return overlap.false_positive / tissue if tissue > 0 else None


def boundary_f1(truth: BaseGeometry, predicted: BaseGeometry, *, tolerance: float) -> float:
    """How well two boundaries (outer ones and those of holes) run together, in 0..1, to about 0.01.

    Args:
        truth: valid polygonal geometry, or an empty one.
        predicted: the same.
        tolerance: distance, in the unit of the coordinates, within which boundaries count as the same.
    """
    if truth.is_empty or predicted.is_empty:
        return 1.0 if truth.is_empty and predicted.is_empty else 0.0
    precision = _near(predicted.boundary, truth.boundary, tolerance=tolerance)
    recall = _near(truth.boundary, predicted.boundary, tolerance=tolerance)
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0


#: A piece of the truth that has less than this share of itself, or of the polygon, in common with it is a neighbour.
LEAST_SHARED = 0.05


def polygon_ious(polygons: Sequence[BaseGeometry], truth: BaseGeometry) -> list[float]:
    """IoU 0..1 of each polygon with those pieces of the truth that it shows, not with all of the truth.

    A piece that it merely touches is not one that it shows.
    """
    pieces = shapely.get_parts(truth)
    tree = shapely.STRtree(pieces)
    found = []
    for polygon in polygons:
        near = pieces[tree.query(polygon, predicate="intersects")]
        common = shapely.area(shapely.intersection(near, polygon))
        shown = common >= LEAST_SHARED * np.minimum(shapely.area(near), polygon.area)
        either = polygon.area + shapely.area(near[shown]).sum() - common[shown].sum()
        found.append(float(common[shown].sum() / either) if either > 0 else 0.0)
    return found


def auroc(scores: Sequence[float], good: Sequence[bool]) -> float | None:
    """Area under the ROC curve 0..1, ties counting half; None where all are good or all are bad."""
    values, is_good = np.asarray(scores, np.float64), np.asarray(good, bool)
    bad_values = np.sort(values[~is_good])
    if not is_good.any() or not len(bad_values):
        return None
    below = np.searchsorted(bad_values, values[is_good], side="left")
    upto = np.searchsorted(bad_values, values[is_good], side="right")
    return float((below + upto).mean() / 2 / len(bad_values))


def _near(line: BaseGeometry, other: BaseGeometry, *, tolerance: float) -> float:
    """Share of a line's length that lies within ``tolerance`` of another line.

    The line is sampled; the distance of a sample to the other line's segments is exact. (Intersecting with a buffer
    would need no samples, but fails on some outlines with a topology error.)
    """
    tree = shapely.STRtree(_segments(other))
    spacing = max(tolerance / 4, line.length / MAX_SAMPLES) if tolerance > 0 else line.length / LEAST_SAMPLES
    near = 0.0
    for part in shapely.get_parts(line):
        count = max(LEAST_SAMPLES, math.ceil(part.length / spacing))
        places = (np.arange(count) + 0.5) / count
        samples = shapely.line_interpolate_point(part, places, normalized=True)
        found = tree.query(samples, predicate="dwithin", distance=max(tolerance, LEAST_TOLERANCE))[0]
        near += part.length * len(np.unique(found)) / count
    return float(near / line.length)


def _segments(line: BaseGeometry) -> NDArray[np.object_]:
    """The straight pieces of a line, as an array of LineStrings."""
    vertices, part = shapely.get_coordinates(shapely.get_parts(line), return_index=True)
    joined = part[1:] == part[:-1]
    segments: NDArray[np.object_] = shapely.linestrings(np.stack([vertices[:-1][joined], vertices[1:][joined]], axis=1))
    return segments
