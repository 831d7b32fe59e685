"""``wsplf undo``: puts back, to the byte, what a run changed in a project; itself a run that can be undone."""

import contextlib
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wsplf_cli.errors import ProjectError, SlideError
from wsplf_cli.options import UndoOptions
from wsplf_cli.qupath import project_file
from wsplf_cli.qupath.atomic import SavedMeanwhile, write_files
from wsplf_cli.runs.history import PastRun, Write, last_not_undone, newer_writer, part_undone, past_runs
from wsplf_cli.runs.journal import ChangedOnDisk, read_state
from wsplf_cli.runs.record import start_run
from wsplf_cli.schema import EntryResult, StageReport, Tracker

CLASSES = "classifiers/classes.json"


@dataclass(frozen=True, slots=True)
class _Part:
    """What belongs together and is put back together: the files of an entry, or one file of the project."""

    id: str
    name: str
    writes: tuple[Write, ...]


class _Stays(SlideError):  # noqa: N818  no error for the user
    """The part is left as it is, and that is no failure."""


def undo(project_path: Path, run_id: str | None, options: UndoOptions, tracker: Tracker) -> StageReport:
    """Put back what a run changed: the same bytes; files that it made are removed.

    A part (an entry with its data and summary, or a file of the project) that was changed since, by a person or by a
    newer run, is left alone and named; the others are put back.

    Args:
        project_path: A project.qpproj file, or the folder that holds it.
        run_id: The run; None: the newest that wrote and is not undone.
        options: The options of the command.
        tracker: Where progress is shown.

    Returns:
        One result for each part: done, skipped (as it was before the run already) or failed. With ``options.list``,
        one for each run that wrote, newest first.

    Raises:
        ProjectError: no such run, or none that wrote; a file cannot be written.
    """
    began = time.monotonic()
    project = project_file.read(project_path)
    runs = past_runs(project.folder)
    if options.list:
        return _listed(runs, tracker, began=began)
    chosen = _choose(project.folder, runs, run_id)
    run = start_run(project, "undo", options=options, seed=0, dry_run=options.dry_run)
    run.record["undoes"] = chosen.id
    with run:
        runs = past_runs(project.folder)  # again, now that no other command writes
        tracker.say(f"undoing {chosen.id}" + ("; a dry run, nothing is written" if options.dry_run else ""))
        parts = _parts(project, chosen)
        results = []
        tracker.start("undo", len(parts))
        for part in parts:
            results.append(_put_back(project.folder, part, chosen, runs, dry_run=options.dry_run))
            if results[-1].status == "failed":
                tracker.say(results[-1].reason)
            tracker.advance(1, message=part.name)
        return run.finish(results, details={"undoes": chosen.id})


def _listed(runs: Sequence[PastRun], tracker: Tracker, *, began: float) -> StageReport:
    """The runs that wrote, newest first, as the lines of a report."""
    results = []
    for run in reversed(runs):
        words = [f"undoes {run.undoes}"] if run.undoes else []
        back = sum(part_undone(run, runs, part=part) for part in run.parts)
        words += [] if not back else ["undone" if back == len(run.parts) else f"{back} of {len(run.parts)} undone"]
        words += [] if run.status == "done" else [f"did not end ({run.status})"]
        counts = {"entries": len(run.entries), "files": len(run.writes), "undo MB": run.kept_bytes / 1e6}
        results.append(EntryResult(run.id, run.id, "done", reason=", ".join(words), counts=counts))
    tracker.say("runs that wrote, newest first" if results else "no run has written into this project")
    return StageReport("undo --list", "", tuple(results), time.monotonic() - began)


def _choose(folder: Path, runs: Sequence[PastRun], run_id: str | None) -> PastRun:
    if run_id is not None:
        found = next((run for run in runs if run.id == run_id), None)
        if found is None and (folder / "wsplf" / "runs" / run_id / "run.json").is_file():
            raise ProjectError(f"run {run_id} wrote nothing into the project: there is nothing to undo")
    else:
        found = last_not_undone(runs)
    if found is not None:
        return found
    what = f"no run {run_id} has written" if run_id is not None else "no run has written what is not undone already"
    raise ProjectError(f"{folder}: {what}", hint="wsplf undo PROJECT --list")


