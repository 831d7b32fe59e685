"""wsplf's own annotations that a person has decided on: they stay, and what is new keeps clear of them."""

from collections.abc import Iterable, Sequence

from shapely import Polygon
from shapely.geometry.base import BaseGeometry

from wsplf_cli.geometry import polygonal, union
from wsplf_cli.qupath.qpdata import undecided
from wsplf_cli.schema import Annotation, Origin


def decided(annotations: Iterable[Annotation], *, origin: Origin) -> list[BaseGeometry]:
    """Shapes of wsplf's annotations of that origin that a person accepted, rejected, edited, locked or named.

    ``Project.replace`` keeps them; a new polygon in the same place would show the same thing twice.
    """
    return [one.shape for one in annotations if one.origin == origin != "human" and not undecided(one)]


def without(shapes: Iterable[BaseGeometry], kept: Sequence[BaseGeometry]) -> list[Polygon]:
    """The parts of shapes that lie outside all kept ones, in order; small remainders are the caller's to drop."""
    taken = union(kept)
    if taken.is_empty:
        return [part for shape in shapes for part in polygonal(shape)]
    return [part for shape in shapes for piece in polygonal(shape) for part in polygonal(piece.difference(taken))]
