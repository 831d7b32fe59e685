"""The loop over the entries of a project that every command shares."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from wsplf_cli.errors import SlideError
from wsplf_cli.schema import Entry, EntryResult, Tracker, titles

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Skipped:
    """What the work on an entry returns when there is nothing to do, with the reason for the user."""

    reason: str


def for_each_entry(
    entries: Sequence[Entry],
    work: Callable[[Entry], Mapping[str, float] | Skipped],
    *,
    tracker: Tracker,
    name: str,
) -> list[EntryResult]:
    """One result per entry, in order: do ``work`` for each entry and go on when one fails.

    ``work`` returns the counts to show for the entry, or ``Skipped``. A SlideError means that the entry failed. Any
    other exception is a bug or concerns all entries, and is raised.

    Raises:
        KeyboardInterrupt: its text says how many entries were finished.
    """
    results: list[EntryResult] = []
    tracker.start(name, len(entries))
    try:
        for entry, title in zip(entries, titles(entries), strict=True):
            results.append(_work_on(entry, work, title=title))
            if results[-1].status == "failed":
                log.info("%s: %s: %s", name, entry.name, results[-1].reason)
                tracker.say(results[-1].reason)
            tracker.advance(1, message=entry.name)
    except KeyboardInterrupt as stop:
        finished = sum(result.status == "done" for result in results)
        raise KeyboardInterrupt(f"{finished} of {len(entries)} entries were finished ({name})") from stop
    return results


def _work_on(entry: Entry, work: Callable[[Entry], Mapping[str, float] | Skipped], *, title: str) -> EntryResult:
    start = time.monotonic()
    try:
        outcome = work(entry)
    except SlideError as error:
        reason = error.message if not error.hint else f"{error.message} ({error.hint})"
        if title != entry.name and reason.startswith(f"{entry.name}: "):
            reason = title + reason.removeprefix(entry.name)
        reason = reason if title in reason else f"{title}: {reason}"
        return EntryResult(entry.id, entry.name, "failed", reason=reason, seconds=time.monotonic() - start)
    seconds = time.monotonic() - start
    if isinstance(outcome, Skipped):
        return EntryResult(entry.id, entry.name, "skipped", reason=outcome.reason, seconds=seconds)
    return EntryResult(entry.id, entry.name, "done", seconds=seconds, counts=dict(outcome))


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
