"""The runs that wrote into a project, read from their journals: what each changed, and what was put back since."""

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
"""Ends of the names of the files that people's work is in; what lies beside them follows them."""


@dataclass(frozen=True, slots=True)
class Write:
    """What a run did to one file, from its first write to its last.

    ``path`` is relative to the project's folder. ``old``: hash before the run, None when there was no file; ``kept``:
    the old file. ``news``: every hash that the run gave it (None: removed). ``between``: another program wrote the file
    between two writes of the run. ``done`` is false when the run was killed before the file had taken its place, or
    just after. ``made``: folders that the run made.
    """

    path: str
    entry: str | None
    old: str | None
    kept: Path | None
    news: frozenset[str | None]
    between: bool
    done: bool
    made: tuple[str, ...]

    @property
    def decisive(self) -> bool:
        """Whether this file holds people's work."""
        return self.path.endswith(DECISIVE)

    @property
    def part(self) -> str:
        """What belongs together: the entry's id, or the file of the project (with its backup)."""
        return f"entry {self.entry}" if self.entry is not None else self.path.removesuffix(".backup")


@dataclass(frozen=True, slots=True)
class PastRun:
    """A run that wrote. ``undoes`` is the id of the run that it put back, empty for all but undo."""

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
        """The writes by what belongs together, in the order of the run."""
        found: dict[str, list[Write]] = {}
        for write in self.writes:
            found.setdefault(write.part, []).append(write)
        return {part: tuple(writes) for part, writes in found.items()}

    @property
    def entries(self) -> tuple[str, ...]:
        """Ids of the entries that were written, in the order of the run."""
        return tuple(dict.fromkeys(write.entry for write in self.writes if write.entry is not None))


def past_runs(folder: Path) -> list[PastRun]:
    """The runs that wrote into the project in ``folder``, oldest first.

    Raises:
        ProjectError: a journal cannot be read, or names a file outside the project.
    """
    found = []
    for run_folder in sorted(run_folders(folder)):
        path = journal_file(run_folder)
        if not path.is_file():
            continue
        stat = path.stat()
        sequence, kept_bytes, writes = _writes(path, stat.st_mtime_ns, stat.st_size)
        record = _record(run_file(run_folder))
        if writes:
            texts = {key: str(record.get(key) or "") for key in ("stage", "status", "undoes")}
            found.append(
                PastRun(
                    run_folder.name, **texts, sequence=sequence, folder=run_folder, kept_bytes=kept_bytes, writes=writes
                )
            )
    return sorted(found, key=lambda run: (run.sequence, run.id))


def undone(run: PastRun, runs: Sequence[PastRun]) -> bool:
    """Whether a run was put back as a whole by an undo that ended, and that was not itself put back since."""
    return any(one.undoes == run.id and one.status == "done" and not undone(one, runs) for one in _later(run, runs))


def part_undone(run: PastRun, runs: Sequence[PastRun], *, part: str) -> bool:
    """The same for one part of the run (an entry, a file of the project), also by an undo that did not end."""
    return any(
        one.undoes == run.id and _wrote(one, part) and not part_undone(one, runs, part=part)
        for one in _later(run, runs)
    )


def last_not_undone(runs: Sequence[PastRun]) -> PastRun | None:
    """The newest run that wrote, is no undo, and is not undone."""
    return next((run for run in reversed(runs) if not run.undoes and not undone(run, runs)), None)


def newer_writer(run: PastRun, runs: Sequence[PastRun], *, part: str) -> PastRun | None:
    """The newest later run, no undo, that wrote the same part and was not put back there; None when there is none."""
    later = [one for one in _later(run, runs) if not one.undoes and _wrote(one, part)]
    return next((one for one in reversed(later) if not part_undone(one, runs, part=part)), None)


def _later(run: PastRun, runs: Iterable[PastRun]) -> list[PastRun]:
    return [one for one in runs if one.sequence > run.sequence]


def _wrote(run: PastRun, part: str) -> bool:
    return any(write.part == part and write.done for write in run.writes)


@lru_cache(maxsize=4096)
def _writes(path: Path, mtime_ns: int, size: int) -> tuple[int, int, tuple[Write, ...]]:
    """Sequence, bytes kept and the writes of a journal, one for each file; the stat is there for the cache."""
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
    writes = [_merged(path.parent, some, done=done) for some in by_path.values()]
    return sequence, sum(line.get("size", 0) for line in lines), tuple(writes)


def _merged(folder: Path, lines: Sequence[dict[str, Any]], *, done: set[int]) -> Write:
    """All writes of one file in a run as one."""
    first = lines[0]
    news: set[str | None] = set()
    between = False
    for line in lines:
        between = between or line["old"] not in {*news, first["old"]}
        news.add(line["new"])
    return Write(
        path=first["path"],
        entry=first["entry"],
        old=first["old"],
        kept=None if first["kept"] is None else folder / str(first["kept"]),
        news=frozenset(news),
        between=between,
        done=any(line["n"] in done for line in lines),
        made=tuple(_inside(folder, one) for line in lines for one in line.get("made", ())),
    )


def _inside(journal: Path, relative: str) -> str:
    """A path of a journal, which must not lead out of the project."""
    path = PurePosixPath(relative)
    if path.is_absolute() or ".." in path.parts or "\\" in relative or ":" in path.parts[0]:
        raise ProjectError(f"{journal}: names a file outside the project: {relative}")
    return relative


def _record(path: Path) -> dict[str, Any]:
    """run.json of a run; empty where it cannot be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
