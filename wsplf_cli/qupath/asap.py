"""Annotations of ASAP (the XML of Camelyon16 and Camelyon17) -> shapes and annotations.

ASAP keeps outlines in uncropped level-0 pixels, without holes: what is to be left out of an outline is an outline of
its own, in a group that says so.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from uuid import NAMESPACE_URL, UUID, uuid5
from xml.parsers import expat

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from wsplf_cli.errors import ProjectError
from wsplf_cli.geometry import polygonal
from wsplf_cli.schema import Annotation

#: The class of a group whose outlines are cut out of all others.
HOLE = "-"
#: Camelyon16 calls its tumours _0 and _1 and what is not tumour inside them _2; Camelyon17 metastases and normal.
CLASSES: Mapping[str, str] = {
    "_0": "Tumor",
    "_1": "Tumor",
    "_2": HOLE,
    "exclusion": HOLE,
    "metastases": "Tumor",
    "normal": HOLE,
    "tumor": "Tumor",
}
#: Outlines with an area. ASAP itself takes the control points of a spline as its corners when it makes a mask.
_AREAS = {"polygon", "spline", "rectangle"}
_POINTS = {"dot", "pointset"}
_LINES = {"polyline"}
_LARGEST_BYTES = 1 << 30

Place = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""Takes points [N, 2], (x, y), from one image to another."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """One annotation of a file: ``shape`` in the file's pixels; ``group`` is empty for none."""

    name: str
    group: str
    shape: BaseGeometry


@dataclass(frozen=True, slots=True)
class Drawing:
    """What a file holds; ``left_out`` says which types of annotation were not taken, and how often."""

    drawn: list[Drawn] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    @property
    def groups(self) -> list[str]:
        """The groups that annotations are in, in order."""
        return list(dict.fromkeys(one.group for one in self.drawn))


def read(path: Path) -> Drawing:
    """The annotations of an ASAP file, in order; see ``parse``.

    Raises:
        ProjectError: the file cannot be read, is not XML of ASAP, or an annotation is malformed.
    """
    try:
        with path.open("rb") as stream:
            raw = stream.read(_LARGEST_BYTES + 1)
    except OSError as error:
        raise ProjectError(f"{path}: cannot be read: {error.strerror}", hint="check the path") from error
    if len(raw) > _LARGEST_BYTES:
        raise ProjectError(f"{path}: over 1 GiB of XML", hint="split the file")
    return parse(raw, name=path.name)


def parse(raw: bytes, *, name: str) -> Drawing:
    """The annotations in ASAP's XML, in order: polygons, rectangles, splines (by their control points), dots, lines.

    Document types and entities are refused: they can make a small file endless.

    Raises:
        ProjectError: not XML of ASAP, or an annotation is malformed; the message begins with ``name``.
    """
    reader = _Reader(name)
    parser = expat.ParserCreate()
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.StartDoctypeDeclHandler = reader.refuse
    try:
        parser.Parse(raw, True)
    except expat.ExpatError as error:
        raise ProjectError(f"{name}: not XML: {error}", hint="save it from ASAP again") from error
    return reader.drawing


def annotations(
    drawing: Drawing, classes: Mapping[str, str], *, place: Place = lambda xy_px0: xy_px0
) -> tuple[list[Annotation], int]:
    """The annotations of a file, and how many outlines are left out: holes, and what holes leave nothing of.

    Args:
        drawing: the file.
        classes: group -> QuPath class, an empty text to leave the group out, or HOLE to cut it out of all others.
        place: takes points of the file to points of the image.
    """
    holes = [one.shape for one in drawing.drawn if classes.get(one.group) == HOLE]
    tree = shapely.STRtree(holes)
    made: list[Annotation] = []
    times: Counter[str] = Counter()
    for one in drawing.drawn:
        path_class = classes.get(one.group, one.group)
        if path_class == HOLE or (one.group and not path_class):
            continue
        shape = _cut(one.shape, [holes[index] for index in sorted(tree.query(one.shape))])
        if shape.is_empty:
            continue
        moved = shapely.transform(shape, place)
        own_id = _id(one, times)
        made.append(Annotation(id=own_id, shape=moved, path_class=path_class or None, name=one.name))
    return made, len(drawing.drawn) - len(made)


