"""``wsplf undo``: the same bytes as before a run, and nothing that a person did since."""

import json
import os
import shutil
from uuid import uuid4

import kills
import pytest
from shapely import box

from wsplf_cli.backends.embedded import open_project
from wsplf_cli.cli import main
from wsplf_cli.commands.labels import labels
from wsplf_cli.commands.undo import undo
from wsplf_cli.errors import ProjectError
from wsplf_cli.options import LabelsOptions, ProjectOptions, UndoOptions
from wsplf_cli.runs.history import past_runs
from wsplf_cli.runs.record import start_run
from wsplf_cli.schema import Annotation, Silent


@pytest.fixture
def project(tmp_path):
    """A project of three entries; two hold annotations of people."""
    return kills.make_project(tmp_path / "study", people=3)


def _undo(project, run_id=None, **options):
    return undo(project, run_id, UndoOptions(**options), Silent())


def _draw(project, entry_id):
    """A person's annotation, saved without a run."""
    annotation = Annotation(uuid4(), box(0, 0, 9, 9), "Stroma")
    open_project(project, ProjectOptions()).replace(entry_id, origin="human", annotations=[annotation])


def _states(report):
    return {entry.id: entry.status for entry in report.entries}


def test_everything_is_as_before_the_run_to_the_byte(project):
    before = kills.contents(project.parent)
    assert "data/3/data.qpdata" not in before
    kills.write(project)
    written = kills.contents(project.parent)
    assert {name for name in written if written[name] != before.get(name)} == {
        *(f"data/{number}/{name}" for number in (1, 2, 3) for name in ("data.qpdata", "summary.json")),
        "classifiers/classes.json",
        "project.qpproj",
        "project.qpproj.backup",
    }
    report = _undo(project)
    assert report.failed == 0
    assert _states(report) == dict.fromkeys(["1", "2", "3", "classifiers/classes.json", "project.qpproj"], "done")
    assert kills.contents(project.parent) == before
    assert not (project.parent / "data" / "3").exists()


def test_undo_of_an_undo_is_a_redo(project):
    kills.write(project)
    written = kills.contents(project.parent)
    undone = _undo(project)
    _undo(project, undone.run_id)
    assert kills.contents(project.parent) == written
    assert _undo(project).failed == 0
    with pytest.raises(ProjectError, match="no run has written what is not undone already"):
        _undo(project)


def test_each_undo_goes_one_run_further_back(project):
    states = [kills.contents(project.parent)]
    for _ in range(2):
        kills.write(project)
        states.append(kills.contents(project.parent))
    _undo(project)
    assert kills.contents(project.parent) == states[1]
    _undo(project)
    assert kills.contents(project.parent) == states[0]


def test_what_a_person_changed_since_is_left_alone_and_named(project):
    before = kills.contents(project.parent)
    run_id = kills.write(project)
    _draw(project, "2")
    mine = kills.contents(project.parent)
    report = _undo(project)
    assert _states(report) | {"1": "done", "2": "failed", "3": "done"} == _states(report)
    (failed,) = [entry for entry in report.entries if entry.status == "failed"]
    assert "data/2/data.qpdata was changed since the run" in failed.reason
    assert f"{run_id}/undo/" in failed.reason.replace(os.sep, "/")
    after = kills.contents(project.parent)
    for name in ("data/2/data.qpdata", "data/2/summary.json"):
        assert after[name] == mine[name]
    assert after["data/1/data.qpdata"] == before["data/1/data.qpdata"]


def test_older_run_is_refused_where_a_newer_one_wrote(project):
    first = kills.write(project)
    second = kills.write(project)
    report = _undo(project, first)
    assert report.failed == 3  # the second run changed no label and no class
    assert f"run {second} wrote it later" in report.entries[0].reason
    assert f"wsplf undo PROJECT {second}" in report.entries[0].reason
    _undo(project, second)
    assert _undo(project, first).failed == 0


def test_class_list_that_changed_since_keeps_its_classes_without_a_failure(project):
    kills.write(project)
    classes = project.parent / "classifiers" / "classes.json"
    document = json.loads(classes.read_text(encoding="utf-8"))
    document["pathClasses"].append({"name": "Mine"})
    classes.write_text(json.dumps(document), encoding="utf-8")
    report = _undo(project)
    assert report.failed == 0
    assert _states(report)["classifiers/classes.json"] == "skipped"
    assert json.loads(classes.read_text(encoding="utf-8")) == document


def test_summary_follows_its_data(project):
    before = kills.contents(project.parent)
    kills.write(project)
    (project.parent / "data" / "1" / "summary.json").write_text("{}", encoding="utf-8")
    assert _undo(project).failed == 0
    assert kills.contents(project.parent) == before


def test_folder_in_which_something_else_came_to_be_stays(project):
    kills.write(project)
    (project.parent / "data" / "3" / "thumbnail.jpg").write_bytes(b"x")
    _undo(project)
    assert [one.name for one in (project.parent / "data" / "3").iterdir()] == ["thumbnail.jpg"]


