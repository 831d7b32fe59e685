"""The loop over entries."""

from dataclasses import replace

import pytest

from wsplf_cli.cohort.run import (
    Resumed,
    Skipped,
    SlideStep,
    finished_entries,
    for_each_entry,
    for_each_slide,
    merge_results,
)
from wsplf_cli.errors import SlideError
from wsplf_cli.runs.resume import Finished, ResumeStore
from wsplf_cli.schema import EntryResult


def test_one_bad_entry_is_recorded_and_the_others_go_on(make_entry, recorder):
    entries = [make_entry("a"), make_entry("b"), make_entry("c")]

    def work(entry):
        if entry.name == "b":
            raise SlideError("b: broken", hint="copy it again")
        return Skipped("no tissue") if entry.name == "c" else {"tiles": 3}

    results = for_each_entry(entries, work, tracker=recorder, name="tiles")
    assert [result.status for result in results] == ["done", "failed", "skipped"]
    assert results[0].counts == {"tiles": 3}
    assert results[1].reason == "b: broken (copy it again)"
    assert results[2].reason == "no tissue"
    assert recorder.started == [("tiles", 3)]
    assert recorder.steps == 3
    assert recorder.said == ["b: broken (copy it again)"]
    assert finished_entries(entries, results) == entries[:1]


def test_a_bug_is_not_swallowed(make_entry, recorder):
    with pytest.raises(ZeroDivisionError):
        for_each_entry([make_entry()], lambda _: {"x": 1 / 0}, tracker=recorder, name="tiles")


def test_ctrl_c_tells_how_many_entries_were_finished(make_entry, recorder):
    def work(entry):
        if entry.name == "b":
            raise KeyboardInterrupt
        return {}

    with pytest.raises(KeyboardInterrupt, match=r"^1 of 2 entries were finished \(tiles\)$"):
        for_each_entry([make_entry("a"), make_entry("b")], work, tracker=recorder, name="tiles")


def test_merge_takes_the_last_status_and_adds_seconds_and_counts():
    first = [EntryResult("1", "a", "done", seconds=1, counts={"tiles": 2}), EntryResult("2", "b", "failed", "bad")]
    second = [EntryResult("1", "a", "skipped", "nothing found", seconds=2, counts={"polygons": 0})]
    assert merge_results(first, second) == [
        EntryResult("1", "a", "skipped", "nothing found", seconds=3, counts={"tiles": 2, "polygons": 0}),
        EntryResult("2", "b", "failed", "bad"),
    ]


def stopped_after(count):
    """Work that doubles a number, and is stopped after so many slides."""
    done = []

    def work(item, tracker):
        if len(done) == count:
            raise KeyboardInterrupt
        done.append(item)
        return 2 * item

    return work, done


def doubling(store, work, received):
    def receive(entry, record):
        received[entry.id] = record
        return {"twice": record}

    resumed = Resumed(
        store, lambda item: f"key{item}", lambda record: Finished(document=record), lambda item, kept: kept.document
    )
    return SlideStep("doubles", lambda entry: int(entry.id), work, receive, resumed)


def test_a_second_run_takes_over_what_a_stopped_one_had_finished(make_entry, recorder, tmp_path):
    entries = [make_entry(name) for name in "abcd"]
    work, _ = stopped_after(2)
    received = {}
    with pytest.raises(KeyboardInterrupt):
        for_each_slide(entries, doubling(ResumeStore(tmp_path / "r"), work, received), tracker=recorder)
    assert received == {"1": 2, "2": 4}
    work, done = stopped_after(99)
    second = {}
    results = for_each_slide(entries, doubling(ResumeStore(tmp_path / "r"), work, second), tracker=recorder)
    assert done == [3, 4]
    assert second == {"1": 2, "2": 4, "3": 6, "4": 8}
    assert [result.counts["twice"] for result in results] == [2, 4, 6, 8]
    assert recorder.said == ["doubles: 2 of 4 slides taken over from a stopped run"]


def test_a_slide_whose_key_cannot_be_told_fails_alone(make_entry, recorder, tmp_path):
    work, done = stopped_after(99)
    step = doubling(ResumeStore(tmp_path), work, {})

    def key(item):
        if item == 1:
            raise SlideError("a: gone")
        return str(item)

    results = for_each_slide(
        [make_entry("a"), make_entry("b")], replace(step, resumed=replace(step.resumed, key=key)), tracker=recorder
    )
    assert [result.status for result in results] == ["failed", "done"]
    assert done == [2]
