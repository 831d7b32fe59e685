"""Shapes as QuPath stores them: the grid, the parts, the cap, and a hash that QuPath's saving does not change."""

import hashlib
from collections.abc import Iterator, Sequence
from uuid import UUID, uuid5

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import Polygon
from shapely.geometry.base import BaseGeometry

GRID_PX = 0.01
"""QuPath 0.6 and later round the coordinates of shapes with holes to this, in level-0 pixels."""
SINGLE_GRID_PX = 2.0**-6
"""The grid for the few shapes that single precision, in which QuPath stores them, would make cross themselves: it is
exact in single precision up to 262,144 pixels, and doubles beyond."""
MAX_VERTICES = 2_000
"""Vertices of one annotation at most: QuPath draws and edits shapes of very many vertices slowly (its issue 1746), and
at 2,000 the outline of a 5 mm region still has a vertex every 10 um."""
MAX_AREA_CHANGE = 0.005
"""Share of the area that simplifying to MAX_VERTICES may add and take away; a shape that needs more keeps the vertices
that it has at this bound."""
_FIRST_TOLERANCE_PX = 0.25
_BATCH = 20_000
_MANY_CROSSINGS = 25
"""Above it a shape is repaired by the faster of two ways, which fills what a line goes round twice."""
_MAX_CROSSINGS = 5_000

Shapes = NDArray[np.object_]

# GEOS sets the processor's flags for numbers that it deals with itself, which numpy would then warn of.
_quiet = np.errstate(divide="ignore", invalid="ignore", over="ignore", under="ignore")
_POLYGON = 3


def storable(shape: BaseGeometry) -> list[Polygon]:
    """`storable_all` of one shape."""
    return storable_all([shape])[0]


@_quiet
def storable_all(shapes: Sequence[BaseGeometry]) -> list[list[Polygon]]:
    """For each shape its polygons: repaired, on the 0.01-pixel grid, one for each connected part; lines are dropped.

    Each is valid also in single precision, as QuPath stores polygons without holes, and has at most MAX_VERTICES
    vertices where that changes no more than MAX_AREA_CHANGE of its area.
    """
    found: list[list[Polygon]] = []
    for batch in _batches(_array(shapes)):
        plain = (shapely.get_type_id(batch) == _POLYGON) & ~shapely.is_empty(batch)
        plain &= shapely.get_num_coordinates(batch) <= MAX_VERTICES
        snapped = batch.copy()
        snapped[plain] = _snapped(batch[plain])
        good = plain.copy()
        good[plain] = _stores_well(snapped[plain])
        snapped[good] = _once(snapped[good])
        found += [
            [one] if done else _repaired_parts(shape) for one, shape, done in zip(snapped, batch, good, strict=True)
        ]
    return found


def polygons(shape: BaseGeometry) -> list[Polygon]:
    """The polygons in a shape of any kind, in order."""
    return [part for part in _parts(shape) if isinstance(part, Polygon) and not part.is_empty]


def part_id(first: UUID, place: int) -> UUID:
    """The id of part number ``place`` of an annotation with id ``first``; the first part keeps it."""
    return first if place == 0 else uuid5(first, str(place))


def shape_hash(shape: BaseGeometry) -> str:
    """A hash of the vertices as QuPath stores them (float32, hundredths of a pixel).

    Where a ring starts, its direction, a repeated last point and the order of holes and parts do not count, so that
    the hash stays when QuPath opens and saves a shape, and changes with any real edit.
    """
    return shape_hashes([shape])[0]


@_quiet
def shape_hashes(shapes: Sequence[BaseGeometry] | Shapes) -> list[str]:
    """`shape_hash` of each shape."""
    found: list[str] = []
    for batch in _batches(_array(shapes)):
        plain = (shapely.get_type_id(batch) == _POLYGON) & ~shapely.is_empty(batch)
        plain &= shapely.get_num_interior_rings(batch) == 0
        coords, owner = shapely.get_coordinates(batch[plain], return_index=True)
        rings = iter(_rings(coords, np.bincount(owner, minlength=int(plain.sum()))))
        found += [
            _digest([_framed([next(rings)])]) if simple else _digest([_canonical(part) for part in _parts(shape)])
            for shape, simple in zip(batch, plain, strict=True)
        ]
    return found


