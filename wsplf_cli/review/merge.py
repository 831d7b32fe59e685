"""New polygons keep clear of what a person decided, and of each other."""

from collections.abc import Iterable, Sequence

from shapely import Polygon
from shapely.geometry.base import BaseGeometry

from wsplf_cli.geometry import polygonal, union
from wsplf_cli.schema import Annotation, Origin, is_pending


def decided_by_a_person(annotations: Iterable[Annotation], *, origin: Origin) -> list[Annotation]:
    """The annotations of an origin of wsplf that a person accepted, rejected, edited, locked or named.

    ``Project.replace`` keeps them. A new polygon at the same spot would show the same thing twice.
    """
    return [
        annotation
        for annotation in annotations
        if annotation.origin == origin != "human" and not is_pending(annotation)
    ]


def subtract_regions(
    shapes: Sequence[Polygon], regions: Iterable[BaseGeometry], *, min_area_px0: float = 0.0
) -> list[list[Polygon]]:
    """For each shape its parts outside all regions: the shape itself where it touches none.

    Of a shape that is cut, parts of at least ``min_area_px0`` remain. Measure polygons after cutting them.
    """
    taken = union(regions)
    return [
        [part for part in polygonal(shape.difference(taken)) if part.area >= min_area_px0]
        if shape.intersects(taken)
        else [shape]
        for shape in shapes
    ]
