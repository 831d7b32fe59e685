"""The polygon that an id means; for an id that means none, what can still be said of it in one line."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from wsplf_cli.backends import Project
from wsplf_cli.errors import ConfigError, ProjectError, SlideError
from wsplf_cli.review.memory import ORIGINS
from wsplf_cli.review.roles import AREA, CONFIDENCE
from wsplf_cli.runs.layout import run_folders
from wsplf_cli.runs.written import written_by
from wsplf_cli.schema import Annotation, Entry, titles

#: An id may be shortened to so many characters.
LEAST_CHARACTERS = 8
KINDS = {"pseudolabel": "pseudo-label", "prediction": "prediction", "human": "annotation of a person"}


@dataclass(frozen=True, slots=True)
class Subject:
    """A pseudo-label or prediction, and the entry that it is on, with the entry's title."""

    entry: Entry
    title: str
    annotation: Annotation

    @property
    def kind(self) -> str:
        """What the polygon is called."""
        return KINDS[self.annotation.origin]

    @property
    def confidence(self) -> float | None:
        """Its confidence 0..1; None where it has none."""
        return self.annotation.measurements.get(CONFIDENCE)


def find_polygon(project: Project, entries: Sequence[Entry], text: str) -> Subject:
    """The pseudo-label or prediction with an id, or with an id that begins with the text.

    Raises:
        ConfigError: The text is no id.
        ProjectError: No annotation has the id, several have it, or it is a person's; says what can still be said.
    """
    wanted = text.strip().lower()
    if not re.fullmatch(r"[0-9a-f-]+", wanted) or len(wanted) < LEAST_CHARACTERS:
        raise ConfigError(
            f"{text!r} is no id of an annotation", hint="QuPath shows the id of a selected annotation: Annotations tab"
        )
    matches: list[Subject] = []
    unread: list[str] = []
    for entry, title in zip(entries, titles(entries), strict=True):
        try:
            annotations = project.annotations(entry.id)
        except SlideError:
            unread.append(title)
            continue
        matches += [
            Subject(entry, title, annotation) for annotation in annotations if str(annotation.id).startswith(wanted)
        ]
    if len(matches) > 1:
        shown = ", ".join(f"{match.annotation.id} on {match.title}" for match in matches[:4])
        raise ProjectError(
            f"{len(matches)} annotations have this id or begin with it: {shown}", hint="give the whole id"
        )
    if not matches:
        raise _not_found(project, entries, wanted, unread)
    subject = matches[0]
    if subject.annotation.origin == "human":
        raise ProjectError(
            f"{subject.annotation.id} is an annotation of a person, class {subject.annotation.path_class or 'none'}, on"
            f" {subject.title}: nothing of wsplf to explain"
        )
    return subject


def polygons_of(project: Project, entry: Entry) -> list[Subject]:
    """The pseudo-labels and predictions of an entry, the least certain first.

    Raises:
        SlideError: The annotations cannot be read.
        ProjectError: There are none.
    """
    subjects = [
        Subject(entry, entry.name, annotation)
        for annotation in project.annotations(entry.id)
        if annotation.origin != "human"
    ]
    if not subjects:
        raise ProjectError(
            f"{entry.name} has no pseudo-label and no prediction: nothing of wsplf to explain",
            hint="wsplf report PROJECT shows which images have some",
        )
    return sorted(subjects, key=lambda subject: -1.0 if subject.confidence is None else subject.confidence)


def _not_found(project: Project, entries: Sequence[Entry], wanted: str, unread: Sequence[str]) -> ProjectError:
    """What the run folders still say of an id that no annotation has."""
    for run in sorted(run_folders(project.folder), reverse=True):
        for entry, title in zip(entries, titles(entries), strict=True):
            for origin in ORIGINS:
                for annotation in written_by(run, entry.id, origin=origin) or ():
                    if str(annotation.id).startswith(wanted):
                        figures = [
                            f"{name} {annotation.measurements[key]:.{digits}f}"
                            for name, key, digits in (("confidence", CONFIDENCE, 2), ("um2", AREA, 0))
                            if key in annotation.measurements
                        ]
                        return ProjectError(
                            f"{annotation.id} is not in the project any more: run {run.name} wrote it on {title} as a"
                            f" {KINDS[origin]} of class {annotation.path_class}"
                            f"{' (' + ', '.join(figures) + ')' if figures else ''}; a person deleted it, or a later run"
                            " replaced it",
                            hint=f"the polygons that are there now: wsplf explain PROJECT --image {entry.name!r}",
                        )
    not_read = f" (not readable: {', '.join(unread)})" if unread else ""
    return ProjectError(
        f"no annotation of this project has the id {wanted}{not_read}, and no run of wsplf wrote one",
        hint="wsplf explain PROJECT --image NAME explains all polygons of an image",
    )
