"""Records what a run writes into a project before it is written, so that undo can restore every byte.

The record is ``wsplf/runs/ID/undo/``: journal.jsonl, and beside it the old files under numbers. Each line of
journal.jsonl is one JSON object, on disk before the files it speaks of are replaced:

    {"sequence": 3}                 the first line: journals of one project in the order in which they began
    {"n": 1, "entry": "7",          a file is about to be replaced; "entry" is null for files of the whole project
     "path": "data/7/data.qpdata",  relative to the project's folder, with "/"
     "old": SHA-256 or null,        null: there was no such file
     "kept": "0001" or null,        the old file's copy; null: nothing to keep, or this run wrote the old one itself
     "size": 123,                   bytes of the copy
     "new": SHA-256 or null,        null: the file is removed
     "made": ["data/7"]}            folders that did not exist
    {"done": [1, 2]}                the new files are in place
    {"withdrawn": [1, 2]}           they are not: the write was refused

A data.qpdata can be large, so it is kept as a hard link where the file system has them: QuPath and wsplf never write
into one in place, they write a new file and rename it. Other files are copied, because QuPath writes them in place.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from wsplf_cli import files
from wsplf_cli.errors import ProjectError
from wsplf_cli.runs.layout import journal_file, undo_folder

LINKED = "data.qpdata"


class ChangedOnDisk(ProjectError):  # noqa: N818  says more than an Error suffix
    """A file is no longer as it was when it was read; ``path`` says which. It is as the other program left it."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"{path} was changed by another program since wsplf read it; nothing was written",
            hint="close it in QuPath, then run the command again",
        )
        self.path = path


@dataclass(frozen=True, slots=True)
class FileState:
    """A file at one moment. Both are None where there is no file.

    ``stamp``: inode, time of change in ns, bytes: cheap to compare. ``sha256`` of the content, as hex.
    """

    stamp: tuple[int, int, int] | None
    sha256: str | None


def read_state(path: Path) -> FileState:
    """Read a file's stamp and hash.

    Raises:
        ChangedOnDisk: it is being written while it is read.
        OSError: it cannot be read.
    """
    stamp = file_stamp(path)
    if stamp is None:
        return FileState(None, None)
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if file_stamp(path) != stamp:
        raise ChangedOnDisk(path)
    return FileState(stamp, digest)


def file_stamp(path: Path) -> tuple[int, int, int] | None:
    """Inode, time of change in ns and bytes of a file; None when there is none."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def sha256(content: bytes | None) -> str | None:
    """The hash of a content as hex; None for None (no file)."""
    return None if content is None else hashlib.sha256(content).hexdigest()


@dataclass
class Journal:
    """Records what one run writes. ``folder`` is the project's, ``run_folder`` the run's.

    ``written_files``: number of files written. ``kept_bytes``: size of the old files.
    """

    folder: Path
    run_folder: Path
    written_files: int = 0
    kept_bytes: int = 0
    _count: int = 0
    _kept: dict[str, str] = field(default_factory=dict)
    _written_hashes: dict[str, set[str | None]] = field(default_factory=dict)
    _marked: dict[Path, bool] = field(default_factory=dict)
    _data: dict[str, tuple[Path, tuple[int, int, int] | None]] = field(default_factory=dict)

    @property
    def undo_folder(self) -> Path:
        """The folder of the journal and the old files; it does not exist before the first write."""
        return undo_folder(self.run_folder)

    def before(
        self,
        states: Mapping[Path, FileState],
        *,
        contents: Mapping[Path, bytes | None],
        new_folders: Iterable[Path] = (),
    ) -> list[int]:
        """Keep the old files and record that they are about to be replaced; returns the numbers for ``done``.

        Args:
            states: the files as they are, by path.
            contents: the new content of each; None removes it.
            new_folders: folders that were made for them.

        Raises:
            ChangedOnDisk: a file is no longer as in ``states``.
            OSError: the old files cannot be kept; nothing is recorded.
        """
        if not journal_file(self.run_folder).exists():
            self._begin()
        new = {path: sha256(content) for path, content in contents.items()}
        lines: list[dict[str, Any]] = []
        folders = [self._relative(folder) for folder in new_folders]
        for path, state in states.items():
            relative = self._relative(path)
            self._count += 1
            kept, size = self._keep(path, state, relative)
            line: dict[str, Any] = {
                "n": self._count,
                "entry": entry_of(relative),
                "path": relative,
                "old": state.sha256,
            }
            lines.append(line | {"kept": kept, "size": size, "new": new[path], "made": folders})
            folders = []
        files.sync_folder(self.undo_folder)
        self._append(lines)
        for path, content in contents.items():
            self._written_hashes.setdefault(self._relative(path), set()).add(new[path])
            self._marked[path] = content is not None and self._mark in content
        return [line["n"] for line in lines]

    def done(self, numbers: Sequence[int], paths: Iterable[Path]) -> None:
        """Record that the new files are in place."""
        self._append([{"done": list(numbers)}])
        self.written_files += len(numbers)
        for path in paths:
            entry = entry_of(self._relative(path))
            if entry is not None and path.name == LINKED:
                self._data[entry] = path, file_stamp(path)

    def withdraw(self, numbers: Sequence[int]) -> None:
        """Record that these writes did not happen."""
        self._append([{"withdrawn": list(numbers)}])

    @property
    def entries(self) -> list[str]:
        """Ids of the entries whose data was written, in order."""
        return list(self._data)

    def written_over(self) -> dict[str, Path]:
        """The data files, by entry, that another program has written since and from which this run's work is gone.

        A person who reloaded the image before saving it saves this run's annotations too: nothing is lost then.
        """
        changed = [(entry, path) for entry, (path, stamp) in self._data.items() if file_stamp(path) != stamp]
        return {entry: path for entry, path in changed if self._marked[path] and not self._in(path)}

    @property
    def _mark(self) -> bytes:
        """The run's id, which every annotation that wsplf makes carries."""
        return self.run_folder.name.encode("ascii")

    def _in(self, path: Path) -> bool:
        try:
            return self._mark in path.read_bytes()
        except OSError:
            return False

    def close(self) -> None:
        """End the journal; the undo folder of a run that wrote nothing is removed."""
        if self.undo_folder.is_dir() and not self.written_files and not _unfinished(journal_file(self.run_folder)):
            shutil.rmtree(self.undo_folder, ignore_errors=True)

    def _begin(self) -> None:
        """Make the folder and write the first line; all folders up to the project's are synced to disk."""
        journals = map(journal_file, self.run_folder.parent.glob("*"))
        sequence = 1 + max((_sequence(journal) for journal in journals if journal.is_file()), default=0)
        self.undo_folder.mkdir(parents=True, exist_ok=True)
        self._append([{"sequence": sequence}])
        for folder in (self.undo_folder, *self.run_folder.parents):
            files.sync_folder(folder)
            if folder == self.folder:
                break

    def _relative(self, path: Path) -> str:
        return _absolute(path).relative_to(_absolute(self.folder)).as_posix()

    def _keep(self, path: Path, state: FileState, relative: str) -> tuple[str | None, int]:
        """Keep one old file; returns its name in the folder (None: nothing to keep) and its bytes."""
        if state.sha256 is None or state.sha256 in self._written_hashes.get(relative, ()):
            return None, 0
        if state.sha256 in self._kept:
            return self._kept[state.sha256], 0
        name = f"{self._count:04d}"
        copy = self.undo_folder / name
        if not (path.name == LINKED and _linked(path, copy, state)):
            with files.replacing(copy) as part:
                if _copied(path, part) != state.sha256:
                    raise ChangedOnDisk(path)
        size = copy.stat().st_size
        self.kept_bytes += size
        self._kept[state.sha256] = name
        return name, size

    def _append(self, lines: Iterable[Mapping[str, Any]]) -> None:
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        with journal_file(self.run_folder).open("a", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())


