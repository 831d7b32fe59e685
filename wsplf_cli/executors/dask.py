"""Workers of a Dask cluster: one that runs (``--scheduler``), or one that is started (``[cluster]`` in wsplf.toml).

A worker does one slide at a time. It must see the slides under the same paths as this process, and have this version of
wsplf. Start the workers of a cluster with one thread each (``dask worker --nthreads 1 --nworkers N``). When a worker
dies, its slide is tried again on another; so is the work, of which every worker holds a copy.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Executor, Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import dask

from wsplf_cli import __version__
from wsplf_cli.errors import WorkersError
from wsplf_cli.executors.task import Outcome, SharedWork, do_in_worker
from wsplf_cli.executors.workers import Workers
from wsplf_cli.schema import Tracker
from wsplf_cli.worker_options import ClusterOptions

#: What Dask may log. That a connection broke is told as a WorkersError, without tracebacks beside it.
_LOG_LEVELS = {"distributed": "error", "distributed.client": "critical", "tornado.application": "critical"}
dask.config.set({"logging": _LOG_LEVELS})  # read at the next import, also by workers that are started
import distributed  # noqa: E402

for _name, _level in _LOG_LEVELS.items():  # where it was imported before
    logging.getLogger(_name).setLevel(_level.upper())

CONNECT_SECONDS = 5.0
#: Seconds for which the number of workers is taken to be the same.
COUNT_SECONDS = 1.0
#: Slides that are handed out for each worker: one that it works on and one that it works on next.
IN_FLIGHT = 2
#: Attempts to send the work to all workers: each worker that dies meanwhile costs one.
SHARE_TRIES = 5
#: Seconds to wait for a new worker when all have died.
WORKER_SECONDS = 300.0
#: Where Dask's page of a local cluster is served: two clusters on one machine need two ports.
_ANY_PORT = "127.0.0.1:0"
_VERSION = "__import__('wsplf_cli').__version__"


class DaskWorkers(Workers):
    """The workers of a Dask cluster; ``cluster`` is closed with them where it was started for them."""

    deaths = (distributed.KilledWorker, CancelledError)

    def __init__(self, client: Any, *, cluster: Any = None) -> None:
        self._client, self._cluster = client, cluster
        self._executor: Executor = client.get_executor(pure=False)
        self._work: SharedWork | None = None
        self._shared: Any = None
        self._size, self._counted = 0, 0.0

    @property
    def executor(self) -> Executor:
        """The client as an executor."""
        return self._executor

    @property
    def most_in_flight(self) -> int:
        """Workers may come and go meanwhile."""
        if time.monotonic() - self._counted > COUNT_SECONDS:
            with self._answering():
                self._size, self._counted = len(self._client.nthreads()), time.monotonic()
        return max(1, IN_FLIGHT * self._size)

    def share(self, work: SharedWork) -> None:
        """Send the work to all workers."""
        self._work = work
        for tries_left in reversed(range(SHARE_TRIES)):
            try:
                with self._connected():
                    self._shared = self._client.scatter(work, broadcast=True, hash=False)
                return
            except OSError as error:  # perhaps of a worker whose death the scheduler has not noticed
                if not tries_left:
                    raise _gone() from error
                time.sleep(COUNT_SECONDS)
                self._await_worker()

    def _await_worker(self) -> None:
        """Wait until there is a worker: those that died are replaced by the cluster, not by this process."""
        try:
            with self._connected():
                self._client.wait_for_workers(1, timeout=WORKER_SECONDS)
        except OSError as error:
            raise WorkersError(
                f"all Dask workers have died, and none came back within {WORKER_SECONDS:.0f} s",
                hint="start workers, then the command again; entries that are finished are kept",
            ) from error

    def submit(self, number: int, item: Any) -> Future[Outcome[Any]]:
        """Hand out the item of that number."""
        assert self._work is not None
        self.check()
        with self._connected():
            return self._executor.submit(do_in_worker, self._shared, self._work.key, item)

    def blame(self, number: int, death: BaseException) -> int:
        """Dask names the task that its workers died of; a task that was lost with other data is not to blame."""
        return 1 + death.allowed_failures if isinstance(death, distributed.KilledWorker) else 0

    def check(self) -> None:
        """See that the scheduler answers."""
        if self._client.status != "running":
            raise _gone()

    @contextmanager
    def _connected(self) -> Iterator[None]:
        """Say that the scheduler is gone where that is the cause of an error: Dask then raises any kind."""
        try:
            yield
        except Exception as error:
            if self._client.status != "running":
                raise _gone() from error
            raise

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """Say that the scheduler is gone where it does not answer: Dask notices a little later."""
        try:
            with self._connected():
                yield
        except OSError as error:
            raise _gone() from error

    def renew(self) -> None:
        """Dask replaces workers itself. The work is sent again where the last copy of it was lost."""
        self.check()
        if self._shared.status != "finished":
            assert self._work is not None
            self.share(self._work)

    def require(self, files: Sequence[Path]) -> None:
        """See that every worker has this version of wsplf and sees these files.

        Raises:
            WorkersError: One does not.
        """
        with self._answering():
            versions = self._client.run(eval, _VERSION, on_error="return")
        for address, version in versions.items():
            if version != __version__:
                found = "no wsplf" if isinstance(version, Exception) else f"wsplf {version}"
                raise WorkersError(
                    f"the worker {address} has {found}, this is wsplf {__version__}",
                    hint=f"install wsplf {__version__} for all workers, and start them again",
                )
        with self._answering():
            unseen_of_workers = self._client.run(unseen_files, [str(path) for path in files])
        for address, unseen in unseen_of_workers.items():
            if unseen:
                raise WorkersError(
                    f"the worker {address} does not see {len(unseen)} of {len(files)} files, the first: {unseen[0]}",
                    hint="put slides and project on a disk that all workers have under the same path",
                )

    def close(self, *, at_once: bool = False) -> None:
        """Cancel what is in flight, leave the scheduler, and end a cluster that was started for this."""
        with suppress(Exception):  # nothing is left to save: the scheduler may be gone
            self._executor.shutdown(wait=False)
        with suppress(Exception):
            self._client.close(timeout=1 if at_once else CONNECT_SECONDS)
        if self._cluster is not None:
            self._cluster.close()


def _gone() -> WorkersError:
    """The error when the scheduler cannot be reached."""
    return WorkersError(
        "the Dask scheduler does not answer any more",
        hint="start it again, then the command; entries that are finished are kept",
    )


def unseen_files(paths: Sequence[str]) -> list[str]:
    """Those of the paths at which there is nothing here."""
    return [path for path in paths if not Path(path).exists()]


def connect(address: str) -> DaskWorkers:
    """The workers of a running scheduler.

    Raises:
        WorkersError: It does not answer, or has no workers.
    """
    try:
        client = distributed.Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
        has_workers = bool(client.nthreads())
    except (OSError, ValueError) as error:
        raise WorkersError(
            f"no Dask scheduler answers at {address}", hint="start one (dask scheduler), and give the address it shows"
        ) from error
    if not has_workers:
        client.close()
        raise WorkersError(
            f"the Dask scheduler at {address} has no workers", hint=f"dask worker {address} --nthreads 1 --nworkers 4"
        )
    return DaskWorkers(client)


def start(options: ClusterOptions, tracker: Tracker) -> DaskWorkers:
    """The workers of a cluster that is started as ``[cluster]`` says; returns when the first one is there.

    Raises:
        WorkersError: The batch system refuses.
    """
    with dask.config.set({"distributed.scheduler.allowed-failures": 0}):  # the loop counts
        cluster = _local(options) if options.kind == "local" else _jobs(options)
    try:
        cluster.scale(options.workers)
        client = distributed.Client(cluster, set_as_default=False)
        if not client.nthreads():
            tracker.say(f"{options.kind}: waiting for the first of {options.workers} workers")
        client.wait_for_workers(1)
    except BaseException as error:
        cluster.close()
        if isinstance(error, (RuntimeError, OSError)):
            raise WorkersError(f"[cluster] {options.kind}: {error}".splitlines()[0], hint="see [cluster]") from error
        raise
    return DaskWorkers(client, cluster=cluster)


def _local(options: ClusterOptions) -> Any:
    return distributed.LocalCluster(
        n_workers=options.workers, threads_per_worker=1, memory_limit=options.memory, dashboard_address=_ANY_PORT
    )


def _jobs(options: ClusterOptions) -> Any:
    """A cluster of jobs; each job has as many workers as cores, of one thread each."""
    import dask_jobqueue

    names = {"slurm": "SLURM", "pbs": "PBS", "sge": "SGE", "lsf": "LSF", "htcondor": "HTCondor"}
    make = getattr(dask_jobqueue, f"{names[options.kind]}Cluster")
    chosen = {
        "queue": options.queue,
        "account": options.account,
        "walltime": options.walltime,
        "interface": options.interface,
        "job_script_prologue": list(options.job_script_prologue),
        "job_extra_directives": list(options.job_extra_directives),
    }
    given = {name: value for name, value in chosen.items() if value}
    return make(cores=options.cores, processes=options.cores, memory=options.memory, **given)
