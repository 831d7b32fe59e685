"""Writes a file whole or not at all, and turns records into JSON values."""

import contextlib
import dataclasses
import json
import math
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

PART = re.compile(r"\..+\.[0-9a-f]{8}\.wsplf-part")
"""Names of the files that wsplf is writing, or that a killed command left behind."""


def is_apple_double(name: str) -> bool:
    """Whether a file name is that of a companion file, such as ``._slide.tif``: macOS keeps attributes in it.

    It has the suffix of the file that it belongs to, on disks that are not macOS's own, and is never that kind of file.
    """
    return name.startswith("._")


def part_of(path: Path) -> Path:
    """A new temporary name in the folder of ``path``."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.wsplf-part")


def real(path: Path) -> Path:
    """``path``, or the target of a symbolic link: a rename to the link would replace the link itself."""
    return path.resolve() if path.is_symlink() else path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` to write to; renamed to ``path`` when the block ends, removed when it fails.

    Raises:
        OSError: the folder cannot be written, or the disk is full; what was at ``path`` is still there.
    """
    path = real(path)
    part = part_of(path)
    try:
        yield part
        put(part, path)
        sync_folder(path.parent)
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk is an error of write(), which has no file name
        raise
    finally:
        part.unlink(missing_ok=True)


def put(part: Path, path: Path) -> None:
    """Rename a finished ``part`` to ``path``, with the permissions of the file that it replaces."""
    if path.exists():
        part.chmod(path.stat().st_mode & 0o777)
    part.replace(path)


def sync_folder(folder: Path) -> None:
    """Sync a folder to disk where the system can: only then does a rename survive a power failure."""
    if os.name == "nt":
        return
    with contextlib.suppress(OSError):  # some network drives refuse it; the files themselves are on disk
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def clean(folders: Iterable[Path]) -> int:
    """Remove part files that killed commands left in these folders (not below them); returns how many.

    Only for folders that no other command writes to at the moment.
    """
    removed = 0
    for folder in folders:
        with contextlib.suppress(OSError):  # a folder that is not there, or one that we may only read
            for path in [path for path in folder.iterdir() if PART.fullmatch(path.name)]:
                path.unlink()
                removed += 1
    return removed


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path``, whole or not at all."""
    with replacing(path) as part, part.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def write_json(path: Path, value: object) -> None:
    """Write ``value`` as JSON (UTF-8, indented), whole or not at all."""
    write_bytes(path, (json_text(value) + "\n").encode())


def json_text(value: object) -> str:
    """``value`` as indented JSON; see :func:`json_value`."""
    return json.dumps(json_value(value), indent=2, ensure_ascii=False, allow_nan=False)


def json_value(value: object) -> Any:
    """``value`` as JSON values: records become objects, sets sorted lists, paths text, NaN and infinity null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {part.name: getattr(value, part.name) for part in dataclasses.fields(value)}
    elif isinstance(value, (np.ndarray, np.generic)):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): json_value(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_value(part) for part in value]
    if isinstance(value, (set, frozenset)):
        return sorted(json_value(part) for part in value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, (str, int, float)) else str(value)
