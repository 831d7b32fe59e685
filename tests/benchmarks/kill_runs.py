"""Kill wsplf at random moments of a run, start it again, and see that it goes on and ends as an undisturbed run does.

    python tests/benchmarks/kill_runs.py --count 30 --kinds parent ctrl-c worker scheduler

On a cohort of small synthetic slides, ``pseudolabel`` and ``segment`` in turn. After each kill: every file of the
project is old or the run's and whole, the lock is free, no worker is left; a second start ends with the polygons of an
undisturbed run, to the byte, and leaves nothing to resume; undoing both runs gives back the bytes from before.

- parent: kill -9 of the command's process, every other time with two worker processes
- ctrl-c: SIGINT to the command's process, likewise
- worker: kill -9 of one of its worker processes; the command itself goes on
- scheduler: kill -9 of the Dask scheduler; the command ends with one line that says so
"""

import argparse
import json
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from multiprocessing.process import BaseProcess
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
import kills
from pseudolabel_runs import use_small_fits

from wsplf_cli import cli
from wsplf_cli.backends.embedded import open_project
from wsplf_cli.errors import ProjectError
from wsplf_cli.options import ProjectOptions
from wsplf_cli.qupath.create import Image, create_project
from wsplf_cli.runs import layout
from wsplf_cli.runs.lock import hold
from wsplf_cli.segmentation import checkpoint
from wsplf_cli.segmentation.checkpoint import Checkpoint
from wsplf_cli.segmentation.models import unet
from wsplf_cli.synthetic.pyramid import write_pyramid

SIDE_PX = 320
KINDS = ("parent", "ctrl-c", "worker", "scheduler")
ORIGIN = {"pseudolabel": "pseudolabel", "segment": "prediction"}
FORK = multiprocessing.get_context("fork")
OPTIONS = {"pseudolabel": ("--device", "cpu", "--refiner", "none"), "segment": ("--device", "cpu")}
#: Seconds that workers may outlive the command. On a busy machine it takes one that has just started half a minute to
#: import this file, and only then does it look whether the command is still there.
GRACE_S = 90.0
#: Seconds that a command may take to end after the kill, on a busy machine.
END_S = 300.0
TRACEBACK = "Traceback (most recent call last)"
GONE = ("the Dask scheduler does not answer any more", "no Dask scheduler answers at")


