"""How long wsplf takes to read and write a data file of very many annotations, and the memory it needs.

    python tests/benchmarks/qpdata.py                     a Markdown table for 100,000 polygons of 50 vertices
    python tests/benchmarks/qpdata.py --count 20000 --vertices 200 --seed 1
    python tests/benchmarks/qpdata.py --backends embedded paquo    read and write a project through each, and the ratio

Each line runs in a process of its own, so that its peak memory is its own.
"""

import argparse
import functools
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import shapely

from wsplf_cli import plugins
from wsplf_cli.options import ProjectOptions
from wsplf_cli.qupath import qpdata
from wsplf_cli.qupath.create import Image, create_project
from wsplf_cli.schema import Annotation, PathClass, is_pending
from wsplf_cli.synthetic.pyramid import write_pyramid

Seconds = tuple[float, float]
"""On the clock, and of processor time: on a busy machine the second is the one to compare."""


class Clock:
    """Starts when it is made."""

    def __init__(self) -> None:
        self.start = time.perf_counter(), time.process_time()

    def seconds(self) -> Seconds:
        """Since it was made."""
        return time.perf_counter() - self.start[0], time.process_time() - self.start[1]


def make(count: int, vertices: int, seed: int) -> list[Annotation]:
    """Annotations as a stage makes them, spread over a slide of 100,000 pixels."""
    rng = np.random.default_rng(seed)
    angles = np.linspace(0, 2 * np.pi, vertices, endpoint=False)
    radii = 20 + 10 * rng.random((count, vertices))
    centres = 50 + 100_000 * rng.random((count, 1, 2))
    shapes = shapely.polygons(centres + np.stack([np.cos(angles) * radii, np.sin(angles) * radii], axis=-1))
    scores = rng.random((count, 3)).tolist()
    return [
        Annotation(
            UUID(bytes=rng.bytes(16), version=4),
            shape,
            "Tumor" if place % 3 else "Stroma",
            run_id="20250101-120000-segment",
            name=f"polygon {place}",
            measurements={"wsplf: confidence": one, "wsplf: uncertainty": two, "wsplf: area um^2": three},
        )
        for place, (shape, (one, two, three)) in enumerate(zip(shapes, scores, strict=True))
    ]


def _write(path: Path, options: argparse.Namespace) -> Seconds:
    annotations = make(options.count, options.vertices, options.seed)
    clock = Clock()
    data = qpdata.create(version="0.6.0", server="{}", path="", properties={})
    data.add(qpdata.mark(annotations, origin="prediction"), colours={"Tumor": -3670016})
    data.counts()
    path.write_bytes(data.dumps())
    return clock.seconds()


def _read(path: Path, options: argparse.Namespace) -> Seconds:
    clock = Clock()
    found = qpdata.loads(path.read_bytes()).annotation_nodes()
    seconds = clock.seconds()
    assert len(found) == options.count, len(found)
    assert not any(node.annotation.edited for node in found)
    return seconds


def _replace(path: Path, options: argparse.Namespace) -> Seconds:
    annotations = make(options.count, options.vertices, options.seed + 1)
    clock = Clock()
    data = qpdata.loads(path.read_bytes())
    old = [node.node for node in data.annotation_nodes() if is_pending(node.annotation)]
    data.remove(old)
    data.add(qpdata.mark(annotations, origin="prediction"), colours={})
    data.counts()
    data.dumps()
    return clock.seconds()


def _add_one(path: Path, options: argparse.Namespace) -> Seconds:
    (annotation,) = make(1, options.vertices, options.seed + 2)
    clock = Clock()
    data = qpdata.loads(path.read_bytes())
    found = data.annotation_nodes()
    data.remove([node.node for node in found[::10]])
    data.add(qpdata.mark([annotation], origin="prediction"), colours={})
    data.counts()
    data.dumps()
    return clock.seconds()


def _project(path: Path) -> Path:
    """A project of one image, which has the data file at ``path``."""
    slide = path.parent / "slide.tif"
    if not slide.exists():
        write_pyramid(slide, np.full((256, 256, 3), 240, np.uint8), mpp=0.5)
    folder = path.parent / "project"
    if not folder.exists():
        image = Image(slide, "slide.tif", 256, 256, 0.5, [(1.0, 256, 256)])
        create_project(folder, [image], classes=[PathClass("Tumor"), PathClass("Stroma")])
    target = folder / "data" / "1" / "data.qpdata"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(path.read_bytes())
    return folder


def _backend_read(name: str, path: Path, options: argparse.Namespace) -> Seconds:
    folder = _project(path)
    clock = Clock()
    project = plugins.load("backends", name).open_project(folder, ProjectOptions())
    found = project.annotations("1")
    seconds = clock.seconds()
    assert len(found) == options.count, len(found)
    return seconds


def _backend_write(name: str, path: Path, options: argparse.Namespace) -> Seconds:
    folder = _project(path)
    annotations = make(options.count, options.vertices, options.seed + 3)
    (folder / "data" / "1" / "data.qpdata").unlink()
    clock = Clock()
    project = plugins.load("backends", name).open_project(folder, ProjectOptions())
    done = project.replace("1", origin="prediction", annotations=annotations)
    seconds = clock.seconds()
    assert done.added == options.count, done
    return seconds


TASKS: dict[str, Callable[[Path, argparse.Namespace], Seconds]] = {
    "write all (repair, hash, mark, write)": _write,
    "read all to records with shapes": _read,
    "replace all (read, remove, write)": _replace,
    "remove every tenth, add one": _add_one,
}
BACKEND_TASKS = {"project: read": _backend_read, "project: write": _backend_write}


def _peak_mb() -> float:
    try:
        import resource
    except ImportError:  # Windows has no such figure in the standard library
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def _run(name: str, path: Path, options: argparse.Namespace, answer: Any) -> None:
    backend, _, task = name.rpartition(" ")
    work = TASKS.get(name) or functools.partial(BACKEND_TASKS[f"project: {task}"], backend)
    seconds, processor = work(path, options)
    answer.put((seconds, processor, _peak_mb()))


def measure(name: str, path: Path, options: argparse.Namespace) -> tuple[float, float, float]:
    """Seconds, seconds of processor time and peak megabytes of one task in a fresh process."""
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    process = context.Process(target=_run, args=(name, path, options, answer))
    process.start()
    result: tuple[float, float, float] = answer.get(timeout=3_600)
    process.join()
    return result


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--vertices", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--backends", nargs="*", default=[], help="the first is what the others are compared with")
    options = parser.parse_args()
    print(f"{options.count:,} polygons of {options.vertices} vertices\n")
    print("| task | seconds | processor seconds | peak MB |\n|---|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.qpdata"
        for name in TASKS:
            seconds, processor, peak = measure(name, path, options)
            print(f"| {name} | {seconds:.2f} | {processor:.2f} | {peak:,.0f} |", flush=True)
        for task in ("read", "write") if options.backends else ():
            first = 0.0
            for backend in options.backends:
                seconds, processor, peak = measure(f"{backend} {task}", path, options)
                first = first or seconds
                line = (
                    f"| {task} a project through {backend} ({seconds / first:.1f}x) | {seconds:.2f} | {processor:.2f}"
                )
                print(f"{line} | {peak:,.0f} |", flush=True)
        print(f"\nThe file has {path.stat().st_size / 1e6:,.0f} MB.")


if __name__ == "__main__":
    main()
