"""Work on slides for the tests of executors: functions and classes of a module, as worker processes need them."""

import logging
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from wsplf_cli.errors import SlideError
from wsplf_cli.executors.loop import run_all
from wsplf_cli.executors.pool import Pool
from wsplf_cli.schema import Silent

log = logging.getLogger("wsplf_cli.tests")


def square(number, tracker):
    """Says and logs something, and fails for 3."""
    tracker.say(f"at {number}")
    log.info("worked on %d", number)
    if number == 3:
        raise SlideError("three: broken", hint="copy it again")
    return number * number


def square_in_a_pool():
    """Has a worker of its own square a number."""
    with Pool(1) as workers:
        ((_, outcome),) = run_all(workers, square, [(0, 2)], Silent())
    assert outcome.record == 4


def about_the_process(_, tracker):
    """The process, and the threads that its libraries use."""
    import torch

    return os.getpid(), torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]


def pages_of_large_arrays(_, tracker):
    """How many pages the system gives to a process that takes 4 MB and frees them, 100 times."""
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(100):
        _ = b"x" * 4_000_000
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def bug(number, tracker):
    """An error that is not the user's."""
    return 1 / number


@dataclass(frozen=True)
class Deadly:
    """Kills its worker on some numbers: for each, as often as it says. Counts its tries in a folder."""

    folder: Path
    deaths: dict[int, int]
    seconds: float = 0.0

    def __call__(self, number, tracker):
        """The number, if the worker survives it."""
        tries = self.folder / f"{number}.tries"
        with tries.open("a") as stream:
            stream.write("x")
        time.sleep(self.seconds)
        if len(tries.read_text()) <= self.deaths.get(number, 0):
            os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
        return number


@dataclass(frozen=True)
class Slow:
    """Tells its process and then takes long."""

    folder: Path

    def __call__(self, number, tracker):
        """Never comes to an end in a test."""
        (self.folder / f"{os.getpid()}.pid").touch()
        time.sleep(600)


@dataclass(frozen=True)
class CountsItsCopies:
    """Leaves a file in a folder each time it is unpickled."""

    folder: Path

    def __setstate__(self, state):
        object.__setattr__(self, "folder", state["folder"])
        (self.folder / f"{os.getpid()}-{time.monotonic_ns()}").touch()

    def __call__(self, number, tracker):
        """The process."""
        return os.getpid()


@dataclass(frozen=True)
class DiesWhenUnpickled:
    """An item that kills the worker that is about to begin it."""

    parent: int

    def __setstate__(self, state):
        if os.getpid() != state["parent"]:
            os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
