"""One writer at a time: a lock of the operating system, which ends with the process that holds it, however it ends.

It is advisory and between wsplf's own commands; QuPath knows of no lock. Who holds it stands in a file of its own
beside it, since Windows lets nobody read a locked file; what stands there is only shown while the lock is held, so a
process that was killed leaves nothing that stops the next one.
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
from wsplf_cli.runs.layout import run_folders, undo_folder

log = logging.getLogger(__name__)


def left_overs(folder: Path) -> list[Path]:
    """The folders of a project in which only a command that holds its lock writes: see ``files.clean``."""
    inside = [folder, folder / "classifiers", folder / "scripts"]
    return [*inside, *(folder / "data").glob("*"), *map(undo_folder, run_folders(folder))]


@contextmanager
def hold(path: Path, *, command: str) -> Iterator[None]:
    """Hold the lock file ``path`` while the block runs; ``command`` is what others are told.

    A file system that knows no locks (some network drives) gets a warning instead: what changed on disk is still
    never written over.

    Raises:
        ProjectError: another process holds it, or the folder cannot be written. At once, nothing is waited for.
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
        _tell(path, command)
        yield
    finally:
        if lock.is_locked:
            _note(path).unlink(missing_ok=True)
            lock.release()


def _note(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _tell(path: Path, command: str) -> None:
    """Write who holds the lock; without it, others are only told that somebody does."""
    since = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    try:
        files.write_json(
            _note(path), {"command": command, "pid": os.getpid(), "host": socket.gethostname(), "since": since}
        )
    except OSError as error:
        log.info("%s could not be written: %s", _note(path), error)


def _holder(path: Path) -> str:
    """Who holds the lock, as far as is known, for a message."""
    try:
        who = json.loads(_note(path).read_text(encoding="utf-8"))
        return f"wsplf {who['command']} (process {who['pid']} on {who['host']}, since {who['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another wsplf command"
