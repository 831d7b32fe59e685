"""QuPath's ROI objects in data.qpdata <-> shapely geometry, in level-0 pixels."""

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import GEOSException, LineString, MultiPoint, Point, Polygon
from shapely.geometry.base import BaseGeometry

from wsplf_cli.qupath.javaclasses import Maker
from wsplf_cli.qupath.javaser.graph import Array, Instance, JavaStreamError, get
from wsplf_cli.qupath.shapes import ellipse, odd_area
from wsplf_cli.schema import BoundsRoi, Plane

POLYGON = "qupath.lib.roi.PolygonROI$SerializationProxy"
RECTANGLE = "qupath.lib.roi.RectangleROI$SerializationProxy"
WKB = "qupath.lib.roi.GeometryROI$WKBSerializationProxy"

FIRST_PLANE = Plane()
_MAX_WKB_DEPTH = 8
_MAX_RINGS = 2_000
"""Rings of an old area at most: the time to combine them grows faster than their number."""


def roi_kind(node: Any) -> str:
    """QuPath's name of a kind of ROI, such as PolygonROI; empty for no ROI."""
    return node.desc.name.rpartition(".")[2].partition("$")[0] if isinstance(node, Instance) else ""


def read_plane(node: Any) -> Plane:
    """The plane of a ROI; the first plane and all channels where it names none."""
    if not isinstance(node, Instance):
        return Plane()
    slots = node.desc.slots
    c, z, t = (get(node, name) if slots.get(name, ("", "", ""))[2] == "I" else None for name in "czt")
    return Plane(c=-1 if c is None else c, z=z or 0, t=t or 0)


def read_roi(node: Any, spend: Callable[[int], None] = lambda size: None) -> BaseGeometry:
    """The geometry of a ROI as it is stored, not repaired; empty for no ROI and for unknown kinds.

    ``spend`` is called with the bytes of every array that is read, and may raise.

    Raises:
        JavaStreamError: the ROI's fields are not those of its kind.
    """
    if not isinstance(node, Instance):
        return Polygon()
    kind = roi_kind(node)
    try:
        if kind in {"RectangleROI", "EllipseROI", "LineROI"}:
            return _from_corners(kind, tuple(float(get(node, name)) for name in ("x", "y", "x2", "y2")))
        if kind in {"PolygonROI", "PolylineROI", "PointsROI"}:
            columns = [_floats(get(node, name), spend) for name in ("x", "y")]
            with np.errstate(invalid="ignore"):
                return _from_points(kind, np.column_stack(columns))
        if kind == "GeometryROI":
            wkb = _array(get(node, "wkb")).raw
            spend(len(wkb))
            check_wkb(wkb)
            with np.errstate(invalid="ignore"):
                return shapely.force_2d(shapely.from_wkb(wkb))
        if kind in {"AreaROI", "AWTAreaROI"}:
            return _from_rings(_array(get(node, "x")), _array(get(node, "y")), spend)
    except (ValueError, TypeError, OverflowError, struct.error, GEOSException) as error:
        raise JavaStreamError(f"a {kind} cannot be read: {error}") from error
    return Polygon()


def write_roi(maker: Maker, shape: BaseGeometry, *, plane: Plane = FIRST_PLANE, bounds_roi: BoundsRoi = "") -> Instance:
    """The ROI that QuPath itself makes of a shape, except that boxes stay polygons: the bounds of a ``bounds_roi``.

    A polygon without holes, points and a line are in single precision; everything else, such as holes and several
    parts, is WKB in double precision. The statistics that QuPath caches are left out: QuPath computes missing ones, and
    does not check those that are there.
    """
    plane_fields = {"c": plane.c, "t": plane.t, "z": plane.z}
    if bounds_roi and not shape.is_empty:
        corners = dict(zip(("x", "y", "x2", "y2"), shape.bounds, strict=True))
        return maker.object(f"qupath.lib.roi.{bounds_roi}$SerializationProxy", name=None, **plane_fields, **corners)
    points = shapely.get_coordinates(shape)
    if shape.geom_type == "LineString" and len(points) == 2:
        corners = dict(zip(("x", "y", "x2", "y2"), points.ravel().tolist(), strict=True))
        return maker.object("qupath.lib.roi.LineROI$SerializationProxy", name=None, **plane_fields, **corners)
    if isinstance(shape, Polygon) and not shape.interiors:
        fields = {"name": None, "stats": None, **_singles(maker, points[:-1])}
        return maker.object(POLYGON, **plane_fields, **fields)
    if shape.geom_type in {"Point", "MultiPoint"}:
        return maker.object(
            "qupath.lib.roi.PointsROI$SerializationProxy", name=None, **plane_fields, **_singles(maker, points)
        )
    if shape.geom_type == "LineString":
        return maker.object("qupath.lib.roi.PolylineROI$SerializationProxy", **plane_fields, **_singles(maker, points))
    wkb = shapely.to_wkb(shape, output_dimension=2, byte_order=0)
    return maker.object(WKB, **plane_fields, stats=None, wkb=maker.raw("[B", wkb))


