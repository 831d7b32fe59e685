"""Puts the files of a project back as they were before a run, to the byte, where nobody changed them since.

A part of a run is what belongs together: the data and summary of an entry, or one file of the project.
"""

import contextlib
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wsplf_cli.errors import ProjectError, SlideError
from wsplf_cli.qupath import project_file
from wsplf_cli.qupath.atomic import SavedMeanwhile, write_files
from wsplf_cli.runs.history import PastRun, Write, newer_writer
from wsplf_cli.runs.journal import ChangedOnDisk, read_state
from wsplf_cli.schema import EntryResult

CLASSES = "classifiers/classes.json"


@dataclass(frozen=True, slots=True)
class RunPart:
    """The files of a run that are put back together: those of an entry, or one file of the project."""

    id: str
    name: str
    writes: tuple[Write, ...]


class _LeftAlone(SlideError):  # noqa: N818  no error for the user
    """The part is left as it is, and that is no failure."""


def parts_of_run(project: project_file.ProjectFile, run: PastRun) -> list[RunPart]:
    """What the run changed: the entries in the order of the run, then the files of the project."""
    names = {project_file.entry_id(image): str(image.get("imageName") or "") for image in project.images}
    parts = []
    for part, writes in run.parts.items():
        entry_id = writes[0].entry
        name = part if entry_id is None else names.get(entry_id) or part
        parts.append(RunPart(entry_id or part, name, writes))
    return sorted(parts, key=lambda part: part.writes[0].entry is None)


def put_back(folder: Path, part: RunPart, run: PastRun, runs: Sequence[PastRun], *, dry_run: bool) -> EntryResult:
    """Put back one part of a run, or say why it is left as it is.

    Args:
        folder: The folder of the project.
        part: The part.
        run: The run that wrote it.
        runs: All runs that wrote into the project, oldest first.
        dry_run: Look, but write nothing.

    Returns:
        done, with the number of files that were not as before; skipped, where it was as before already; failed, where
        it was changed since.

    Raises:
        ProjectError: a file cannot be read or written.
    """
    began = time.monotonic()
    try:
        count = _restore(folder, part, run, runs, dry_run=dry_run)
    except _LeftAlone as error:
        return EntryResult(part.id, part.name, "skipped", reason=error.message, seconds=time.monotonic() - began)
    except (SlideError, ChangedOnDisk, SavedMeanwhile) as error:
        reason = f"{part.name}: {error.message}" + (f" ({error.hint})" if error.hint else "")
        return EntryResult(part.id, part.name, "failed", reason=reason, seconds=time.monotonic() - began)
    seconds = time.monotonic() - began
    if not count:
        return EntryResult(part.id, part.name, "skipped", reason="is as before the run already", seconds=seconds)
    return EntryResult(part.id, part.name, "done", seconds=seconds, counts={"files": count})


def _restore(folder: Path, part: RunPart, run: PastRun, runs: Sequence[PastRun], *, dry_run: bool) -> int:
    """Put back the files of a part; returns how many were not as before.

    Raises:
        SlideError: the part was changed since, or the copy of an old file is damaged.
        ProjectError: a file cannot be read or written.
    """
    try:
        current = {write: read_state(folder / write.path).sha256 for write in part.writes}
    except OSError as error:
        raise ProjectError(f"{error.filename}: cannot be read: {error.strerror}") from error
    for write in part.writes:
        changed = current[write] not in {*write.new_hashes, write.old} or (
            write.changed_between and current[write] != write.old
        )
        if changed and (write.decisive or not any(other.decisive for other in part.writes)):
            raise _changed_since(part, write, run, runs, missing=current[write] is None)
    differing = [write for write in part.writes if current[write] != write.old]
    differing.sort(key=lambda write: write.decisive)  # the files with people's work come last, as in any write
    if differing and not dry_run:
        contents = {folder / write.path: _kept_bytes(write) for write in differing}
        expected = {folder / write.path: current[write] for write in differing if write.decisive}
        write_files(contents, expected=expected)
        for made in reversed([path for write in part.writes for path in write.made_folders]):
            with contextlib.suppress(OSError):  # a folder goes only when nothing else is in it
                (folder / made).rmdir()
    return len(differing)


def _changed_since(part: RunPart, write: Write, run: PastRun, runs: Sequence[PastRun], *, missing: bool) -> SlideError:
    """Why a part that was changed since the run is left as it is."""
    if write.path == CLASSES:
        return _LeftAlone("changed since the run: the classes that it added stay in the list")
    newer = newer_writer(run, runs, part=write.part)
    if newer is not None:
        return SlideError(f"run {newer.id} wrote it later; left as it is", hint=f"wsplf undo PROJECT {newer.id} first")
    hint = "it did not exist before the run" if write.kept is None else f"the file before the run is {write.kept}"
    changed = "is missing" if missing else "was changed since the run"
    return SlideError(f"{write.path} {changed}; left as it is", hint=hint)


def _kept_bytes(write: Write) -> bytes | None:
    """The content of a file before the run; None where there was no file.

    Raises:
        SlideError: the copy is missing or damaged.
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
