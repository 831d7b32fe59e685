"""The runs of a project as the report shows them: records, training curves, suspected label errors."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsplf_cli.report.charts import Chart, draw_charts
from wsplf_cli.runs.layout import curves_file, run_file, run_folders

log = logging.getLogger(__name__)

#: Key of the suspected label errors in the details of a run, and the key that versions before 0.2 wrote.
SUSPECTED_KEYS = ("suspected_label_errors", "suspects")
#: Key of the slides that are unlike those that the model learned from, in the details of a run of segment.
UNLIKE_KEY = "unlike"


@dataclass(frozen=True, slots=True)
class RunView:
    """One run: its folder, its run.json and the charts of its curves."""

    folder: Path
    record: Mapping[str, Any]
    charts: tuple[Chart, ...] = ()


@dataclass(frozen=True, slots=True)
class SlideToCheck:
    """A slide that a run says a person should look at, and why."""

    entry_id: str
    name: str
    reason: str


def read_runs(project_folder: Path) -> list[RunView]:
    """The runs of a project, the newest first; a folder without a readable run.json is left out and logged."""
    runs = []
    for folder in run_folders(project_folder):
        record = _read_json(run_file(folder))
        if isinstance(record, dict):
            curves = _read_json(curves_file(folder))
            charts = draw_charts(curves, key=folder.name) if isinstance(curves, dict) else []
            runs.append(RunView(folder, record, tuple(charts)))
    return sorted(runs, key=lambda run: (str(run.record.get("started", "")), run.folder.name), reverse=True)


def latest_runs(runs: Sequence[RunView]) -> list[RunView]:
    """The newest finished run of each command, in the order in which commands are run."""
    by_stage: dict[str, RunView] = {}
    for run in runs:
        if run.record.get("status", "done") == "done":
            by_stage.setdefault(str(run.record.get("stage", "")), run)
    return list(reversed(by_stage.values()))


def suspected_label_errors(runs: Sequence[RunView]) -> list[SlideToCheck]:
    """The suspected label errors of the last finished run of pseudolabel, in its order."""
    return _slides_to_check(runs, "pseudolabel", SUSPECTED_KEYS)


def unlike_slides(runs: Sequence[RunView]) -> list[SlideToCheck]:
    """The slides that the last finished run of segment found unlike those that its model learned from, in its order."""
    return _slides_to_check(runs, "segment", (UNLIKE_KEY,))


def _slides_to_check(runs: Sequence[RunView], stage: str, keys: Sequence[str]) -> list[SlideToCheck]:
    """The slides under the first of some keys in the details of the last finished run of a command."""
    run = next((run for run in latest_runs(runs) if run.record.get("stage") == stage), None)
    details = None if run is None else run.record.get("details")
    if not isinstance(details, dict):
        return []
    by_entry = next((details[key] for key in keys if key in details), None)
    if not isinstance(by_entry, dict):
        return []
    return [
        SlideToCheck(entry_id, str(slide.get("name", entry_id)), str(slide.get("reason", "")))
        for entry_id, slide in by_entry.items()
        if isinstance(slide, dict)
    ]


def _read_json(path: Path) -> Any:
    """The JSON value of a file; None where there is no file, and, logged, where it is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        log.warning("left out of the report: %s: %s", path, error)
        return None
