"""GeoJSON geometries <-> shapes, many at once. Coordinates are level-0 pixels, (x, y), y down."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import MultiPolygon, Polygon
from shapely.geometry.base import BaseGeometry

from wsplf_cli.qupath.features import GEOMETRIES
from wsplf_cli.qupath.shapes import GRID_PX, are_rectangles, ellipse, polygons
from wsplf_cli.schema import BoundsRoi

Ring = NDArray[np.float64]
Shapes = NDArray[np.object_]

#: No image is larger, in pixels; far beyond, geometry in double precision is no longer valid.
_FARTHEST_PX = 1e9


@dataclass(frozen=True, slots=True)
class Outline:
    """A geometry that is read and not built yet: the rings of each polygon, outer one first; or a finished shape.

    ``ellipse`` says that the finished shape is the ellipse in its bounds.
    """

    polygons: Sequence[Sequence[Ring]] = ()
    shape: BaseGeometry | None = None
    ellipse: bool = False

    @property
    def bounds(self) -> tuple[float, ...]:
        """Left, top, right, bottom."""
        if self.shape is not None:
            return tuple(self.shape.bounds)
        corners = np.concatenate([rings[0] for rings in self.polygons])
        return (*corners.min(axis=0).tolist(), *corners.max(axis=0).tolist())


def is_null(geometry: Any) -> bool:
    """Whether a feature's geometry says that there is no shape, as RFC 7946 allows.

    That is null or no geometry at all, ``{}`` (which QuPath writes), empty coordinates, and a GeometryCollection or a
    MultiPolygon of nothing but such parts.
    """
    if geometry is None or geometry == {}:
        return True
    if not isinstance(geometry, dict) or geometry.get("type") not in GEOMETRIES:
        return False
    if geometry["type"] == "GeometryCollection":
        members = geometry.get("geometries")
        return isinstance(members, list) and all(map(is_null, members))
    coordinates = geometry.get("coordinates")
    if geometry["type"] == "MultiPolygon" and isinstance(coordinates, list):
        return all(part == [] for part in coordinates)
    return bool(coordinates == [])


def parse(geometry: Mapping[str, Any]) -> Outline:
    """The outline of a GeoJSON geometry.

    Of a GeometryCollection, QuPath takes the geometries of the highest dimension, and so do we: its polygons, else its
    lines, else its points. A geometry with QuPath's mark ``isEllipse`` is the ellipse in its bounds, if these have an
    area. Parts without coordinates are passed over.

    Raises:
        ValueError: it is malformed; the text says how, as a sentence about the feature ("its ...").
    """
    outline = _unmarked(geometry)
    if str(geometry.get("isEllipse", "")).lower() == "true":
        left, top, right, bottom = outline.bounds
        if right > left and bottom > top:
            return Outline(shape=ellipse(outline.bounds), ellipse=True)
    return outline


def _unmarked(geometry: Mapping[str, Any]) -> Outline:
    """The outline of a geometry, whatever QuPath's mark ``isEllipse`` says."""
    kind = geometry.get("type")
    if kind not in GEOMETRIES:
        raise ValueError("it has no geometry" if kind is None else f"there is no geometry {kind!r}")
    if kind == "GeometryCollection":
        return _collection(geometry.get("geometries"))
    coordinates = geometry.get("coordinates")
    if not isinstance(coordinates, list):
        raise ValueError("its geometry has no coordinates")
    if kind == "Polygon":
        return Outline([_rings(coordinates)])
    if kind == "MultiPolygon":
        return Outline([_rings(part) for part in _list_of(coordinates, "polygons") if part != []])
    return Outline(shape=_other(str(kind), coordinates))


def build(outlines: Sequence[Outline]) -> list[BaseGeometry]:
    """The shapes of many outlines; one that crosses itself becomes the area that it covers.

    An outline that covers no area gives an empty shape.
    """
    parts = [rings for outline in outlines for rings in outline.polygons]
    polygon_list = _polygons(parts)
    shapes: list[BaseGeometry] = []
    start = 0
    for outline in outlines:
        count = len(outline.polygons)
        if outline.shape is not None:
            shapes.append(outline.shape)
        else:
            shapes.append(
                polygon_list[start] if count == 1 else MultiPolygon(list(polygon_list[start : start + count]))
            )
        start += count
    for index in np.flatnonzero(~shapely.is_valid(np.array(shapes, dtype=object))):
        if polygons(shapes[index]):  # a line of no length is still a line
            shapes[index] = _repaired(shapes[index])
    return shapes


def bounds_rois(outlines: Sequence[Outline], shapes: Sequence[BaseGeometry]) -> list[BoundsRoi]:
    """The kind of ROI that QuPath makes of each shape that ``build`` made of an outline, where it keeps the bounds."""
    return [
        "EllipseROI" if outline.ellipse else "RectangleROI" if rectangle else ""
        for outline, rectangle in zip(outlines, are_rectangles(shapes), strict=True)
    ]


def on_grid(shapes: Sequence[BaseGeometry]) -> Shapes:
    """The shapes as QuPath 0.6 and later have them after reading: valid, on the 0.01-pixel grid; some become empty.

    A MultiPolygon of one polygon becomes a Polygon, and a collection is reduced as in ``parse``: QuPath cannot import
    the others.
    """
    single = np.array([_importable(shape) for shape in shapes], dtype=object)
    points, owner = shapely.get_coordinates(single, return_index=True)
    far = ~(np.abs(points).max(axis=1, initial=0) <= _FARTHEST_PX)
    single[owner[far]] = Polygon()  # QuPath stores shapes with any coordinates, NaN too
    rounded = np.asarray(shapely.transform(single, lambda xy: np.round(xy, 2)), dtype=object)
    for index in np.flatnonzero(~shapely.is_valid(rounded)):  # few: plain rounding suits nearly all shapes, and is fast
        if not polygons(single[index]):
            continue
        whole = single[index] if single[index].is_valid else _repaired(single[index])
        rounded[index] = _importable(shapely.set_precision(whole, GRID_PX))
    return rounded


