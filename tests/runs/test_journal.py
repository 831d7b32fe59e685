"""What a run writes is recorded before it is written."""

import errno
import json
import os
from dataclasses import replace
from uuid import uuid4

import kills
import pytest
from shapely import box

from wsplf_cli.backends.embedded import open_project
from wsplf_cli.errors import ProjectError, SlideError
from wsplf_cli.options import ProjectOptions
from wsplf_cli.qupath import atomic, project_file
from wsplf_cli.qupath.atomic import write_files
from wsplf_cli.runs.history import past_runs
from wsplf_cli.runs.journal import ChangedOnDisk, Journal, read_state, recording, sha256
from wsplf_cli.runs.record import start_run
from wsplf_cli.schema import Annotation, EntryResult

POLYGON = Annotation(uuid4(), box(100, 100, 300, 300), "Tumor", run_id="r")


@pytest.fixture
def project(tmp_path):
    """A project of three entries; two hold annotations of people."""
    return kills.make_project(tmp_path / "study", people=3)


@pytest.fixture
def journal(tmp_path):
    """A journal that records what is written under the test's folder."""
    with recording(Journal(tmp_path, tmp_path / "wsplf" / "runs" / "r1")) as made:
        yield made


def _lines(journal):
    return [json.loads(line) for line in (journal.undo_folder / "journal.jsonl").read_text("utf-8").splitlines()]


def test_old_file_and_both_hashes_are_on_disk_before_the_first_rename(tmp_path, journal, monkeypatch):
    path = tmp_path / "data" / "7" / "data.qpdata"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"old")
    seen = []

    def look(*arguments, **named):
        assert path.read_bytes() == b"old"
        seen.extend(_lines(journal))

    monkeypatch.setattr(atomic, "_rename", look)
    write_files({path: b"new"})
    first, line = seen
    assert first == {"sequence": 1}
    assert (line["path"], line["entry"]) == ("data/7/data.qpdata", "7")
    assert (line["old"], line["new"]) == (sha256(b"old"), sha256(b"new"))
    assert (journal.undo_folder / line["kept"]).read_bytes() == b"old"


@pytest.mark.parametrize("links", [True, False])
def test_later_writing_into_the_file_does_not_reach_the_copy(tmp_path, journal, monkeypatch, links):
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError("no links here")))
    for name in ("data.qpdata", "summary.json"):
        path = tmp_path / "data" / "7" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"old")
        write_files({path: b"new"})
        with path.open("r+b") as stream:
            stream.write(b"!!!")
    kept = [journal.undo_folder / line["kept"] for line in _lines(journal) if line.get("kept")]
    assert {one.read_bytes() for one in kept} == {b"old"}


def test_file_written_twice_is_kept_once_and_put_back_to_the_first(tmp_path, journal):
    path = tmp_path / "project.qpproj"
    path.write_bytes(b"one")
    write_files({path: b"two"})
    write_files({path: b"three"})
    (run,) = past_runs(tmp_path)
    (write,) = run.writes
    assert write.kept is not None
    assert write.kept.read_bytes() == b"one"
    assert write.new_hashes == {sha256(b"two"), sha256(b"three")}
    assert not write.changed_between
    assert len(list(journal.undo_folder.iterdir())) == 2


def test_what_another_program_wrote_between_two_writes_is_kept_too(tmp_path, journal):
    path = tmp_path / "project.qpproj"
    path.write_bytes(b"one")
    write_files({path: b"two"})
    path.write_bytes(b"a person's")
    write_files({path: b"three"})
    (write,) = past_runs(tmp_path)[0].writes
    assert write.changed_between
    assert b"a person's" in {path.read_bytes() for path in journal.undo_folder.iterdir()}


def test_refused_write_leaves_no_trace(tmp_path):
    path = tmp_path / "data" / "7" / "data.qpdata"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"a person's")
    with (
        recording(Journal(tmp_path, tmp_path / "wsplf" / "runs" / "r1")) as journal,
        pytest.raises(ChangedOnDisk, match="changed by another program"),
    ):
        write_files({path: b"new"}, expected={path: sha256(b"what was read")})
    assert path.read_bytes() == b"a person's"
    assert [one.name for one in path.parent.iterdir()] == ["data.qpdata"]
    assert not journal.undo_folder.exists()


