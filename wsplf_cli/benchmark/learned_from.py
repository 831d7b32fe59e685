"""Which of the measured slides a model learned from: their scores say nothing of new slides."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from wsplf_cli.backends import Project
from wsplf_cli.runs.layout import run_file, run_folder
from wsplf_cli.schema import Entry, titles


@dataclass(frozen=True, slots=True)
class LearnedFrom:
    """The titles of measured slides that models learned from, and the models whose training is not known here.

    ``of_patients``: slides that no model learned from, but from others of their patients.
    """

    slides: tuple[str, ...] = ()
    of_patients: tuple[str, ...] = ()
    unknown_models: tuple[str, ...] = ()

    @property
    def warnings(self) -> list[str]:
        """What follows for the scores, for people."""
        lines = []
        for names, what in ((self.slides, "these slides"), (self.of_patients, "other slides of their patients")):
            if names:
                lines.append(
                    f"warning: the model learned from {what}: {', '.join(names)}; scores of new slides may be lower"
                )
        if self.unknown_models:
            lines.append(
                f"the training of the model of run {', '.join(self.unknown_models)} is not recorded in this project:"
                " whether it learned from the measured slides is not known"
            )
        return lines


def learned_from(project: Project, measured: Sequence[Entry], models: Collection[str]) -> LearnedFrom:
    """Which of the measured entries the models of these training runs learned from, also for their validation."""
    learned: set[str] = set()
    unknown = []
    for model in sorted(models):
        record = _training_record(project, model)
        if record is None:
            unknown.append(model)
        else:
            learned |= {str(entry["id"]) for entry in record["entries"] if entry["status"] == "done"}
    patients = {entry.patient for entry in project.entries() if entry.id in learned} - {""}
    of_title = dict(zip(titles(measured), measured, strict=True))
    return LearnedFrom(
        tuple(title for title, entry in of_title.items() if entry.id in learned),
        tuple(title for title, entry in of_title.items() if entry.id not in learned and entry.patient in patients),
        tuple(unknown),
    )


def _training_record(project: Project, run_id: str) -> dict[str, Any] | None:
    """run.json of a training run of the project; None where there is none that can be read."""
    try:
        record = json.loads(run_file(run_folder(project.folder, run_id)).read_text(encoding="utf-8"))
        readable = record["stage"] == "train" and all({"id", "status"} <= set(entry) for entry in record["entries"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return record if readable else None