def _cut(shape: BaseGeometry, holes: Sequence[BaseGeometry]) -> BaseGeometry:
    """A shape without the holes; lines and points are left alone."""
    if not holes or not polygonal(shape):
        return shape
    parts = polygonal(shapely.difference(shape, shapely.union_all(holes)))
    if not parts:
        return shapely.Polygon()
    return parts[0] if len(parts) == 1 else shapely.multipolygons(parts)


def _id(drawn: Drawn, times: Counter[str]) -> UUID:
    """An id that the same annotation of the file always gets, whatever class it is given."""
    seed = f"{shapely.to_wkb(drawn.shape, hex=True)} {drawn.group} {drawn.name}"
    times[seed] += 1
    return uuid5(NAMESPACE_URL, f"asap:{times[seed]}:{seed}")


class _Reader:
    """Takes the elements of a file as they come."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.drawing = Drawing()
        self._count = self._depth = 0
        self._open: dict[str, str] | None = None
        self._points: list[tuple[str, float, float]] = []

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        """An element begins."""
        if self._depth == 0 and tag != "ASAP_Annotations":
            hint = "give XML that ASAP saved, with ASAP_Annotations as its first element"
            raise ProjectError(f"{self.name}: not XML of ASAP: its first element is {tag}", hint=hint)
        self._depth += 1
        if tag == "Annotation":
            self._open, self._points = attributes, []
        elif tag == "Coordinate" and self._open is not None:
            self._points.append((attributes.get("Order", ""), *self._numbers(attributes)))

    def end(self, tag: str) -> None:
        """An element ends."""
        self._depth -= 1
        if tag == "Annotation" and self._open is not None:
            self._finish(self._open)
            self._open = None
            self._count += 1

    def refuse(self, *_: object) -> None:
        """A document type: entities may follow."""
        raise ProjectError(f"{self.name}: it has a document type, as ASAP never writes", hint="remove <!DOCTYPE ...>")

    def _numbers(self, attributes: Mapping[str, str]) -> tuple[float, float]:
        texts = attributes.get("X", ""), attributes.get("Y", "")
        try:
            x, y = map(float, texts)
        except ValueError as error:
            raise self._wrong(f"a coordinate is {texts[0]!r}, {texts[1]!r}, not two numbers") from error
        if not math.isfinite(x) or not math.isfinite(y):
            raise self._wrong(f"a coordinate is {texts[0]!r}, {texts[1]!r}, not two numbers")
        return x, y

    def _finish(self, attributes: Mapping[str, str]) -> None:
        kind = attributes.get("Type", "")
        if kind.lower() not in _AREAS | _POINTS | _LINES:
            self.drawing.left_out[f"annotations of type {kind or 'None'}"] += 1
            return
        group = attributes.get("PartOfGroup", "")
        shape = self._shape(kind.lower(), self._ordered())
        self.drawing.drawn.append(Drawn(attributes.get("Name", ""), "" if group == "None" else group, shape))

    def _ordered(self) -> NDArray[np.float64]:
        """The points [N, 2] by their number, or as they come where they have none."""
        points = self._points
        if all(order.isdigit() for order, _, _ in points):
            points = sorted(points, key=lambda point: int(point[0]))
        return np.array([(x, y) for _, x, y in points], dtype=np.float64).reshape(-1, 2)

    def _shape(self, kind: str, points: NDArray[np.float64]) -> BaseGeometry:
        count = len(np.unique(points, axis=0))
        least = 1 if kind in _POINTS else 2 if kind in _LINES else 3
        if count < least:
            raise self._wrong(f"its {kind} has {count} point{'' if count == 1 else 's'}")
        if kind in _POINTS:
            return shapely.points(points[0]) if len(points) == 1 else shapely.multipoints(points)
        if kind in _LINES:
            return shapely.linestrings(points)
        shape = shapely.polygons(shapely.linearrings(points))
        if not shape.is_valid:
            shape = shapely.union_all(polygonal(shape))
        if shape.is_empty:
            raise self._wrong(f"its {kind} covers no area")
        return shape

    def _wrong(self, why: str) -> ProjectError:
        named = f" ({self._open.get('Name')!r})" if self._open and self._open.get("Name") else ""
        return ProjectError(f"{self.name}: annotation {self._count}{named}: {why}", hint="correct or remove it in ASAP")
