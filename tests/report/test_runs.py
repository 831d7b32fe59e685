"""Runs as the report shows them."""

import pytest
from report_page import write_run

from wsplf_cli.report.runs import SlideToCheck, latest_runs, read_runs, suspected_label_errors, unlike_slides


def test_broken_run_files_are_left_out_and_logged(tmp_path, caplog):
    good = write_run(tmp_path, "1-train-a")
    (good / "curves.json").write_text("{")
    (write_run(tmp_path, "2-train-b") / "run.json").write_text("[]")
    (write_run(tmp_path, "3-train-c") / "run.json").write_text("\0")
    runs = read_runs(tmp_path)
    assert [run.folder.name for run in runs] == ["1-train-a"]
    assert [run.folder.name for run in latest_runs(runs)] == ["1-train-a"]
    assert caplog.text.count("left out of the report") == 2


@pytest.mark.parametrize("key", ["suspected_label_errors", "suspects"])
def test_suspected_label_errors_are_those_of_the_last_finished_run(tmp_path, key):
    older = {"1": {"name": "a.tif", "reason": "old"}}
    newer = {"2": {"name": "b.tif", "reason": "looks like tumour"}, "3": "odd"}
    write_run(tmp_path, "1-pseudolabel", details={key: older}, started="2026-05-01T10:00:00+00:00")
    write_run(tmp_path, "2-pseudolabel", details={key: newer}, started="2026-05-02T10:00:00+00:00")
    write_run(tmp_path, "3-pseudolabel", details={}, status="failed", started="2026-05-03T10:00:00+00:00")
    suspected = suspected_label_errors(read_runs(tmp_path))
    assert suspected == [SlideToCheck("2", "b.tif", "looks like tumour")]


def test_unlike_slides_are_those_of_the_last_finished_run_of_segment(tmp_path):
    older, newer = ({"1": {"name": f"{name}.tif", "reason": "unlike: colour"}} for name in "ab")
    write_run(tmp_path, "1-segment", details={"unlike": older}, started="2026-05-01T10:00:00+00:00")
    write_run(tmp_path, "2-segment", details={"unlike": newer}, started="2026-05-02T10:00:00+00:00")
    write_run(tmp_path, "3-pseudolabel", details={"unlike": older}, started="2026-05-03T10:00:00+00:00")
    assert unlike_slides(read_runs(tmp_path)) == [SlideToCheck("1", "b.tif", "unlike: colour")]
    write_run(tmp_path, "4-segment", details={}, started="2026-05-04T10:00:00+00:00")
    assert unlike_slides(read_runs(tmp_path)) == []
