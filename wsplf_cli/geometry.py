"""Masks to polygons and back, and the repair of geometries. Coordinates are level-0 pixels, (x, y), y down.

Mask pixel [r, c] covers the square [c, c + 1] x [r, r + 1], times the downsample, plus the origin; its centre is at
+0.5.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import Polygon
from shapely.geometry.base import BaseGeometry

#: QuPath 0.6 and later round to this grid when they read; snapped here first, so that shapes stay valid.
GRID_PX0 = 0.01
MAX_VERTICES = 2000
#: Simplifying may change the area of a polygon by this share, unless the cap on vertices asks for more.
AREA_SLACK = 0.005
LEAST_AROUND_HOLE_PX = 8.0

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
    """One polygon with holes for each connected piece of a mask (pixels that touch at a corner only are apart).

    Outlines run through the middles of the pixel borders, so that they are smooth to half a pixel and never touch each
    other; then they are simplified (see ``simplify``) and snapped to QuPath's 0.01-pixel grid. Mask -> polygon -> mask
    has an IoU above 0.99 on pieces that are more than a few pixels wide.

    Args:
        mask: bool [rows, columns].
        origin_px0: (x, y) of the mask's top-left corner.
        downsample: level-0 pixels per mask pixel.
        tolerance_px0: how far a simplified outline may be from the exact one.
        min_area_px0: smaller pieces are dropped (area without holes).
        min_hole_px0: smaller holes are filled.

    Returns:
        Valid polygons in level-0 pixels, largest first; empty where nothing is left.
    """
    least_px = min_area_px0 / downsample**2
    # a piece with a hole has at least LEAST_AROUND_HOLE_PX; small ones are kept as long as they may own a hole
    least_outer_px = min(least_px, LEAST_AROUND_HOLE_PX)
    outers, holes = _rings(mask, least_outer_px=least_outer_px, least_hole_px=min_hole_px0 / downsample**2)
    polygons = []
    for polygon in _with_holes(outers, holes):
        if polygon.area < least_px:
            continue
        placed = shapely.transform(polygon, lambda xy: xy * downsample + np.asarray(origin_px0))
        for simple in simplify(placed, tolerance_px0=tolerance_px0):
            polygons += polygonal(shapely.set_precision(simple, GRID_PX0))
    kept = [polygon for polygon in polygons if polygon.area >= min_area_px0]
    return sorted(kept, key=lambda polygon: -polygon.area)


def simplify(polygon: Polygon, *, tolerance_px0: float) -> list[Polygon]:
    """A polygon with fewer vertices, valid, its area changed by less than 1 %.

    The tolerance is halved until the area fits, or raised up to fourfold until at most 2000 vertices are left. A piece
    that needs more than that is cut in two, so that QuPath stays quick; so the result is a list, nearly always of one.
    """
    tolerance = tolerance_px0
    simple = shapely.simplify(polygon, tolerance)
    for _ in range(6):
        if abs(simple.area - polygon.area) <= AREA_SLACK * polygon.area:
            break
        tolerance /= 2
        simple = shapely.simplify(polygon, tolerance)
    while shapely.get_num_coordinates(simple) > MAX_VERTICES and tolerance < 4 * tolerance_px0:
        tolerance *= 2
        coarser = shapely.simplify(simple, tolerance)
        if abs(coarser.area - polygon.area) > AREA_SLACK * polygon.area:
            break
        simple = coarser
    parts = polygonal(simple)
    return [piece for part in parts for piece in _cut(part)]


def _cut(polygon: Polygon) -> list[Polygon]:
    """The polygon, or its parts when it has too many vertices: halved across its longer side, again and again."""
    if shapely.get_num_coordinates(polygon) <= MAX_VERTICES:
        return [polygon]
    left, top, right, bottom = polygon.bounds
    middle_x, middle_y = (left + right) / 2, (top + bottom) / 2
    if right - left >= bottom - top:
        halves = [(left, top, middle_x, bottom), (middle_x, top, right, bottom)]
    else:
        halves = [(left, top, right, middle_y), (left, middle_y, right, bottom)]
    return [piece for half in halves for part in polygonal(polygon & shapely.box(*half)) for piece in _cut(part)]


def rasterise(
    shapes: Iterable[BaseGeometry],
    *,
    origin_px0: tuple[float, float],
    downsample: float,
    size_px: tuple[int, int],
) -> NDArray[np.bool_]:
    """The mask of the union of shapes: a pixel is in when its centre is. Holes stay, unless another shape fills them.

    Args:
        shapes: polygons, multipolygons or collections in level-0 pixels; points and lines have no area.
        origin_px0: (x, y) of the mask's top-left corner.
        downsample: level-0 pixels per mask pixel.
        size_px: (width, height) of the mask.

    Returns:
        bool [height, width].
    """
    width, height = size_px
    mask = np.zeros((height, width), bool)
    for shape in shapes:
        for polygon in polygonal(shape):
            placed = shapely.transform(polygon, lambda xy: (xy - np.asarray(origin_px0)) / downsample)
            _fill(mask, placed)
    return mask


def polygonal(geometry: BaseGeometry) -> list[Polygon]:
    """The polygons of any geometry, repaired: valid, not empty; points, lines and slivers without area are dropped."""
    valid = geometry if geometry.is_valid else shapely.make_valid(geometry)
    return [part for part in _parts(valid) if part.area > 0]


def union(shapes: Iterable[BaseGeometry]) -> BaseGeometry:
    """The union of the polygonal parts of shapes; an empty geometry where there are none."""
    return shapely.union_all([polygon for shape in shapes for polygon in polygonal(shape)])


def _parts(geometry: BaseGeometry) -> Iterator[Polygon]:
    if isinstance(geometry, Polygon):
        yield geometry
    elif hasattr(geometry, "geoms"):
        for part in geometry.geoms:
            yield from _parts(part)


def _rings(mask: NDArray[np.bool_], *, least_outer_px: float, least_hole_px: float) -> tuple[list[Ring], list[Ring]]:
    """The closed outlines of a mask in mask pixels, those of enough area: outer rings and holes.

    Each pixel border between inside and outside is a step of a walk that keeps the inside on its right (y down). Where
    four pixels meet like a chess board, the walk turns right and so keeps corners apart. The vertices are the middles
    of the steps, merged where they go straight on.
    """
    steps = _steps(mask)
    if not len(steps):
        return [], []
    following = _following(steps, width=mask.shape[1] + 1)
    order, starts = _cycles(following.tolist())
    middles = (steps[:, 0:2] + steps[:, 2:4]) / 2
    (x, y), (next_x, next_y) = middles[order].T, middles[following[order]].T
    areas = np.add.reduceat(x * next_y - next_x * y, starts) / 2  # positive round a piece, negative round a hole
    ends = np.append(starts[1:], len(order))

    def rings(chosen: NDArray[np.bool_]) -> list[Ring]:
        return [_without_straights(middles[order[starts[ring] : ends[ring]]]) for ring in np.flatnonzero(chosen)]

    return rings((areas > 0) & (areas >= least_outer_px)), rings((areas < 0) & (-areas >= least_hole_px))


def _steps(mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Directed pixel borders, int32 [N, 4]: x and y of the start and of the end, inside on the right (y down)."""
    padded = np.pad(mask, 1).view(np.int8)
    across = padded[1:, 1:-1] - padded[:-1, 1:-1]  # +1: inside begins below this border
    along = padded[1:-1, 1:] - padded[1:-1, :-1]  # +1: inside begins right of this border
    parts = []
    for sign in (1, -1):
        y, x = np.nonzero(across == sign)
        start, end = (x, x + 1) if sign == 1 else (x + 1, x)
        parts.append(np.stack([start, y, end, y], axis=1))
        y, x = np.nonzero(along == sign)
        start, end = (y + 1, y) if sign == 1 else (y, y + 1)
        parts.append(np.stack([x, start, x, end], axis=1))
    return np.concatenate(parts).astype(np.int32)


