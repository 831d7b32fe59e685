"""Which of the measured slides a model learned from: their scores say nothing of new slides."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsplf_cli.backends import Project
from wsplf_cli.runs.layout import run_file, run_folder, run_folders
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
    """Which of the measured entries a model learned from, also for its validation.

    Args:
        project: Its runs say what was learned from.
        measured: The entries.
        models: The training runs of the models of their predictions. Where there is no prediction, the model of the
            last ``wsplf segment`` is meant.
    """
    models = models or _last_model(project)
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


def _last_model(project: Project) -> set[str]:
    """The training run of the model that the last finished run of segment applied; empty where there is none."""
    for folder in sorted(run_folders(project.folder), key=lambda folder: folder.name, reverse=True):
        record = _record(folder)
        if record.get("stage") == "segment" and record.get("status") == "done":
            details = record.get("details")
            model = details.get("model_run") if isinstance(details, dict) else None
            return {model} if isinstance(model, str) and model else set()
    return set()


def _training_record(project: Project, run_id: str) -> dict[str, Any] | None:
    """run.json of a training run of the project; None where there is none that can be read."""
    record = _record(run_folder(project.folder, run_id))
    entries = record.get("entries")
    readable = isinstance(entries, list) and all(
        isinstance(entry, dict) and {"id", "status"} <= entry.keys() for entry in entries
    )
    return record if readable and record.get("stage") == "train" else None


def _record(folder: Path) -> dict[str, Any]:
    """run.json of a run; empty where it cannot be read."""
    try:
        record = json.loads(run_file(folder).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}
