"""Writes several files so that a full disk, a crash or a kill leaves each of them either old or new.

There is a whole file under each name at every moment: the new contents are on disk under temporary names before the
first rename. QuPath itself moves data.qpdata to data.qpdata.bkp, writes a new one and removes the .bkp. So a .bkp that
appears while we write means that QuPath is saving the same image.
"""

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from wsplf_cli import files
from wsplf_cli.errors import ProjectError
from wsplf_cli.runs.journal import ChangedOnDisk, FileState, Journal, file_stamp, journal_of, read_state


class SavedMeanwhile(ProjectError):  # noqa: N818  says more than an Error suffix
    """QuPath saved an image at the moment in which wsplf wrote it; one of the two versions is lost."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"{path}: QuPath saved it at the same moment; one of the two versions is lost",
            hint="check the image in QuPath: save it there again, or run the command again",
        )


def write_files(contents: Mapping[Path, bytes | None], *, expected: Mapping[Path, str | None] | None = None) -> None:
    """Write files in the given order; None removes a file. The journal of a run keeps the old files first.

    Args:
        contents: the new content of each file.
        expected: the SHA-256 (hex) that some of the files must still have; None: the file must still not exist.

    Raises:
        ChangedOnDisk: another program changed one of the files; it is as that program left it.
        ProjectError: the disk is full or write-protected; the files that are not replaced yet are as before.
    """
    expected = expected or {}
    journal = journal_of(contents)
    new_folders: list[Path] = []
    parts: dict[Path, Path] = {}
    path = Path()
    try:
        for path, content in contents.items():
            if content is not None:
                new_folders += _make_folder(path.parent)
                parts[path] = files.part_of(files.real(path))
                _fill(parts[path], content)
        states = {path: read_state(path) for path in contents if journal is not None or path in expected}
        for path, state in states.items():
            if path in expected and state.sha256 != expected[path]:
                raise ChangedOnDisk(path)
        numbers: list[int] = []
        if journal is not None:
            numbers = journal.before(states, contents=contents, new_folders=new_folders)
        _rename(contents, parts, states=states, expected=expected, journal=journal, numbers=numbers)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ProjectError(
            f"cannot write {path}: {reason}; the old file is still in place",
            hint="free disk space or check the permissions, then run the command again",
        ) from error
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)
        for folder in reversed(new_folders):  # fails, and stays, where files are in it
            with contextlib.suppress(OSError):
                folder.rmdir()


def _make_folder(folder: Path) -> list[Path]:
    """Make a folder and those above it; returns the new folders, the outermost first."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        files.sync_folder(path.parent)
    return missing[::-1]


def _fill(part: Path, content: bytes) -> None:
    with part.open("xb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _rename(
    contents: Mapping[Path, bytes | None],
    parts: Mapping[Path, Path],
    *,
    states: Mapping[Path, FileState],
    expected: Mapping[Path, str | None],
    journal: Journal | None,
    numbers: Sequence[int],
) -> None:
    """Rename every file into place, each checked once more just before."""
    backups = {path: path.with_name(path.name + ".bkp") for path in expected if path in contents}
    backups_before = {path: file_stamp(backup) for path, backup in backups.items()}
    paths = list(contents)
    replaced = 0
    try:
        for path in paths:
            if path in expected and file_stamp(path) != states[path].stamp:
                raise ChangedOnDisk(path)
            if path in parts:
                files.put(parts[path], files.real(path))
            else:
                path.unlink(missing_ok=True)
            replaced += 1
            if path in backups and file_stamp(backups[path]) != backups_before[path]:
                raise SavedMeanwhile(path)
    finally:
        for folder in {path.parent for path in paths}:
            files.sync_folder(folder)
        if journal is not None and replaced:
            journal.done(numbers[:replaced], paths[:replaced])
        if journal is not None and replaced < len(paths):
            journal.withdraw(numbers[replaced:])
