"""The loop over entries."""

import pytest

from wsplf_cli.cohort.run import Skipped, finished_entries, for_each_entry, merge_results
from wsplf_cli.errors import SlideError
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
