"""The screen: results on stdout, all else on stderr, nothing of the user's text taken as markup."""

import json
import logging

import pytest

from wsplf_cli.schema import Check, EntryResult, StageReport
from wsplf_cli.ui import Screen, show_error

REPORT = StageReport(
    "train",
    "run-1",
    (
        EntryResult("1", "a[red].tif", "done", counts={"tiles": 12, "share": 0.25}),
        EntryResult("2", "b", "failed", "no"),
    ),
    seconds=2.0,
    details={"loss": float("nan")},
)


def test_report_shows_a_row_per_entry_and_the_totals(capsys):
    with Screen() as screen:
        screen.report(REPORT)
    out, err = capsys.readouterr()
    assert "a[red].tif" in out
    assert "0.2500" in out
    assert "train: 1 done, 1 failed in 2 s; run run-1" in out
    assert err == ""


def test_report_shows_the_name_of_an_entry_that_failed_once(capsys):
    results = (
        EntryResult("1", "a.svs", "failed", "a.svs (id 1): gone"),
        EntryResult("2", "a.svs", "failed", "a.svs: no"),
    )
    with Screen() as screen:
        screen.report(StageReport("train", "", results, seconds=1.0))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[1:3]] == [["a.svs", "(id"], ["a.svs", "(id"]]
    assert [line.count("a.svs") for line in lines[1:5]] == [1, 1, 1, 1]


def test_a_column_of_nothing_but_0_is_left_out_unless_it_says_what_was_done(capsys):
    results = tuple(EntryResult(str(n), "a", "done", counts={"polygons": 0, "removed": 0, "kept": n}) for n in (0, 1))
    with Screen() as screen:
        screen.report(StageReport("segment", "", results, seconds=2.0))
    assert capsys.readouterr().out.splitlines()[0].split() == ["entry", "status", "polygons", "kept", "s"]


def test_a_long_reason_leaves_the_table_its_room_and_numbers_are_whole(capsys, monkeypatch):
    reason = "unlike the slides that the model learned from: texture (2.0 times the largest difference among them)"
    counts = {"polygons Tumor": 3, "area_um2": 123456.7, "suppressed_um2": 0, "unlike": 1.12, "removed": 34}
    result = EntryResult("1", "a.svs", "done", reason, counts=counts, seconds=2.0)
    monkeypatch.setenv("COLUMNS", "50")
    with Screen() as screen:
        screen.report(StageReport("segment", "", (result,), seconds=2.0))
    lines = capsys.readouterr().out.splitlines()
    (row,) = (line for line in lines if line.startswith("a.svs  "))
    assert row.split() == ["a.svs", "done", "3", "123457", "1.1200", "34", "2.0"]
    assert lines[-2] == f"a.svs: {reason}"


def test_json_report_is_one_document_and_progress_stays_on_stderr(capsys):
    with Screen(json=True) as screen:
        screen.start("tiles", 2)
        screen.advance(2)
        screen.say("hello")
        screen.report(REPORT)
    out, err = capsys.readouterr()
    assert json.loads(out)["entries"][0]["name"] == "a[red].tif"
    assert json.loads(out)["details"] == {"loss": None}
    assert "tiles: 0/2" in err
    assert "hello" in err


def test_without_a_terminal_there_are_few_lines(capsys):
    with Screen() as screen:
        screen.start("epochs", 500)
        for _ in range(500):
            screen.advance(1, message="loss 0.1")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "epochs: 0/500"
    assert lines[-1].startswith("epochs: 500/500 (")
    assert len(lines) == 2


def test_long_work_without_a_terminal_says_now_and_then_how_long_it_takes(capsys, monkeypatch):
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr("wsplf_cli.ui.time.monotonic", lambda: float(next(clock)))
    with Screen() as screen:
        screen.start("tiles", 10)
        for _ in range(9):
            screen.advance(1)
    lines = capsys.readouterr().err.splitlines()
    assert lines[1:] == [
        f"tiles: {done}" for done in ("3/10 (12 s, 28 s left)", "6/10 (24 s, 16 s left)", "9/10 (36 s, 4 s left)")
    ]


def test_on_a_terminal_a_bar_is_drawn_and_one_line_remains(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    with Screen() as screen:
        screen.start("tiles [x]", 3)
        screen.advance(3, message="[bold")
    out, err = capsys.readouterr()
    assert "tiles [x]: 3/3" in err
    assert "━" in err
    assert out == ""


def test_error_and_hint_go_to_stderr_as_they_are(capsys):
    show_error("no [such] thing", hint="--x [a|b]")
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "error: no [such] thing\n  try: --x [a|b]\n"


def test_error_with_json_is_also_a_document(capsys):
    show_error("broken", hint="mend it", json=True)
    assert json.loads(capsys.readouterr().out) == {"error": "broken", "hint": "mend it"}


@pytest.mark.parametrize("json_mode", [False, True])
def test_checks_show_the_fix_of_what_did_not_pass(capsys, json_mode):
    checks = [Check("PASS", "torch", "2.0", fix="none"), Check("FAIL", "disk", "full", fix="free some")]
    with Screen(json=json_mode) as screen:
        screen.checks(checks)
    out = capsys.readouterr().out
    if json_mode:
        assert json.loads(out)["failed"] == 1
        assert json.loads(out)["checks"][1]["fix"] == "free some"
    else:
        assert out == "PASS  torch: 2.0\nFAIL  disk: full\n      free some\n"


def test_scores_leave_out_what_could_not_be_measured(capsys):
    scores = {"entries": [{"name": "a", "dice": None, "truth_um2": 12345.6}], "mean_dice": 0.5, "pooled_dice": None}
    with Screen() as screen:
        screen.scores(scores)
    out = capsys.readouterr().out
    assert "12346" in out
    assert "mean_dice: 0.5000\npooled_dice: \n" in out
    assert "None" not in out


def test_warnings_of_the_modules_are_shown_while_the_screen_is_there(capsys):
    with Screen():
        logging.getLogger("wsplf_cli.slides").warning("mpp differs")
    assert capsys.readouterr().err == "warning: mpp differs\n"
