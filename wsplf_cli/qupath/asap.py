"""Reads annotations of ASAP: the XML of Camelyon16 and Camelyon17.

ASAP stores outlines in uncropped level-0 pixels, without holes. A hole is an outline of its own, in a group whose name
says so.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from uuid import NAMESPACE_URL, UUID, uuid5
from xml.sax import SAXParseException
from xml.sax.handler import ContentHandler
from xml.sax.xmlreader import AttributesImpl

import defusedxml.sax
import numpy as np
import shapely
from defusedxml import DefusedXmlException, DTDForbidden
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

PointTransform = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""Points [N, 2], (x, y), of one image -> the same points in another."""


@dataclass(frozen=True, slots=True)
class Outline:
    """One annotation of a file: ``shape`` is in the file's pixels, ``group`` is empty for none."""

    name: str
    group: str
    shape: BaseGeometry


@dataclass(frozen=True, slots=True)
class AsapFile:
    """The annotations of a file; ``left_out`` counts the annotations of types that are not read."""

    outlines: list[Outline] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    @property
    def groups(self) -> list[str]:
        """The groups that have annotations, in order."""
        return list(dict.fromkeys(outline.group for outline in self.outlines))


def read(path: Path) -> AsapFile:
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


def parse(raw: bytes, *, name: str) -> AsapFile:
    """The annotations in ASAP's XML, in order: polygons, rectangles, splines (by their control points), dots, lines.

    Document types, and with them entities, are refused: entities can make a small file endless.

    Raises:
        ProjectError: not XML of ASAP, or an annotation is malformed; the message begins with ``name``.
    """
    reader = _Reader(name)
    try:
        defusedxml.sax.parseString(raw, reader, forbid_dtd=True)
    except DTDForbidden as error:
        message = f"{name}: it has a document type; ASAP writes none"
        raise ProjectError(message, hint="remove <!DOCTYPE ...>") from error
    except (SAXParseException, DefusedXmlException) as error:
        raise ProjectError(f"{name}: not XML: {_reason(error)}", hint="save it from ASAP again") from error
    return reader.file


def _reason(error: SAXParseException | DefusedXmlException) -> str:
    if isinstance(error, SAXParseException):
        return f"{error.getMessage()}: line {error.getLineNumber()}, column {error.getColumnNumber()}"
    return type(error).__name__


def annotations(
    file: AsapFile, classes: Mapping[str, str], *, transform: PointTransform = lambda xy_px0: xy_px0
) -> tuple[list[Annotation], int]:
    """The annotations of a file, and how many outlines give none: holes, outlines that holes cover, groups left out.

    Args:
        file: the file.
        classes: group -> QuPath class, an empty text to leave the group out, or HOLE to cut it out of all others.
        transform: takes points of the file to points of the image.
    """
    holes = [outline.shape for outline in file.outlines if classes.get(outline.group) == HOLE]
    tree = shapely.STRtree(holes)
    records: list[Annotation] = []
    times: Counter[str] = Counter()
    for outline in file.outlines:
        path_class = classes.get(outline.group, outline.group)
        if path_class == HOLE or (outline.group and not path_class):
            continue
        shape = _cut(outline.shape, [holes[index] for index in sorted(tree.query(outline.shape))])
        if shape.is_empty:
            continue
        moved = shapely.transform(shape, transform)
        records.append(
            Annotation(
                id=_id(outline, times), shape=moved, path_class=path_class or None, name=outline.name, has_id=False
            )
        )
    return records, len(file.outlines) - len(records)


def _cut(shape: BaseGeometry, holes: Sequence[BaseGeometry]) -> BaseGeometry:
    """A shape without the holes; lines and points stay as they are."""
    if not holes or not polygonal(shape):
        return shape
    parts = polygonal(shapely.difference(shape, shapely.union_all(holes)))
    if not parts:
        return shapely.Polygon()
    return parts[0] if len(parts) == 1 else shapely.multipolygons(parts)


def _id(outline: Outline, times: Counter[str]) -> UUID:
    """An id that the same annotation of the file always gets, whatever its class in QuPath is."""
    seed = f"{shapely.to_wkb(outline.shape, hex=True)} {outline.group} {outline.name}"
    times[seed] += 1
    return uuid5(NAMESPACE_URL, f"asap:{times[seed]}:{seed}")


class _Reader(ContentHandler):
    """Makes the outlines of a file from its elements, one pass."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.file = AsapFile()
        self._count = self._depth = 0
        self._open: AttributesImpl | None = None
        self._points: list[tuple[str, float, float]] = []

    def startElement(self, tag: str, attributes: AttributesImpl) -> None:  # noqa: N802  sax's name
        """An element begins."""
        if self._depth == 0 and tag != "ASAP_Annotations":
            hint = "give XML that ASAP saved, with ASAP_Annotations as its first element"
            raise ProjectError(f"{self.name}: not XML of ASAP: its first element is {tag}", hint=hint)
        self._depth += 1
        if tag == "Annotation":
            self._open, self._points = attributes, []
        elif tag == "Coordinate" and self._open is not None:
            self._points.append((attributes.get("Order", ""), *self._coordinates(attributes)))

    def endElement(self, tag: str) -> None:  # noqa: N802  sax's name
        """An element ends."""
        self._depth -= 1
        if tag == "Annotation" and self._open is not None:
            self._finish(self._open)
            self._open = None
            self._count += 1

    def _coordinates(self, attributes: AttributesImpl) -> tuple[float, float]:
        texts = attributes.get("X", ""), attributes.get("Y", "")
        try:
            x, y = map(float, texts)
        except ValueError as error:
            raise self._wrong(f"a coordinate is {texts[0]!r}, {texts[1]!r}, not two numbers") from error
        if not math.isfinite(x) or not math.isfinite(y):
            raise self._wrong(f"a coordinate is {texts[0]!r}, {texts[1]!r}, not two numbers")
        return x, y

    def _finish(self, attributes: AttributesImpl) -> None:
        kind = attributes.get("Type", "")
        if kind.lower() not in _AREAS | _POINTS | _LINES:
            self.file.left_out[f"annotations of type {kind or 'None'}"] += 1
            return
        group = attributes.get("PartOfGroup", "")
        shape = self._shape(kind.lower(), self._ordered())
        self.file.outlines.append(Outline(attributes.get("Name", ""), "" if group == "None" else group, shape))

    def _ordered(self) -> NDArray[np.float64]:
        """The points [N, 2] in the order of their numbers, or in file order where a point has no number."""
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
