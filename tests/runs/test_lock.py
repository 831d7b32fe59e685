"""One writer at a time in a project."""

import json
import os
import time

import kills
import pytest
from filelock import FileLock

from wsplf_cli.commands.train import train
from wsplf_cli.errors import ProjectError
from wsplf_cli.options import TrainOptions
from wsplf_cli.runs.layout import project_lock
from wsplf_cli.runs.lock import hold
from wsplf_cli.runs.record import start_run


def _hold_on(path, ready):
    with hold(path, command="segment"):
        ready.set()
        time.sleep(60)


@pytest.fixture
def other_writer(tmp_path):
    """Another process that holds the project's lock."""
    ready = kills.WRITER.Event()
    child = kills.WRITER.Process(target=_hold_on, args=(project_lock(tmp_path), ready))
    child.start()
    assert ready.wait(60)
    yield child
    child.kill()
    child.join()


def test_second_writer_ends_at_once_and_names_the_first(other_writer, memory_project):
    with (
        pytest.raises(ProjectError, match="is writing here; nothing was done") as caught,
        start_run(memory_project(), "pseudolabel", options=None, seed=0),
    ):
        pytest.fail("the run began")
    assert f"wsplf segment (process {other_writer.pid} on " in caught.value.message
    assert "since 2" in caught.value.message
    assert "wait" in caught.value.hint
    assert not (memory_project().folder / "wsplf" / "runs").exists()


def test_lock_ends_with_a_process_that_is_killed(other_writer, memory_project):
    other_writer.kill()
    other_writer.join()
    with start_run(memory_project(), "pseudolabel", options=None, seed=0) as run:
        run.finish([])


def test_what_a_killed_process_left_about_itself_is_not_shown(tmp_path):
    path = project_lock(tmp_path)
    path.parent.mkdir()
    (path.parent / "lock.json").write_text(json.dumps({"command": "old", "pid": 1, "host": "h", "since": "1999"}))
    with hold(path, command="segment"):
        assert json.loads((path.parent / "lock.json").read_text())["pid"] == os.getpid()
    assert not (path.parent / "lock.json").exists()


@pytest.mark.parametrize("note", [None, "", "[]", '{"command": "x"}'])
def test_lock_without_a_readable_note_still_holds(tmp_path, note):
    path = project_lock(tmp_path)
    path.parent.mkdir()
    if note is not None:
        (path.parent / "lock.json").write_text(note)
    with (
        FileLock(path, thread_local=False),
        pytest.raises(ProjectError, match="another wsplf command is writing here"),
        hold(path, command="segment"),
    ):
        pytest.fail("both hold it")


def test_dry_runs_and_stages_that_only_read_need_no_lock(other_writer, memory_project):
    for stage, dry_run in (("evaluate", False), ("train", False), ("segment", True)):
        with start_run(memory_project(), stage, options=TrainOptions(), seed=0, dry_run=dry_run) as run:
            run.finish([])


def test_lock_is_let_go_when_a_run_fails(memory_project):
    for _ in range(2):
        with pytest.raises(ProjectError, match="x"), start_run(memory_project(), "segment", options=None, seed=0):
            raise ProjectError("x")


def test_file_system_without_locks_gives_a_warning(tmp_path, monkeypatch, caplog):
    def refuse(self, *arguments, **named):
        raise NotImplementedError("no locks here")

    monkeypatch.setattr(FileLock, "acquire", refuse)
    with hold(project_lock(tmp_path), command="segment"):
        pass
    assert "has no locks" in caplog.text


def test_half_files_of_a_killed_command_are_cleaned_and_no_others(memory_project):
    folder = memory_project().folder
    data = folder / "data" / "1"
    data.mkdir(parents=True)
    mine = data / ".data.qpdata.0123abcd.wsplf-part"
    others = [data / ".data.qpdata.0123abcd.part", data / "wsplf-part", data / "data.qpdata.bkp", folder / "a.tmp"]
    for path in (mine, *others):
        path.write_bytes(b"x")
    with start_run(memory_project(), "evaluate", options=None, seed=0) as run:
        run.finish([])
    assert mine.exists()
    with start_run(memory_project(), "segment", options=None, seed=0) as run:
        run.finish([])
    assert not mine.exists()
    assert all(path.exists() for path in others)


def test_second_training_of_a_model_ends_at_once(memory_project, recorder):
    project = memory_project()
    with (
        hold(project.folder / "wsplf" / "train-mine.lock", command="train"),
        pytest.raises(ProjectError, match=r"wsplf train .* is writing here"),
    ):
        train(project, [], TrainOptions(name="mine"), recorder)
    with pytest.raises(ProjectError, match="polygon"):
        train(project, [], TrainOptions(name="mine"), recorder)


def test_folder_that_may_only_be_read_is_one_clear_line(tmp_path, monkeypatch):
    def refuse(self, *arguments, **named):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(FileLock, "acquire", refuse)
    with pytest.raises(ProjectError, match=r"cannot write .*Permission denied"), hold(tmp_path / "lock", command="x"):
        pytest.fail("it is held")
