"""Masks to polygons, polygons to masks, and the repair of geometries. Coordinates are level-0 pixels (x, y), y down.

Mask pixel [r, c] covers the square [c, c + 1] x [r, r + 1], times the downsample, plus the origin. Its centre is at
(c + 0.5, r + 0.5), likewise.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import Polygon
from shapely.geometry.base import BaseGeometry

#: QuPath 0.6 and later round coordinates to this grid when they read. We snap to it first, so that shapes stay valid.
GRID_PX0 = 0.01
MAX_VERTICES = 2000
#: Simplifying may change the area of a polygon by this share.
MAX_AREA_CHANGE = 0.005
#: The smallest outline that can have a hole: eight pixels around one.
MIN_AROUND_HOLE_PX = 8.0

Ring = NDArray[np.float64]


def mask_polygons(
    mask: NDArray[np.bool_],
    *,
    origin_px0: tuple[float, float],
    downsample: float,
    tolerance_px0: float,
    min_area_px0: float,
    min_hole_px0: float = 0.0,
) -> list[Polygon]:
    """One polygon with holes for each connected component of a mask (4-connectivity).

    Outlines run through the middles of the pixel borders, so that they are smooth to half a pixel and never touch each
    other. Then they are simplified (see ``simplify``) and snapped to QuPath's 0.01-pixel grid. Mask -> polygon -> mask
    has an IoU above 0.99 on components that are more than a few pixels wide.

    Args:
        mask: Bool [rows, columns].
        origin_px0: (x, y) of the mask's top-left corner.
        downsample: Level-0 pixels per mask pixel.
        tolerance_px0: Largest distance of a simplified outline from the exact one.
        min_area_px0: Smaller components are dropped (area without holes).
        min_hole_px0: Smaller holes are filled.

    Returns:
        Valid polygons in level-0 pixels, largest first. The list is empty where nothing is left.
    """
    min_area_px = min_area_px0 / downsample**2
    # small outlines are kept for now if they may have a hole: a hole must not end up in a larger outline around them
    min_outer_px = min(min_area_px, MIN_AROUND_HOLE_PX)
    outers, holes = _rings(mask, min_outer_px=min_outer_px, min_hole_px=min_hole_px0 / downsample**2)
    polygons = []
    for polygon in _with_holes(outers, holes):
        if polygon.area < min_area_px:
            continue
        polygon_px0 = shapely.transform(polygon, lambda xy: xy * downsample + np.asarray(origin_px0))
        for simple in simplify(polygon_px0, tolerance_px0=tolerance_px0):
            polygons += polygonal(shapely.set_precision(simple, GRID_PX0))
    kept = [polygon for polygon in polygons if polygon.area >= min_area_px0]
    return sorted(kept, key=lambda polygon: -polygon.area)


def simplify(polygon: Polygon, *, tolerance_px0: float) -> list[Polygon]:
    """The polygon with fewer vertices, valid, its area changed by less than 1 %.

    The tolerance is halved until the area fits, or raised up to fourfold until at most 2000 vertices are left. A
    polygon that needs more is cut in two, so that QuPath stays quick. So the result is a list, nearly always of one.
    """
    tolerance = tolerance_px0
    simple = shapely.simplify(polygon, tolerance)
    for _ in range(6):
        if abs(simple.area - polygon.area) <= MAX_AREA_CHANGE * polygon.area:
            break
        tolerance /= 2
        simple = shapely.simplify(polygon, tolerance)
    while shapely.get_num_coordinates(simple) > MAX_VERTICES and tolerance < 4 * tolerance_px0:
        tolerance *= 2
        coarser = shapely.simplify(simple, tolerance)
        if abs(coarser.area - polygon.area) > MAX_AREA_CHANGE * polygon.area:
            break
        simple = coarser
    return [part for polygon in polygonal(simple) for part in _cut(polygon)]


def _cut(polygon: Polygon) -> list[Polygon]:
    """The polygon, or its parts where it has too many vertices: it is halved across its longer side, recursively."""
    if shapely.get_num_coordinates(polygon) <= MAX_VERTICES:
        return [polygon]
    left, top, right, bottom = polygon.bounds
    middle_x, middle_y = (left + right) / 2, (top + bottom) / 2
    if right - left >= bottom - top:
        halves = [(left, top, middle_x, bottom), (middle_x, top, right, bottom)]
    else:
        halves = [(left, top, right, middle_y), (left, middle_y, right, bottom)]
    return [part for half in halves for piece in polygonal(polygon & shapely.box(*half)) for part in _cut(piece)]


def rasterise(
    shapes: Iterable[BaseGeometry],
    *,
    origin_px0: tuple[float, float],
    downsample: float,
    size_px: tuple[int, int],
) -> NDArray[np.bool_]:
    """The mask of the union of shapes: the pixels whose centre lies in one of them.

    Holes stay, unless another shape fills them.

    Args:
        shapes: Polygons, multipolygons or collections in level-0 pixels. Points and lines have no area.
        origin_px0: (x, y) of the mask's top-left corner.
        downsample: Level-0 pixels per mask pixel.
        size_px: (width, height) of the mask.

    Returns:
        Bool [height, width].
    """
    width, height = size_px
    mask = np.zeros((height, width), bool)
    for shape in shapes:
        for polygon in polygonal(shape):
            polygon_px = shapely.transform(polygon, lambda xy: (xy - np.asarray(origin_px0)) / downsample)
            _fill(mask, [shapely.get_coordinates(ring) for ring in (polygon_px.exterior, *polygon_px.interiors)])
    return mask


def rasterise_disjoint(
    polygons: NDArray[np.object_], *, downsample: float, size_px: tuple[int, int]
) -> NDArray[np.bool_]:
    """As ``rasterise`` from the corner (0, 0), for valid polygons that do not overlap: all at once, so much faster."""
    width, height = size_px
    mask = np.zeros((height, width), bool)
    xy, ring = shapely.get_coordinates(shapely.get_rings(polygons), return_index=True)
    if len(xy):
        _fill(mask, np.split(xy / downsample, np.flatnonzero(np.diff(ring)) + 1))
    return mask


def polygonal(geometry: BaseGeometry) -> list[Polygon]:
    """The polygons of any geometry, repaired: valid, not empty. Points, lines and slivers without area are dropped."""
    valid = geometry if geometry.is_valid else shapely.make_valid(geometry)
    return [polygon for polygon in _polygons_in(valid) if polygon.area > 0]


def union(shapes: Iterable[BaseGeometry]) -> BaseGeometry:
    """The union of the polygonal parts of shapes, or an empty geometry where there are none."""
    return shapely.union_all([polygon for shape in shapes for polygon in polygonal(shape)])


def clip(shape: BaseGeometry, size_px0: tuple[int, int]) -> BaseGeometry:
    """The part of a shape on an image of (width, height) pixels; the shape itself where it lies inside.

    Of a polygon, only polygons remain. Nothing is cut where the size is unknown, which is 0.
    """
    if min(size_px0) <= 0 or shape.is_empty or _is_inside(shape, size_px0, slack_px0=0.0):
        return shape
    image = shapely.box(0, 0, *size_px0)
    polygons = polygonal(shape)
    return union(polygon & image for polygon in polygons) if polygons else shape & image


def clip_polygons(
    polygons: Iterable[Polygon], size_px0: tuple[int, int], *, min_area_px0: float = 0.0
) -> list[list[Polygon]]:
    """For each polygon its parts on an image, on QuPath's grid; parts smaller than ``min_area_px0`` are dropped."""
    return [
        [polygon]
        if (clipped := clip(polygon, size_px0)) is polygon
        else [
            part for part in polygonal(shapely.set_precision(clipped, GRID_PX0)) if part.area >= max(min_area_px0, 1e-9)
        ]
        for polygon in polygons
    ]


