"""One piece of work, as a worker does it, and what comes back."""

import hashlib
import logging
import pickle
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from wsplf_cli import __version__
from wsplf_cli.errors import SlideError, WorkersError
from wsplf_cli.executors import resources
from wsplf_cli.schema import Silent, Tracker

Item = TypeVar("Item")
Record = TypeVar("Record")

Work = Callable[[Item, Tracker], Record]
"""The work on one slide: a module's function, or an instance of a class of a module, that can be pickled.

It gets all that it needs of the slide as one argument, and a Tracker for what it has to say. It writes nothing into the
project, but for SAM's embeddings in the cache. What it holds itself, such as networks, reaches every worker once. It
may raise SlideError.
"""


@dataclass(frozen=True, slots=True)
class Outcome(Generic[Record]):
    """What became of one slide: a record, or why there is none. ``said`` and ``logged`` come from a worker."""

    record: Record | None = None
    error: SlideError | None = None
    seconds: float = 0.0
    said: tuple[str, ...] = ()
    logged: tuple[logging.LogRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class SharedWork:
    """Pickled work. ``networks``: torch pickled it, because it may hold networks.

    ``key`` is the digest of its content, ``version`` that of wsplf in the parent.
    """

    content: bytes
    networks: bool
    key: str
    version: str = __version__

    @classmethod
    def of(cls, work: Work[Any, Any]) -> "SharedWork":
        """The work, pickled."""
        networks = "torch" in sys.modules  # else no network can be in it, and workers need not load torch
        if networks:
            from wsplf_cli.networks.device import pickled

            content = pickled(work)
        else:
            content = pickle.dumps(work, protocol=pickle.HIGHEST_PROTOCOL)
        return cls(content, networks, hashlib.sha256(content).hexdigest())

    def work(self) -> Work[Any, Any]:
        """The work."""
        work: Work[Any, Any]
        if self.networks:
            from wsplf_cli.networks.device import unpickled

            work = unpickled(self.content)
        else:
            work = pickle.loads(self.content)
        return work


class Notes(Silent):
    """A Tracker that keeps what is said, for the parent."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, message: str) -> None:
        """Keep one line."""
        self.said.append(message)


@dataclass(slots=True)
class _Worker:
    """What a worker process holds: the work that it unpickled last. One slide at a time uses it."""

    ready: bool = False
    key: str = ""
    work: Work[Any, Any] | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


_worker = _Worker()


def do(work: Work[Item, Record], item: Item, tracker: Tracker) -> Outcome[Record]:
    """Do the work on one slide here. Only a SlideError is caught."""
    began = time.monotonic()
    try:
        return Outcome(work(item, tracker), seconds=time.monotonic() - began)
    except SlideError as error:
        return Outcome(error=error, seconds=time.monotonic() - began)


def do_in_worker(shared: SharedWork | Path, key: str, item: Any) -> Outcome[Any]:
    """Do the work on one slide in a worker process, and keep what it says and logs for the parent.

    Args:
        shared: The work, or the file that holds it; it is unpickled once.
        key: Its key.
        item: The argument of the work.

    Raises:
        WorkersError: This worker has another version of wsplf than the parent.
    """
    with _worker.lock, _kept_log() as logged:
        if not _worker.ready:
            resources.limit_threads(1)
            resources.keep_freed_memory()
            _worker.ready = True
        if _worker.key != key:
            _worker.work = None  # not two networks at once
            _worker.work, _worker.key = _unpickle(shared), key
        assert _worker.work is not None
        notes = Notes()
        outcome = do(_worker.work, item, notes)
        return Outcome(outcome.record, outcome.error, outcome.seconds, tuple(notes.said), tuple(logged))


def _unpickle(shared: SharedWork | Path) -> Work[Any, Any]:
    if isinstance(shared, Path):
        stored: SharedWork = pickle.loads(shared.read_bytes())
        return stored.work()
    if shared.version != __version__:
        raise WorkersError(
            f"a worker has wsplf {__version__}, this is wsplf {shared.version}",
            hint=f"install wsplf {shared.version} for the workers, and start them again",
        )
    return shared.work()


class _Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one record in a form that can be pickled."""
        record.msg, record.args, record.exc_info = record.getMessage(), None, None
        self.records.append(record)


@contextmanager
def _kept_log() -> Iterator[list[logging.LogRecord]]:
    """The records that our modules log meanwhile."""
    package_log, handler = logging.getLogger("wsplf_cli"), _Kept()
    package_log.setLevel(logging.INFO)
    package_log.addHandler(handler)
    try:
        yield handler.records
    finally:
        package_log.removeHandler(handler)
