"""The pool of worker processes."""

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import slide_work

from wsplf_cli.errors import WorkersError
from wsplf_cli.executors.loop import run_all
from wsplf_cli.executors.pool import Pool


@pytest.fixture(scope="module")
def pool():
    with Pool(2) as workers:
        yield workers


def test_each_worker_gets_the_work_once(pool, tmp_path, recorder):
    done = dict(run_all(pool, slide_work.CountsItsCopies(tmp_path), enumerate(range(12)), recorder))
    processes = {outcome.record for outcome in done.values()}
    assert len(done) == 12
    assert len(list(tmp_path.iterdir())) == len(processes) <= 2


def test_a_worker_computes_with_one_thread_in_a_process_of_its_own(pool, recorder):
    (_, outcome), *_ = run_all(pool, slide_work.about_the_process, enumerate(range(2)), recorder)
    process, threads, variable = outcome.record
    assert process != os.getpid()
    assert (threads, variable) == (1, "1")


def test_a_bug_in_the_work_is_raised(pool, recorder):
    with pytest.raises(ZeroDivisionError):
        list(run_all(pool, slide_work.bug, enumerate([1, 0]), recorder))


def test_a_process_that_is_a_worker_itself_can_have_workers():
    parent = multiprocessing.get_context("spawn").Process(target=slide_work.square_in_a_pool)
    parent.start()
    parent.join()
    assert parent.exitcode == 0


def _gone(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def _wait_until(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_at_once_when_the_parent_is_stopped_or_killed(tmp_path, sent):
    program = """
        import signal
        import sys
        from pathlib import Path
        import slide_work
        from wsplf_cli.executors.loop import run_all
        from wsplf_cli.executors.pool import Pool
        from wsplf_cli.schema import Silent
        if __name__ == "__main__":
            signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's & makes a job ignore it
            with Pool(2) as pool:
                list(run_all(pool, slide_work.Slow(Path(sys.argv[1])), enumerate(range(4)), Silent()))
    """
    script = tmp_path / "program.py"
    script.write_text(textwrap.dedent(program))
    folder, temporary = tmp_path / "pids", tmp_path / "temporary"
    folder.mkdir()
    temporary.mkdir()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(temporary)}
    parent = subprocess.Popen([sys.executable, script, folder], env=environment, stderr=subprocess.DEVNULL)
    _wait_until(lambda: len(list(folder.iterdir())) == 2)
    workers = [int(path.stem) for path in folder.iterdir()]
    parent.send_signal(sent)
    parent.wait(timeout=60)
    _wait_until(lambda: all(_gone(worker) for worker in workers), seconds=20)
    _wait_until(lambda: not list(temporary.iterdir()), seconds=20)


def test_workers_that_die_before_they_begin_are_no_endless_loop(recorder):
    items = [slide_work.DiesWhenUnpickled(os.getpid()) for _ in range(2)]
    with Pool(1) as workers, pytest.raises(WorkersError, match="before it had begun a slide"):
        list(run_all(workers, slide_work.square, enumerate(items), recorder))