def _following(steps: NDArray[np.int32], *, width: int) -> NDArray[np.int64]:
    """For each step the index of the step that follows it, int64 [N]."""
    starts = steps[:, 1].astype(np.int64) * width + steps[:, 0]
    ends = steps[:, 3].astype(np.int64) * width + steps[:, 2]
    order = np.argsort(starts, kind="stable")
    found = np.searchsorted(starts[order], ends)
    following = order[found]
    second = order[np.minimum(found + 1, len(order) - 1)]
    fork = (starts[second] == ends) & (second != following)
    move, first_move = steps[:, 2:4] - steps[:, 0:2], (steps[:, 2:4] - steps[:, 0:2])[following]
    turn = move[:, 0] * first_move[:, 1] - move[:, 1] * first_move[:, 0]  # positive: to the right, with y down
    chosen: NDArray[np.int64] = np.where(fork & (turn < 0), second, following)
    return chosen


def _cycles(following: list[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The cycles of a permutation one after the other, int64 [N], and where each begins, int64 [cycles]."""
    seen = bytearray(len(following))
    order: list[int] = []
    starts: list[int] = []
    for start in range(len(following)):
        if seen[start]:
            continue
        starts.append(len(order))
        step = start
        while not seen[step]:
            seen[step] = 1
            order.append(step)
            step = following[step]
    return np.array(order, np.int64), np.array(starts, np.int64)


def _without_straights(ring: Ring) -> Ring:
    """The ring without the vertices at which it goes straight on."""
    to_here, onwards = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    bends = to_here[:, 0] * onwards[:, 1] != to_here[:, 1] * onwards[:, 0]
    bent: Ring = ring[bends]
    return bent


def _with_holes(outers: list[Ring], holes: list[Ring]) -> list[Polygon]:
    """Polygons from rings that never touch: a hole belongs to the smallest outer ring around it."""
    shells = [Polygon(ring) for ring in outers]
    owned: list[list[Ring]] = [[] for _ in shells]
    if holes and shells:
        areas = np.array([shell.area for shell in shells])
        points = shapely.points(np.array([hole[0] for hole in holes]))
        hole_index, shell_index = shapely.STRtree(shells).query(points, predicate="within")
        order = np.lexsort((areas[shell_index], hole_index))
        hole_index, shell_index = hole_index[order], shell_index[order]
        for place in np.unique(hole_index, return_index=True)[1]:
            owned[shell_index[place]].append(holes[hole_index[place]])
    return [Polygon(shell.exterior, rings) for shell, rings in zip(shells, owned, strict=True)]


def _fill(mask: NDArray[np.bool_], polygon: Polygon) -> None:
    """Set the pixels of ``mask`` whose centres lie in a polygon given in mask pixels (even-odd over all its rings)."""
    height, width = mask.shape
    left, top, right, bottom = polygon.bounds
    first_column, last_column = max(0, int(np.floor(left))), min(width, int(np.ceil(right)) + 1)
    first_row, last_row = max(0, int(np.floor(top))), min(height, int(np.ceil(bottom)) + 1)
    if first_column >= last_column or first_row >= last_row:
        return
    rings = [shapely.get_coordinates(ring) for ring in (polygon.exterior, *polygon.interiors)]
    edges = np.concatenate([np.hstack([ring[:-1], ring[1:]]) for ring in rings])
    edges = np.where((edges[:, 1] > edges[:, 3])[:, None], edges[:, [2, 3, 0, 1]], edges)  # all downwards
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