def test_change_in_the_last_moment_is_seen_and_withdrawn(tmp_path, monkeypatch):
    path = tmp_path / "data" / "7" / "data.qpdata"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"old")
    real = Journal.before

    def meanwhile(self, *arguments, **named):
        numbers = real(self, *arguments, **named)
        path.unlink()
        path.write_bytes(b"a person's")
        return numbers

    monkeypatch.setattr(Journal, "before", meanwhile)
    with (
        recording(Journal(tmp_path, tmp_path / "wsplf" / "runs" / "r1")) as journal,
        pytest.raises(ChangedOnDisk),
    ):
        write_files({path: b"new"}, expected={path: sha256(b"old")})
    assert path.read_bytes() == b"a person's"
    assert not journal.undo_folder.exists()


def test_same_size_and_time_do_not_hide_a_change(project):
    opened = open_project(project, ProjectOptions())
    opened.annotations("1")
    path = project.parent / "data" / "1" / "data.qpdata"
    stat, raw = path.stat(), path.read_bytes()
    path.write_bytes(raw[:-200] + bytes([raw[-200] ^ 1]) + raw[-199:])
    changed = path.read_bytes()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert len(changed) == len(raw)
    with pytest.raises(SlideError):
        opened.install("1", content=b"new", summary=b"{}", classes=[])
    assert path.read_bytes() == changed


def test_class_that_another_program_adds_meanwhile_stays(project, monkeypatch):
    opened = open_project(project, ProjectOptions())
    path = project_file.classes_path(project.parent)
    real, added = atomic.read_state, []

    def meanwhile(looked):
        if looked == path and not added:
            added.append(path.write_text('{"pathClasses": [{"name": "Mine"}]}', encoding="utf-8"))
        return real(looked)

    monkeypatch.setattr(atomic, "read_state", meanwhile)
    opened.replace("1", origin="pseudolabel", annotations=[POLYGON])
    assert [path_class.name for path_class in opened.path_classes()] == ["Mine", "Tumor"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
def test_old_files_that_cannot_be_kept_stop_the_write_in_one_line(project, monkeypatch, code):
    opened = open_project(project, ProjectOptions())
    before = kills.contents(project.parent)

    def full(*arguments, **named):
        raise OSError(code, os.strerror(code))

    with start_run(opened, "segment", options=None, seed=0) as run:
        with monkeypatch.context() as patch:
            patch.setattr(Journal, "_keep", full)
            with pytest.raises(ProjectError, match="the old file is still in place") as caught:
                opened.replace("1", origin="prediction", annotations=[POLYGON])
        run.finish([])
    assert "\n" not in caught.value.message
    assert kills.contents(project.parent) == before
    assert past_runs(project.parent) == []


def test_run_says_how_much_it_wrote_and_how_large_the_undo_is(project):
    run_id = kills.write(project)
    record = json.loads((project.parent / "wsplf" / "runs" / run_id / "run.json").read_text("utf-8"))
    wrote = record["details"]["wrote"]
    kept = [path for path in (project.parent / "wsplf" / "runs" / run_id / "undo").iterdir() if path.suffix != ".jsonl"]
    assert wrote == {"entries": 3, "files": 9, "undo_bytes": sum(one.stat().st_size for one in kept)}


def test_entry_that_is_saved_after_it_was_written_is_no_success(project):
    opened = open_project(project, ProjectOptions())
    person = kills.Saver(project, "1")
    with start_run(opened, "segment", options=None, seed=0) as run:
        polygon = replace(POLYGON, run_id=run.id)
        opened.replace("1", origin="prediction", annotations=[polygon])
        opened.replace("2", origin="prediction", annotations=[polygon])
        person.draw()
        person.save()
        reloaded = kills.Saver(project, "2")
        reloaded.draw()
        reloaded.save()
        report = run.finish([EntryResult("1", "1.svs", "done"), EntryResult("2", "2.svs", "done")])
    assert [entry.status for entry in report.entries] == ["failed", "done"]  # the first one's image was not reloaded
    assert "saved by another program after wsplf had written it" in report.entries[0].reason


def test_symbolic_link_stays_one(tmp_path, journal):
    real, link = tmp_path / "real.json", tmp_path / "link.json"
    real.write_bytes(b"old")
    try:
        link.symlink_to(real)
    except OSError:
        pytest.skip("this system makes no symbolic links")
    write_files({link: b"new"})
    assert link.is_symlink()
    assert real.read_bytes() == b"new"
    assert past_runs(tmp_path)[0].writes[0].old == sha256(b"old")


def test_hash_of_a_file_that_is_not_there_is_none(tmp_path):
    assert read_state(tmp_path / "nothing").sha256 is None