@_quiet
def repaired(shape: BaseGeometry) -> BaseGeometry:
    """A polygon that crosses itself as the area that it covers; anything else as it is.

    A scribble that crosses itself thousands of times, and one with coordinates that are no numbers, stay as they are.
    """
    if not polygons(shape) or shape.is_valid:
        return shape
    valid = _valid(shape)
    return shape if valid is None else shapely.union_all(polygons(valid))


@_quiet
def odd_area(rings: Sequence[Polygon]) -> BaseGeometry:
    """What lies in an odd number of rings; a scribble (see `repaired`) gives all of its rings as they are."""
    if _crossings(rings) > _MAX_CROSSINGS:
        return shapely.multipolygons(list(rings))
    areas = _array([shapely.make_valid(ring) for ring in rings])
    while len(areas) > 1:
        pairs = shapely.symmetric_difference(areas[: len(areas) // 2 * 2 : 2], areas[1::2])
        areas = np.concatenate([pairs, areas[len(areas) // 2 * 2 :]])
    return shapely.union_all(polygons(areas[0])) if len(areas) else Polygon()


def _array(shapes: Sequence[BaseGeometry] | Shapes) -> Shapes:
    """Shapes in an object array [N]."""
    if isinstance(shapes, np.ndarray):
        return shapes
    array = np.empty(len(shapes), object)
    array[:] = shapes
    return array


def _batches(shapes: Shapes) -> Iterator[Shapes]:
    """Pieces that bound the memory needed at once."""
    return (shapes[at : at + _BATCH] for at in range(0, len(shapes), _BATCH))


def _snapped(shapes: Shapes) -> Shapes:
    """Shapes with their vertices on the grid."""
    snapped: Shapes = shapely.transform(shapes, lambda points: np.rint(points / GRID_PX) / round(1 / GRID_PX))
    return snapped


def _once(shapes: Shapes) -> Shapes:
    """Valid shapes with equal neighbours among their vertices once."""
    coords, owner = shapely.get_coordinates(shapes, return_index=True)
    twice = np.unique(owner[1:][(coords[1:] == coords[:-1]).all(axis=1) & (owner[1:] == owner[:-1])])
    shapes[twice] = shapely.remove_repeated_points(shapes[twice])
    return shapes


def _stores_well(shapes: Shapes) -> NDArray[np.bool_]:
    """Whether each polygon is valid, and has an area, as it is stored: in single precision unless it has holes."""
    if not len(shapes):
        return np.zeros(0, bool)
    stored = shapes.copy()
    single = shapely.get_num_interior_rings(shapes) == 0
    if single.any():
        stored[single] = shapely.transform(shapes[single], lambda points: points.astype(np.float32).astype(np.float64))
    good: NDArray[np.bool_] = shapely.is_valid(stored) & (shapely.area(stored) > 0)
    return good


def _repaired_parts(shape: BaseGeometry) -> list[Polygon]:
    """The polygons to store of one shape that needs work."""
    if not np.isfinite(shapely.get_coordinates(shape)).all():
        return []
    valid = shape if shape.is_valid else _valid(shape)
    if valid is None:
        return []
    shape, found = valid, []
    for part in polygons(shapely.set_precision(shape, GRID_PX)):
        capped = _capped(part)
        if _stores_well(_array([capped]))[0]:
            found.append(capped)
        elif not capped.interiors:
            reach = max(abs(bound) for bound in capped.bounds)
            grid = max(SINGLE_GRID_PX, float(np.spacing(np.float32(reach))))
            again = polygons(shapely.set_precision(capped, grid))
            found += [one for one in again if _stores_well(_array([one]))[0]]
    return found


def _capped(shape: Polygon) -> Polygon:
    """A polygon of at most MAX_VERTICES vertices if MAX_AREA_CHANGE allows it, else of as few as it allows."""
    best, tolerance = shape, _FIRST_TOLERANCE_PX
    while shapely.get_num_coordinates(best) > MAX_VERTICES:
        fewer = shapely.simplify(shape, tolerance, preserve_topology=True)
        change = shapely.symmetric_difference(shape, fewer).area if fewer.is_valid else shape.area
        if change > MAX_AREA_CHANGE * shape.area or not isinstance(fewer, Polygon):
            break
        best, tolerance = fewer, tolerance * 1.5
    return best


def _valid(shape: BaseGeometry) -> BaseGeometry | None:
    """A valid shape of the same area; None where that would take too long."""
    crossings = _crossings(polygons(shape))
    if crossings > _MAX_CROSSINGS:
        return None
    if crossings > _MANY_CROSSINGS:
        return shapely.make_valid(shape, method="structure")
    return shapely.make_valid(shape)


def _crossings(shapes: Sequence[BaseGeometry]) -> int:
    """How often the lines of shapes cross or touch; over _MAX_CROSSINGS also where they are not finite."""
    ends = []
    for ring in shapely.get_rings(_array(shapes)):
        points = shapely.get_coordinates(ring)
        if not np.isfinite(points).all() or np.abs(points).max(initial=0) > 1e12:
            return _MAX_CROSSINGS + 1
        ends.append(np.stack([points[:-1], points[1:]], axis=1))
    if not ends:
        return 0
    segments = shapely.linestrings(np.concatenate(ends))
    tree = shapely.STRtree(segments)
    crossings = 0
    for at in range(0, len(segments), 64):
        part = segments[at : at + 64]
        # each segment meets itself and its two neighbours, and two that cross are found twice
        crossings += (tree.query(part, predicate="intersects").shape[1] - 3 * len(part)) // 2
        if crossings > _MAX_CROSSINGS:
            break
    return crossings


def _parts(shape: BaseGeometry) -> list[BaseGeometry]:
    """The single geometries of a shape, collections in collections too."""
    found: list[BaseGeometry] = []
    rest = [shape]
    while rest:
        one = rest.pop()
        if hasattr(one, "geoms"):
            rest.extend(reversed(one.geoms))
        else:
            found.append(one)
    return found


def _digest(parts: list[bytes]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in sorted(part for part in parts if part):
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def _framed(rings: list[bytes]) -> bytes:
    return b"P" + b"".join(len(ring).to_bytes(8, "big") + ring for ring in rings)


def _canonical(part: BaseGeometry) -> bytes:
    """Bytes that stand for a single geometry; none for an empty one."""
    if part.is_empty:
        return b""
    if isinstance(part, Polygon):
        coords, owner = shapely.get_coordinates(shapely.get_rings(part), return_index=True)
        outer, *holes = _rings(coords, np.bincount(owner))
        return _framed([outer, *sorted(holes)])
    return b"L" + _hundredths(shapely.get_coordinates(part)).astype(">i8").tobytes()


def _hundredths(coords: NDArray[np.float64]) -> NDArray[np.int64]:
    """``coords`` [N, 2] -> int64 [N, 2]; what is no number counts as 0, what is beyond int64 as its end."""
    with np.errstate(over="ignore"):
        single = coords.astype(np.float32).astype(np.float64)
    if not np.isfinite(single).all():
        single = np.nan_to_num(single)
    return np.rint(np.clip(single, -9e16, 9e16) * 100).astype(np.int64)


def _rings(coords: NDArray[np.float64], sizes: NDArray[np.int64]) -> list[bytes]:
    """Rings of ``sizes`` vertices, each from its smallest vertex on, counter-clockwise in x right, y up.

    ``coords`` [sum of sizes, 2], no ring empty.
    """
    if not len(sizes):
        return []
    points = _hundredths(coords)
    starts = np.cumsum(sizes) - sizes
    before = np.arange(len(points)) - 1
    before[starts] = starts + sizes - 1
    moved = (points != points[before]).any(axis=1)
    moved[starts[~np.logical_or.reduceat(moved, starts)]] = True
    points, sizes = points[moved], np.add.reduceat(moved.astype(np.int64), starts)
    starts = np.cumsum(sizes) - sizes
    x, y = points[:, 0], points[:, 1]
    place = np.arange(len(points))
    left = x == np.repeat(np.minimum.reduceat(x, starts), sizes)
    lowest = np.minimum.reduceat(np.where(left, y, np.iinfo(np.int64).max), starts)
    smallest = left & (y == np.repeat(lowest, sizes))
    first = np.minimum.reduceat(np.where(smallest, place, len(points)), starts)
    across, down = x - np.repeat(x[first], sizes), y - np.repeat(y[first], sizes)
    after = place + 1
    after[starts + sizes - 1] = starts
    twice_area = np.add.reduceat(across * down[after] - across[after] * down, starts)
    step = np.where(twice_area < 0, -1, 1)
    turn = np.repeat(first - starts, sizes) + np.repeat(step, sizes) * (place - np.repeat(starts, sizes))
    ordered = points[np.repeat(starts, sizes) + turn % np.repeat(sizes, sizes)].astype("<i8").tobytes()
    ends = ((starts + sizes) * 16).tolist()
    return [ordered[begin * 16 : end] for begin, end in zip(starts.tolist(), ends, strict=True)]
