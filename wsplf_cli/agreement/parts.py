"""Areas as arrays of polygons that do not overlap, so that two areas are only computed with where they meet.

One overlay of two unions of hundreds of polygons takes a hundred times as long as those of the few pairs that meet.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from shapely.geometry.base import BaseGeometry

from wsplf_cli.geometry import polygonal

#: Valid polygons whose insides are disjoint, object [N].
Parts = NDArray[np.object_]


def disjoint_parts(shapes: Iterable[BaseGeometry]) -> Parts:
    """The union of the polygonal parts of shapes; those that touch are joined."""
    parts = _array([polygon for shape in shapes for polygon in polygonal(shape)])
    first, second = shapely.STRtree(parts).query(parts, predicate="intersects")
    if len(first) == len(parts):  # each only meets itself
        return parts
    graph = coo_array((np.ones(len(first), np.int8), (first, second)), shape=(len(parts), len(parts)))
    group = connected_components(graph, directed=False)[1]
    order = np.argsort(group, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(group[order])) + 1)
    return _array(
        [
            polygon
            for indices in groups
            for polygon in (polygonal(shapely.union_all(parts[indices])) if len(indices) > 1 else [parts[indices[0]]])
        ]
    )


def area(parts: Parts) -> float:
    """The area of all parts, in the square unit of the coordinates."""
    return float(shapely.area(parts).sum())


def intersection(one: Parts, other: Parts) -> Parts:
    """What both areas cover."""
    first, second = _meeting(one, other)
    return _polygons(_intersections(one[first], other[second]))


def common_area(one: Parts, other: Parts) -> float:
    """The area that both cover."""
    first, second = _meeting(one, other)
    return area(_intersections(one[first], other[second]))


def difference(one: Parts, other: Parts) -> Parts:
    """What the first area covers and the second does not."""
    first, second = _meeting(one, other)
    if not len(first):
        return one
    times = np.bincount(first, minlength=len(one))
    once = times[first] == 1
    pairs = one[first[once]], other[second[once]]
    differing = ~shapely.equals_exact(*pairs)
    cut = shapely.difference(pairs[0][differing], pairs[1][differing])
    several = [
        one[index].difference(shapely.union_all(other[second[first == index]])) for index in np.flatnonzero(times > 1)
    ]
    return np.concatenate([one[times == 0], _polygons(cut), _polygons(_array(several))])


def _meeting(one: Parts, other: Parts) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of the parts that meet."""
    if not len(one) or not len(other):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    first, second = shapely.STRtree(other).query(one, predicate="intersects")
    return first, second


def _intersections(one: Parts, other: Parts) -> Parts:
    """The intersection of each pair; of equal polygons, the polygon."""
    common = one.copy()
    differing = ~shapely.equals_exact(one, other)
    common[differing] = shapely.intersection(one[differing], other[differing])
    return common


def _polygons(geometries: Parts) -> Parts:
    return _array([polygon for geometry in geometries for polygon in polygonal(geometry)])


def _array(geometries: Sequence[BaseGeometry]) -> Parts:
    array = np.empty(len(geometries), object)
    array[:] = geometries
    return array
