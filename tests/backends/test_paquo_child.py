"""What the child process asks of QuPath, with a QuPath that only notes what it is asked."""

from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock
from uuid import uuid4

import pytest
import shapely
from shapely import box

from wsplf_cli.backends import paquo
from wsplf_cli.backends._paquo_child import QuPath
from wsplf_cli.qupath.shapes import ellipse
from wsplf_cli.schema import Annotation, BoundsRoi, Plane


class _Geometry:
    """A geometry of JTS, as far as the child asks for it."""

    def __init__(self, wkb: bytes) -> None:
        left, top, right, bottom = shapely.from_wkb(wkb).bounds
        sides = {"getMinX": left, "getMinY": top, "getWidth": right - left, "getHeight": bottom - top}
        self.bounds = SimpleNamespace(**{name: lambda side=side: side for name, side in sides.items()})

    def getEnvelopeInternal(self) -> Any:
        return self.bounds


@pytest.fixture
def qupath() -> QuPath:
    """The child's object without Java."""
    child = QuPath.__new__(QuPath)
    child._numbers = (0, 6)
    for name in ("_java", "_rois", "_plane", "_uuid", "_put_metadata", "_class_of"):
        setattr(child, name, MagicMock())
    child._java.WKBReader.return_value.read = _Geometry
    child._plane.getPlaneWithChannel = lambda *plane: plane
    return child


@pytest.mark.parametrize(
    ("roi", "asked"), [("EllipseROI", "createEllipseROI"), ("RectangleROI", "createRectangleROI"), ("", None)]
)
def test_qupath_makes_the_roi_of_the_annotation(qupath: QuPath, roi: BoundsRoi, asked: str | None) -> None:
    bounds = (10.5, 20, 110, 60.25)
    shape = ellipse(bounds) if roi == "EllipseROI" else box(*bounds)
    record = paquo._annotation_record(Annotation(uuid4(), shape, None, plane=Plane(-1, 2, 3), roi=roi))
    qupath._new_annotation(record)
    made = qupath._java.PathObjects.createAnnotationObject.call_args.args[0]
    if asked is None:
        assert made is qupath._java.GeometryTools.geometryToROI.return_value
        return
    create = getattr(qupath._rois, asked)
    assert made is create.return_value
    *corner_and_size, plane = create.call_args.args
    assert corner_and_size == pytest.approx([10.5, 20, 99.5, 40.25])
    assert plane == (-1, 2, 3)
