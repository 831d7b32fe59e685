"""Areas as arrays of polygons give the same as unions of polygons."""

import numpy as np
import pytest
import shapely
from shapely import Polygon, box

from wsplf_cli.agreement.parts import area, common_area, difference, disjoint_parts, intersection


def random_shapes(seed):
    rng = np.random.default_rng(seed)
    circles = [shapely.Point(x, y).buffer(radius) for x, y, radius in rng.uniform(2, 30, (25, 3)) * (4, 4, 0.4)]
    return [circles[0], circles[0].boundary.buffer(1), *circles[1:]]


@pytest.mark.parametrize("seed", range(5))
def test_operations_on_parts_are_those_of_the_unions(seed):
    one, other = random_shapes(seed), random_shapes(seed + 100)
    parts, others = disjoint_parts(one), disjoint_parts(other)
    union, union_other = shapely.union_all(one), shapely.union_all(other)
    assert area(parts) == pytest.approx(union.area)
    assert common_area(parts, others) == pytest.approx(union.intersection(union_other).area)
    assert area(intersection(parts, others)) == pytest.approx(union.intersection(union_other).area)
    assert area(difference(parts, others)) == pytest.approx(union.difference(union_other).area)
    assert area(difference(parts, parts)) == 0


def test_nothing_has_no_parts():
    nothing = disjoint_parts([Polygon(), shapely.LineString([(0, 0), (1, 1)])])
    assert len(nothing) == 0
    some = disjoint_parts([box(0, 0, 1, 1)])
    assert common_area(nothing, some) == 0
    assert len(difference(some, nothing)) == 1
