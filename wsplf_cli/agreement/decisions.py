"""What each reader decided on each polygon, and what follows from it by the rule.

==============  ========================================================  ==============
decision        what the reader did                                       counts as
==============  ========================================================  ==============
accepted        accepted, locked, named or described it, or marked the    the class
                image as reviewed
edited          changed its outline and left it in the class              the class
drawn           drew it                                                   the class
redrawn         rejected or deleted it and drew another outline there     the class
rejected        rejected it                                               not the class
deleted         deleted it                                                not the class
other class     gave it another class, or none                            not the class
not drawn       has read the slide, and has nothing where another drew    not the class
ignored         gave it an ignored class                                  neither
pending         nothing                                                   no vote
absent          the run that made it never wrote into this copy, or an    no vote
                older state of the image was saved over it
==============  ========================================================  ==============

Polygons are known by their id. Outlines of different readers without a common id are the same polygon where their IoU
is at least ``SAME_IOU``. Only readers who have read the slide vote.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Literal
from uuid import UUID

import shapely
from shapely.geometry.base import BaseGeometry

from wsplf_cli.agreement.parts import common_area, disjoint_parts
from wsplf_cli.agreement.reading import ReadEntry, Reading
from wsplf_cli.class_names import is_a
from wsplf_cli.geometry import union
from wsplf_cli.metrics import overlap
from wsplf_cli.qupath.shapes import shape_hash
from wsplf_cli.review.roles import Role, class_made_for
from wsplf_cli.schema import CLASS_KEY, SHAPE_KEY, Annotation, is_pending

# fmt: off
Decision = Literal[
    "accepted", "edited", "drawn", "redrawn", "rejected", "deleted", "other class", "not drawn",
    "ignored", "pending", "absent",
]
# fmt: on
Outcome = Literal["accepted", "rejected", "ignored", "pending", "disputed"]

POSITIVE: frozenset[Decision] = frozenset({"accepted", "edited", "drawn", "redrawn"})
NEGATIVE: frozenset[Decision] = frozenset({"rejected", "deleted", "other class", "not drawn"})
#: Two outlines show the same thing from this IoU on.
SAME_IOU = 0.5


@dataclass(slots=True)
class Polygon:
    """One polygon as the readers left it.

    - ``original``: the polygon as some reader has it, or as wsplf wrote it where all deleted it.
    - ``decisions`` of each reader of the slide, by the reader's index.
    - ``annotations``: the polygon as each reader has it (of a redrawn one, what was drawn), and ``marked``: the valid
      outline of it, of the readers for whom it is of the class.
    - ``outcome`` by the rule. ``chosen``: of an accepted polygon the outline that agrees best with the others.
    - ``disputed_um2``: the area that some of the readers mark and others do not; ``disputed_px0``: in square level-0
      pixels.
    """

    id: UUID
    original: Annotation
    decisions: dict[int, Decision] = field(default_factory=dict)
    annotations: dict[int, Annotation] = field(default_factory=dict)
    marked: dict[int, BaseGeometry] = field(default_factory=dict)
    outcome: Outcome = "pending"
    chosen: Annotation | None = None
    disputed_px0: float = 0.0
    disputed_um2: float = 0.0

    def readers(self, decisions: frozenset[Decision]) -> list[int]:
        """The readers with one of these decisions."""
        return [reader for reader, decision in self.decisions.items() if decision in decisions]


def decide(readings: Mapping[int, Reading], path_class: str, *, rule: str, unit_um2: float) -> list[Polygon]:
    """The polygons of a slide for one class, with the decision of each reader and the outcome.

    Args:
        readings: What each reader of the slide says, by the reader's index.
        path_class: The class.
        rule: "all": what all readers of the slide decided is decided. "majority": what more than half of them did.
        unit_um2: The area of a level-0 pixel.
    """
    polygons = _link(_known_by_id(readings, path_class), readings)
    needed = len(readings) if rule == "all" else len(readings) // 2 + 1
    for polygon in polygons:
        _conclude(polygon, needed=needed)
        polygon.disputed_um2 = polygon.disputed_px0 * unit_um2
    return polygons


def _known_by_id(readings: Mapping[int, Reading], path_class: str) -> list[Polygon]:
    """The polygons that have an id in common, those of the first reader first."""
    polygons: dict[UUID, Polygon] = {}
    for reader, reading in readings.items():
        for annotation, role in zip(reading.entry.annotations, reading.roles, strict=True):
            decision = _decision(annotation, role, path_class)
            if decision is not None:
                polygon = polygons.setdefault(annotation.id, Polygon(annotation.id, annotation))
                polygon.decisions.setdefault(reader, decision)
                polygon.annotations.setdefault(reader, annotation)
                if decision in POSITIVE:
                    shape = reading.entry.shapes[annotation.id]
                    polygon.marked.setdefault(reader, shape if shape.is_valid else union([shape]))
    for reading in readings.values():
        for annotation in () if reading.entry.saved_over else reading.entry.written.values():
            if is_a(annotation.path_class, path_class):
                polygons.setdefault(annotation.id, Polygon(annotation.id, annotation))
    known = [polygon for polygon in polygons.values() if _concerns(polygon, path_class)]
    for polygon in known:
        for reader, reading in readings.items():
            if reader not in polygon.decisions:
                polygon.decisions[reader] = _without_it(polygon.original, reading)
        polygon.decisions = {reader: polygon.decisions[reader] for reader in readings}
    return known


def _decision(annotation: Annotation, role: Role, path_class: str) -> Decision | None:
    """What the reader decided on an annotation that is there; None where it is no polygon to decide on."""
    if annotation.origin == "human":
        return "drawn" if role == "positive" else "rejected" if annotation.review == "rejected" and role else None
    if role == "positive":
        return "edited" if _has_new_outline(annotation) else "accepted"
    if not is_a(class_made_for(annotation), path_class):
        return "other class" if role else None
    if annotation.review == "rejected":
        return "rejected"
    if is_pending(annotation):
        return "pending"
    return "ignored" if role == "ignored" else "other class"


def _has_new_outline(annotation: Annotation) -> bool:
    """Whether the outline is not as wsplf wrote it; ``edited`` is true also where only the class is another."""
    if not annotation.edited:
        return False
    same_name = annotation.metadata.get(CLASS_KEY, "") == (annotation.path_class or "")
    return same_name or annotation.metadata.get(SHAPE_KEY) != shape_hash(annotation.shape)


def _concerns(polygon: Polygon, path_class: str) -> bool:
    """Whether wsplf made the polygon for the class, or some reader has it in the class."""
    made_for = class_made_for(polygon.original) if polygon.original.origin != "human" else None
    return is_a(made_for, path_class) or bool(polygon.marked) or "rejected" in polygon.decisions.values()


def _without_it(polygon: Annotation, reading: Reading) -> Decision:
    """The decision of a reader who does not have a polygon."""
    entry: ReadEntry = reading.entry
    if any(annotation.id == polygon.id for annotation in entry.annotations):  # it is there, of another class
        return "not drawn" if polygon.origin == "human" else "pending"
    if polygon.origin == "human":
        covered = common_area(disjoint_parts([polygon.shape]), reading.undecided)
        return "pending" if covered >= SAME_IOU * polygon.shape.area else "not drawn"
    if entry.saved_over:
        return "absent"
    same_run = any(other.run_id == polygon.run_id for other in entry.annotations if other.origin != "human")
    return "deleted" if polygon.id in entry.written or same_run or entry.reviewed else "absent"


def _link(polygons: list[Polygon], readings: Mapping[int, Reading]) -> list[Polygon]:
    """The polygons, those joined that different readers outlined without a common id; the closest outlines first."""
    index_of = {polygon.id: index for index, polygon in enumerate(polygons)}
    for one, other in _same_outlines([polygon for polygon in polygons if len(polygon.marked) < len(readings)]):
        first, second = sorted((index_of[one.id], index_of[other.id]))
        if first != second and not polygons[first].marked.keys() & polygons[second].marked.keys():
            joined = _joined(polygons[first], polygons[second])
            index_of |= {key: first for key, index in index_of.items() if index in (first, second)}
            polygons[first] = joined
    kept = dict.fromkeys(index_of.values())
    return [polygons[index] for index in sorted(kept)]


def _same_outlines(polygons: Sequence[Polygon]) -> Iterator[tuple[Polygon, Polygon]]:
    """Pairs of polygons of which different readers have the same outline, the highest IoU first."""
    outlines = [(polygon, reader, shape) for polygon in polygons for reader, shape in polygon.marked.items()]
    shapes = [shape for _, _, shape in outlines]
    near = shapely.STRtree(shapes).query(shapes) if shapes else ((), ())
    pairs = []
    for number, other_number in sorted(zip(*map(list, near), strict=True)):
        (polygon, reader, shape), (other, other_reader, other_shape) = outlines[number], outlines[other_number]
        if number < other_number and other is not polygon and other_reader != reader:
            iou = _iou(shape, other_shape)
            if iou >= SAME_IOU:
                pairs.append((iou, polygon, other))
    for _, polygon, other in sorted(pairs, key=lambda pair: -pair[0]):
        yield polygon, other


def _joined(first: Polygon, second: Polygon) -> Polygon:
    """One polygon of two; what wsplf made gives it its id."""
    base, added = (second, first) if first.original.origin == "human" != second.original.origin else (first, second)
    decisions: dict[int, Decision] = {}
    for reader, decision in base.decisions.items():
        other = added.decisions[reader]
        decisions[reader] = decision
        if other in POSITIVE:
            decisions[reader] = "redrawn" if base.original.origin != "human" and decision in NEGATIVE else other
        elif decision == "not drawn" and other != "not drawn":
            decisions[reader] = other
    drawn = {reader: added.annotations[reader] for reader in added.marked}
    annotations = added.annotations | base.annotations | drawn
    return Polygon(base.id, base.original, decisions, annotations, base.marked | added.marked)


def _conclude(polygon: Polygon, *, needed: int) -> None:
    """Set the outcome, the outline of an accepted polygon, and the disputed area in square level-0 pixels."""
    marked = polygon.marked
    ious, covered_px0, common_px0 = _compare_outlines(marked)
    agreeing = {reader: [iou for other in marked if (iou := ious[reader, other]) >= SAME_IOU] for reader in marked}
    best = max(agreeing, key=lambda reader: (len(agreeing[reader]), sum(agreeing[reader])), default=None)
    negative, ignored = polygon.readers(NEGATIVE), polygon.readers(frozenset({"ignored"}))
    drawn = polygon.original.origin == "human"
    one_outline_differs = best is not None and len(agreeing[best]) < len(marked)
    if best is not None and len(agreeing[best]) >= needed:
        polygon.outcome, polygon.chosen = "accepted", polygon.annotations[best]
    elif len(ignored) >= needed:
        polygon.outcome = "ignored"
    elif len(negative) >= needed and not (drawn and marked):
        polygon.outcome = "rejected"
    elif drawn or sum(map(bool, (marked, negative, ignored))) > 1 or one_outline_differs:
        polygon.outcome = "disputed"
    else:
        polygon.outcome = "pending"
    polygon.disputed_px0 = covered_px0 if negative or ignored else covered_px0 - common_px0


def _compare_outlines(marked: Mapping[int, BaseGeometry]) -> tuple[dict[tuple[int, int], float], float, float]:
    """The IoU of the outlines of each two readers, the area that any of them covers, and the area that all cover."""
    distinct: list[BaseGeometry] = []
    number_of: dict[int, int] = {}
    for reader, shape in marked.items():
        equal = (number for number, known in enumerate(distinct) if shape.equals_exact(known, 0))
        number_of[reader] = next(equal, len(distinct))
        if number_of[reader] == len(distinct):
            distinct.append(shape)
    overlaps = {
        frozenset({first, second}): overlap(distinct[first], distinct[second])
        for first, second in combinations(range(len(distinct)), 2)
    }
    ious = {
        (one, other): overlaps[pair].iou if len(pair := frozenset({number_of[one], number_of[other]})) == 2 else 1.0
        for one in marked
        for other in marked
    }
    if not distinct:
        return ious, 0.0, 0.0
    if len(distinct) == 1:
        return ious, distinct[0].area, distinct[0].area
    if len(distinct) == 2:
        both = next(iter(overlaps.values()))
        return ious, both.truth + both.predicted - both.common, both.common
    return ious, union(distinct).area, shapely.intersection_all(distinct).area


def _iou(one: BaseGeometry, other: BaseGeometry) -> float:
    return 1.0 if one.equals_exact(other, 0) else overlap(one, other).iou