def place_on_image(shape: BaseGeometry, size_px0: tuple[int, int]) -> Literal["inside", "partly outside", "outside"]:
    """Where a shape lies on an image of (width, height) pixels; up to one pixel beyond the border is inside.

    A polygon that only touches the image is outside. Everything is inside where the size is unknown, which is 0.
    """
    if min(size_px0) <= 0 or shape.is_empty or _is_inside(shape, size_px0, slack_px0=1.0):
        return "inside"
    clipped = clip(shape, size_px0)
    if clipped.is_empty or (shape.area > 0 and clipped.area == 0):
        return "outside"
    return "partly outside"


def _is_inside(shape: BaseGeometry, size_px0: tuple[int, int], *, slack_px0: float) -> bool:
    left, top, right, bottom = shape.bounds
    width, height = size_px0
    return bool(min(left, top) >= -slack_px0 and right <= width + slack_px0 and bottom <= height + slack_px0)


def _polygons_in(geometry: BaseGeometry) -> Iterator[Polygon]:
    """The polygons of a geometry and of the geometries that it consists of."""
    if isinstance(geometry, Polygon):
        yield geometry
    elif hasattr(geometry, "geoms"):
        for part in geometry.geoms:
            yield from _polygons_in(part)


def _rings(mask: NDArray[np.bool_], *, min_outer_px: float, min_hole_px: float) -> tuple[list[Ring], list[Ring]]:
    """The closed outlines of a mask in mask pixels that have enough area: the outer rings, and the holes.

    Each pixel border between inside and outside is a step of a walk that keeps the inside on its right (y down). Where
    four pixels meet like a chess board, the walk turns right and so separates pixels that touch at a corner only. The
    vertices are the middles of the steps, without those on straight lines.
    """
    steps = _steps(mask)
    if not len(steps):
        return [], []
    following = _following(steps, width=mask.shape[1] + 1)
    order, starts = _cycles(following.tolist())
    middles = (steps[:, 0:2] + steps[:, 2:4]) / 2
    (x, y), (next_x, next_y) = middles[order].T, middles[following[order]].T
    areas = np.add.reduceat(x * next_y - next_x * y, starts) / 2  # positive: an outer ring, negative: a hole
    ends = np.append(starts[1:], len(order))

    def rings(selected: NDArray[np.bool_]) -> list[Ring]:
        return [_without_straights(middles[order[starts[ring] : ends[ring]]]) for ring in np.flatnonzero(selected)]

    return rings((areas > 0) & (areas >= min_outer_px)), rings((areas < 0) & (-areas >= min_hole_px))


