"""The workers that the options of a command name."""

from collections.abc import Iterable
from pathlib import Path

from wsplf_cli.errors import MissingDependency
from wsplf_cli.executors import resources
from wsplf_cli.executors.pool import Pool
from wsplf_cli.executors.workers import IN_PROCESS, Workers
from wsplf_cli.schema import Entry, Tracker
from wsplf_cli.worker_options import AUTO, WorkerOptions


def open_workers(
    options: WorkerOptions, entries: Iterable[Entry], tracker: Tracker, *, files: Iterable[Path] = ()
) -> Workers:
    """The workers for the work on these entries, to be used with ``with``.

    Args:
        options: What the user chose.
        tracker: Is told while workers are waited for.
        entries: Their slides must be seen by every worker. There are never more processes than slides.
        files: Other files and folders that every worker must see.

    Raises:
        MissingDependency: Dask is not installed.
        WorkersError: A scheduler does not answer, or its workers cannot do this work.
    """
    slides = [entry.slide_path for entry in entries if entry.slide_path is not None]
    resources.take_idle_cores()
    if options.scheduler is not None or options.cluster is not None:
        workers = _dask_workers(options, tracker)
        try:
            workers.require([*(path.absolute() for path in slides), *files])
        except BaseException:
            workers.close(at_once=True)
            raise
        return workers
    size = resources.automatic_workers() if options.workers == AUTO else int(options.workers)
    if options.workers == AUTO and min(size, len(slides)) == 1:
        size = 0
    return Pool(min(size, max(1, len(slides)))) if size else IN_PROCESS


def _dask_workers(options: WorkerOptions, tracker: Tracker) -> Workers:
    """The workers of a running scheduler, or of a cluster that is started.

    Raises:
        MissingDependency: Dask is not installed.
        WorkersError: The scheduler does not answer, or the batch system refuses.
    """
    try:
        from wsplf_cli.executors import dask

        if options.scheduler is not None:
            return dask.connect(options.scheduler)
        assert options.cluster is not None
        return dask.start(options.cluster, tracker)
    except ModuleNotFoundError as error:
        raise MissingDependency(f"{error.name} is not installed", hint='pip install ".[cluster]"') from error
