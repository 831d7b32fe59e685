"""One writer at a time: a lock of the operating system, which ends with the process that holds it, however it ends.

It is advisory and between wsplf's commands; QuPath does not know it. A file beside the lock says who holds it, because
Windows lets nobody read a locked file. Its text is only shown while the lock is held, so a process that was killed
never stops the next one.
"""

import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from wsplf_cli import files
from wsplf_cli.errors import ProjectError
from wsplf_cli.runs.layout import resume_folders, run_folders, undo_folder

log = logging.getLogger(__name__)


def leftover_folders(folder: Path) -> list[Path]:
    """The folders in which a killed command may have left part files: only a command with the lock writes there."""
    folders = [folder, folder / "classifiers", folder / "scripts"]
    return [*folders, *(folder / "data").glob("*"), *map(undo_folder, run_folders(folder)), *resume_folders(folder)]


@contextmanager
def hold(path: Path, *, command: str) -> Iterator[None]:
    """Hold the lock file ``path`` while the block runs; ``command`` is what others see in their message.

    On a file system without locks (some network drives) there is only a warning: files that changed on disk are still
    never written over.

    Raises:
        ProjectError: another process holds it (at once, without waiting), or the folder cannot be written.
    """
    lock = FileLock(path, timeout=0, thread_local=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise ProjectError(
            f"{path.parent}: {_holder(path)} is writing here; nothing was done",
            hint="wait until it has ended, then run the command again",
        ) from error
    except PermissionError as error:
        raise ProjectError(f"cannot write {path}: {error.strerror}", hint="check the permissions") from error
    except (NotImplementedError, OSError) as error:
        if not path.parent.is_dir():
            raise ProjectError(f"cannot make the folder {path.parent}: {error}") from error
        log.warning("%s: this file system has no locks; do not run two commands that write at once", path.parent)
    try:
        _write_note(path, command)
        yield
    finally:
        if lock.is_locked:
            _note_path(path).unlink(missing_ok=True)
            lock.release()


def _note_path(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _write_note(path: Path, command: str) -> None:
    """Write who holds the lock; without this note, others only learn that somebody does."""
    since = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    try:
        files.write_json(
            _note_path(path), {"command": command, "pid": os.getpid(), "host": socket.gethostname(), "since": since}
        )
    except OSError as error:
        log.info("%s could not be written: %s", _note_path(path), error)


def _holder(path: Path) -> str:
    """Who holds the lock, as far as the note says, for a message."""
    try:
        who = json.loads(_note_path(path).read_text(encoding="utf-8"))
        return f"wsplf {who['command']} (process {who['pid']} on {who['host']}, since {who['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another wsplf command"
