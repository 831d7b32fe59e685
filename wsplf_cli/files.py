"""Write a file whole or not at all, and turn our records into JSON values."""

import dataclasses
import json
import math
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` to write to; renamed to ``path`` when the block ends, removed when it fails.

    Raises:
        OSError: the folder cannot be written, or the disk is full; what was at ``path`` is still there.
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        yield part
        if path.exists():
            part.chmod(path.stat().st_mode & 0o777)
        part.replace(path)
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk is noticed by write(), which knows no name
        raise
    finally:
        part.unlink(missing_ok=True)


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
    """``value`` in what JSON has: records become objects, sets sorted lists, paths text, NaN and infinity null."""
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
