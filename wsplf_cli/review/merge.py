"""wsplf's own annotations that a person has decided on: they stay, and what is new keeps clear of them."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from uuid import uuid4

from shapely.geometry.base import BaseGeometry

from wsplf_cli.geometry import polygonal, union
from wsplf_cli.schema import Annotation, Origin, is_pending


def decided(annotations: Iterable[Annotation], *, origin: Origin) -> list[Annotation]:
    """The annotations of that origin by wsplf that a person accepted, rejected, edited, locked or named.

    ``Project.replace`` keeps them; a new polygon in the same place would show the same thing twice.
    """
    return [one for one in annotations if one.origin == origin != "human" and not is_pending(one)]


def without(
    annotations: Sequence[Annotation], kept: Iterable[BaseGeometry], *, min_area_px0: float = 0.0
) -> list[Annotation]:
    """What of the annotations lies outside all kept shapes, in order; those that touch none are returned as they are.

    An annotation that is cut gives one for each part that is left and has at least ``min_area_px0``.
    """
    taken = union(kept)
    left = []
    for annotation in annotations:
        if not annotation.shape.intersects(taken):
            left.append(annotation)
            continue
        parts = polygonal(annotation.shape.difference(taken))
        left += [replace(annotation, id=uuid4(), shape=part) for part in parts if part.area >= min_area_px0]
    return left
