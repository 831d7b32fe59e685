"""Hands out slides to workers, and gives back what became of them, in the order in which they are done."""

import logging
from collections import Counter, deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from typing import Any

from wsplf_cli.errors import SlideError, WorkersError
from wsplf_cli.executors.task import Item, Outcome, Record, SharedWork, Work, do
from wsplf_cli.executors.workers import Workers
from wsplf_cli.schema import Tracker

log = logging.getLogger(__name__)

#: A slide fails when so many workers have died of it.
MOST_TRIES = 3
#: Seconds after which the workers are looked after though no slide is done.
CHECK_SECONDS = 2.0


def run_all(
    workers: Workers, work: Work[Item, Record], items: Iterable[tuple[int, Item]], tracker: Tracker
) -> Iterator[tuple[int, Outcome[Record]]]:
    """The number and the outcome of each item, in the order in which they are done.

    When a worker dies, the items that it may have died of wait until all others are done; then each is tried alone, so
    that none is blamed for another. After ``MOST_TRIES`` deaths an item is given up: its outcome is a SlideError.

    Args:
        workers: Who does the work.
        work: The work on one slide.
        items: Numbers and arguments; taken one by one, shortly before they are handed out.
        tracker: Gets what the work says.
    """
    if workers.executor is None:
        for number, item in items:
            yield number, do(work, item, tracker)
        return
    workers.share(SharedWork.of(work))
    hand_out = _HandOut(workers)
    for number, outcome in hand_out.run(iter(items)):
        for message in outcome.said:
            tracker.say(message)
        for record in outcome.logged:
            logging.getLogger(record.name).handle(record)
        yield number, outcome


@dataclass(slots=True)
class _HandOut:
    """The items that are handed out, those that a worker may have died of, and the deaths of each."""

    workers: Workers
    in_flight: dict[Future[Outcome[Any]], tuple[int, Any]] = field(default_factory=dict)
    again: deque[tuple[int, Any]] = field(default_factory=deque)
    suspects: deque[tuple[int, Any]] = field(default_factory=deque)
    deaths: Counter[int] = field(default_factory=Counter)
    unexplained: int = 0

    def run(self, items: Iterator[tuple[int, Any]]) -> Iterator[tuple[int, Outcome[Any]]]:
        while self._fill(items, most=self.workers.most_in_flight):
            yield from self._done(alone=False)
        while self.suspects:
            self._submit(*self.suspects.popleft())
            while self.in_flight:
                yield from self._done(alone=True)

    def _fill(self, items: Iterator[tuple[int, Any]], *, most: int) -> bool:
        """Hand out items until so many are in flight; whether there are any."""
        while len(self.in_flight) < most:
            following = self.again.popleft() if self.again else next(items, None)
            if following is None:
                break
            if not self._submit(*following):
                break
        return bool(self.in_flight)

    def _submit(self, number: int, item: Any) -> bool:
        """Hand out an item; whether that went: else a worker has died meanwhile, and those in flight say so."""
        try:
            self.in_flight[self.workers.submit(number, item)] = (number, item)
        except self.workers.deaths:
            self.again.appendleft((number, item))
            if self.in_flight:
                return False
            self.workers.renew()
            return self._submit(*self.again.popleft())
        return True

    def _done(self, *, alone: bool) -> Iterator[tuple[int, Outcome[Any]]]:
        """Wait for the next outcomes."""
        done, _ = wait(self.in_flight, timeout=CHECK_SECONDS, return_when=FIRST_COMPLETED)
        if not done:
            self.workers.check()
        died = yield from self._collect(done)
        if died:
            self.workers.renew()  # which waits until what a broken pool had in flight has ended too
            died += yield from self._collect([future for future in self.in_flight if future.done()])
            yield from self._bury(died, alone=alone)

    def _collect(
        self, done: Iterable[Future[Outcome[Any]]]
    ) -> Generator[tuple[int, Outcome[Any]], None, list[tuple[int, Any, BaseException]]]:
        """The outcomes of futures that are done; returns the items whose worker died, with its death."""
        died: list[tuple[int, Any, BaseException]] = []
        for future in done:
            number, item = self.in_flight.pop(future)
            try:
                outcome = future.result()
            except self.workers.deaths as death:
                died.append((number, item, death))
            else:
                self.unexplained = 0
                yield number, outcome
        return died

    def _bury(self, died: list[tuple[int, Any, BaseException]], *, alone: bool) -> Iterator[tuple[int, Outcome[Any]]]:
        """Sort out what the workers that died had: what they may have died of, and what they had not begun."""
        blamed = {number: self.workers.blame(number, death) for number, _, death in died}
        self.unexplained = 0 if any(blamed.values()) else self.unexplained + 1
        if self.unexplained >= MOST_TRIES:
            raise WorkersError(
                f"{MOST_TRIES} times a worker died before it had begun a slide", hint="with fewer --workers, or none"
            )
        log.warning("a worker died; slides that it may have died of are tried again, alone: %d", len(blamed))
        for number, item, _ in died:
            if not blamed[number]:
                (self.suspects if alone else self.again).append((number, item))
                continue
            self.deaths[number] += blamed[number]
            if alone and self.deaths[number] >= MOST_TRIES:
                error = SlideError(
                    f"the worker that had it died {self.deaths[number]} times (killed, or out of memory)",
                    hint="with fewer --workers there is more memory for each",
                )
                yield number, Outcome(error=error)
            else:
                self.suspects.append((number, item))
