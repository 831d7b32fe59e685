"""Shapes as QuPath stores them: the grid, the parts, the cap on vertices, and a hash that survives QuPath's saving."""

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
ELLIPSE_VERTICES = 256
"""Vertices of an ellipse: with these its area is right to 0.01 %."""
_FIRST_TOLERANCE_PX = 0.25
_BATCH = 20_000
_MANY_CROSSINGS = 25
"""With more crossings a shape is repaired by the faster of two methods, which fills what a line goes round twice."""
_MAX_CROSSINGS = 5_000

Shapes = NDArray[np.object_]

# GEOS leaves floating-point flags set for numbers that it handles itself; numpy would warn about them.
_quiet = np.errstate(divide="ignore", invalid="ignore", over="ignore", under="ignore")
_POLYGON = 3


@_quiet
def storable(shapes: Sequence[BaseGeometry]) -> list[list[Polygon]]:
    """The polygons to store of each shape: repaired, on the 0.01-pixel grid, one for each part; lines are dropped.

    Each polygon is valid in single precision too, in which QuPath stores polygons without holes. It has at most
    MAX_VERTICES vertices where that changes no more than MAX_AREA_CHANGE of its area.
    """
    polygons_of: list[list[Polygon]] = []
    for batch in _batches(_array(shapes)):
        plain = (shapely.get_type_id(batch) == _POLYGON) & ~shapely.is_empty(batch)
        plain &= shapely.get_num_coordinates(batch) <= MAX_VERTICES
        snapped = batch.copy()
        snapped[plain] = _snapped(batch[plain])
        good = plain.copy()
        good[plain] = _stores_well(snapped[plain])
        snapped[good] = _once(snapped[good])
        polygons_of += [
            [polygon] if done else _repaired_parts(shape)
            for polygon, shape, done in zip(snapped, batch, good, strict=True)
        ]
    return polygons_of


def polygons(shape: BaseGeometry) -> list[Polygon]:
    """The polygons in a shape of any kind, in order."""
    return [part for part in _parts(shape) if isinstance(part, Polygon) and not part.is_empty]


def ellipse(bounds: Sequence[float], *, vertices: int = ELLIPSE_VERTICES) -> Polygon:
    """The ellipse in ``bounds`` (left, top, right, bottom), with a multiple of 4 ``vertices``, the rightmost first."""
    left, top, right, bottom = bounds
    angles = np.arange(vertices) * (2 * np.pi / vertices)
    x = (left + right) / 2 + np.cos(angles) * (right - left) / 2
    y = (top + bottom) / 2 + np.sin(angles) * (bottom - top) / 2
    return Polygon(np.column_stack([x, y]))


@_quiet
def are_rectangles(shapes: Sequence[BaseGeometry] | Shapes) -> NDArray[np.bool_]:
    """Whether each shape is an upright rectangle of four corners on the 0.01-pixel grid, bool [N].

    QuPath's reader of GeoJSON makes a RectangleROI of these, by JTS's ``isRectangle`` (0.6 and later on that grid).
    """
    rectangles = np.zeros(len(shapes), bool)
    for index, batch in enumerate(_batches(_array(shapes))):
        plain = (shapely.get_type_id(batch) == _POLYGON) & (shapely.get_num_interior_rings(batch) == 0)
        boxes = shapely.box(*shapely.bounds(batch).T)
        tolerance_px2 = GRID_PX * shapely.length(boxes)
        plain &= shapely.area(boxes) - shapely.area(batch) <= tolerance_px2  # few are left; false for NaN
        candidates = index * _BATCH + np.flatnonzero(plain)
        snapped = shapely.remove_repeated_points(_snapped(batch[plain]))
        snapped_boxes = shapely.box(*shapely.bounds(snapped).T)
        rectangles[candidates] = shapely.equals_exact(
            shapely.normalize(snapped), shapely.normalize(snapped_boxes), tolerance=0
        ) & (shapely.area(snapped) > 0)
    return rectangles