class Darkness(nn.Module):
    """A segmenter that takes no time: what is dark is tumour."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((1, 1, 1, 1), 20.0))

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        """Logits float [B, 1, H, W] of RGB tiles float [B, 3, H, W] in 0..1."""
        return self.scale * (0.6 - functional.avg_pool2d(tiles.mean(1, keepdim=True), 9, 1, 4))


unet.build = lambda _classes, **_settings: Darkness()  # in worker processes too, which import this file

Polygons = dict[str, list[tuple[str | None, bytes]]]


@dataclass
class Tally:
    """What a series of kills came to."""

    kills: int = 0
    ended_before: int = 0
    nothing_written: int = 0
    some_written: int = 0
    all_written: int = 0
    taken_over: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)


def make_cohort(folder: Path) -> Path:
    """A project with three positive and three negative slides, and a segmentation model that needs no training."""
    images = []
    for number in range(6):
        rng = np.random.default_rng(number)
        rgb = np.full((SIDE_PX, SIDE_PX, 3), 244, np.uint8)
        rgb[40:-40, 40:-40] = (226, 160, 200)
        dots = rng.random(rgb.shape[:2]) < 0.06
        if number < 3:
            dots[90:230, 80:240] |= rng.random((140, 160)) < 0.45
        dots[:40] = dots[-40:] = dots[:, :40] = dots[:, -40:] = False
        rgb[dots] = (90, 50, 130)
        path = folder / f"{number}.tif"
        write_pyramid(path, rgb, mpp=1.0)
        label = {"label": "tumor" if number < 3 else "normal"}
        images.append(Image(path, path.name, SIDE_PX, SIDE_PX, 1.0, [(1.0, SIDE_PX, SIDE_PX)], label))
    project = create_project(folder / "project", images, classes=[])
    described = Checkpoint("unet", {}, ("Tumor",), 128, 1.0, "a run", 0.5)
    state = Darkness().state_dict()
    checkpoint.save(layout.model_folder(project.parent, "default"), described, state)
    return project


def start(path: Path, command: str, extra: Sequence[str], log: Path) -> BaseProcess:
    """The command in a process of its own; what it shows goes into ``log``."""
    return fork(lambda: cli.main([command, str(path), *extra]), log)


def fork(work: Callable[[], int], log: Path) -> BaseProcess:
    """Work in a process of its own, which has all that is imported here; what it shows goes into ``log``."""
    child = FORK.Process(target=_run, args=(work, log))
    child.start()
    return child


def _run(work: Callable[[], int], log: Path) -> None:
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell started this in the background
    with log.open("wb") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    torch.set_num_threads(1)
    os._exit(work())


class Cluster:
    """A Dask scheduler and two workers, in processes of their own."""

    def __init__(self, folder: Path) -> None:
        from distributed.cli import dask_scheduler, dask_worker

        file = folder / "scheduler.json"
        file.unlink(missing_ok=True)
        # not the machine's own address: what it reaches depends on the network
        common = ("--scheduler-file", str(file), "--no-dashboard", "--host", "127.0.0.1")
        self.scheduler = fork(partial(dask_scheduler.main, ("--port", "0", *common)), folder / "scheduler.log")
        worker = (*common, "--nthreads", "1", "--no-nanny", "--local-directory", str(folder / "dask"))
        self.workers = [fork(partial(dask_worker.main, worker), folder / f"worker {number}.log") for number in (1, 2)]
        fork(partial(_await_workers, file), folder / "client.log").join()
        self.address = str(json.loads(file.read_text())["address"])

    def close(self) -> None:
        """End what is left of it."""
        for process in (self.scheduler, *self.workers):
            process.kill()
            process.join()


def _await_workers(scheduler_file: Path) -> int:
    import distributed

    with distributed.Client(scheduler_file=str(scheduler_file)) as client:
        client.wait_for_workers(2, timeout=END_S)
    return 0


def polygons(path: Path, command: str) -> Polygons:
    """Class and shape of each polygon of a command, by entry."""
    project = open_project(path, ProjectOptions())
    return {
        entry.id: [
            (annotation.path_class, annotation.shape.wkb)
            for annotation in project.annotations(entry.id)
            if annotation.origin == ORIGIN[command]
        ]
        for entry in project.entries()
    }


def workers_of(pid: int) -> list[int]:
    """The worker processes of a command."""
    children = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            line = (stat.parent / "cmdline").read_text()
        except OSError:
            continue
        if parent == pid and "spawn_main" in line:
            children.append(int(stat.parent.name))
    return children


def is_alive(pid: int) -> bool:
    """Whether a process runs."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def disturb(child: BaseProcess, plan: "Plan", rng: Random, *, scheduler: BaseProcess | None) -> list[int]:
    """Do it at a random moment; returns the workers that there were. Waits for the command's end."""
    assert child.pid is not None
    while plan.workers and child.is_alive() and not workers_of(child.pid):
        time.sleep(0.05)
    child.join(rng.uniform(0, plan.seconds))
    workers = workers_of(child.pid)
    if scheduler is not None:
        scheduler.kill()
    elif child.is_alive() and plan.kind == "worker" and workers:
        os.kill(rng.choice(workers), signal.SIGKILL)
    elif child.is_alive() and plan.kind != "worker":
        os.kill(child.pid, signal.SIGKILL if plan.kind == "parent" else signal.SIGINT)
    child.join(plan.seconds + END_S)
    return workers


