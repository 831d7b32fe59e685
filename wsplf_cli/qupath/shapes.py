"""Shapes as QuPath stores them: the grid, the parts, and a hash that opening and saving in QuPath does not change."""

import hashlib
from uuid import UUID, uuid5

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import Polygon
from shapely.geometry.base import BaseGeometry

GRID_PX = 0.01
"""QuPath 0.6 and later round the coordinates of shapes with holes to this, in level-0 pixels."""


def storable(shape: BaseGeometry) -> list[Polygon]:
    """The polygons of a shape: repaired, on the 0.01-pixel grid, one for each connected part; lines are dropped."""
    if not shape.is_valid:
        shape = shapely.make_valid(shape)
    snapped = shapely.set_precision(shape, GRID_PX)
    return [part for part in polygons(snapped) if not part.is_empty and part.area > 0]


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
    digest = hashlib.blake2b(digest_size=16)
    for part in sorted(_canonical(part) for part in _parts(shape) if not part.is_empty):
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


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


def _canonical(part: BaseGeometry) -> bytes:
    if isinstance(part, Polygon):
        holes = sorted(_ring(np.asarray(hole.coords)) for hole in part.interiors)
        rings = [_ring(np.asarray(part.exterior.coords)), *holes]
        return b"P" + b"".join(len(ring).to_bytes(8, "big") + ring for ring in rings)
    return b"L" + _hundredths(shapely.get_coordinates(part)).tobytes()


def _hundredths(coords: NDArray[np.float64]) -> NDArray[np.int64]:
    """``coords`` [N, 2] or more columns -> big-endian int64 [N, 2]; NaN counts as 0."""
    single = coords[:, :2].astype(np.float32).astype(np.float64)
    if not np.isfinite(single).all():
        single = np.nan_to_num(single)
    return np.rint(single * 100).astype(">i8")


def _ring(coords: NDArray[np.float64]) -> bytes:
    """A ring [N, 2] from its smallest vertex on, counter-clockwise in x right, y up."""
    points = _hundredths(coords)
    before = np.concatenate([points[-1:], points[:-1]])
    moved = (points != before).any(axis=1)
    points = points[moved] if moved.any() else points[:1]
    first = int(np.lexsort((points[:, 1], points[:, 0]))[0])
    points = np.concatenate([points[first:], points[:first]])
    x, y = points[:, 0].astype(np.float64), points[:, 1].astype(np.float64)
    twice_area = (x[:-1] * y[1:]).sum() - (x[1:] * y[:-1]).sum() + x[-1] * y[0] - x[0] * y[-1]
    if twice_area < 0:
        points = np.concatenate([points[:1], points[:0:-1]])
    return points.tobytes()