def part_id(first: UUID, part: int) -> UUID:
    """The id of part number ``part`` (from 0) of an annotation with id ``first``; part 0 keeps the id."""
    return first if part == 0 else uuid5(first, str(part))


def shape_hash(shape: BaseGeometry) -> str:
    """A hash of the vertices as QuPath stores them (float32, hundredths of a pixel).

    The hash does not depend on where a ring starts, its direction, a repeated last point, or the order of holes and
    parts. So it stays when QuPath opens and saves a shape, and changes with any real edit.
    """
    return shape_hashes([shape])[0]


@_quiet
def shape_hashes(shapes: Sequence[BaseGeometry] | Shapes) -> list[str]:
    """`shape_hash` of each shape."""
    hashes: list[str] = []
    for batch in _batches(_array(shapes)):
        plain = (shapely.get_type_id(batch) == _POLYGON) & ~shapely.is_empty(batch)
        plain &= shapely.get_num_interior_rings(batch) == 0
        coords, owner = shapely.get_coordinates(batch[plain], return_index=True)
        rings = iter(_rings(coords, np.bincount(owner, minlength=int(plain.sum()))))
        hashes += [
            _digest([_framed([next(rings)])]) if simple else _digest([_canonical(part) for part in _parts(shape)])
            for shape, simple in zip(batch, plain, strict=True)
        ]
    return hashes


@_quiet
def repaired(shape: BaseGeometry) -> BaseGeometry:
    """The area that a polygon covers, where it crosses itself; any other shape as it is.

    A polygon that crosses itself thousands of times stays as it is, and so does one with coordinates that are NaN.
    """
    if not polygons(shape) or shape.is_valid:
        return shape
    valid = _valid(shape)
    return shape if valid is None else shapely.union_all(polygons(valid))


@_quiet
def odd_area(rings: Sequence[Polygon]) -> BaseGeometry:
    """The area inside an odd number of rings; rings that cross thousands of times are returned as they are."""
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
    """The shapes in pieces, which bound the memory needed at once."""
    return (shapes[at : at + _BATCH] for at in range(0, len(shapes), _BATCH))


def _snapped(shapes: Shapes) -> Shapes:
    """Shapes with their vertices on the grid."""
    snapped: Shapes = shapely.transform(shapes, lambda points: np.rint(points / GRID_PX) / round(1 / GRID_PX))
    return snapped


def _once(shapes: Shapes) -> Shapes:
    """Valid shapes without repeated vertices."""
    coords, owner = shapely.get_coordinates(shapes, return_index=True)
    twice = np.unique(owner[1:][(coords[1:] == coords[:-1]).all(axis=1) & (owner[1:] == owner[:-1])])
    shapes[twice] = shapely.remove_repeated_points(shapes[twice])
    return shapes


def _stores_well(shapes: Shapes) -> NDArray[np.bool_]:
    """Whether each polygon is valid and has an area as it is stored: in single precision, with holes in double."""
    if not len(shapes):
        return np.zeros(0, bool)
    stored = shapes.copy()
    single = shapely.get_num_interior_rings(shapes) == 0
    if single.any():
        stored[single] = shapely.transform(shapes[single], lambda points: points.astype(np.float32).astype(np.float64))
    good: NDArray[np.bool_] = shapely.is_valid(stored) & (shapely.area(stored) > 0)
    return good


def _repaired_parts(shape: BaseGeometry) -> list[Polygon]:
    """The polygons to store of one shape that has to be repaired, split or simplified."""
    if not np.isfinite(shapely.get_coordinates(shape)).all():
        return []
    valid = shape if shape.is_valid else _valid(shape)
    if valid is None:
        return []
    shape, repaired_polygons = valid, []
    for part in polygons(shapely.set_precision(shape, GRID_PX)):
        capped = _capped(part)
        if _stores_well(_array([capped]))[0]:
            repaired_polygons.append(capped)
        elif not capped.interiors:
            reach = max(abs(bound) for bound in capped.bounds)
            grid = max(SINGLE_GRID_PX, float(np.spacing(np.float32(reach))))
            again = polygons(shapely.set_precision(capped, grid))
            repaired_polygons += [polygon for polygon in again if _stores_well(_array([polygon]))[0]]
    return repaired_polygons


