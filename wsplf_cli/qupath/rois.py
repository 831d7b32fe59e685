"""QuPath's ROI objects in data.qpdata <-> shapely geometry, in level-0 pixels."""

from functools import reduce
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import GEOSException, LineString, MultiPoint, Point, Polygon
from shapely.geometry.base import BaseGeometry

from wsplf_cli.qupath.javaclasses import Maker
from wsplf_cli.qupath.javagraph import Array, Instance, JavaStreamError, get
from wsplf_cli.qupath.shapes import polygons
from wsplf_cli.schema import Plane

#: Segments in a quarter of an ellipse: its area is right to 0.01 %.
_QUARTER_SEGMENTS = 64


FIRST_PLANE = Plane()


def read_roi(node: Any) -> BaseGeometry:
    """The geometry of a ROI as it is stored, not repaired; empty for no ROI and for kinds that QuPath never had.

    Raises:
        JavaStreamError: the ROI's fields are not those of its kind.
    """
    if not isinstance(node, Instance):
        return Polygon()
    kind = node.desc.name.rpartition(".")[2].partition("$")[0]
    try:
        if kind in {"RectangleROI", "EllipseROI", "LineROI"}:
            return _from_corners(kind, tuple(float(get(node, name)) for name in ("x", "y", "x2", "y2")))
        if kind in {"PolygonROI", "PolylineROI", "PointsROI"}:
            return _from_points(kind, np.column_stack([_floats(get(node, "x")), _floats(get(node, "y"))]))
        if kind == "GeometryROI":
            return shapely.force_2d(shapely.from_wkb(_array(get(node, "wkb")).raw))
        if kind in {"AreaROI", "AWTAreaROI"}:
            return _from_rings(_array(get(node, "x")), _array(get(node, "y")))
    except (ValueError, GEOSException) as error:
        raise JavaStreamError(f"a {kind} cannot be read: {error}") from error
    return Polygon()


def read_plane(node: Any) -> Plane:
    """Where a ROI lies in an image of several planes."""
    if not isinstance(node, Instance) or not {"c", "z", "t"} <= node.desc.slots.keys():
        return Plane()
    return Plane(*(int(get(node, name)) for name in ("c", "z", "t")))


def write_roi(maker: Maker, shape: BaseGeometry, *, plane: Plane = FIRST_PLANE) -> Instance:
    """The ROI that QuPath itself makes of a shape, but for boxes, which stay polygons.

    A polygon without holes, points and a line are in single precision; everything else, such as holes and several
    parts, is WKB in double precision. The statistics that QuPath caches are left out: it believes them, and works them
    out when they are missing.
    """
    place = {"c": plane.c, "t": plane.t, "z": plane.z}
    points = shapely.get_coordinates(shape)
    if shape.geom_type == "LineString" and len(points) == 2:
        corners = dict(zip(("x", "y", "x2", "y2"), points.ravel().tolist(), strict=True))
        return maker.object("qupath.lib.roi.LineROI$SerializationProxy", name=None, **place, **corners)
    if isinstance(shape, Polygon) and not shape.interiors:
        fields = {"name": None, "stats": None, **_singles(maker, points[:-1])}
        return maker.object("qupath.lib.roi.PolygonROI$SerializationProxy", **place, **fields)
    if shape.geom_type in {"Point", "MultiPoint"}:
        return maker.object(
            "qupath.lib.roi.PointsROI$SerializationProxy", name=None, **place, **_singles(maker, points)
        )
    if shape.geom_type == "LineString":
        return maker.object("qupath.lib.roi.PolylineROI$SerializationProxy", **place, **_singles(maker, points))
    wkb = shapely.to_wkb(shape, output_dimension=2, byte_order=0)
    name = "qupath.lib.roi.GeometryROI$WKBSerializationProxy"
    return maker.object(name, **place, stats=None, wkb=maker.raw("[B", wkb))


def _singles(maker: Maker, points: NDArray[np.float64]) -> dict[str, Array]:
    """The coordinates of points [N, 2] in single precision."""
    single = points.astype(">f4")
    return {"x": maker.raw("[F", single[:, 0].tobytes()), "y": maker.raw("[F", single[:, 1].tobytes())}


def _array(node: Any) -> Array:
    if not isinstance(node, Array):
        raise JavaStreamError("a ROI has no coordinates")
    return node


def _floats(node: Any) -> NDArray[np.float64]:
    """float64 [N]."""
    return np.frombuffer(_array(node).raw, dtype=">f4").astype(np.float64)


def _from_corners(kind: str, corners: tuple[float, ...]) -> BaseGeometry:
    x, y, x2, y2 = corners
    if kind == "LineROI":
        return LineString([(x, y), (x2, y2)])
    left, right, top, bottom = min(x, x2), max(x, x2), min(y, y2), max(y, y2)
    if kind == "RectangleROI":
        return shapely.box(left, top, right, bottom)
    angles = np.arange(4 * _QUARTER_SEGMENTS) * (np.pi / 2 / _QUARTER_SEGMENTS)
    across = (left + right) / 2 + np.cos(angles) * (right - left) / 2
    down = (top + bottom) / 2 + np.sin(angles) * (bottom - top) / 2
    return Polygon(np.column_stack([across, down]))


def _from_points(kind: str, points: NDArray[np.float64]) -> BaseGeometry:
    """``points`` float64 [N, 2]. QuPath takes polygons and lines of any number of points; shapely does not."""
    if kind == "PointsROI":
        return Point(points[0]) if len(points) == 1 else MultiPoint(points)
    if kind == "PolygonROI" and len(points) > 2:
        return Polygon(points)
    if len(points) > 1:
        return LineString(points)
    return Point(points[0]) if len(points) else Polygon()


def _from_rings(x: Array, y: Array) -> BaseGeometry:
    """Old shapes: rings in no order, inside is where an odd number of them is around."""
    rings = []
    for across, down in zip(x.values or [], y.values or [], strict=True):
        points = np.column_stack([_floats(across), _floats(down)])
        if len(points) > 2:
            rings.append(shapely.make_valid(Polygon(points)))
    area = reduce(shapely.symmetric_difference, rings, Polygon())
    return shapely.union_all(polygons(area))