def texts(shapes: Shapes) -> list[str]:
    """The GeoJSON text of each shape, compact; whole numbers without a fraction, as QuPath writes them."""
    return [text.replace(".0,", ",").replace(".0]", "]") for text in shapely.to_geojson(shapes)]


def _repaired(shape: BaseGeometry) -> BaseGeometry:
    """The area that the polygons of a shape cover. Each is repaired by itself first, or overlaps would become holes."""
    areas = [area for part in polygons(shape) for area in polygons(shapely.make_valid(part))]
    return shapely.union_all(areas) if areas else Polygon()


def _polygons(parts: Sequence[Sequence[Ring]]) -> Shapes:
    """One polygon for each list of rings, in two calls."""
    if not parts:
        return np.empty(0, dtype=object)
    rings = [ring for part in parts for ring in part]
    ring_of_point = np.repeat(np.arange(len(rings)), [len(ring) for ring in rings])
    polygon_of_ring = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    linear = shapely.linearrings(np.concatenate(rings), indices=ring_of_point)
    return np.asarray(shapely.polygons(linear, indices=polygon_of_ring), dtype=object)


def _rings(coordinates: Any) -> list[Ring]:
    return [_ring(ring) for ring in _list_of(coordinates, "rings")]


def _ring(coordinates: Any) -> Ring:
    points = _points(coordinates)
    closed = len(points) > 1 and points[0, 0] == points[-1, 0] and points[0, 1] == points[-1, 1]
    if len(points) < 3 + closed:
        count = len(points) - closed
        raise ValueError(f"its polygon has {count} point{'' if count == 1 else 's'}")
    if not closed:
        raise ValueError("its polygon is not closed: the last point of a ring must be the first one again")
    return points


def _points(coordinates: Any) -> Ring:
    """float64 [N, 2] of a list of positions; values after x and y are dropped."""
    _list_of(coordinates, "points")
    try:
        points = np.array(coordinates)
    except ValueError:
        points = np.array(None)
    if points.dtype.kind not in "if" or points.ndim != 2 or points.shape[1] < 2:
        points = np.array([_position(position) for position in coordinates], dtype=np.float64)
    points = points[:, :2].astype(np.float64, copy=False)
    if not (largest := float(np.abs(points).max())) <= _FARTHEST_PX:
        far = math.isfinite(largest)
        raise ValueError(
            f"a coordinate is {largest:g}, far outside any image" if far else "a coordinate is not a number"
        )
    return points


def _position(position: Any) -> tuple[float, float]:
    """(x, y) of a position; ValueError for anything else."""
    if not isinstance(position, list) or len(position) < 2:
        raise ValueError(f"{_shown(position)} stands where a point [x, y] should be")
    for coordinate in position[:2]:
        if isinstance(coordinate, bool) or not isinstance(coordinate, int | float):
            raise ValueError(f"a coordinate is {_shown(coordinate)}, not a number")
    return position[0], position[1]


def _list_of(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{_shown(value)} stands where a list of {what} should be")
    if not value:
        raise ValueError(f"its geometry is empty: no {what}")
    return value


def _other(kind: str, coordinates: list[Any]) -> BaseGeometry:
    """A shape of points or lines."""
    if kind == "Point":
        return shapely.points(_points([coordinates])[0])
    if kind == "MultiPoint":
        return shapely.multipoints(_points(coordinates))
    parts = [coordinates] if kind == "LineString" else _list_of(coordinates, "lines")
    lines = [_points(part) for part in parts]
    if any(len(line) < 2 for line in lines):
        raise ValueError("its line has 1 point")
    linestrings = [shapely.linestrings(line) for line in lines]
    return linestrings[0] if kind == "LineString" else shapely.multilinestrings(linestrings)


def _collection(geometries: Any) -> Outline:
    members = _list_of(geometries, "geometries")
    outlines = [parse(geometry if isinstance(geometry, dict) else {}) for geometry in members if not is_null(geometry)]
    areas = [part for outline in outlines for part in outline.polygons]
    if areas:
        return Outline(areas)
    return Outline(shape=_joined([outline.shape for outline in outlines if outline.shape is not None]))


def _joined(shapes: Sequence[BaseGeometry]) -> BaseGeometry:
    """The lines of shapes as one shape, or their points where there are no lines."""
    lines = [part for shape in shapes for part in shapely.get_parts(shape) if part.geom_type == "LineString"]
    chosen = lines or [part for shape in shapes for part in shapely.get_parts(shape)]
    if len(chosen) == 1:
        return chosen[0]
    return shapely.multilinestrings(chosen) if lines else shapely.multipoints(chosen)


def _importable(shape: BaseGeometry) -> BaseGeometry:
    """A shape in a form that every version of QuPath imports."""
    if shape.geom_type in {"MultiPolygon", "MultiLineString", "MultiPoint"}:
        return shape.geoms[0] if len(shape.geoms) == 1 else shape
    if shape.geom_type == "LinearRing":
        return shapely.linestrings(shapely.get_coordinates(shape))
    if shape.geom_type != "GeometryCollection" or shape.is_empty:
        return shape
    if areas := polygons(shape):
        return areas[0] if len(areas) == 1 else MultiPolygon(areas)
    return _joined(list(shapely.get_parts(shape)))


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:37] + "..."
