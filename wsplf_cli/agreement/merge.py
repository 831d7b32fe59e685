"""Writes what the readers decided into a new project, in which the review goes on.

- What counts as the class by the rule is accepted there, with the outline that agrees best with the others. A person's
  own polygon stays as it was drawn.
- What does not count as the class is rejected there, also what all of them deleted.
- What the readers disagree on is pending with the class ``Disputed``, its name says who decided what. A polygon that
  somebody drew and not enough others have is disputed too, so that nobody's drawing is lost.
- What not enough readers decided, without disagreeing, stays pending in its class.
- All else comes from the first reader who has the slide, with what the others drew of other classes. A slide that only
  one reader has, or that nobody has read, is as that reader left it.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import UUID

from wsplf_cli.agreement.match import Reader
from wsplf_cli.agreement.slides import SlideAgreement
from wsplf_cli.agreement.target import (
    STAGE,
    built_aside,
    require_same_structure,
    structure_of,
    target_path,
    write_structure,
)
from wsplf_cli.agreement.verdict import verdict
from wsplf_cli.backends.embedded import EmbeddedProject, open_project
from wsplf_cli.class_names import class_key
from wsplf_cli.options import AgreeOptions, ProjectOptions
from wsplf_cli.qupath import geojson
from wsplf_cli.qupath.entry_data import new_data
from wsplf_cli.qupath.shapes import shape_hash
from wsplf_cli.review.memory import ORIGINS
from wsplf_cli.review.roles import class_made_for
from wsplf_cli.runs.layout import removed_file, run_folder
from wsplf_cli.runs.record import start_run
from wsplf_cli.runs.written import keep
from wsplf_cli.schema import (
    DISPUTED,
    DISPUTED_RGB,
    REVIEWED_KEY,
    Annotation,
    EntryResult,
    PathClass,
    Tracker,
)


@dataclass(frozen=True, slots=True)
class _Source:
    """The readers, and the project of each as the embedded backend reads it; only read."""

    readers: Sequence[Reader]
    projects: Sequence[EmbeddedProject]
    rule: str


def merge(
    readers: Sequence[Reader], slides: Sequence[SlideAgreement], options: AgreeOptions, tracker: Tracker
) -> dict[str, Any]:
    """Write the merged project, or write it again where an earlier merge into it was undone.

    It is one run of the new project: ``wsplf undo`` takes its annotations away again. The same readers give the same
    annotations, with the same ids.

    Returns:
        ``project``, ``run_id``, ``entries``, and ``polygons``: their number by outcome.

    Raises:
        ProjectError: a file cannot be read or written; nothing is there then.
        SlideError: the data of an entry cannot be changed; nothing is there then.
    """
    assert options.merge is not None
    out = target_path(options.merge)
    matched = [agreement.slide for agreement in slides]
    structure = structure_of(out, readers, matched)
    source = _Source(readers, [open_project(reader.project.path, ProjectOptions()) for reader in readers], options.rule)
    targets = dict(zip(structure.entry_ids, slides, strict=True))
    if out.is_file():
        require_same_structure(structure, out)
        return _write(open_project(out, ProjectOptions()), out, targets, source, options, tracker)
    with built_aside(out) as folder:
        write_structure(structure, folder, out, readers, matched)
        return _write(open_project(folder / out.name, ProjectOptions()), out, targets, source, options, tracker)


def _write(
    project: EmbeddedProject,
    out: Path,
    targets: Mapping[str, SlideAgreement],
    source: _Source,
    options: AgreeOptions,
    tracker: Tracker,
) -> dict[str, Any]:
    """Write all entries and the marks of reviewed images as one run of the new project."""
    by_class = [of_class for agreement in targets.values() for of_class in agreement.polygons.values()]
    polygons = Counter(polygon.outcome for of_class in by_class for polygon in of_class)
    with start_run(project, STAGE, options=options, seed=0) as run:
        run.record["project"] = out
        results = []
        tracker.start("merge", len(targets))
        for entry_id, agreement in targets.items():
            count = _write_entry(project, entry_id, agreement, source, out)
            _keep_written(project, run.id, entry_id, agreement)
            _keep_removed(project, entry_id, agreement, source)
            title = agreement.slide.title
            results.append(EntryResult(entry_id, title, "done", counts={"annotations": count}))
            tracker.advance(1, message=title)
        marks = {entry_id: _reviewed_mark(agreement, options.rule) for entry_id, agreement in targets.items()}
        project.set_metadata({entry_id: {REVIEWED_KEY: mark} for entry_id, mark in marks.items() if mark})
        details = {"readers": [reader.project.path for reader in source.readers], "polygons": dict(polygons)}
        run.finish(results, details=details)
    return {"project": out, "run_id": run.id, "entries": len(targets), "polygons": dict(polygons)}


def _write_entry(project: EmbeddedProject, entry_id: str, agreement: SlideAgreement, source: _Source, out: Path) -> int:
    """Write the annotations of one entry; returns how many of them the readers voted on."""
    base = agreement.slide.readers[0]
    stored = source.projects[base].read(agreement.slide.entry.id)
    voted = [polygon for polygons in agreement.polygons.values() for polygon in polygons]
    ids = {polygon.id for polygon in voted}
    ids |= {annotation.id for polygon in voted for annotation in polygon.annotations.values()}
    names = {index: reader.name for index, reader in enumerate(source.readers)}
    unit_um2 = None if agreement.mpp is None else agreement.mpp**2
    by_id: dict[UUID, Annotation] = {}
    # an accepted polygon of one class may be rejected as another one: what is positive comes first
    ranked = [(polygon, path_class) for path_class, polygons in agreement.polygons.items() for polygon in polygons]
    for polygon, path_class in sorted(ranked, key=lambda pair: _RANK.index(pair[0].outcome)):
        for annotation in verdict(polygon, path_class, names, unit_um2=unit_um2):
            by_id.setdefault(annotation.id, annotation)
    if stored is None:
        data, nodes = new_data(project.image(entry_id), entry_id, project=out.absolute(), version=project.version), []
    else:
        data, nodes = stored.data, stored.nodes
    removed = [node for node in nodes if node.annotation.id in ids]
    present = [node.annotation for node in nodes if node.annotation.id not in ids]
    others = [
        annotation
        for reader in agreement.slide.readers[1:]
        for annotation in agreement.entries[reader].annotations
        if annotation.origin == "human" and annotation.id not in ids
    ]
    added = [*by_id.values(), *_new(others, present)]
    if stored is not None or added:
        colours = [*source.projects[base].path_classes(), PathClass(DISPUTED, DISPUTED_RGB)]
        project.edit(entry_id, data, remove=removed, add=added, path_classes=colours)
    return len(by_id)


_RANK = ("accepted", "disputed", "ignored", "rejected", "pending")


def _new(annotations: Iterable[Annotation], present: Iterable[Annotation]) -> list[Annotation]:
    """The annotations that are not present yet, neither by id nor by class and outline."""
    ids = {annotation.id for annotation in present}
    outlines = {(class_key(annotation.path_class), shape_hash(annotation.shape)) for annotation in present}
    new = []
    for annotation in annotations:
        outline = class_key(annotation.path_class), shape_hash(annotation.shape)
        if annotation.id not in ids and outline not in outlines:
            new.append(annotation)
        ids.add(annotation.id)
        outlines.add(outline)
    return new


def _keep_written(project: EmbeddedProject, run_id: str, entry_id: str, agreement: SlideAgreement) -> None:
    """Keep what the entry holds of wsplf's polygons, as wsplf wrote them: so later runs see what a person removed."""
    before = {key: shape for entry in agreement.entries.values() for key, shape in entry.written.items()}
    present = project.annotations(entry_id)
    for origin in ORIGINS:
        polygons = [
            replace(
                annotation,
                path_class=class_made_for(annotation),
                shape=before[annotation.id].shape if annotation.id in before else annotation.shape,
            )
            for annotation in present
            if annotation.origin == origin
        ]
        if polygons:
            keep(run_folder(project.folder, run_id), entry_id, origin=origin, annotations=polygons)


