"""Workers of a Dask cluster."""

import logging
import os
import subprocess
import sys
import time

import pytest
import slide_work

from wsplf_cli.errors import WorkersError
from wsplf_cli.executors.loop import run_all
from wsplf_cli.schema import Silent
from wsplf_cli.worker_options import ClusterOptions

distributed = pytest.importorskip("distributed", reason='needs Dask: pip install ".[cluster]"')
pytestmark = pytest.mark.filterwarnings("ignore")  # of Dask, when workers die and schedulers go

from wsplf_cli.executors import dask  # noqa: E402  it needs Dask

#: The longest wait for a process.
WAIT_SECONDS = 60
#: Where schedulers and workers listen: what the machine's own address reaches depends on its network.
LOOPBACK = "127.0.0.1"


@pytest.fixture(scope="module", autouse=True)
def importable():
    """Workers import the modules of the tests too."""
    before = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    yield
    os.environ["PYTHONPATH"] = before


@pytest.fixture(scope="module")
def local():
    with dask.start(ClusterOptions(kind="local", workers=2, memory="4GB"), Silent()) as workers:
        yield workers


def test_records_errors_and_words_come_back(local, recorder):
    done = dict(run_all(local, slide_work.square, enumerate([1, 2, 3]), recorder))
    assert [done[number].record for number in range(3)] == [1, 4, None]
    assert (done[2].error.message, done[2].error.hint) == ("three: broken", "copy it again")
    assert sorted(recorder.said) == ["at 1", "at 2", "at 3"]


def test_each_worker_gets_the_work_once_and_computes_with_one_thread(local, tmp_path, recorder):
    done = dict(run_all(local, slide_work.CountsItsCopies(tmp_path), enumerate(range(12)), recorder))
    processes = {outcome.record for outcome in done.values()}
    assert len(list(tmp_path.iterdir())) == len(processes) <= 2
    (_, outcome), *_ = run_all(local, slide_work.about_the_process, enumerate(range(2)), recorder)
    assert outcome.record[0] != os.getpid()
    assert outcome.record[1:] == (1, "1")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of the GNU C library")
def test_freed_memory_is_used_again(local, recorder):
    (_, outcome), *_ = run_all(local, slide_work.pages_of_large_arrays, enumerate(range(2)), recorder)
    assert outcome.record < 5_000  # 98,000 where each array is given back to the system


@pytest.mark.slow
def test_a_slide_that_kills_three_workers_fails_and_no_other_is_blamed(local, tmp_path, recorder):
    work = slide_work.Deadly(tmp_path, {1: 1, 2: 99}, seconds=0.05)
    done = dict(run_all(local, work, enumerate(range(8)), recorder))
    failed = {number: outcome.error.message for number, outcome in done.items() if outcome.error}
    assert set(failed) == {2}
    assert "died 3 times" in failed[2]
    assert sorted(done) == list(range(8))
    assert (tmp_path / "2.tries").read_text() == "xxx"


def test_files_that_workers_do_not_see_are_told_before_the_work(local, tmp_path):
    local.require([tmp_path])
    with pytest.raises(WorkersError, match=f"does not see 1 of 2 files, the first: {tmp_path / 'a.svs'}"):
        local.require([tmp_path, tmp_path / "a.svs"])


def test_a_scheduler_that_does_not_answer_is_one_line(monkeypatch):
    monkeypatch.setattr(dask, "CONNECT_SECONDS", 0.5)
    began = time.monotonic()
    for address in ("tcp://127.0.0.1:9", "nonsense"):
        with pytest.raises(WorkersError, match=f"no Dask scheduler answers at {address}"):
            dask.connect(address)
    assert time.monotonic() - began < 60


