"""The runs that wrote into a project, read from their journals: what each changed, and what was undone since."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from wsplf_cli.errors import ProjectError
from wsplf_cli.runs.journal import read_lines
from wsplf_cli.runs.layout import journal_file, run_file, run_folders

DECISIVE = ("data.qpdata", "classes.json", ".qpproj")
"""Endings of the files that hold people's work; the files beside them are restored with them."""


@dataclass(frozen=True, slots=True)
class Write:
    """What a run did to one file, from its first write to its last.

    - ``path`` is relative to the project's folder.
    - ``old`` is the hash before the run, None when there was no file; ``kept`` is the copy of the old file.
    - ``new_hashes`` are all the hashes that the run gave the file (None: removed).
    - ``changed_between``: another program wrote the file between two writes of the run.
    - ``done`` is false when the run was killed before the file took its place, or just after.
    - ``made_folders`` are the folders that the run made.
    """

    path: str
    entry: str | None
    old: str | None
    kept: Path | None
    new_hashes: frozenset[str | None]
    changed_between: bool
    done: bool
    made_folders: tuple[str, ...]

    @property
    def decisive(self) -> bool:
        """Whether this file holds people's work."""
        return self.path.endswith(DECISIVE)

    @property
    def part(self) -> str:
        """The part of the project that the file belongs to: an entry, or a file of the project with its backup."""
        return f"entry {self.entry}" if self.entry is not None else self.path.removesuffix(".backup")


@dataclass(frozen=True, slots=True)
class PastRun:
    """A run that wrote. ``undoes`` is the id of the run that it undid, empty for all commands but undo."""

    id: str
    stage: str
    status: str
    undoes: str
    sequence: int
    folder: Path
    kept_bytes: int
    writes: tuple[Write, ...]

    @property
    def parts(self) -> dict[str, tuple[Write, ...]]:
        """The writes by part of the project, in the order of the run."""
        parts: dict[str, list[Write]] = {}
        for write in self.writes:
            parts.setdefault(write.part, []).append(write)
        return {part: tuple(writes) for part, writes in parts.items()}

    @property
    def entries(self) -> tuple[str, ...]:
        """Ids of the entries that the run wrote, in its order."""
        return tuple(dict.fromkeys(write.entry for write in self.writes if write.entry is not None))


def past_runs(folder: Path) -> list[PastRun]:
    """The runs that wrote into the project in ``folder``, oldest first.

    Raises:
        ProjectError: a journal cannot be read, or names a file outside the project.
    """
    runs = []
    for run_folder in sorted(run_folders(folder)):
        path = journal_file(run_folder)
        if not path.is_file():
            continue
        stat = path.stat()
        sequence, kept_bytes, writes = _writes(path, stat.st_mtime_ns, stat.st_size)
        record = read_record(run_file(run_folder))
        if writes:
            texts = {key: str(record.get(key) or "") for key in ("stage", "status", "undoes")}
            runs.append(
                PastRun(
                    run_folder.name, **texts, sequence=sequence, folder=run_folder, kept_bytes=kept_bytes, writes=writes
                )
            )
    return sorted(runs, key=lambda run: (run.sequence, run.id))


def undone(run: PastRun, runs: Sequence[PastRun]) -> bool:
    """Whether a run was undone as a whole, by an undo that ended and was not itself undone since."""
    return any(
        later.undoes == run.id and later.status == "done" and not undone(later, runs) for later in _later(run, runs)
    )


def part_undone(run: PastRun, runs: Sequence[PastRun], *, part: str) -> bool:
    """Whether one part of a run was undone, by an undo (ended or not) that was not itself undone there since."""
    return any(
        later.undoes == run.id and _wrote(later, part) and not part_undone(later, runs, part=part)
        for later in _later(run, runs)
    )


def last_not_undone(runs: Sequence[PastRun]) -> PastRun | None:
    """The newest run that wrote, is no undo, and is not undone."""
    return next((run for run in reversed(runs) if not run.undoes and not undone(run, runs)), None)


def newer_writer(run: PastRun, runs: Sequence[PastRun], *, part: str) -> PastRun | None:
    """The newest later run, no undo, that wrote the same part and was not undone there; None when there is none."""
    writers = [candidate for candidate in _later(run, runs) if not candidate.undoes and _wrote(candidate, part)]
    return next((candidate for candidate in reversed(writers) if not part_undone(candidate, runs, part=part)), None)


def _later(run: PastRun, runs: Iterable[PastRun]) -> list[PastRun]:
    return [other for other in runs if other.sequence > run.sequence]


def _wrote(run: PastRun, part: str) -> bool:
    return any(write.part == part and write.done for write in run.writes)


@lru_cache(maxsize=4096)
def _writes(path: Path, mtime_ns: int, size: int) -> tuple[int, int, tuple[Write, ...]]:
    """Sequence, bytes kept and writes of a journal, one write per file; time and size only serve the cache."""
    lines = read_lines(path)
    try:
        return _parsed(path, lines)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ProjectError(f"{path}: not a journal of wsplf ({type(error).__name__}: {error})") from error


def _parsed(path: Path, lines: Sequence[dict[str, Any]]) -> tuple[int, int, tuple[Write, ...]]:
    sequence = next((int(line["sequence"]) for line in lines if "sequence" in line), 0)
    done = {n for line in lines for n in line.get("done", ())}
    withdrawn = {n for line in lines for n in line.get("withdrawn", ())}
    by_path: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        if "n" in line and line["n"] not in withdrawn:
            by_path.setdefault(_inside(path, line["path"]), []).append(line)
    writes = [_merged(path.parent, file_lines, done=done) for file_lines in by_path.values()]
    return sequence, sum(line.get("size", 0) for line in lines), tuple(writes)


def _merged(folder: Path, lines: Sequence[dict[str, Any]], *, done: set[int]) -> Write:
    """All writes of one file in a run, merged."""
    first = lines[0]
    new_hashes: set[str | None] = set()
    changed_between = False
    for line in lines:
        changed_between = changed_between or line["old"] not in {*new_hashes, first["old"]}
        new_hashes.add(line["new"])
    return Write(
        path=first["path"],
        entry=first["entry"],
        old=first["old"],
        kept=None if first["kept"] is None else folder / str(first["kept"]),
        new_hashes=frozenset(new_hashes),
        changed_between=changed_between,
        done=any(line["n"] in done for line in lines),
        made_folders=tuple(_inside(folder, folder_name) for line in lines for folder_name in line.get("made", ())),
    )


def _inside(journal: Path, relative: str) -> str:
    """A path in a journal; ProjectError when it leads out of the project."""
    path = PurePosixPath(relative)
    if path.is_absolute() or ".." in path.parts or "\\" in relative or ":" in path.parts[0]:
        raise ProjectError(f"{journal}: names a file outside the project: {relative}")
    return relative


def read_record(path: Path) -> dict[str, Any]:
    """run.json of a run; empty where it cannot be read."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}
