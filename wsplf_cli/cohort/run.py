"""The loop over the entries of a project that every command shares."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Generic

from wsplf_cli.errors import SlideError
from wsplf_cli.executors.loop import run_all
from wsplf_cli.executors.task import Item, Record, Work
from wsplf_cli.executors.workers import IN_PROCESS, Workers
from wsplf_cli.runs.resume import Finished, ResumeStore
from wsplf_cli.schema import Entry, EntryResult, Tracker, titles

log = logging.getLogger(__name__)

Counts = Mapping[str, float]
"""What to show of an entry, by name."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """What the work on an entry returns when there is nothing to do, with the reason for the user."""

    reason: str


@dataclass(frozen=True, slots=True)
class Resumed(Generic[Item, Record]):
    """How the records of a step are kept, so that a run after a stopped one takes them over.

    Args:
        store: Where they are kept.
        key: A digest of all that the record of an item depends on.
        write: A record as it is kept.
        read: The record of an item again.
    """

    store: ResumeStore
    key: Callable[[Item], str]
    write: Callable[[Record], Finished]
    read: Callable[[Item, Finished], Record]


@dataclass(frozen=True, slots=True)
class SlideStep(Generic[Item, Record]):
    """One step over the slides of a cohort: three functions, any of which may raise SlideError.

    Args:
        name: What the step is called before the user.
        prepare: Reads in this process what the work needs of an entry, shortly before the work begins.
        work: The work on one slide, wherever it is done; it can be pickled, and writes nothing into the project, but
            for SAM's embeddings in the cache.
        receive: Takes the record in this process, in any order, and writes; returns the counts to show for the entry.
        resumed: How records are kept for the run after a stopped one; None where they are not.
    """

    name: str
    prepare: Callable[[Entry], Item | Skipped]
    work: Work[Item, Record]
    receive: Callable[[Entry, Record], Counts | Skipped]
    resumed: Resumed[Item, Record] | None = None


def for_each_entry(
    entries: Sequence[Entry],
    work: Callable[[Entry], Counts | Skipped],
    *,
    tracker: Tracker,
    name: str,
) -> list[EntryResult]:
    """One result per entry, in order: do ``work`` for each entry in this process and go on when one fails.

    ``work`` returns the counts to show for the entry, or ``Skipped``. A SlideError means that the entry failed. Any
    other exception is a bug or concerns all entries, and is raised.

    Raises:
        KeyboardInterrupt: its text says how many entries were finished.
    """
    step: SlideStep[Entry, Counts | Skipped] = SlideStep(
        name, lambda entry: entry, lambda entry, _: work(entry), lambda _, counts: counts
    )
    return for_each_slide(entries, step, tracker=tracker)


def for_each_slide(
    entries: Sequence[Entry], step: SlideStep[Any, Any], *, tracker: Tracker, workers: Workers = IN_PROCESS
) -> list[EntryResult]:
    """One result per entry, in order: do a step for each entry and go on when one fails.

    The work is done by ``workers``. Records come back in any order, and the results do not depend on it.

    Raises:
        KeyboardInterrupt: its text says how many entries were finished.
    """
    loop = _Loop(entries, step, tracker)
    tracker.start(step.name, len(entries))
    try:
        for index, outcome in run_all(workers, step.work, loop.items(), tracker):
            loop.seconds[index] += outcome.seconds
            if outcome.error is not None:
                loop.fail(index, outcome.error)
            else:
                loop.keep(index, outcome.record)
                loop.receive(index, outcome.record)
    except KeyboardInterrupt as stop:
        finished = sum(result.status == "done" for result in loop.results.values())
        raise KeyboardInterrupt(f"{finished} of {len(entries)} entries were finished ({step.name})") from stop
    if loop.taken_over:
        message = f"{step.name}: {loop.taken_over} of {len(entries)} slides taken over from a stopped run"
        log.info("%s", message)
        tracker.say(message)
    return [loop.results[index] for index in range(len(entries))]


@dataclass(slots=True)
class _Loop:
    """The results so far, by the index of the entry, and the seconds that each took."""

    entries: Sequence[Entry]
    step: SlideStep[Any, Any]
    tracker: Tracker
    results: dict[int, EntryResult] = field(default_factory=dict)
    taken_over: int = 0
    keys: dict[int, str] = field(default_factory=dict)
    seconds: list[float] = field(init=False)
    titles: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.seconds = [0.0] * len(self.entries)
        self.titles = titles(self.entries)

    def items(self) -> Iterator[tuple[int, Any]]:
        """What the work needs, of each entry that there is work on."""
        for index, entry in enumerate(self.entries):
            began = time.monotonic()
            try:
                item = self.step.prepare(entry)
                record = None if isinstance(item, Skipped) else self._kept(index, item)
            except SlideError as error:
                self.fail(index, error)
                continue
            self.seconds[index] += time.monotonic() - began
            if isinstance(item, Skipped):
                self.finish(index, item)
            elif record is not None:
                self.taken_over += 1
                self.receive(index, record)
            else:
                yield index, item

    def _kept(self, index: int, item: Any) -> Any:
        """The record of an item that a stopped run has kept, or None."""
        resumed = self.step.resumed
        if resumed is None:
            return None
        self.keys[index] = resumed.key(item)
        return resumed.store.get(self.step.name, self.keys[index], partial(resumed.read, item))

    def keep(self, index: int, record: Any) -> None:
        """Keep the record of an entry for a run after this one."""
        if self.step.resumed is not None:
            self.step.resumed.store.put(self.step.name, self.keys.pop(index), self.step.resumed.write(record))

    def receive(self, index: int, record: Any) -> None:
        """Take the record of an entry."""
        began = time.monotonic()
        try:
            outcome = self.step.receive(self.entries[index], record)
        except SlideError as error:
            self.fail(index, error)
            return
        self.seconds[index] += time.monotonic() - began
        self.finish(index, outcome)

    def finish(self, index: int, outcome: Counts | Skipped) -> None:
        """Note what became of an entry."""
        entry, seconds = self.entries[index], self.seconds[index]
        if isinstance(outcome, Skipped):
            self._add(index, EntryResult(entry.id, entry.name, "skipped", reason=outcome.reason, seconds=seconds))
        else:
            self._add(index, EntryResult(entry.id, entry.name, "done", seconds=seconds, counts=dict(outcome)))

    def fail(self, index: int, error: SlideError) -> None:
        """The entry failed."""
        entry, title = self.entries[index], self.titles[index]
        reason = error.message if not error.hint else f"{error.message} ({error.hint})"
        if title != entry.name and reason.startswith(f"{entry.name}: "):
            reason = title + reason.removeprefix(entry.name)
        reason = reason if title in reason else f"{title}: {reason}"
        log.info("%s: %s: %s", self.step.name, entry.name, reason)
        self.tracker.say(reason)
        self._add(index, EntryResult(entry.id, entry.name, "failed", reason=reason, seconds=self.seconds[index]))

    def _add(self, index: int, result: EntryResult) -> None:
        self.results[index] = result
        self.tracker.advance(1, message=result.name)


def finished_entries(entries: Sequence[Entry], results: Sequence[EntryResult]) -> list[Entry]:
    """The entries whose result is "done", with which the next step goes on."""
    ids = {result.id for result in results if result.status == "done"}
    return [entry for entry in entries if entry.id in ids]


def merge_results(*passes: Sequence[EntryResult]) -> list[EntryResult]:
    """One result per entry from several loops: the last status and reason, the sum of the seconds, all counts."""
    merged: dict[str, EntryResult] = {}
    for result in (result for results in passes for result in results):
        before = merged.get(result.id)
        merged[result.id] = (
            result
            if before is None
            else replace(result, seconds=before.seconds + result.seconds, counts={**before.counts, **result.counts})
        )
    return list(merged.values())
