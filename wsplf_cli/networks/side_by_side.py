"""Several networks trained at the same time, each with a share of the cores.

A step of a small network gains little from a second core: on two cores two networks, each on one, take 0.75 to 0.9 of
the time that they take one after the other on both.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TypeVar

import torch
from torch import nn

from wsplf_cli.networks.distributed import process_count
from wsplf_cli.schema import Tracker

Result = TypeVar("Result")


def networks_at_once(networks: Sequence[nn.Module], *, device: torch.device) -> int:
    """How many networks are trained at the same time: as many as torch has threads.

    One on a GPU and in each of several processes; and where a layer draws random numbers of its own (dropout), since
    these would depend on which thread is faster.
    """
    if device.type != "cpu" or process_count() > 1 or any(_draws(network) for network in networks):
        return 1
    return max(1, min(len(networks), torch.get_num_threads()))


def side_by_side(
    work: Callable[[int, Tracker], Result], numbers: Sequence[int], *, at_once: int, tracker: Tracker
) -> list[Result]:
    """What the work gives for each number; so many are done at the same time, in threads.

    They start in the order given. The last ones, where they are too few, wait for the others and share all cores.

    Args:
        work: Tells its progress to the tracker that it is given. That ends it when another has failed, or when the user
            interrupts.
        numbers: What the work is done for; the longest first, so that no core is idle at the end.
        at_once: How many are done at the same time.
        tracker: Is told of the progress of all.
    """
    if at_once < 2:
        return [work(number, tracker) for number in numbers]
    if rest := len(numbers) % at_once:
        results = side_by_side(work, numbers[:-rest], at_once=at_once, tracker=tracker)
        return results + side_by_side(work, numbers[-rest:], at_once=rest, tracker=tracker)
    threads = torch.get_num_threads()
    shared = _SharedTracker(tracker)

    def run(number: int) -> Result:
        torch.set_num_threads(max(1, threads // at_once))  # of this thread alone
        return work(number, shared)

    try:
        with ThreadPoolExecutor(at_once, thread_name_prefix="wsplf-train") as pool:
            futures = [pool.submit(run, number) for number in numbers]
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
            finally:
                shared.stopped.set()
                pool.shutdown(wait=True, cancel_futures=True)
    finally:
        torch.set_num_threads(threads)
    errors = [error for future in futures if not future.cancelled() and (error := future.exception())]
    for error in errors:
        if not isinstance(error, _StoppedError):
            raise error
    return [future.result() for future in futures]


class _StoppedError(Exception):
    """Another network's training has failed."""


class _SharedTracker:
    """A tracker for several threads, which ends their work once it is ``stopped``."""

    def __init__(self, tracker: Tracker) -> None:
        self.stopped = threading.Event()
        self._tracker, self._lock = tracker, threading.Lock()

    def start(self, name: str, total: int) -> None:
        """Begin work."""
        self._tell(lambda: self._tracker.start(name, total))

    def advance(self, steps: int = 1, message: str = "") -> None:
        """Advance by ``steps``."""
        self._tell(lambda: self._tracker.advance(steps, message=message))

    def say(self, message: str) -> None:
        """Tell the user one line."""
        self._tell(lambda: self._tracker.say(message))

    def _tell(self, tell: Callable[[], None]) -> None:
        if self.stopped.is_set():
            raise _StoppedError
        with self._lock:
            tell()


def _draws(network: nn.Module) -> bool:
    """Whether a layer draws random numbers while the network is trained."""
    return any(
        (isinstance(layer, nn.modules.dropout._DropoutNd) and layer.p > 0) or (getattr(layer, "drop_prob", 0) or 0) > 0
        for layer in network.modules()
    )
