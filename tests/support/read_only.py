"""A folder in which nothing can be written, also by root, who may write where permissions forbid it."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
#: The events that change a folder, with the positions of the paths in their arguments.
CHANGES = {
    **dict.fromkeys(("os.mkdir", "os.rmdir", "os.remove", "os.truncate", "os.chmod", "os.utime"), (0,)),
    **dict.fromkeys(("os.rename", "os.link", "os.symlink"), (0, 1)),
}
_protected: list[str] = []
_hooks: list[object] = []


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Refuse, as a read-only disk does, every attempt of this process's Python to write below ``folder``."""
    if not _hooks:  # a hook cannot be removed
        sys.addaudithook(_refuse)
        _hooks.append(_refuse)
    _protected.append(str(folder.resolve()))
    try:
        yield
    finally:
        _protected.pop()


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Everything below a folder, and the folder itself: time of change and content (empty for a folder)."""
    paths = [folder, *sorted(folder.rglob("*"))]
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"") for path in paths}


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if not _protected:
        return
    paths = [arguments[index] for index in CHANGES.get(event, ())]
    if event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING:
        paths = [arguments[0]]
    for path in paths:
        name = os.path.realpath(os.fsdecode(path)) if isinstance(path, str | bytes | os.PathLike) else ""
        if any(name == folder or name.startswith(folder + os.sep) for folder in _protected):
            raise OSError(errno.EROFS, "Read-only file system", name)