def _singles(maker: Maker, points: NDArray[np.float64]) -> dict[str, Array]:
    """The coordinates of points [N, 2] in single precision."""
    single = points.astype(">f4")
    return {"x": maker.raw("[F", single[:, 0].tobytes()), "y": maker.raw("[F", single[:, 1].tobytes())}


def _array(node: Any) -> Array:
    if not isinstance(node, Array):
        raise JavaStreamError("a ROI has no coordinates")
    return node


def _floats(node: Any, spend: Callable[[int], None]) -> NDArray[np.float64]:
    """float64 [N]."""
    raw = _array(node).raw
    spend(len(raw))
    return np.frombuffer(raw, dtype=">f4").astype(np.float64)


def _from_corners(kind: str, corners: tuple[float, ...]) -> BaseGeometry:
    x, y, x2, y2 = corners
    if kind == "LineROI":
        return LineString([(x, y), (x2, y2)])
    left, right, top, bottom = min(x, x2), max(x, x2), min(y, y2), max(y, y2)
    if kind == "RectangleROI":
        return shapely.box(left, top, right, bottom)
    return ellipse((left, top, right, bottom))


def _from_points(kind: str, points: NDArray[np.float64]) -> BaseGeometry:
    """``points`` float64 [N, 2]. QuPath takes polygons and lines of any number of points; shapely does not."""
    if kind == "PointsROI":
        return Point(points[0]) if len(points) == 1 else MultiPoint(points)
    if kind == "PolygonROI" and len(points) > 1 and (points[0] == points[-1]).all():
        points = points[:-1]  # 0.6 and later close polygons that come from a geometry
    if kind == "PolygonROI" and len(points) > 2:
        return Polygon(points)
    if len(points) > 1:
        return LineString(points)
    return Point(points[0]) if len(points) else Polygon()


def _from_rings(x: Array, y: Array, spend: Callable[[int], None]) -> BaseGeometry:
    """The shape of an old area: rings in no order, of which a point inside has an odd number around it."""
    rings = []
    if len(x.values or []) > _MAX_RINGS:
        raise JavaStreamError(f"an area of over {_MAX_RINGS} rings")
    for across, down in zip(x.values or [], y.values or [], strict=True):
        points = np.column_stack([_floats(across, spend), _floats(down, spend)])
        if len(points) > 2:
            rings.append(Polygon(points))
    return odd_area(rings)


def check_wkb(wkb: bytes) -> None:
    """Check that the counts in WKB fit its bytes and that it is not nested too deeply.

    Raises:
        JavaStreamError: they do not, or it is; GEOS itself would run out of memory or stack.
    """
    at, rest = 0, [1]
    while rest:
        rest[-1] -= 1
        if rest[-1] < 0:
            rest.pop()
            continue
        order = "<" if wkb[at : at + 1] == b"\x01" else ">"
        (kind,) = struct.unpack_from(f"{order}I", wkb, at + 1)
        at += 9 if kind & 0x20000000 else 5
        width = 8 * (2 + (kind >> 31) + (kind >> 30 & 1) + (0, 1, 1, 2)[kind % 0x10000000 // 1000 % 4])
        kind = kind % 0x10000000 % 1000
        if kind == 1:
            at += width
        elif kind in {2, 3}:
            (lines,) = struct.unpack_from(f"{order}I", wkb, at) if kind == 3 else (1,)
            at += 4 * (kind == 3)
            for _ in range(lines):
                (points,) = struct.unpack_from(f"{order}I", wkb, at)
                at += 4 + points * width
        elif kind in {4, 5, 6, 7} and len(rest) < _MAX_WKB_DEPTH:
            rest.append(struct.unpack_from(f"{order}I", wkb, at)[0])
            at += 4
        else:
            raise JavaStreamError(f"a geometry of the kind {kind}")
        if at > len(wkb):
            raise JavaStreamError("a geometry ends early")
