"""Handing out slides: order, errors, and workers that die."""

import multiprocessing
import time
from concurrent.futures.process import BrokenProcessPool

import pytest
import slide_work

from wsplf_cli.executors.loop import run_all
from wsplf_cli.executors.pool import Pool
from wsplf_cli.executors.workers import IN_PROCESS


@pytest.fixture(scope="module")
def pool():
    with Pool(3) as workers:
        yield workers


@pytest.mark.parametrize("kind", ["none", "pool"])
def test_records_errors_and_words_come_back_from_wherever_the_work_is_done(kind, pool, recorder, caplog):
    caplog.set_level("INFO", logger="wsplf_cli")
    workers = pool if kind == "pool" else IN_PROCESS
    done = dict(run_all(workers, slide_work.square, enumerate([1, 2, 3]), recorder))
    assert [done[number].record for number in range(3)] == [1, 4, None]
    assert (done[2].error.message, done[2].error.hint) == ("three: broken", "copy it again")
    assert sorted(recorder.said) == ["at 1", "at 2", "at 3"]
    assert sorted(record.getMessage() for record in caplog.records) == ["worked on 1", "worked on 2", "worked on 3"]


def test_items_are_taken_shortly_before_they_are_handed_out(pool, recorder):
    taken = []

    def items():
        for number in range(20):
            taken.append(number)
            yield number, number

    outcomes = run_all(pool, slide_work.square, items(), recorder)
    next(outcomes)
    assert len(taken) <= pool.most_in_flight + 1
    assert len(list(outcomes)) == 19


def test_a_slide_whose_worker_dies_once_is_done_at_the_second_try(pool, tmp_path, recorder):
    work = slide_work.Deadly(tmp_path, {4: 1})
    done = dict(run_all(pool, work, enumerate(range(8)), recorder))
    assert [done[number].record for number in range(8)] == list(range(8))
    assert (tmp_path / "4.tries").read_text() == "xx"


def test_a_slide_that_kills_three_workers_fails_and_no_other_is_blamed(pool, tmp_path, recorder):
    work = slide_work.Deadly(tmp_path, {2: 99, 5: 99}, seconds=0.05)
    done = dict(run_all(pool, work, enumerate(range(10)), recorder))
    failed = {number: outcome.error.message for number, outcome in done.items() if outcome.error}
    assert set(failed) == {2, 5}
    assert all("died 3 times" in message for message in failed.values())
    assert sorted(done) == list(range(10))
    assert all((tmp_path / f"{number}.tries").read_text() == "xxx" for number in failed)
    assert max(len((tmp_path / f"{number}.tries").read_text()) for number in set(range(10)) - set(failed)) <= 3


def _wait_until_broken(pool):
    end = time.monotonic() + 120
    while time.monotonic() < end:
        try:
            pool.executor.submit(int)
        except BrokenProcessPool:
            return
        time.sleep(0.05)
    pytest.fail("the pool did not break")


def test_workers_that_die_while_the_parent_writes_cost_no_slide(pool, tmp_path, recorder):
    outcomes = run_all(pool, slide_work.Deadly(tmp_path, {}), enumerate(range(10)), recorder)
    done = dict([next(outcomes)])
    for process in multiprocessing.active_children():
        process.kill()
    _wait_until_broken(pool)
    done |= dict(outcomes)
    assert {number: outcome.record for number, outcome in done.items()} == {number: number for number in range(10)}
