"""Workers on this machine: a pool of processes, started afresh (not forked), each with one thread."""

import multiprocessing
import os
import pickle
import re
import shutil
import signal
import tempfile
import threading
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from wsplf_cli.executors import resources
from wsplf_cli.executors.task import Outcome, SharedWork, do_in_worker
from wsplf_cli.executors.workers import Workers

_SPAWN = multiprocessing.get_context("spawn")


class Pool(Workers):
    """``size`` worker processes.

    A folder for temporary files holds the work, pickled once, and a mark for each item that a worker has begun. Each
    worker reads a pipe that only this process writes to; it ends when the pipe does, so also when this process is
    killed.
    """

    deaths = (BrokenProcessPool,)

    def __init__(self, size: int) -> None:
        self.size = size
        self._folder = Path(tempfile.mkdtemp(prefix="wsplf-workers-"))
        self._key = ""
        self._start()

    @property
    def executor(self) -> ProcessPoolExecutor:
        """The pool."""
        return self._pool

    @property
    def most_in_flight(self) -> int:
        """One more than there are workers, so that none waits while the parent writes."""
        return self.size + 1

    def share(self, work: SharedWork) -> None:
        """Write the work into the folder."""
        if self._key:
            self._shared.unlink(missing_ok=True)
        self._key = work.key
        self._shared.write_bytes(pickle.dumps(work, protocol=pickle.HIGHEST_PROTOCOL))

    def submit(self, number: int, item: Any) -> Future[Outcome[Any]]:
        """Hand out the item of that number."""
        return self._pool.submit(_do, self._shared, self._key, self._mark(number), item)

    def blame(self, number: int, death: BaseException) -> int:
        """1 where a worker had begun the item of that number when the pool broke."""
        mark = self._mark(number)
        had_begun = mark.exists()
        mark.unlink(missing_ok=True)
        return int(had_begun)

    def renew(self) -> None:
        """A new pool: the other workers of one that broke are stopped."""
        self._stop()
        self._start()

    def close(self, *, at_once: bool = False) -> None:
        """Let the workers end, or stop them where they are; remove the folder."""
        if at_once:
            self._alive.close()
        self._stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self) -> None:
        ends, self._alive = _SPAWN.Pipe(duplex=False)
        self._ends = ends
        self._pool = ProcessPoolExecutor(
            self.size, mp_context=_SPAWN, initializer=_begin, initargs=(ends, self._folder)
        )

    def _stop(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._alive.close()
        self._ends.close()

    @property
    def _shared(self) -> Path:
        return self._folder / f"{self._key}.pickle"

    def _mark(self, number: int) -> Path:
        return self._folder / f"{number}.begun"


def _begin(parent: Connection, folder: Path) -> None:
    """Prepare a worker: Ctrl-C is the parent's, and one thread is enough."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent, folder), daemon=True).start()
    resources.use_one_gpu(_number_of(_SPAWN.current_process().name))


def _number_of(process_name: str) -> int:
    """The number of a process among its parent's: 2 of "SpawnProcess-2", and of "SpawnProcess-7:2" below another."""
    return int(re.split("[-:]", process_name)[-1])


def _end_with(parent: Connection, folder: Path) -> None:
    """End this process when the parent closes its end of the pipe, or is gone."""
    with suppress(EOFError, OSError):
        parent.recv()
    shutil.rmtree(folder, ignore_errors=True)  # perhaps nobody else is left to do it
    os._exit(1)


def _do(shared: Path, key: str, mark: Path, item: Any) -> Outcome[Any]:
    mark.touch()
    try:
        return do_in_worker(shared, key, item)
    finally:
        mark.unlink(missing_ok=True)
