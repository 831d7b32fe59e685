"""Who does the work on slides: the options of every command that works slide by slide, and the table [cluster]."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wsplf_cli.errors import ConfigError
from wsplf_cli.recipes import option

AUTO = "auto"


@dataclass(frozen=True, slots=True)
class ClusterOptions:
    """The table ``[cluster]`` of wsplf.toml: workers that are started for a command. The names are dask-jobqueue's.

    ``kind`` is the batch system, or "local" for processes on this machine, to try the rest out. The other texts are
    left to the batch system where they are empty.
    """

    kind: str = option("slurm", "Batch system.", choices=("slurm", "pbs", "sge", "lsf", "htcondor", "local"))
    workers: int = option(1, "Workers to start; a job has as many as it has cores.", least=1)
    cores: int = option(1, "Cores of a job.", least=1)
    memory: str = option("4GB", "Memory of a job.")
    queue: str = option("", "Queue or partition.")
    account: str = option("", "Account that is charged.")
    walltime: str = option("", "Time limit of a job, such as 04:00:00.")
    interface: str = option("", "Network interface, such as ib0.")
    job_script_prologue: tuple[str, ...] = option((), "Lines of a job before its worker starts.")
    job_extra_directives: tuple[str, ...] = option((), "Further directives of the job, such as --gres=gpu:1.")


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """Where the work on slides is done. With one thread for each process, none of it changes a result."""

    workers: str = option(
        "0",
        "Worker processes for the work on slides: a number, or auto; 0: none, this process does it.",
        count_or=(AUTO,),
    )
    scheduler: str | None = option(
        None, "Address of a running Dask scheduler: its workers do the work on slides.", hidden=True
    )
    cluster: ClusterOptions | None = None


#: Each of these says who works, so only one of them may.
CHOICES = ("workers", "scheduler", "cluster")


def chosen(read: Mapping[str, Any], typed: Mapping[str, Any]) -> dict[str, Any]:
    """What wsplf.toml says, by field name, without what it says of workers where a typed option says who works.

    Raises:
        ConfigError: Two choices are typed, or stand in wsplf.toml.
    """
    for source in (typed, read):
        named = [name for name in CHOICES if name in source]
        if len(named) > 1:
            first, second = (f"--{name}" if source is typed else name for name in named[:2])
            raise ConfigError(f"{first} and {second} exclude each other", hint="leave one of them out")
    replaced = CHOICES if any(name in typed for name in CHOICES) else ()
    return {name: value for name, value in read.items() if name not in replaced}
