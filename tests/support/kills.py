"""Writers that are killed, two writers at once, and a program that saves as QuPath does, for tests and measurement."""

import json
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock
from uuid import UUID, uuid4

import numpy as np
from shapely import Polygon, box

from wsplf_cli.backends.embedded import open_project
from wsplf_cli.commands.undo import undo
from wsplf_cli.errors import ProjectError, SlideError, WsplfError
from wsplf_cli.files import PART
from wsplf_cli.options import ProjectOptions, UndoOptions
from wsplf_cli.qupath import atomic, qpdata
from wsplf_cli.qupath.create import Image, create_project
from wsplf_cli.runs.history import past_runs
from wsplf_cli.runs.journal import sha256
from wsplf_cli.runs.record import start_run
from wsplf_cli.schema import Annotation, EntryResult, PathClass, Silent

WRITER = multiprocessing.get_context("fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn")
DATA = "data.qpdata"


def make_project(folder: Path, *, entries: int = 3, people: int = 20, vertices: int = 40) -> Path:
    """A project whose entries hold people's annotations; the last one has no data yet. Returns its project.qpproj."""
    size = (40_000, 40_000)
    images = [
        Image(folder / f"{number}.svs", f"{number}.svs", *size, 0.5, [(1.0, *size)], {"label": "tumor"})
        for number in range(1, entries + 1)
    ]
    path = create_project(folder, images, classes=[PathClass("Stroma", (1, 2, 3))])
    project = open_project(path, ProjectOptions())
    for number in range(1, entries):
        rng = np.random.default_rng(number)
        project.replace(str(number), origin="human", annotations=[_round(rng, vertices) for _ in range(people)])
    shutil.rmtree(folder / "data" / str(entries), ignore_errors=True)
    return path


def _round(rng: np.random.Generator, vertices: int, *, path_class: str = "Stroma") -> Annotation:
    turn = np.linspace(0, 2 * np.pi, vertices, endpoint=False)
    x, y = rng.uniform(200, 39_000, 2)
    radius = rng.uniform(50, 100, vertices)
    shape = Polygon(np.column_stack([x + radius * np.cos(turn), y + radius * np.sin(turn)]))
    return Annotation(UUID(bytes=rng.bytes(16)), shape, path_class)


def write(path: Path, *, count: int = 5, pause: Callable[[], None] = lambda: None) -> str:
    """What a stage does: labels, then pseudo-labels into every entry. Returns the run's id."""
    project = open_project(path, ProjectOptions())
    with start_run(project, "pseudolabel", options=None, seed=0) as run:
        project.set_metadata({"1": {"label": "normal"}})
        for entry in project.entries():
            rng = np.random.default_rng(1000 + int(entry.id))
            polygons = [_round(rng, 30, path_class="Tumor") for _ in range(count)]
            polygons = [Annotation(one.id, one.shape, one.path_class, run_id=run.id) for one in polygons]
            project.replace(entry.id, origin="pseudolabel", annotations=polygons)
            pause()
        run.finish([])
    return run.id


# ---- kill ------------------------------------------------------------------------------------------------------------