def _keep_removed(project: EmbeddedProject, entry_id: str, agreement: SlideAgreement, source: _Source) -> None:
    """Keep where earlier runs found deletions, as far as enough readers have them."""
    areas: dict[UUID, Annotation] = {}
    counts = Counter[UUID]()
    for reader in agreement.slide.readers:
        entry = agreement.slide.entries[reader]
        path = None if entry is None else removed_file(source.projects[reader].folder, entry.id)
        for area in geojson.read(path) if path is not None and path.is_file() else []:
            areas.setdefault(area.id, area)
            counts[area.id] += 1
    kept = [areas[key] for key, count in counts.items() if count >= _needed(len(agreement.slide.readers), source.rule)]
    if kept:
        path = removed_file(project.folder, entry_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        geojson.write(path, kept)


def _reviewed_mark(agreement: SlideAgreement, rule: str) -> str:
    """The mark of a reviewed image; empty where too few readers set it, or something is left to decide."""
    marks = [entry.metadata[REVIEWED_KEY] for entry in agreement.slide.entries if entry is not None and entry.reviewed]
    outcomes = {polygon.outcome for polygons in agreement.polygons.values() for polygon in polygons}
    if outcomes & {"disputed", "pending"} or len(marks) < _needed(len(agreement.slide.readers), rule):
        return ""
    return "; ".join(dict.fromkeys(marks))


def _needed(readers: int, rule: str) -> int:
    return readers if rule == "all" else readers // 2 + 1
