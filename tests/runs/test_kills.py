"""A writer that is killed, two writers, and a program that saves as QuPath does: nothing is lost in silence."""

import os
import shutil
from random import Random

import kills
import pytest

from wsplf_cli.errors import ProjectError


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A project of three entries; two hold annotations of people."""
    return kills.make_project(tmp_path_factory.mktemp("kills") / "template", people=5)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="a process does not kill itself in the same way on Windows")
def test_killed_writer_leaves_old_or_new_and_is_undone_to_the_byte(template, tmp_path):
    trial = shutil.copytree(template.parent, tmp_path / "trial") / template.name
    steps = kills.steps_of(lambda: kills.write(trial))
    tally = kills.Tally()
    rng = Random(1)
    for number in range(12):
        first = number * steps // 12  # spread over the whole run
        moments = Random(rng.random())
        moments.randrange = lambda limit, first=first, rng=rng: min(
            first + rng.randrange(max(steps // 12, 1)), limit - 1
        )
        kills.one_kill(template, tmp_path / "copy", tally, rng=moments, steps=steps, seconds=None)
    assert tally.problems == []
    assert tally.kills >= 11
    assert tally.undone >= 8
    assert tally.left_overs  # else the kills came at no interesting moments


def _write(path, ready, begin):
    ready.release()
    begin.wait()
    try:
        kills.write(path, pause=lambda: kills.time.sleep(0.3))
    except ProjectError as error:
        raise SystemExit(3 if "is writing here" in error.message else 4) from error


def test_of_two_writers_at_once_one_writes_and_the_other_ends(template, tmp_path):
    path = shutil.copytree(template.parent, tmp_path / "copy") / template.name
    ready, begin = kills.WRITER.Semaphore(0), kills.WRITER.Event()
    children = [kills.WRITER.Process(target=_write, args=(path, ready, begin)) for _ in range(2)]
    for child in children:
        child.start()
    for _ in children:
        ready.acquire()
    begin.set()
    for child in children:
        child.join()
    assert sorted(child.exitcode for child in children) == [0, 3]
    assert len(kills.past_runs(path.parent)) == 1


@pytest.mark.parametrize("save_at", kills.ORDERS)
@pytest.mark.parametrize("read_at", kills.ORDERS)
def test_person_saves_at_any_moment_and_nothing_is_lost_in_silence(template, tmp_path, read_at, save_at):
    if kills.ORDERS.index(save_at) < kills.ORDERS.index(read_at):
        pytest.skip("saves before it reads")
    path = shutil.copytree(template.parent, tmp_path / "copy") / template.name
    person, polygon, failed = kills.race(path, read_at=read_at, save_at=save_at)
    assert person
    overwritten_later = save_at == "after run" != read_at and read_at != "after rename"
    assert failed or polygon or overwritten_later  # then only reloading the image in QuPath would have helped
    assert not (failed and polygon)