def _capped(shape: Polygon) -> Polygon:
    """The polygon with at most MAX_VERTICES vertices, or as few as MAX_AREA_CHANGE allows."""
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
    """How often the lines of shapes cross or touch; more than _MAX_CROSSINGS where coordinates are not finite."""
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
        # each segment meets itself and its two neighbours, and each crossing is counted twice
        crossings += (tree.query(part, predicate="intersects").shape[1] - 3 * len(part)) // 2
        if crossings > _MAX_CROSSINGS:
            break
    return crossings


def _parts(shape: BaseGeometry) -> list[BaseGeometry]:
    """The single geometries of a shape, collections in collections too."""
    parts: list[BaseGeometry] = []
    stack = [shape]
    while stack:
        geometry = stack.pop()
        if hasattr(geometry, "geoms"):
            stack.extend(reversed(geometry.geoms))
        else:
            parts.append(geometry)
    return parts


def _digest(parts: list[bytes]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in sorted(part for part in parts if part):
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def _framed(rings: list[bytes]) -> bytes:
    return b"P" + b"".join(len(ring).to_bytes(8, "big") + ring for ring in rings)


def _canonical(part: BaseGeometry) -> bytes:
    """Bytes that stand for a single geometry; no bytes for an empty one."""
    if part.is_empty:
        return b""
    if isinstance(part, Polygon):
        coords, owner = shapely.get_coordinates(shapely.get_rings(part), return_index=True)
        outer, *holes = _rings(coords, np.bincount(owner))
        return _framed([outer, *sorted(holes)])
    return b"L" + _hundredths(shapely.get_coordinates(part)).astype(">i8").tobytes()


def _hundredths(coords: NDArray[np.float64]) -> NDArray[np.int64]:
    """``coords`` [N, 2] in hundredths, int64 [N, 2]; NaN counts as 0, values beyond int64 are clipped."""
    with np.errstate(over="ignore"):
        single = coords.astype(np.float32).astype(np.float64)
    if not np.isfinite(single).all():
        single = np.nan_to_num(single)
    return np.rint(np.clip(single, -9e16, 9e16) * 100).astype(np.int64)


def _rings(coords: NDArray[np.float64], sizes: NDArray[np.int64]) -> list[bytes]:
    """The bytes of each ring, from its smallest vertex on, counter-clockwise with x right and y up.

    ``coords`` [sum of sizes, 2] are the vertices of all rings, ``sizes`` the vertices of each; no ring is empty.
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
    index = np.arange(len(points))
    left = x == np.repeat(np.minimum.reduceat(x, starts), sizes)
    lowest = np.minimum.reduceat(np.where(left, y, np.iinfo(np.int64).max), starts)
    smallest = left & (y == np.repeat(lowest, sizes))
    first = np.minimum.reduceat(np.where(smallest, index, len(points)), starts)
    across, down = x - np.repeat(x[first], sizes), y - np.repeat(y[first], sizes)
    after = index + 1
    after[starts + sizes - 1] = starts
    twice_area = np.add.reduceat(across * down[after] - across[after] * down, starts)
    step = np.where(twice_area < 0, -1, 1)
    turn = np.repeat(first - starts, sizes) + np.repeat(step, sizes) * (index - np.repeat(starts, sizes))
    ordered = points[np.repeat(starts, sizes) + turn % np.repeat(sizes, sizes)].astype("<i8").tobytes()
    ends = ((starts + sizes) * 16).tolist()
    return [ordered[begin * 16 : end] for begin, end in zip(starts.tolist(), ends, strict=True)]
