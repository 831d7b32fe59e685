"""A simulated reviewer, who decides polygons with the truth of these polygons alone.

A polygon is accepted when its IoU with the parts of the truth that belong to it is high enough. It is rejected when it
holds hardly any tumour. Else it is redrawn: the polygon gets the outline of these parts near it, as a person would
correct it. The decisions are written as QuPath and wsplf's scripts write those of a person, so that later commands
cannot tell them apart.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from shapely import MultiPolygon
from shapely.geometry.base import BaseGeometry

from wsplf_cli.backends import Project
from wsplf_cli.benchmark.evaluation import GOOD_IOU
from wsplf_cli.benchmark.truth import TruthReader
from wsplf_cli.class_names import is_a
from wsplf_cli.errors import SlideError
from wsplf_cli.geometry import polygonal, union
from wsplf_cli.metrics import polygon_ious, truth_of_polygon
from wsplf_cli.qupath.shapes import storable
from wsplf_cli.review.order import Order
from wsplf_cli.review.roles import CONFIDENCE
from wsplf_cli.schema import REJECTED_RGB, REVIEW_KEY, Annotation, Entry, is_disputed, is_pending, without_name
from wsplf_cli.slides.entry import entry_slide

Decision = Literal["accepted", "rejected", "redrawn"]
DECISIONS: tuple[Decision, ...] = ("accepted", "rejected", "redrawn")
#: A polygon of which a smaller share is tumour is rejected.
LEAST_TUMOUR = 0.1
#: A redrawn outline follows the truth up to this distance from the polygon: about half a gland.
REACH_UM = 100.0


@dataclass(frozen=True, slots=True)
class PendingPolygon:
    """A pseudo-label that waits for a decision; ``mpp`` is micrometres per pixel at level 0."""

    entry: Entry
    annotation: Annotation
    mpp: float

    @property
    def entry_id(self) -> str:
        """The id of the entry."""
        return self.entry.id

    @property
    def confidence(self) -> float | None:
        """The confidence 0..1; None where the polygon has none."""
        return self.annotation.measurements.get(CONFIDENCE)

    @property
    def area_um2(self) -> float:
        """The area."""
        return float(self.annotation.shape.area) * self.mpp**2


@dataclass(slots=True)
class ReviewedPolygons:
    """How many polygons got each decision, how many are still pending, and the entries that could not be reviewed."""

    decisions: Counter[str] = field(default_factory=Counter)
    pending: int = 0
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Reviewer:
    """Decides pseudo-labels of a class. ``mpp_override`` is the pixel size of slides that do not state it."""

    path_class: str
    read_truth: TruthReader
    mpp_override: float | None = None

    def review(
        self, project: Project, entries: Sequence[Entry], order: Order, *, decisions: int, rng: np.random.Generator
    ) -> ReviewedPolygons:
        """Decide the first pending pseudo-labels in an order, and write the decisions into the project.

        Args:
            project: The project; only the polygons that are decided change.
            entries: The entries to review. Those without truth cannot be reviewed.
            order: The order of the polygons of all entries together.
            decisions: How many to decide; fewer where fewer are pending.
            rng: For orders that are random.
        """
        reviewed = ReviewedPolygons()
        polygons: list[PendingPolygon] = []
        truths: dict[str, BaseGeometry] = {}
        for entry in entries:
            try:
                pending = pending_polygons(project, entry, self.path_class, mpp_override=self.mpp_override)
                truth = self.read_truth(entry) if pending else None
            except SlideError as error:
                reviewed.problems.append(f"{entry.name}: not reviewed: {without_name(error.message, entry.name)}")
                continue
            if truth is not None:
                truths[entry.id] = truth
                polygons += pending
            elif pending:
                reviewed.problems.append(f"{entry.name}: not reviewed: no truth for it")
        chosen = [polygons[index] for index in order(polygons, rng)[:decisions]]
        reviewed.pending = len(polygons) - len(chosen)
        for entry_id in dict.fromkeys(polygon.entry_id for polygon in chosen):
            decided = [decide(polygon, truths[entry_id]) for polygon in chosen if polygon.entry_id == entry_id]
            reviewed.decisions.update(decision for decision, _ in decided)
            write_decisions(project, entry_id, [annotation for _, annotation in decided])
        return reviewed


def pending_polygons(
    project: Project, entry: Entry, path_class: str, *, mpp_override: float | None = None
) -> list[PendingPolygon]:
    """The pseudo-labels of a class on an entry on which nobody has decided.

    Raises:
        SlideError: the annotations or the slide cannot be read.
    """
    pending = [
        annotation
        for annotation in project.annotations(entry.id)
        if _is_pending_pseudolabel(annotation) and is_a(annotation.path_class, path_class)
    ]
    if not pending:
        return []
    mpp = entry_slide(entry, mpp_override=mpp_override)[1].mpp
    return [PendingPolygon(entry, annotation, mpp) for annotation in pending]


def decide(polygon: PendingPolygon, truth: BaseGeometry) -> tuple[Decision, Annotation]:
    """What a reviewer decides, and the annotation as it comes back from QuPath.

    Args:
        polygon: The polygon.
        truth: The truth of its entry in level-0 pixels; only the parts near the polygon matter.
    """
    annotation = polygon.annotation
    shape = annotation.shape
    if polygon_ious([shape], truth)[0] >= GOOD_IOU:
        return "accepted", _accepted(annotation)
    redrawn = MultiPolygon()
    if truth.intersection(shape).area >= LEAST_TUMOUR * shape.area:
        redrawn = _redraw(shape, truth, reach_px0=REACH_UM / polygon.mpp)
    if redrawn.is_empty:
        metadata = {**annotation.metadata, REVIEW_KEY: "rejected"}
        return "rejected", replace(annotation, review="rejected", rgb=REJECTED_RGB, metadata=metadata)
    return "redrawn", _accepted(replace(annotation, shape=redrawn, edited=True))


def write_decisions(project: Project, entry_id: str, decided: Sequence[Annotation]) -> None:
    """Put annotations on which a reviewer decided in the place of the pending ones with their ids."""
    ids = {annotation.id for annotation in decided}
    pending = [
        annotation
        for annotation in project.annotations(entry_id)
        if _is_pending_pseudolabel(annotation) and annotation.id not in ids
    ]
    project.replace(entry_id, origin="pseudolabel", annotations=pending)
    project.add(entry_id, decided)


def _is_pending_pseudolabel(annotation: Annotation) -> bool:
    return annotation.origin == "pseudolabel" and is_pending(annotation) and not is_disputed(annotation)


def _accepted(annotation: Annotation) -> Annotation:
    """As wsplf's script accepts a polygon: locked as well."""
    return replace(annotation, review="accepted", locked=True, metadata={**annotation.metadata, REVIEW_KEY: "accepted"})


def _redraw(shape: BaseGeometry, truth: BaseGeometry, *, reach_px0: float) -> BaseGeometry:
    """The truth that belongs to a polygon, cut off at a distance from it; empty where none does."""
    near = shape.buffer(reach_px0)
    pieces = [
        piece
        for part in truth_of_polygon(shape, truth)
        for piece in polygonal(part.intersection(near))
        if piece.intersects(shape)
    ]
    polygons = storable([union(pieces)])[0] if pieces else []
    return polygons[0] if len(polygons) == 1 else MultiPolygon(polygons)
