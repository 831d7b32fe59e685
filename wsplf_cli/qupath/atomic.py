"""Writing several files so that a full disk, a crash or a kill leaves each of them either old or new.

At every moment there is a whole file under each real name: new contents are on disk under temporary names before the
first rename. QuPath itself moves data.qpdata to data.qpdata.bkp, writes a new one and removes the .bkp; so a .bkp
that appears while we write means that QuPath is saving the same image.
"""

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from wsplf_cli import files
from wsplf_cli.errors import ProjectError
from wsplf_cli.runs.journal import ChangedOnDisk, FileState, Journal, journal_of, place, see


class SavedMeanwhile(ProjectError):  # noqa: N818  says more than an Error suffix
    """QuPath was saving an image in the moment in which wsplf wrote it; which of the two is there is not known."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"{path}: QuPath was saving it in the same moment; one of the two savings is lost",
            hint="look at the image in QuPath: save it there again, or run the command again",
        )


def write_files(contents: Mapping[Path, bytes | None], *, expected: Mapping[Path, str | None] | None = None) -> None:
    """Write files, in the order given; None removes one. A run that records writes keeps the old files first.

    Args:
        contents: what each file is to be.
        expected: SHA-256 (hex) that some of the files must still have, None: that must still not be there.

    Raises:
        ChangedOnDisk: another program changed one of the files; it is as that program left it.
        ProjectError: the disk is full or does not allow it; the files that are not replaced yet are as before.
    """
    expected = expected or {}
    journal = journal_of(contents)
    made: list[Path] = []
    parts: dict[Path, Path] = {}
    path = Path()
    try:
        for path, content in contents.items():
            if content is not None:
                made += _make_folder(path.parent)
                parts[path] = files.part_of(files.real(path))
                _fill(parts[path], content)
        found = {path: see(path) for path in contents if journal is not None or path in expected}
        for path, state in found.items():
            if path in expected and state.sha256 != expected[path]:
                raise ChangedOnDisk(path)
        numbers: list[int] = []
        if journal is not None:
            numbers = journal.before(found, contents=contents, made=made)
        _rename(contents, parts, found=found, expected=expected, journal=journal, numbers=numbers)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ProjectError(
            f"cannot write {path}: {reason}; what was there is still in place",
            hint="free disk space or check the permissions, then run the command again",
        ) from error
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)
        for folder in reversed(made):  # only if nothing came to be in it
            with contextlib.suppress(OSError):
                folder.rmdir()


def _make_folder(folder: Path) -> list[Path]:
    """Make a folder and those above it; returns the ones that were not there, the outermost first."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    for one in reversed(missing):
        one.mkdir(exist_ok=True)
        files.sync_folder(one.parent)
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
    found: Mapping[Path, FileState],
    expected: Mapping[Path, str | None],
    journal: Journal | None,
    numbers: Sequence[int],
) -> None:
    """Put every file in its place, each checked once more just before."""
    saving = {path: path.with_name(path.name + ".bkp") for path in expected if path in contents}
    before = {path: place(backup) for path, backup in saving.items()}
    paths = list(contents)
    replaced = 0
    try:
        for path in paths:
            if path in expected and place(path) != found[path].place:
                raise ChangedOnDisk(path)
            if path in parts:
                files.put(parts[path], files.real(path))
            else:
                path.unlink(missing_ok=True)
            replaced += 1
            if path in saving and place(saving[path]) != before[path]:
                raise SavedMeanwhile(path)
    finally:
        for folder in {path.parent for path in paths}:
            files.sync_folder(folder)
        if journal is not None and replaced:
            journal.done(numbers[:replaced], paths[:replaced])
        if journal is not None and replaced < len(paths):
            journal.withdraw(numbers[replaced:])
