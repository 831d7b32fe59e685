"""The windows that the tiny SAM learns from: generated in another process, kept in a folder, the newest in use."""

import io
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Self

import numpy as np

from wsplf_cli.files import write_bytes
from wsplf_cli.pretraining.targets import Window, generate_windows

NEW_WINDOWS = 100
"""Windows that are generated at once."""
GENERATE_EVERY = 100
"""Steps after which new windows are generated."""
FIRST_LISTS = 4
LISTS_IN_USE = 16
"""Lists of windows that are in use, the newest ones."""
MAPS = ("rgb", "tissue", "instance", "structure")


class WindowPool:
    """The windows in use at a step. Lists of them are generated in one other process, and kept in a folder."""

    def __init__(self, folder: Path, *, seed: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._seed = folder, seed
        self._lists: dict[int, list[Window]] = {}
        self._next: dict[int, Future[list[Window]]] = {}
        self._process = ProcessPoolExecutor(1, mp_context=get_context("spawn"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.shutdown(cancel_futures=True)

    def at(self, step: int) -> list[Window]:
        """The windows of the newest lists at a step."""
        newest = FIRST_LISTS - 1 + step // GENERATE_EVERY
        used = range(max(0, newest + 1 - LISTS_IN_USE), newest + 1)
        if newest not in self._lists:
            for part in (*used, newest + 1):
                if part not in self._lists and part not in self._next:
                    self._next[part] = self._process.submit(windows_of_list, self._folder, seed=(self._seed, part))
            self._lists |= {part: self._next.pop(part).result() for part in used if part in self._next}
            self._lists = {part: self._lists[part] for part in used}
        return [window for part in used for window in self._lists[part]]


def windows_of_list(folder: Path, *, seed: tuple[int, int]) -> list[Window]:
    """The windows of a list, read from the folder, or generated and kept there."""
    path = folder / f"{seed[1]:04d}.npz"
    if not path.is_file():
        windows = generate_windows(NEW_WINDOWS, seed=seed)
        stream = io.BytesIO()
        arrays: dict[str, Any] = {name: np.stack([getattr(window, name) for window in windows]) for name in MAPS}
        np.savez(stream, **arrays)
        write_bytes(path, stream.getvalue())
        return windows
    with np.load(path) as arrays:
        return [Window(*maps) for maps in zip(*(arrays[name] for name in MAPS), strict=True)]
