"""Seconds for each unit of work of a command on this machine, and the memory and disk that it takes.

They are measured once, in a process of its own (see ``measure``), and kept in the user's cache folder by the machine,
the version of wsplf and the options of the command. Time that other programs took from the measurement is not counted.
"""

import json
import logging
import os
import pickle
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from wsplf_cli import files
from wsplf_cli.cache import identity, key_of, user_folder
from wsplf_cli.errors import WsplfError
from wsplf_cli.executors.resources import cores
from wsplf_cli.options import PseudolabelOptions, RunOptions, SegmentOptions, TrainOptions
from wsplf_cli.schema import Tracker
from wsplf_cli.worker_options import WorkerOptions

log = logging.getLogger(__name__)

CommandOptions = PseudolabelOptions | TrainOptions | SegmentOptions
Command = Callable[..., Any]
"""A command: project, entries, options and tracker to a StageReport."""

_CHILD = "from wsplf_cli.plan.measure import main; main()"


@dataclass(frozen=True, slots=True)
class Calibration:
    """What a command needs on this machine.

    Attributes:
        fixed_seconds: Until the first slide.
        rates: Seconds for each unit of work, by step (see ``sizes``).
        memory_bytes: Peak memory, without what the slides of the calibration took; None where the system does not tell.
        gpu_bytes: Peak memory of the CUDA device; None without one.
        slide_disk_bytes: Files in the project for each slide, without SAM's embeddings.
        disk_bytes: Files in the project for the run as a whole.
        embedding_bytes: One of SAM's embeddings on disk.
        seconds: How long the calibration took.
    """

    fixed_seconds: float
    rates: Mapping[str, float] = field(default_factory=dict)
    memory_bytes: int | None = None
    gpu_bytes: int | None = None
    slide_disk_bytes: int = 0
    disk_bytes: int = 0
    embedding_bytes: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Request:
    """What is measured: a command with its options, with so many threads (0: as many as the command takes)."""

    command: Command
    options: CommandOptions
    threads: int

    @property
    def path(self) -> Path:
        """The file that keeps the calibration."""
        machine = (platform.node(), platform.machine(), cores(), os.environ.get("OMP_NUM_THREADS", ""))
        weights = [
            identity(path)
            for name in ("backbone_weights", "sam_checkpoint")
            if (path := getattr(self.options, name, None)) is not None and path.is_file()
        ]
        if isinstance(self.options, SegmentOptions):
            weights = [identity(path) for path in _files(Path(self.options.model))]
        key = key_of([self.command.__name__, self.options, machine, self.threads, weights])
        return user_folder() / "calibration" / f"{key}.json"


def request(command: Command, options: CommandOptions, *, model: Path = Path()) -> Request:
    """What to measure for a command on a project: its options without those of the project and of the outcome.

    Args:
        command: A function of a module, which another process can import.
        options: Its options.
        model: The model of ``segment``.
    """
    device = RunOptions(device=options.run.device)
    if isinstance(options, TrainOptions):
        default = TrainOptions()
        folds = 1 if options.folds == 1 else default.folds
        project, name, alpha = default.project, default.name, default.alpha
        short = replace(options, project=project, run=device, name=name, alpha=alpha, epochs=1, folds=folds)
        return Request(command, short, 0)
    threads = 0 if _in_process(options.workers) else 1
    if isinstance(options, SegmentOptions):
        outlines = {name: getattr(options, name) for name in ("outlines", "sam", "sam_checkpoint")}
        return Request(command, SegmentOptions(run=device, model=str(model.absolute()), **outlines), threads)
    of_pseudolabel = PseudolabelOptions(run=device)
    of_machine = replace(
        options,
        project=of_pseudolabel.project,
        run=device,
        workers=of_pseudolabel.workers,
        alpha=of_pseudolabel.alpha,
        min_area_um2=of_pseudolabel.min_area_um2,
        cache_gb=of_pseudolabel.cache_gb,
    )
    return Request(command, of_machine, threads)


def calibrate(wanted: Request, tracker: Tracker) -> Calibration:
    """The calibration that is kept, or a new one, which is then kept.

    Raises:
        WsplfError: The command fails on synthetic slides.
    """
    path = wanted.path
    kept = _read(path)
    if kept is not None:
        return kept
    tracker.say("calibrating on small synthetic slides, once on this machine with these options")
    calibration = measure_in_child(wanted)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_json(path, asdict(calibration))
    except OSError as error:
        tracker.say(f"warning: {path} cannot be written ({error.strerror}): the next plan calibrates again")
    return calibration


def measure_in_child(wanted: Request) -> Calibration:
    """A new calibration, in a process of its own: what this one holds in memory does not count.

    Raises:
        WsplfError: The command fails on synthetic slides.
    """
    environment = dict(os.environ)
    if wanted.threads:
        environment["OMP_NUM_THREADS"] = str(wanted.threads)
    done = subprocess.run(
        [sys.executable, "-P", "-c", _CHILD],
        input=pickle.dumps(wanted),
        capture_output=True,
        env=environment | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        check=False,
    )
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        reason = lines[-1] if lines else f"exit code {done.returncode}"
        raise WsplfError(f"the calibration failed: {reason}")
    return Calibration(**json.loads(done.stdout.decode().splitlines()[-1]))


def _in_process(workers: WorkerOptions) -> bool:
    return workers == WorkerOptions()


def _files(model: Path) -> list[Path]:
    return sorted(model.iterdir()) if model.is_dir() else [model]


def _read(path: Path) -> Calibration | None:
    """A kept calibration; None where there is none that can be used."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values.keys() != {of_record.name for of_record in fields(Calibration)}:
            return None
        return Calibration(**values)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError) as error:
        log.info("%s is damaged, and measured again: %s", path, error)
        return None