class Running:
    """A scheduler in a process of its own, and its address. A process that does not come up is started once more."""

    def __init__(self, folder):
        self.folder, self.processes, self.address = folder, [], ""
        self.file = folder / "scheduler.json"

    def start_scheduler(self):
        self.start("scheduler", self.await_scheduler, "--port", "0")

    def start(self, kind, await_start, *options, **environment):
        """Start a process, and wait for it."""
        command = [sys.executable, "-m", f"distributed.cli.dask_{kind}", *options, "--no-dashboard"]
        command += ["--host", LOOPBACK, "--scheduler-file", str(self.file)]
        for tries_left in (1, 0):
            # not in the folder of the repository, from which Python would import
            process = subprocess.Popen(
                command, env=os.environ | environment, cwd=self.folder, stderr=subprocess.DEVNULL
            )
            self.processes.append(process)
            try:
                return await_start()
            except (OSError, AssertionError):  # Dask's own thread takes over 10 s: an AssertionError
                end(process)
                if not tries_left:
                    raise
                if kind == "scheduler":  # its file would lead to the one that ended
                    self.file.unlink(missing_ok=True)

    def await_scheduler(self):
        deadline = time.monotonic() + WAIT_SECONDS
        while not self.file.exists():
            if time.monotonic() > deadline:
                raise TimeoutError("no scheduler")
            time.sleep(0.1)
        with distributed.Client(scheduler_file=str(self.file), timeout=WAIT_SECONDS) as client:
            self.address = client.scheduler.address

    def add_worker(self, **environment):
        self.start("worker", self.await_worker, "--nthreads", "1", "--no-nanny", **environment)

    def await_worker(self):
        with distributed.Client(self.address, timeout=WAIT_SECONDS) as client:
            client.wait_for_workers(1, timeout=WAIT_SECONDS)


def end(process):
    process.kill()
    process.wait(WAIT_SECONDS)


@pytest.fixture
def running(tmp_path):
    scheduler = Running(tmp_path)
    try:
        scheduler.start_scheduler()
        yield scheduler
    finally:
        for process in scheduler.processes:
            end(process)


@pytest.mark.slow
def test_workers_of_another_version_are_refused_and_none_at_all_too(running, tmp_path):
    with pytest.raises(WorkersError, match="has no workers"):
        dask.connect(running.address)
    package = tmp_path / "other" / "wsplf_cli"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text('__version__ = "0.0.1"\n')
    running.add_worker(PYTHONPATH=os.pathsep.join([str(package.parent), os.environ["PYTHONPATH"]]))
    with dask.connect(running.address) as workers, pytest.raises(WorkersError, match=r"has wsplf 0\.0\.1, this is"):
        workers.require([])


def test_a_broken_connection_shows_no_traceback():
    for name in ("tornado.application", "distributed.client"):
        assert not logging.getLogger(name).isEnabledFor(logging.ERROR)


@pytest.mark.slow
def test_a_scheduler_that_is_killed_ends_the_work_with_one_line(running, tmp_path, recorder):
    running.add_worker()
    with dask.connect(running.address) as workers:
        outcomes = run_all(workers, slide_work.Deadly(tmp_path, {}, seconds=0.2), enumerate(range(200)), recorder)
        next(outcomes)
        running.processes[0].kill()
        began = time.monotonic()
        with pytest.raises(WorkersError, match="scheduler does not answer any more"):
            list(outcomes)
        assert time.monotonic() - began < 60


@pytest.mark.slow
def test_a_scheduler_that_is_killed_between_two_steps_is_one_line(running, tmp_path, recorder):
    running.add_worker()
    with dask.connect(running.address) as workers:
        list(run_all(workers, slide_work.square, enumerate([1, 2]), recorder))
        running.processes[0].kill()
        ended = time.monotonic() + 2 * dask.CONNECT_SECONDS  # the client tries that long to connect, then closes
        while time.monotonic() < ended:
            with pytest.raises(WorkersError, match="scheduler does not answer any more"):
                list(run_all(workers, slide_work.square, enumerate([1]), recorder))
            with pytest.raises(WorkersError, match="scheduler does not answer any more"):
                workers.require([tmp_path])
            time.sleep(0.5)