def test_labels_from_a_table_can_be_undone(project, tmp_path):
    table = tmp_path / "labels.csv"
    table.write_text("slide,label\n1.svs,normal\n", encoding="utf-8")
    before = kills.contents(project.parent)
    opened = open_project(project, ProjectOptions())
    labels(opened, opened.entries(), LabelsOptions(csv=table), Silent())
    assert kills.contents(project.parent) != before
    _undo(project)
    assert kills.contents(project.parent) == before


def test_a_dry_run_writes_nothing(project):
    kills.write(project)
    written = kills.contents(project.parent)
    runs = sorted((project.parent / "wsplf" / "runs").iterdir())
    report = _undo(project, dry_run=True)
    assert set(_states(report).values()) == {"done"}
    assert kills.contents(project.parent) == written
    assert sorted((project.parent / "wsplf" / "runs").iterdir()) == runs


def test_the_list_shows_what_wrote_newest_first_and_what_is_undone(project):
    first, second = kills.write(project), kills.write(project)
    undone = _undo(project)
    report = _undo(project, list=True)
    assert [entry.id for entry in report.entries] == [undone.run_id, second, first]
    assert [entry.reason for entry in report.entries] == [f"undoes {second}", "undone", ""]
    assert report.entries[2].counts["entries"] == 3


def test_run_that_wrote_nothing_has_no_undo_folder_and_is_not_listed(project):
    opened = open_project(project, ProjectOptions())
    with start_run(opened, "segment", options=None, seed=0) as run:
        opened.replace("1", origin="prediction", annotations=[])
        run.finish([])
    assert run.folder is not None
    assert not (run.folder / "undo").exists()
    assert past_runs(project.parent) == []
    with pytest.raises(ProjectError, match="wrote nothing"):
        _undo(project, run.id)


@pytest.mark.parametrize("run_id", ["nonsense", "../../.."])
def test_unknown_run_is_one_clear_line(project, run_id):
    kills.write(project)
    with pytest.raises(ProjectError, match=r"no run .* has written") as caught:
        _undo(project, run_id)
    assert caught.value.hint == "wsplf undo PROJECT --list"


def test_damaged_copy_is_never_put_back(project):
    kills.write(project)
    written = kills.contents(project.parent)
    for run in past_runs(project.parent):
        for write in run.writes:
            if write.kept is not None:
                write.kept.unlink()
                write.kept.write_bytes(b"damaged")
    report = _undo(project)
    assert _states(report) | {"1": "failed", "2": "failed", "3": "done"} == _states(report)
    after = kills.contents(project.parent)
    assert after["data/1/data.qpdata"] == written["data/1/data.qpdata"]


@pytest.mark.parametrize("path", ["../outside", "/etc/passwd", "data/../../x", "C:/x", "..\\x"])
def test_journal_that_leads_out_of_the_project_is_refused(project, path):
    kills.write(project)
    (journal,) = project.parent.glob("wsplf/runs/*/undo/journal.jsonl")
    with journal.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps({"n": 99, "entry": None, "path": path, "old": None, "kept": None, "new": "x"}) + "\n")
    with pytest.raises(ProjectError, match="outside the project"):
        _undo(project)


def test_journal_whose_last_line_was_cut_is_read(project):
    before = kills.contents(project.parent)
    kills.write(project)
    (journal,) = project.parent.glob("wsplf/runs/*/undo/journal.jsonl")
    journal.write_bytes(journal.read_bytes()[:-9])
    assert _undo(project).failed == 0
    assert kills.contents(project.parent) == before


def test_project_that_moved_is_undone_where_it_is(project, tmp_path):
    before = kills.contents(project.parent)
    kills.write(project)
    moved = shutil.move(project.parent, tmp_path / "elsewhere ü")
    assert _undo(moved / project.name).failed == 0
    assert kills.contents(moved) == before


def test_command_tells_what_to_do_in_qupath_and_exits_with_1_on_a_changed_entry(project, capsys):
    kills.write(project)
    _draw(project, "2")
    assert main(["undo", str(project)]) == 1
    shown = capsys.readouterr()
    assert "Reload data" in shown.err
    assert "2.svs" in shown.out
    assert main(["undo", str(project), "--list"]) == 0
    assert "Reload data" not in capsys.readouterr().err


def test_a_data_file_that_is_missing_since_is_said_to_be_missing(project):
    kills.write(project)
    (project.parent / "data" / "1" / "data.qpdata").unlink()
    (failed,) = [entry for entry in _undo(project).entries if entry.status == "failed"]
    assert "data/1/data.qpdata is missing; left as it is" in failed.reason
    assert "the file before the run is" in failed.reason
    assert not (project.parent / "data" / "1" / "data.qpdata").exists()
