"""How much faster workers are, and what a task costs.

    python tests/benchmarks/workers.py speed              # 24 slides: segment and pseudolabel, none, 2 processes, Dask
    python tests/benchmarks/workers.py speed --commands segment --kinds none processes
    python tests/benchmarks/workers.py overhead           # 10,000 empty tasks through each executor
    python tests/benchmarks/workers.py cluster            # 1,000 slides on 2, 8 and 32 Dask workers that sleep

``speed`` compares the polygons too. Every process computes with one thread. Run it on idle cores. Worker processes
import this file, so what it computes with is imported where it is used.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, also by the workers

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wsplf_cli.executors.choose import open_workers
from wsplf_cli.executors.loop import run_all
from wsplf_cli.executors.workers import Workers
from wsplf_cli.schema import Silent, Tracker
from wsplf_cli.worker_options import ClusterOptions, WorkerOptions

SLIDES = 24
STEPS = {"segment": ("segment",), "pseudolabel": ("tissue", "features", "CAM", "polygons")}
#: Seconds of a slide in ``wsplf segment`` on one thread, from 2 mm2 to 40 mm2 of tissue; slept ``SCALE`` times faster.
SLIDE_SECONDS = (4.0, 60.0)
SCALE = 50.0


def none() -> WorkerOptions:
    """No workers."""
    return WorkerOptions()


def processes() -> WorkerOptions:
    """Two worker processes."""
    return WorkerOptions("2")


def dask(workers: int = 2) -> WorkerOptions:
    """Dask workers on this machine."""
    return WorkerOptions(cluster=ClusterOptions("local", workers, memory="4GB"))


KINDS: dict[str, Callable[[], WorkerOptions]] = {"none": none, "processes": processes, "dask": dask}


class StepTimes(Silent):
    """Seconds of each step of a command; a step begins when it is started and ends with its last slide."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._name, self._began = "", 0.0

    def start(self, name: str, total: int) -> None:
        """A step begins."""
        self._name, self._began = name, time.monotonic()

    def advance(self, steps: int = 1, message: str = "") -> None:
        """A slide is done."""
        self.seconds[self._name] = time.monotonic() - self._began


