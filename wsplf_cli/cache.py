"""Caches of arrays: of a project, in memory and on disk, and of a user. The least recently used arrays go first.

In a ``Store`` an array is one file, ``FOLDER/NAME.npy``. Files are written to a temporary name and renamed. An array
that cannot be read is computed again, and one that cannot be written is not kept: errors of the cache never stop work.
"""

import hashlib
import io
import json
import logging
import os
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsplf_cli import __version__, files

log = logging.getLogger(__name__)

#: To be raised when the same record stands for other arrays than before.
FORMAT = 1
#: When the bound is reached, files are removed down to this share of it, so that it is not reached again at once.
KEPT_SHARE = 0.9
MEMORY_BYTES = 512 * 1024**2
#: Files of one kind in the user's folder. A tenth of them goes when there are more.
MOST_FILES = 4000


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """Identifies one state of a file without reading it."""

    path: str
    size: int
    mtime_ns: int


def identity(path: Path) -> FileIdentity:
    """The identity of an existing file."""
    stat = path.stat()
    return FileIdentity(str(path.resolve()), stat.st_size, stat.st_mtime_ns)


def key_of(record: object) -> str:
    """The key of a record: 32 hex digits of its content, this version of wsplf and the format of the cache."""
    text = json.dumps([FORMAT, __version__, files.json_value(record)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def digest_of(*parts: NDArray[Any] | bytes | str) -> str:
    """SHA-256 in hexadecimal of arrays (with their dtypes and shapes), bytes and texts."""
    digest = hashlib.sha256()
    for part in parts:
        content = part.encode() if isinstance(part, str) else part
        if not isinstance(content, bytes):
            digest.update(f"{content.dtype} {content.shape}".encode())
            content = np.ascontiguousarray(content).tobytes()
        digest.update(f" {len(content)} ".encode())
        digest.update(content)
    return digest.hexdigest()


class Store:
    """Float16 arrays by name. Names are made of letters, digits, ``-``, ``_`` and one ``/``.

    Args:
        folder: Where the files lie, or None to keep nothing on disk.
        most_bytes: Bound of the files together; 0 keeps nothing on disk.
        memory_bytes: Bound of the arrays in memory.
    """

    def __init__(self, folder: Path | None, *, most_bytes: int, memory_bytes: int = MEMORY_BYTES) -> None:
        self.folder = folder if most_bytes > 0 else None
        self.most_bytes = most_bytes
        self.memory_bytes = memory_bytes
        self._memory: OrderedDict[str, NDArray[np.float16]] = OrderedDict()
        self._in_memory = 0
        self._on_disk = sum(size for _, size, _ in self._files())

    def get(self, name: str) -> NDArray[np.float16] | None:
        """The array of that name, or None; it counts as used now."""
        array = self._memory.get(name)
        if array is not None:
            self._memory.move_to_end(name)
            return array
        array = self._read(name)
        if array is not None:
            self._remember(name, array)
        return array

    def put(self, name: str, array: NDArray[np.floating]) -> None:
        """Keep an array in half precision."""
        half = array.astype(np.float16)
        self._remember(name, half)
        path = self._path(name)
        if path is None or half.nbytes > self.most_bytes:
            return
        stream = io.BytesIO()
        np.save(stream, half, allow_pickle=False)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            before = path.stat().st_size if path.is_file() else 0
            files.write_bytes(path, stream.getvalue())
        except OSError as error:
            log.info("not kept in the cache: %s: %s", path, error)
            return
        self._on_disk += stream.tell() - before
        if self._on_disk > self.most_bytes:
            self._shrink(keep=path)

    def __reduce__(self) -> tuple[Callable[..., "Store"], tuple[object, ...]]:
        """Another process gets the same bounds and folder, and nothing of what is in memory."""
        return _store, (self.folder, self.most_bytes, self.memory_bytes)

    def hold_bound(self) -> None:
        """Hold the bound of the files where other processes have added some."""
        self._on_disk = sum(size for _, size, _ in self._files())
        if self._on_disk > self.most_bytes:
            self._shrink(keep=None)

    def _remember(self, name: str, array: NDArray[np.float16]) -> None:
        before = self._memory.pop(name, None)
        self._in_memory += array.nbytes - (0 if before is None else before.nbytes)
        self._memory[name] = array
        while self._in_memory > self.memory_bytes and self._memory:
            _, oldest = self._memory.popitem(last=False)
            self._in_memory -= oldest.nbytes

    def _path(self, name: str) -> Path | None:
        return None if self.folder is None else self.folder / f"{name}.npy"

    def _read(self, name: str) -> NDArray[np.float16] | None:
        path = self._path(name)
        if path is None or not path.is_file():
            return None
        try:
            array = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            log.info("not read from the cache: %s: %s", path, error)
            return None
        with suppress(OSError):  # a read-only folder is of use too
            os.utime(path)
        return array if array.dtype == np.float16 else None

    def _files(self) -> list[tuple[int, int, Path]]:
        """Time of last use, size and path of every file."""
        files = []
        for path in [] if self.folder is None else self.folder.rglob("*.npy"):
            try:
                stat = path.stat()
            except OSError:  # another run has just removed it
                continue
            files.append((stat.st_mtime_ns, stat.st_size, path))
        return files

    def _shrink(self, *, keep: Path | None) -> None:
        """Remove the least recently used files, never ``keep``, down to KEPT_SHARE of the bound."""
        oldest_first = sorted(self._files())
        self._on_disk = sum(size for _, size, _ in oldest_first)
        for _, size, path in oldest_first:
            if self._on_disk <= KEPT_SHARE * self.most_bytes:
                break
            if path == keep:
                continue
            try:
                path.unlink()
            except OSError as error:  # open in another run, on Windows
                log.info("not removed from the cache: %s: %s", path, error)
                continue
            self._on_disk -= size


def user_folder() -> Path:
    """The folder of this user for what wsplf computes once and any project may use; it may not exist yet.

    ``XDG_CACHE_HOME/wsplf`` where that variable is set, else ``wsplf`` in the place that the system has for caches.
    """
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "wsplf"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "wsplf"
    return Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "wsplf"


def kept_arrays(kind: str, key: str) -> dict[str, NDArray[Any]] | None:
    """The arrays that ``keep_arrays`` has kept for this user, by name, or None."""
    try:
        path = user_folder() / kind / f"{key}.npz"
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        with suppress(OSError):  # a read-only folder is of use too
            os.utime(path)
    except FileNotFoundError:
        return None
    except (OSError, RuntimeError, ValueError, EOFError, zipfile.BadZipFile) as error:  # RuntimeError: no home
        log.info("not read from the cache: %s", error)
        return None
    return arrays


def keep_arrays(kind: str, key: str, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Keep arrays for this user, compressed, in ``user_folder()/KIND/KEY.npz``. Where that fails they are not kept."""
    stream = io.BytesIO()
    values: dict[str, Any] = dict(arrays)
    np.savez_compressed(stream, **values)
    try:
        folder = user_folder() / kind
        folder.mkdir(parents=True, exist_ok=True)
        files.write_bytes(folder / f"{key}.npz", stream.getvalue())
        with os.scandir(folder) as found:
            oldest_first = sorted((entry.stat().st_mtime_ns, entry.path) for entry in found)
        too_many = len(oldest_first) > MOST_FILES
        for _, path in oldest_first[: MOST_FILES // 10 if too_many else 0]:
            Path(path).unlink()
    except (OSError, RuntimeError) as error:
        log.info("not kept in the cache: %s", error)


def _store(folder: Path | None, most_bytes: int, memory_bytes: int) -> Store:
    return Store(folder, most_bytes=most_bytes, memory_bytes=memory_bytes)