def _parts(project: project_file.ProjectFile, run: PastRun) -> list[_Part]:
    """What the run changed, the entries first, in the order of the run."""
    names = {project_file.entry_id(image): str(image.get("imageName") or "") for image in project.images}
    parts = []
    for part, writes in run.parts.items():
        entry = writes[0].entry
        name = part if entry is None else names.get(entry) or part
        parts.append(_Part(entry or part, name, writes))
    return sorted(parts, key=lambda part: part.writes[0].entry is None)


def _put_back(folder: Path, part: _Part, run: PastRun, runs: Sequence[PastRun], *, dry_run: bool) -> EntryResult:
    """Put back one part, or say why it is left as it is."""
    began = time.monotonic()
    try:
        count = _restore(folder, part, run, runs, dry_run=dry_run)
    except _Stays as error:
        return EntryResult(part.id, part.name, "skipped", reason=error.message, seconds=time.monotonic() - began)
    except (SlideError, ChangedOnDisk, SavedMeanwhile) as error:
        reason = f"{part.name}: {error.message}" + (f" ({error.hint})" if error.hint else "")
        return EntryResult(part.id, part.name, "failed", reason=reason, seconds=time.monotonic() - began)
    seconds = time.monotonic() - began
    if not count:
        return EntryResult(part.id, part.name, "skipped", reason="as it was before the run already", seconds=seconds)
    return EntryResult(part.id, part.name, "done", seconds=seconds, counts={"files": count})


def _restore(folder: Path, part: _Part, run: PastRun, runs: Sequence[PastRun], *, dry_run: bool) -> int:
    """Put back the files of a part; returns how many were not as before.

    Raises:
        SlideError: it was changed since, or the old file is not as it was kept.
        ProjectError: a file cannot be written.
    """
    try:
        now = {write: read_state(folder / write.path).sha256 for write in part.writes}
    except OSError as error:
        raise ProjectError(f"{error.filename}: cannot be read: {error.strerror}") from error
    for write in part.writes:
        unchanged = now[write] == write.old or (now[write] in write.new_hashes and not write.changed_between)
        if not unchanged and (write.decisive or not any(one.decisive for one in part.writes)):
            raise _left_alone(part, write, run, runs)
    back = [write for write in part.writes if now[write] != write.old]
    back.sort(key=lambda write: write.decisive)  # what people's work is in comes last, as in any write
    if back and not dry_run:
        contents = {folder / write.path: _kept(write) for write in back}
        write_files(contents, expected={folder / write.path: now[write] for write in back if write.decisive})
        for made in reversed([one for write in part.writes for one in write.made_folders]):
            with contextlib.suppress(OSError):  # only if nothing else came to be in it
                (folder / made).rmdir()
    return len(back)


def _left_alone(part: _Part, write: Write, run: PastRun, runs: Sequence[PastRun]) -> SlideError:
    """Why a part that was changed since the run is left as it is."""
    if write.path == CLASSES:
        return _Stays("changed since the run: the classes that it added stay in the list")
    newer = newer_writer(run, runs, part=write.part)
    if newer is not None:
        return SlideError(f"run {newer.id} wrote it later; left as it is", hint=f"wsplf undo PROJECT {newer.id} first")
    old = "it did not exist before the run" if write.kept is None else f"the file before the run is {write.kept}"
    return SlideError(f"{write.path} was changed since the run; left as it is", hint=old)


def _kept(write: Write) -> bytes | None:
    """The bytes of a file before the run; None where there was none.

    Raises:
        SlideError: the copy is missing, or is not as it was kept.
    """
    if write.old is None:
        return None
    try:
        content = b"" if write.kept is None else write.kept.read_bytes()
    except OSError as error:
        raise SlideError(f"{write.kept}: the file kept for undo cannot be read: {error.strerror}") from error
    if hashlib.sha256(content).hexdigest() != write.old:
        raise SlideError(f"{write.kept}: not as it was kept; {write.path} is left as it is")
    return content
