"""A polygon of the merged project, from what the readers decided on it."""

from collections.abc import Mapping
from dataclasses import replace

from wsplf_cli.agreement.decisions import Decision, Polygon
from wsplf_cli.class_names import same_class
from wsplf_cli.geometry import union
from wsplf_cli.qupath.qpdata import mark
from wsplf_cli.review.roles import AREA
from wsplf_cli.schema import (
    DESCRIPTION_KEY,
    DISPUTED,
    DISPUTED_KEY,
    READERS_KEY,
    REJECTED_RGB,
    REVIEW_KEY,
    Annotation,
    Origin,
)


def verdict(polygon: Polygon, path_class: str, names: Mapping[int, str], *, unit_um2: float | None) -> list[Annotation]:
    """The annotations to write for a polygon: one, or the parts of a disputed area.

    Args:
        polygon: What the readers decided, with the outcome.
        path_class: The class in question.
        names: The name of each reader, by index.
        unit_um2: The area of a level-0 pixel; None where it is not known.
    """
    said = "; ".join(f"{names[reader]}: {decision}" for reader, decision in polygon.decisions.items())
    if polygon.outcome == "accepted":
        written = [_accepted(polygon, path_class)]
    elif polygon.outcome == "rejected":
        written = _rejected(polygon)
    elif polygon.outcome == "disputed":
        written = _disputed(polygon, path_class, said, unit_um2=unit_um2)
    else:
        written = _left(polygon)
    return [replace(annotation, metadata={**annotation.metadata, READERS_KEY: said}) for annotation in written]


def _accepted(polygon: Polygon, path_class: str) -> Annotation:
    """The outline that was chosen, accepted and locked as the script does it; a person's own polygon as it is."""
    assert polygon.chosen is not None
    chosen = polygon.chosen
    if chosen.origin == "human":
        return chosen
    return replace(
        chosen,
        path_class=path_class if same_class(chosen.path_class, DISPUTED) else chosen.path_class,
        review="accepted",
        metadata={**chosen.metadata, REVIEW_KEY: "accepted"},
        locked=True,
    )


def _rejected(polygon: Polygon) -> list[Annotation]:
    """The polygon as somebody left it who rejected it or gave it another class; a deleted one comes back, rejected."""
    annotation = _first(polygon, "rejected") or _first(polygon, "other class")
    if annotation is not None:
        return [annotation]
    return _again(replace(polygon.original, review="rejected", rgb=REJECTED_RGB))


def _left(polygon: Polygon) -> list[Annotation]:
    """The polygon as somebody left it who did not decide on it, or ignored it."""
    annotation = _first(polygon, "ignored" if polygon.outcome == "ignored" else "pending")
    return [annotation] if annotation is not None else _again(replace(polygon.original, review="pending", locked=False))


def _disputed(polygon: Polygon, path_class: str, said: str, *, unit_um2: float | None) -> list[Annotation]:
    """The whole area that any reader marks, pending, with the class Disputed and who decided what as its name."""
    original = polygon.original
    shape = union(polygon.marked.values()) if polygon.marked else original.shape
    disputed = replace(
        original,
        id=polygon.id,
        shape=shape,
        path_class=DISPUTED,
        review="pending",
        name=said,
        metadata={**_plain(original), DISPUTED_KEY: path_class},
        locked=False,
        rgb=None,
    )
    parts = mark([disputed], origin=_origin(original))
    if AREA not in original.measurements:
        return parts
    return [replace(part, measurements=_measured(part, unit_um2)) for part in parts]


def _measured(part: Annotation, unit_um2: float | None) -> dict[str, float]:
    """The measurements of the polygon with the area of its present shape, without one where the area is not known."""
    others = {name: value for name, value in part.measurements.items() if name != AREA}
    return others if unit_um2 is None else {**others, AREA: part.shape.area * unit_um2}


def _first(polygon: Polygon, decision: Decision) -> Annotation | None:
    """The polygon of the first reader who decided so."""
    readers = polygon.readers(frozenset({decision}))
    return next((polygon.annotations[reader] for reader in readers if reader in polygon.annotations), None)


def _again(annotation: Annotation) -> list[Annotation]:
    """The annotation with the marks that wsplf gives what it writes."""
    return mark([replace(annotation, metadata=_plain(annotation))], origin=_origin(annotation))


def _plain(annotation: Annotation) -> dict[str, str]:
    """The metadata without a description, by which a person would have decided on it."""
    return {key: value for key, value in annotation.metadata.items() if key != DESCRIPTION_KEY}


def _origin(annotation: Annotation) -> Origin:
    return "pseudolabel" if annotation.origin == "human" else annotation.origin
