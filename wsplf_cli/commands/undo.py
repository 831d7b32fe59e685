"""``wsplf undo``: put back what a run changed in a project; undo is itself a run that can be undone."""

import time
from collections.abc import Sequence
from pathlib import Path

from wsplf_cli.errors import ProjectError
from wsplf_cli.options import UndoOptions
from wsplf_cli.qupath import project_file
from wsplf_cli.qupath.undo import parts_of_run, put_back
from wsplf_cli.runs.history import PastRun, last_not_undone, part_undone, past_runs
from wsplf_cli.runs.layout import run_file, run_folder
from wsplf_cli.runs.record import start_run
from wsplf_cli.schema import EntryResult, StageReport, Tracker


def undo(project_path: Path, run_id: str | None, options: UndoOptions, tracker: Tracker) -> StageReport:
    """Put back the files that a run replaced, to the byte; files that it made are removed.

    A part of the run (an entry with its data and summary, or a file of the project) that a person or a newer run
    changed since is left alone, and its result says so. The other parts are put back.

    Args:
        project_path: A project.qpproj file, or the folder that holds it.
        run_id: The run; None: the newest that wrote and is not undone.
        options: The options of the command.
        tracker: Where progress is shown.

    Returns:
        One result for each part: done, skipped (already as before the run) or failed. With ``options.list``, one for
        each run that wrote, newest first.

    Raises:
        ProjectError: no such run, or it wrote nothing; a file cannot be written.
    """
    began = time.monotonic()
    project = project_file.read(project_path)
    runs = past_runs(project.folder)
    if options.list:
        return _list_runs(runs, tracker, began=began)
    chosen = _choose_run(project.folder, runs, run_id)
    run = start_run(project, "undo", options=options, seed=0, dry_run=options.dry_run)
    run.record["undoes"] = chosen.id
    with run:
        runs = past_runs(project.folder)  # read again, now that no other command writes
        tracker.say(f"undoing {chosen.id}" + ("; a dry run, nothing is written" if options.dry_run else ""))
        parts = parts_of_run(project, chosen)
        results = []
        tracker.start("undo", len(parts))
        for part in parts:
            results.append(put_back(project.folder, part, chosen, runs, dry_run=options.dry_run))
            if results[-1].status == "failed":
                tracker.say(results[-1].reason)
            tracker.advance(1, message=part.name)
        return run.finish(results, details={"undoes": chosen.id})


def _list_runs(runs: Sequence[PastRun], tracker: Tracker, *, began: float) -> StageReport:
    """The runs that wrote, newest first, as the lines of a report."""
    results = []
    for run in reversed(runs):
        notes = [f"undoes {run.undoes}"] if run.undoes else []
        undone = sum(part_undone(run, runs, part=part) for part in run.parts)
        if undone:
            notes.append("undone" if undone == len(run.parts) else f"{undone} of {len(run.parts)} undone")
        if run.status != "done":
            notes.append(f"did not end ({run.status})")
        counts = {"entries": len(run.entries), "files": len(run.writes), "undo MB": run.kept_bytes / 1e6}
        results.append(EntryResult(run.id, run.id, "done", reason=", ".join(notes), counts=counts))
    tracker.say("runs that wrote, newest first" if results else "no run has written into this project")
    return StageReport("undo --list", "", tuple(results), time.monotonic() - began)


def _choose_run(folder: Path, runs: Sequence[PastRun], run_id: str | None) -> PastRun:
    """The run to undo: the one with this id, or the newest that is not undone.

    Raises:
        ProjectError: there is none, or it wrote nothing.
    """
    if run_id is None:
        run = last_not_undone(runs)
        problem = "no run has written what is not undone already"
    else:
        run = next((run for run in runs if run.id == run_id), None)
        if run is None and run_file(run_folder(folder, run_id)).is_file():
            raise ProjectError(f"run {run_id} wrote nothing into the project: there is nothing to undo")
        problem = f"no run {run_id} has written"
    if run is None:
        raise ProjectError(f"{folder}: {problem}", hint="wsplf undo PROJECT --list")
    return run
