"""Shapes as they are stored: repaired, on the grid, valid in single precision, of a bounded number of vertices."""

import numpy as np
import pytest
import shapely
from hypothesis import example, given, settings
from hypothesis import strategies as st
from shapely import LineString, MultiPolygon, Polygon, box

from wsplf_cli.qupath.shapes import (
    MAX_AREA_CHANGE,
    MAX_VERTICES,
    odd_area,
    repaired,
    shape_hash,
    shape_hashes,
    storable,
)

POINTS = st.lists(st.tuples(st.floats(0, 300), st.floats(0, 300)), min_size=3, max_size=12)


def _single(shape: Polygon) -> Polygon:
    return shapely.transform(shape, lambda points: points.astype("float32").astype("float64"))


def _nowhere() -> Polygon:
    with np.errstate(invalid="ignore"):
        return Polygon([(0, 0), (np.nan, 1), (1, 1)])


def _star(vertices: int, *, noise: float, radius: float = 5_000, seed: int = 0) -> Polygon:
    angles = np.linspace(0, 2 * np.pi, vertices, endpoint=False)
    radii = radius + noise * np.random.default_rng(seed).random(vertices)
    return Polygon(np.column_stack([np.cos(angles) * radii, np.sin(angles) * radii]) + 20_000)


@settings(max_examples=200, deadline=None)
@given(POINTS, st.sampled_from([0.0, 40_000.0, 200_000.0, 1_500_000.0]))
@example([(0.0, 1.0), (0.0, 5e-324), (3.0, 0.0), (1.0, 0.0)], 0.0)
def test_what_is_stored_is_valid_as_it_is_stored_and_covers_the_same(
    points: list[tuple[float, float]], offset: float
) -> None:
    shape = shapely.transform(Polygon(points), lambda coords: coords + offset)
    parts = storable([shape])[0]
    for part in parts:
        stored = part if part.interiors else _single(part)
        assert stored.is_valid
        assert stored.area > 0
    usable = repaired(shape)
    step = max(0.02, 2 * float(np.spacing(np.float32(offset + 300))))
    with np.errstate(all="ignore"):  # of coordinates near 0, as 5e-324
        changed = shapely.symmetric_difference(shapely.union_all(parts), shapely.union_all([usable]))
    assert changed.area <= step * 4 * (usable.length + 1)


def test_vertices_lie_on_the_grid() -> None:
    (part,) = storable([Polygon([(0.123456, 1), (7.77777, 0), (7, 7.005001)])])[0]
    assert shapely.get_coordinates(part).tolist() == [[0.12, 1], [7.78, 0], [7, 7.01], [0.12, 1]]


def test_many_shapes_are_stored_as_each_alone() -> None:
    rng = np.random.default_rng(1)
    shapes = [Polygon(rng.random((5, 2)) * 50) for _ in range(50)]
    shapes += [box(0, 0, 9, 9) - box(2, 2, 3, 3), MultiPolygon([box(0, 0, 1, 1), box(3, 3, 4, 4)]), Polygon()]
    shapes += [
        LineString([(0, 0), (1, 1)]),
        _nowhere(),
        _star(3_000, noise=2),
    ]
    assert [[part.wkb for part in parts] for parts in storable(shapes)] == [
        [one.wkb for one in storable([shape])[0]] for shape in shapes
    ]
    assert shape_hashes(shapes) == [shape_hash(shape) for shape in shapes]
    assert len(set(shape_hashes(shapes[:50]))) == 50


def test_shape_of_very_many_vertices_is_simplified_within_the_bound() -> None:
    shape = _star(20_000, noise=3)
    (part,) = storable([shape])[0]
    assert shapely.get_num_coordinates(part) <= MAX_VERTICES
    assert shapely.symmetric_difference(shape, part).area <= (MAX_AREA_CHANGE + 1e-4) * shape.area


def test_shape_that_would_change_too_much_keeps_more_vertices() -> None:
    shape = _star(6_000, noise=1_500, radius=2_000)
    parts = storable([shape])[0]
    area = shapely.union_all(parts)
    assert shapely.get_num_coordinates(area) > MAX_VERTICES
    assert shapely.symmetric_difference(repaired(shape), area).area <= (MAX_AREA_CHANGE + 1e-3) * shape.area


def test_hash_of_a_plain_polygon_stays_what_earlier_versions_wrote() -> None:
    assert shape_hash(box(10, 20, 30, 40)) == "d1fea7942e92285b7ba1540ad82629e2"
    assert shape_hash(box(0, 0, 9, 9) - box(2, 2, 3, 3)) == "d47209ebc47e86d9827fdc3926081e89"
    assert shape_hash(LineString([(0, 0), (1.5, 1)])) == "3c839b4a1973bbb6bed4acba896099c3"


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7])
def test_area_of_rings_is_what_an_odd_number_of_them_covers(count: int) -> None:
    rings = [box(place, place, 20 - place, 20 - place) for place in range(count)]
    expected = sum((20 - 2 * place) ** 2 * (-1) ** place for place in range(count))
    assert odd_area(rings).area == expected


def test_scribble_is_repaired_only_as_far_as_that_ends_soon() -> None:
    rng = np.random.default_rng(0)
    some, many = Polygon(rng.random((30, 2)) * 100), Polygon(rng.random((1_000, 2)) * 100)
    assert repaired(some).is_valid
    assert repaired(many) is many
    assert storable([many])[0] == []