def _steps(mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Directed pixel borders, int32 [N, 4]: x and y of the start and of the end. Inside is on the right (y down)."""
    padded = np.pad(mask, 1).view(np.int8)
    across = padded[1:, 1:-1] - padded[:-1, 1:-1]  # +1: the pixel below this border is inside
    along = padded[1:-1, 1:] - padded[1:-1, :-1]  # +1: the pixel right of this border is inside
    steps = []
    for sign in (1, -1):
        y, x = np.nonzero(across == sign)
        start, end = (x, x + 1) if sign == 1 else (x + 1, x)
        steps.append(np.stack([start, y, end, y], axis=1))
        y, x = np.nonzero(along == sign)
        start, end = (y + 1, y) if sign == 1 else (y, y + 1)
        steps.append(np.stack([x, start, x, end], axis=1))
    return np.concatenate(steps).astype(np.int32)


def _following(steps: NDArray[np.int32], *, width: int) -> NDArray[np.int64]:
    """For each step the index of the step that follows it, int64 [N]."""
    starts = steps[:, 1].astype(np.int64) * width + steps[:, 0]
    ends = steps[:, 3].astype(np.int64) * width + steps[:, 2]
    order = np.argsort(starts, kind="stable")
    position = np.searchsorted(starts[order], ends)
    following = order[position]
    second = order[np.minimum(position + 1, len(order) - 1)]
    fork = (starts[second] == ends) & (second != following)
    move, first_move = steps[:, 2:4] - steps[:, 0:2], (steps[:, 2:4] - steps[:, 0:2])[following]
    turn = move[:, 0] * first_move[:, 1] - move[:, 1] * first_move[:, 0]  # positive: to the right, with y down
    right_turn: NDArray[np.int64] = np.where(fork & (turn < 0), second, following)
    return right_turn


def _cycles(following: list[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The cycles of a permutation, one after the other, int64 [N], and where each one begins, int64 [cycles]."""
    visited = bytearray(len(following))
    order: list[int] = []
    starts: list[int] = []
    for start in range(len(following)):
        if visited[start]:
            continue
        starts.append(len(order))
        step = start
        while not visited[step]:
            visited[step] = 1
            order.append(step)
            step = following[step]
    return np.array(order, np.int64), np.array(starts, np.int64)


def _without_straights(ring: Ring) -> Ring:
    """The ring without the vertices at which its direction stays the same."""
    incoming, outgoing = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    bends = incoming[:, 0] * outgoing[:, 1] != incoming[:, 1] * outgoing[:, 0]
    corners: Ring = ring[bends]
    return corners


def _with_holes(outers: list[Ring], holes: list[Ring]) -> list[Polygon]:
    """Polygons from rings that never touch each other. A hole belongs to the smallest outer ring around it."""
    shells = [Polygon(ring) for ring in outers]
    holes_of: list[list[Ring]] = [[] for _ in shells]
    if holes and shells:
        areas = np.array([shell.area for shell in shells])
        points = shapely.points(np.array([hole[0] for hole in holes]))
        hole_index, shell_index = shapely.STRtree(shells).query(points, predicate="within")
        order = np.lexsort((areas[shell_index], hole_index))
        hole_index, shell_index = hole_index[order], shell_index[order]
        for first in np.unique(hole_index, return_index=True)[1]:
            holes_of[shell_index[first]].append(holes[hole_index[first]])
    return [Polygon(shell.exterior, rings) for shell, rings in zip(shells, holes_of, strict=True)]


def _fill(mask: NDArray[np.bool_], rings: Sequence[Ring]) -> None:
    """Set the pixels of ``mask`` whose centres lie in an odd number of rings, which are given in mask pixels."""
    height, width = mask.shape
    points = np.concatenate(rings)
    (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
    first_column, last_column = max(0, int(np.floor(left))), min(width, int(np.ceil(right)) + 1)
    first_row, last_row = max(0, int(np.floor(top))), min(height, int(np.ceil(bottom)) + 1)
    if first_column >= last_column or first_row >= last_row:
        return
    edges = np.concatenate([np.hstack([ring[:-1], ring[1:]]) for ring in rings])
    edges = np.where((edges[:, 1] > edges[:, 3])[:, None], edges[:, [2, 3, 0, 1]], edges)  # all point down
    begin = np.clip(np.ceil(edges[:, 1] - 0.5), first_row, last_row).astype(np.int64)
    end = np.clip(np.ceil(edges[:, 3] - 0.5), first_row, last_row).astype(np.int64)
    count = end - begin
    edge = np.repeat(np.arange(len(edges)), count)
    row = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + begin[edge]
    x0, y0, x1, y1 = edges[edge].T
    crossing = x0 + (row + 0.5 - y0) / (y1 - y0) * (x1 - x0)
    columns = last_column - first_column + 1
    column = np.clip(np.ceil(crossing - 0.5) - first_column, 0, columns - 1).astype(np.int64)
    flips = np.bincount((row - first_row) * columns + column, minlength=(last_row - first_row) * columns)
    inside = flips.reshape(-1, columns).cumsum(axis=1)[:, :-1] % 2 == 1
    mask[first_row:last_row, first_column:last_column] |= inside
