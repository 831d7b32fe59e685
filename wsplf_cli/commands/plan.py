"""``wsplf plan``: what a command will take on a project, before any work. It writes nothing into the project."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wsplf_cli.backends import Project
from wsplf_cli.cohort.run import SlideStep, for_each_slide
from wsplf_cli.cohort.square_pixels import with_square_pixels
from wsplf_cli.commands.pseudolabel import pseudolabel
from wsplf_cli.commands.segment import segment
from wsplf_cli.commands.train import train
from wsplf_cli.errors import ConfigError
from wsplf_cli.executors.resources import automatic_workers
from wsplf_cli.networks.device import pick_device
from wsplf_cli.options import PlanOptions, PseudolabelOptions, SegmentOptions, TrainOptions
from wsplf_cli.plan.calibration import Calibration, Command, CommandOptions, calibrate, request
from wsplf_cli.plan.estimate import Estimate, estimate, slide_seconds
from wsplf_cli.plan.measure import sizer_of
from wsplf_cli.plan.sizes import FOREGROUND_SHARE, SlideSize, require_planned
from wsplf_cli.schema import Entry, EntryResult, Tracker
from wsplf_cli.segmentation.loading import find_model
from wsplf_cli.worker_options import AUTO, WorkerOptions

COMMANDS: Mapping[str, Command] = {"pseudolabel": pseudolabel, "train": train, "segment": segment}


@dataclass(frozen=True, slots=True)
class Plan:
    """What a command will take, and the slides that it will work on; ``results`` has one for each of them."""

    command: str
    workers: int
    sizes: Mapping[str, SlideSize]
    results: Sequence[EntryResult]
    estimate: Estimate
    calibration: Calibration
    kept_in: Path

    @property
    def failed(self) -> int:
        """Slides that cannot be read, and are not counted."""
        return sum(result.status == "failed" for result in self.results)

    @property
    def _prompts_sam(self) -> bool:
        return any(size.work.get(step) for size in self.sizes.values() for step in ("polygons", "outlines"))

    @property
    def document(self) -> dict[str, Any]:
        """What ``wsplf plan --json`` prints."""
        entries = []
        for result in self.results:
            entry: dict[str, Any] = {"name": result.name, "status": result.status, "reason": result.reason}
            if (size := self.sizes.get(result.id)) is not None:
                entry |= {"tissue_mm2": size.tissue_mm2, "tiles": size.tiles}
                entry["seconds"] = slide_seconds(size, self.calibration.rates)
            entries.append(entry)
        return {
            "command": self.command,
            "workers": self.workers,
            "slides": len(self.sizes),
            "failed": self.failed,
            "tissue_mm2": sum(size.tissue_mm2 for size in self.sizes.values()),
            "tiles": sum(size.tiles for size in self.sizes.values()),
            **self.estimate.document,
            "assumed_tumour_share": FOREGROUND_SHARE if self._prompts_sam else None,
            "calibration": str(self.kept_in),
            "entries": entries,
        }


def plan(project: Project, entries: Sequence[Entry], options: PlanOptions, tracker: Tracker) -> Plan:
    """Measure the slides of a project, calibrate this machine, and say what the command will take.

    Args:
        project: Is only read.
        entries: With their labels resolved.
        options: The command, and its options.
        tracker: Where progress is shown.

    Raises:
        ConfigError: The command could not begin with these options, or its time cannot be told.
        WsplfError: The calibration failed.
    """
    project, entries = with_square_pixels(project, entries)
    chosen: CommandOptions = options.of_command
    pick_device(chosen.run.device)
    model = Path()
    if isinstance(chosen, PseudolabelOptions):
        require_planned(chosen)
        entries = [entry for entry in entries if entry.label is not None]
    if isinstance(chosen, SegmentOptions):
        model = find_model(project.folder, chosen.model)
        chosen = replace(chosen, model=str(model))
        entries = [entry for entry in entries if not entry.reviewed]
    else:
        entries = [entry for entry in entries if not entry.held_out]
    sizer = sizer_of(chosen)
    sizes: dict[str, SlideSize] = {}

    def receive(entry: Entry, size: SlideSize) -> Mapping[str, float]:
        sizes[entry.id] = size
        return {}

    step: SlideStep[Entry, SlideSize] = SlideStep("slides", lambda entry: entry, sizer, receive)
    results = for_each_slide(entries, step, tracker=tracker)
    wanted = request(COMMANDS[options.for_], chosen, model=model)
    calibration = calibrate(wanted, tracker)
    workers = 0 if isinstance(chosen, TrainOptions) else workers_of(chosen.workers, len(sizes))
    planned = estimate(list(sizes.values()), calibration, chosen, workers=workers)
    return Plan(options.for_, workers, sizes, results, planned, calibration, wanted.path)


def workers_of(options: WorkerOptions, slides: int) -> int:
    """The number of workers that the options mean, never more than there are slides; 0 for none.

    Raises:
        ConfigError: They are those of a running scheduler.
    """
    if options.scheduler is not None:
        raise ConfigError(f"the number of workers at {options.scheduler} is not known", hint="--workers N")
    if options.cluster is not None:
        return options.cluster.workers
    count = automatic_workers() if options.workers == AUTO else int(options.workers)
    count = min(count, max(1, slides))
    return 0 if options.workers == AUTO and count == 1 else count