_recording: dict[Path, Journal] = {}


@contextmanager
def recording(journal: Journal) -> Iterator[Journal]:
    """Record every write into the journal's project while the block runs.

    The function that writes files (qupath.atomic.write_files) asks ``journal_of``, so no command writes unrecorded.
    """
    _recording[_absolute(journal.folder)] = journal
    try:
        yield journal
    finally:
        del _recording[_absolute(journal.folder)]
        journal.close()


def journal_of(paths: Iterable[Path]) -> Journal | None:
    """The journal that records writes of these files; None when no run records there."""
    folders = (folder for path in paths for folder in _absolute(path).parents)
    return next((_recording[folder] for folder in folders if folder in _recording), None)


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100  unlike resolve(), it leaves links alone


def entry_of(relative: str) -> str | None:
    """The id of the entry whose data folder a file is in, from its path in the project; None for other files."""
    parts = PurePosixPath(relative).parts
    return parts[1] if len(parts) > 2 and parts[0] == "data" else None


def _linked(path: Path, copy: Path, state: FileState) -> bool:
    """Keep a file as a hard link; False where the file system has none."""
    try:
        os.link(os.path.realpath(path), copy)
    except OSError:
        return False
    if file_stamp(copy) != state.stamp:
        copy.unlink()
        raise ChangedOnDisk(path)
    with (
        contextlib.suppress(OSError),
        copy.open("rb") as stream,
    ):  # some systems cannot sync a file that is open to read
        os.fsync(stream.fileno())
    return True


def _copied(path: Path, part: Path) -> str:
    """Copy a file and sync the copy to disk; returns the hash of what was copied."""
    digest = hashlib.sha256()
    with path.open("rb") as old, part.open("wb") as stream:
        while block := old.read(1 << 20):
            digest.update(block)
            stream.write(block)
        stream.flush()
        os.fsync(stream.fileno())
    return digest.hexdigest()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a journal; a line that was cut short because the run was killed is left out."""
    lines = []
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise ProjectError(f"{path}: cannot be read: {error.strerror}") from error
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            value = json.loads(line)
            if isinstance(value, dict):
                lines.append(value)
    return lines


def _sequence(path: Path) -> int:
    sequence = next((line["sequence"] for line in read_lines(path) if "sequence" in line), 0)
    return sequence if isinstance(sequence, int) else 0


def _unfinished(path: Path) -> bool:
    """Whether a write was begun and neither done nor withdrawn."""
    lines = read_lines(path) if path.is_file() else []
    ended = {n for line in lines for key in ("done", "withdrawn") for n in line.get(key, ())}
    return any("n" in line and line["n"] not in ended for line in lines)