def kill_once(template: Path, folder: Path, tally: Tally, expected: Polygons, *, plan: "Plan", rng: Random) -> None:
    """One kill in a copy of the project, what is left after it, a second start, and undo."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(template.parent, folder)
    path, before, first_log = folder / template.name, kills.contents(folder), folder.with_suffix(".first.log")
    cluster = Cluster(folder.parent) if plan.kind == "scheduler" else None
    began = time.monotonic()
    child = start(path, plan.command, plan.options(cluster), first_log)
    workers = disturb(child, plan, rng, scheduler=None if cluster is None else cluster.scheduler)
    title = f"{plan.kind}, {plan.command}{' with workers' if plan.workers else ''}, {time.monotonic() - began:.2f} s"
    if cluster is not None:
        cluster.close()
    tally.kills += child.exitcode != 0 or plan.kind == "worker"
    tally.ended_before += child.exitcode == 0 and plan.kind != "worker"
    problems = [f"{title}: {fault}" for fault in _after_kill(child, plan, workers, first_log, path)]
    problems += [f"{title}: {fault}" for fault in kills.faults(path, before)]
    written = sum(len(found) > 0 for found in polygons(path, plan.command).values())
    target = sum(len(found) > 0 for found in expected.values())
    tally.nothing_written += not written
    tally.some_written += 0 < written < target
    tally.all_written += written == target
    problems += [f"{title}: {fault}" for fault in _after_second_start(path, tally, expected, before, plan=plan)]
    tally.problems += problems
    print(*problems, sep="\n", end="\n" if problems else "", flush=True)


def _after_kill(child: BaseProcess, plan: "Plan", workers: list[int], log: Path, path: Path) -> list[str]:
    """What is wrong with what the command showed and left behind, besides the project."""
    text = log.read_text()
    problems = [f"it shows a traceback: {text[text.index(TRACEBACK) :][:1500]}"] if TRACEBACK in text else []
    if child.is_alive():
        problems.append(f"still running {END_S:.0f} s after the kill")
        child.kill()
        child.join()
    elif plan.kind == "scheduler" and child.exitcode and sum(map(text.count, GONE)) != 1:
        problems.append(f"not one line says that the scheduler is gone: {text[-500:]}")
    elif plan.kind == "worker" and child.exitcode:
        problems.append(f"the command ended with {child.exitcode}: {text[-500:]}")
    deadline = time.monotonic() + GRACE_S
    while any(map(is_alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.1)
    problems += [f"worker {worker} is left" for worker in workers if is_alive(worker)]
    try:
        with hold(layout.project_lock(path.parent), command="check"):
            pass
    except ProjectError as error:
        problems.append(error.message)
    return problems


def _after_second_start(
    path: Path, tally: Tally, expected: Polygons, before: dict[str, bytes], *, plan: "Plan"
) -> list[str]:
    """What is wrong after a second start of the command, and after undo of all that it and the first have done."""
    folder, problems = path.parent, []
    log = folder.with_suffix(".second.log")
    second = start(path, plan.command, OPTIONS[plan.command], log)
    second.join()
    text = log.read_text()
    if second.exitcode:
        problems.append(f"the second start ended with {second.exitcode}: {text[-500:]}")
    for line in text.splitlines():
        step, colon, rest = line.partition(": ")
        if colon and "taken over" in rest:
            tally.taken_over[step] += int(rest.split()[0])
    if polygons(path, plan.command) != expected:
        problems.append("other polygons than those of an undisturbed run")
    if layout.resume_folder(folder, plan.command).exists():
        problems.append("the resume folder is left")
    while kills.contents(folder) != before:
        undo = start(path, "undo", (), folder.with_suffix(".undo.log"))
        undo.join()
        if undo.exitcode:
            problems.append(f"undo: {folder.with_suffix('.undo.log').read_text()[-300:]}")
            break
    return problems


@dataclass(frozen=True)
class Plan:
    """Which command is disturbed how within how many seconds, and whether it has worker processes."""

    command: str
    kind: str
    workers: bool
    seconds: float

    def options(self, cluster: Cluster | None) -> list[str]:
        """The options of the command."""
        of_workers = ("--workers", "2") if self.workers else ()
        return [*OPTIONS[self.command], *of_workers, *(("--scheduler", cluster.address) if cluster else ())]


def main() -> int:
    """Run the series, print the tallies; 1 where there was a problem."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=30, help="kills of each kind")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--commands", nargs="+", default=["pseudolabel", "segment"])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    use_small_fits(pytest.MonkeyPatch())
    if "scheduler" in options.kinds:
        import_module("wsplf_cli.executors.dask")  # sets what Dask logs, so before Dask itself
    rng = Random(options.seed)
    failed = False
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        template = make_cohort(folder)
        references = {}
        for command in options.commands:
            warm = shutil.copytree(template.parent, folder / f"{command} warm") / template.name
            # so that each fork has all that is imported on the way
            if code := cli.main([command, str(warm), *OPTIONS[command]]):
                return code
            copy = folder / command
            shutil.copytree(template.parent, copy)
            began = time.monotonic()
            child = start(copy / template.name, command, OPTIONS[command], copy.with_suffix(".log"))
            child.join()
            references[command] = polygons(copy / template.name, command), time.monotonic() - began
            print(f"{command} alone: {references[command][1]:.1f} s, {sum(map(len, references[command][0].values()))}")
        for kind in options.kinds:
            tally = Tally()
            while tally.kills < options.count:
                command = options.commands[tally.kills % len(options.commands)]
                expected, seconds = references[command]
                every_other = tally.kills // len(options.commands) % 2 == 1
                with_workers = {"worker": True, "scheduler": False}.get(kind, every_other)
                plan = Plan(command, kind, with_workers, seconds)
                kill_once(template, folder / "copy", tally, expected, plan=plan, rng=rng)
                print(f"{kind}: {tally.kills} kills, {len(tally.problems)} problems", flush=True)
            print(json.dumps({"kind": kind, **vars(tally)}), flush=True)
            failed = failed or bool(tally.problems)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