def make_cohort(folder: Path, *, side: int) -> Path:
    """A project of 24 slides of glandular noise, half of them positive, with a segmentation model of random weights."""
    import torch

    from wsplf_cli.networks.inference import as_batch
    from wsplf_cli.qupath.create import Image, create_project
    from wsplf_cli.runs import layout
    from wsplf_cli.segmentation import checkpoint
    from wsplf_cli.segmentation.models import unet
    from wsplf_cli.synthetic.pyramid import write_pyramid

    images = []
    for number in range(SLIDES):
        rng = np.random.default_rng(number)
        rgb = np.full((side, side, 3), 243, np.uint8)
        edge = side // 16
        rgb[edge:-edge, edge:-edge] = (226, 160, 200)
        dots = rng.random((side, side)) < 0.06
        if number % 2:
            part = np.s_[side // 4 : side // 2, side // 4 : side // 2]
            dots[part] |= rng.random(dots[part].shape) < 0.45
        dots[:edge] = dots[-edge:] = dots[:, :edge] = dots[:, -edge:] = False
        rgb[dots] = (90, 50, 130)
        path = folder / f"{number:02}.tif"
        write_pyramid(path, rgb, mpp=1.0)
        label = {"label": "tumor" if number % 2 else "normal"}
        images.append(Image(path, path.name, side, side, 1.0, [(1.0, side, side)], label))
    project = create_project(folder / "project", images, classes=[])
    torch.manual_seed(0)
    network = unet.build(1, pretrained=True).eval()
    with torch.inference_mode():
        for parameter in list(network.parameters())[-2:]:
            parameter.normal_()
        threshold = float(network(as_batch(rgb[None, 256:512, 256:512])).sigmoid().quantile(0.7))
    described = checkpoint.Checkpoint("unet", {}, ("Tumor",), tile_px=256, mpp=1.0, run_id="none", threshold=threshold)
    checkpoint.save(layout.model_folder(project.parent, "default"), described, network.state_dict())
    return project


def run(
    template: Path, folder: Path, workers: WorkerOptions, commands: Sequence[str]
) -> tuple[dict[str, float], list[object]]:
    """Seconds of each step of the commands on a copy of a project, and the polygons that they wrote."""
    from wsplf_cli.backends.embedded import open_project
    from wsplf_cli.cohort.labels import resolve_labels
    from wsplf_cli.commands.pseudolabel import pseudolabel
    from wsplf_cli.commands.segment import segment
    from wsplf_cli.options import ProjectOptions, PseudolabelOptions, SegmentOptions

    shutil.copytree(template.parent, folder)
    times, options = StepTimes(), ProjectOptions()
    project = open_project(folder / template.name, options)
    entries = resolve_labels(project.entries(), options)
    if "segment" in commands:
        segment(project, entries, SegmentOptions(workers=workers), times)
    if "pseudolabel" in commands:
        pseudolabel(project, entries, PseudolabelOptions(workers=workers), times)
    polygons = [
        (entry.name, annotation.shape.wkb, annotation.origin, sorted(annotation.measurements.items()))
        for entry in entries
        for annotation in open_project(project.path, options).annotations(entry.id)
    ]
    return times.seconds, polygons


def measure_speed(side: int, commands: Sequence[str], kinds: Sequence[str]) -> None:
    """Print the seconds of each step with each kind of workers, and how often those without workers they go into."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        template = make_cohort(folder, side=side)
        results = {kind: run(template, folder / kind, KINDS[kind](), commands) for kind in kinds}
    alone, polygons = results[kinds[0]]
    steps = [step for command in commands for step in STEPS[command]]
    print(f"{SLIDES} slides of {side} x {side} px, {len(polygons)} polygons, {os.cpu_count()} cores")
    print(f"{'seconds':12}", *(f"{step:>10}" for step in steps), "  times:", *(f"{name:>12}" for name in commands))
    for kind, (seconds, drawn) in results.items():
        times = [_seconds(alone, name) / _seconds(seconds, name) for name in commands]
        same = "same polygons" if drawn == polygons else "OTHER POLYGONS"
        print(f"{kind:12}", *(f"{seconds[step]:10.1f}" for step in steps), *(f"{ratio:12.2f}" for ratio in times), same)


def _seconds(of_steps: dict[str, float], command: str) -> float:
    """Seconds of the steps of a command."""
    return sum(of_steps[step] for step in STEPS[command])


def nothing(number: int, tracker: Tracker) -> int:
    """An empty task."""
    return number


@dataclass(frozen=True)
class Sleep:
    """A slide of which only the time is left."""

    def __call__(self, seconds: float, tracker: Tracker) -> None:
        """Take that long."""
        time.sleep(seconds)


def measure_overhead(tasks: int) -> None:
    """Print what an empty task costs with each executor."""
    for kind, make_options in KINDS.items():
        with open_workers(make_options(), _many(), Silent()) as workers:
            list(run_all(workers, nothing, enumerate(range(20)), Silent()))  # workers start
            began = time.monotonic()
            count = len(list(run_all(workers, nothing, enumerate(range(tasks)), Silent())))
            seconds = time.monotonic() - began
        print(f"{kind:12} {count} tasks: {1000 * seconds / count:.3f} ms a task")


def _many() -> list[object]:
    """Entries enough that the number of workers is not bounded by them."""
    return [_AnyEntry()] * 1000


@dataclass(frozen=True)
class _AnyEntry:
    slide_path: Path = Path(__file__)


def measure_cluster(sizes: list[int], slides: int) -> None:
    """Print the efficiency of a cohort of slides whose times are slept: the least possible time over the measured."""
    rng = np.random.default_rng(0)
    low, high = np.log(SLIDE_SECONDS)
    seconds = np.exp(rng.uniform(low, high, slides)) / SCALE
    for size in sizes:
        workers: Workers
        with open_workers(dask(size), _many(), Silent()) as workers:
            list(run_all(workers, Sleep(), enumerate([0.01] * 4 * size), Silent()))
            began = time.monotonic()
            list(run_all(workers, Sleep(), enumerate(seconds.tolist()), Silent()))
            took = time.monotonic() - began
        print(f"{size:3} workers: {took:6.1f} s, efficiency {seconds.sum() / size / took:.3f}")


def main() -> None:
    """Run one of the measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "overhead", "cluster"))
    parser.add_argument("--side", type=int, default=1536, help="side of a slide of `speed` in pixels")
    parser.add_argument("--commands", nargs="+", choices=STEPS, default=list(STEPS), help="commands of `speed`")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="workers of `speed`")
    parser.add_argument("--tasks", type=int, default=10_000, help="tasks of `overhead`")
    parser.add_argument("--slides", type=int, default=1000, help="slides of `cluster`")
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 8, 32], help="workers of `cluster`")
    options = parser.parse_args()
    if options.what == "speed":
        measure_speed(options.side, options.commands, options.kinds)
    elif options.what == "overhead":
        measure_overhead(options.tasks)
    else:
        measure_cluster(options.workers, options.slides)


if __name__ == "__main__":
    sys.exit(main())