@contextmanager
def deadly(moment: int) -> Iterator[list[int]]:
    """Kill this process at the ``moment``-th step of its writing: before a step, after it, or in the middle of a file.

    Steps are what changes the disk. Gives the count of steps so far; a ``moment`` of -1 only counts.
    """
    count = [0]

    def step() -> None:
        count[0] += 1
        if count[0] - 1 == moment:
            os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))

    def around(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            step()
            result = real(*arguments, **named)
            step()
            return result

        return call

    def fill(part: Path, content: bytes) -> None:
        with part.open("xb") as stream:
            stream.write(content[: len(content) // 2])
            stream.flush()
            step()
            stream.write(content[len(content) // 2 :])
            stream.flush()
            os.fsync(stream.fileno())

    with (
        mock.patch.multiple(os, fsync=around(os.fsync), link=around(os.link)),
        mock.patch.object(atomic, "_fill", fill),
    ):
        names = ("replace", "unlink", "mkdir", "rmdir", "chmod")
        with mock.patch.multiple(Path, **{name: around(getattr(Path, name)) for name in names}):
            yield count


def steps_of(work: Callable[[], object]) -> int:
    """How many steps a piece of work has, done here."""
    with deadly(-1) as count:
        work()
    return count[0]


def _child(work: str, path: Path, run_id: str | None, moment: int) -> None:
    with deadly(moment):
        if work == "write":
            write(path)
        else:
            undo(path, run_id, UndoOptions(), Silent())


def killed(work: str, path: Path, *, run_id: str | None = None, moment: int = -1, after_s: float | None = None) -> bool:
    """Do "write" or "undo" in a process that is killed at a step or after a time; false when it ended before."""
    child = WRITER.Process(target=_child, args=(work, path, run_id, moment))
    child.start()
    if after_s is not None:
        child.join(after_s)
        child.kill()
    child.join()
    return child.exitcode != 0


def contents(folder: Path) -> dict[str, bytes]:
    """QuPath's files of a project by their paths, without what wsplf keeps beside them."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.relative_to(folder).parts[0] != "wsplf")
    return {one.relative_to(folder).as_posix(): one.read_bytes() for one in files}


def faults(path: Path, before: dict[str, bytes]) -> list[str]:
    """What is wrong with a project after a kill: half files, and data that is neither old nor the run's."""
    found = []
    now = contents(path.parent)
    real = {name: content for name, content in now.items() if not PART.fullmatch(name.rpartition("/")[2])}
    news = {(write.path, sha) for run in past_runs(path.parent) for write in run.writes for sha in write.new_hashes}
    for name in before:
        if name not in real:
            found.append(f"{name} is gone")
    for name, content in real.items():
        if content != before.get(name) and (name, sha256(content)) not in news:
            found.append(f"{name} is neither old nor new")
        try:
            _parse(name, content)
        except (ValueError, WsplfError) as error:
            found.append(f"{name} is no whole file: {error}")
    try:
        project = open_project(path, ProjectOptions())
        for entry in project.entries():
            project.annotations(entry.id)
    except WsplfError as error:
        found.append(f"the project does not open: {error.message}")
    return found


def _parse(name: str, content: bytes) -> None:
    if name.endswith(DATA):
        qpdata.loads(content).annotation_nodes()
    elif name.endswith((".json", ".qpproj", ".backup")):
        json.loads(content)


@dataclass
class Tally:
    """What a series of kills came to."""

    kills: int = 0
    ended_before: int = 0
    nothing_written: int = 0
    undone: int = 0
    undo_killed: int = 0
    left_overs: int = 0
    problems: list[str] = field(default_factory=list)


def one_kill(template: Path, folder: Path, tally: Tally, *, rng: Random, steps: int, seconds: float | None) -> None:
    """Kill a writer in a copy of a project, look at what is left, undo it (sometimes killing that too), look again.

    The moment is a random step of ``steps``, or a random time within ``seconds`` where they are given.
    """
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(template.parent, folder)
    path, before = folder / template.name, contents(folder)
    moment = -1 if seconds is not None else rng.randrange(steps)
    after_s = None if seconds is None else rng.uniform(0, seconds)
    what = f"step {moment}" if seconds is None else f"{after_s:.4f} s"
    died = killed("write", path, moment=moment, after_s=after_s)
    tally.kills += died
    tally.ended_before += not died
    tally.left_overs += any(PART.fullmatch(Path(name).name) for name in contents(folder))
    tally.problems += [f"{what}: {fault}" for fault in faults(path, before)]
    runs = past_runs(folder)
    if not runs:
        tally.nothing_written += 1
    elif rng.random() < 1 / 3:
        tally.undo_killed += killed("undo", path, run_id=runs[0].id, moment=rng.randrange(max(steps // 2, 1)))
        tally.problems += [f"{what}, undo killed: {fault}" for fault in faults(path, before)]
    if runs:
        report = undo(path, runs[0].id, UndoOptions(), Silent())
        tally.problems += [f"{what}: undo: {entry.reason}" for entry in report.entries if entry.status == "failed"]
        tally.undone += 1
    else:
        write(path)
        undo(path, None, UndoOptions(), Silent())
    after = contents(folder)
    tally.problems += [
        f"{what}: after undo: {name}" for name in before.keys() | after if before.get(name) != after.get(name)
    ]


# ---- QuPath ----------------------------------------------------------------------------------------------------------


class Saver:
    """A person at work in QuPath: reads an entry once, adds annotations, and saves all that it has, as QuPath does."""

    def __init__(self, path: Path, entry_id: str) -> None:
        self.file = path.parent / "data" / entry_id / DATA
        self.data = qpdata.loads(self.file.read_bytes())
        self.drawn: list[UUID] = []

    def draw(self) -> None:
        """Add an annotation, in memory."""
        self.drawn.append(uuid4())
        x = len(self.drawn) * 10.0
        self.data.add([Annotation(self.drawn[-1], box(x, 0, x + 5, 5), "Stroma")], colours={})

    def save(self, pause: Callable[[str], None] = lambda _: None) -> None:
        """Save; ``pause`` is called between the steps: moved, half, whole, done."""
        spare = self.file.with_name(DATA + ".bkp")
        if self.file.exists():
            self.file.replace(spare)
        pause("moved")
        content = self.data.dumps()
        with self.file.open("wb") as stream:
            stream.write(content[: len(content) // 2])
            stream.flush()
            pause("half")
            stream.write(content[len(content) // 2 :])
        pause("whole")
        spare.unlink(missing_ok=True)
        self.file.with_name("summary.json").write_text("{}", encoding="utf-8")
        pause("done")


ORDERS = ("before open", "after open", "after read", "before rename", "after rename", "after run")


def race(path: Path, *, read_at: str, save_at: str) -> tuple[bool, bool, bool]:
    """One writer, one saver that reads and saves entry 1 at the given moments of the writer's work.

    Returns whether the person's annotation is there, whether wsplf's polygon is, and whether wsplf said that it
    failed.
    """
    saver: list[Saver] = []

    def at(moment: str) -> None:
        if moment == read_at:
            saver.append(Saver(path, "1"))
            saver[0].draw()
        if moment == save_at and saver:
            saver[0].save()

    def rename(*arguments: Any, **named: Any) -> None:
        at("before rename")
        real(*arguments, **named)
        at("after rename")

    real = atomic._rename
    at("before open")
    project = open_project(path, ProjectOptions())
    at("after open")
    failed = False
    with start_run(project, "segment", options=None, seed=0) as run:
        polygon = Annotation(uuid4(), box(1000, 1000, 2000, 2000), "Tumor", run_id=run.id)
        project.annotations("1")
        at("after read")
        try:
            with mock.patch.object(atomic, "_rename", rename):
                project.replace("1", origin="prediction", annotations=[polygon])
        except (SlideError, ProjectError):
            failed = True
        if "before rename" in (read_at, save_at) and not saver:
            at(read_at)
            at(save_at)
        report = run.finish([EntryResult("1", "1.svs", "failed" if failed else "done")])
    at("after run")
    found = {annotation.id for annotation in open_project(path, ProjectOptions()).annotations("1")}
    return saver[0].drawn[0] in found, polygon.id in found, report.failed > 0


def stress(path: Path, *, seconds: float, rng: Random) -> dict[str, int]:
    """A saver in a process of its own saves entry 1 again and again while a writer writes: how often what happened.

    ``lost``: what the person had saved is not in the file after the next finished writing. Must be 0.
    """
    stop, saved = WRITER.Event(), WRITER.Value("q", 0)
    child = WRITER.Process(target=_save_on, args=(path, stop, saved, rng.random()))
    child.start()
    counts = dict.fromkeys(("written", "refused", "unreadable", "lost"), 0)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        certain = saved.value  # saved before the project is opened: must be there afterwards, whatever happens
        project = open_project(path, ProjectOptions())
        polygon = Annotation(uuid4(), box(1000, 1000, 2000, 2000 + rng.random() * 100), "Tumor", run_id="r")
        try:
            project.replace("1", origin="prediction", annotations=[polygon])
            counts["written"] += 1
        except SlideError as error:
            counts["unreadable" if "cannot be read" in error.message else "refused"] += 1
            continue
        people = _count_drawn(path)
        counts["lost"] += people is not None and people < certain
    stop.set()
    child.join()
    return counts | {"saved": saved.value}


def _count_drawn(path: Path) -> int | None:
    try:
        found = open_project(path, ProjectOptions()).annotations("1")
    except SlideError:
        return None
    return sum(annotation.shape.bounds[3] == 5 for annotation in found)


def _save_on(path: Path, stop: Any, saved: Any, seed: float) -> None:
    rng = Random(seed)
    saver = Saver(path, "1")
    while not stop.is_set():
        saver.draw()
        saver.save()
        saved.value = len(saver.drawn)
        time.sleep(rng.uniform(0, 0.5))
