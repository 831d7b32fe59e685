"""From what there is to do, and what a unit of it takes, to the time, memory and disk of a command."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wsplf_cli.networks.backbone import backbone_names
from wsplf_cli.options import PseudolabelOptions, TrainOptions
from wsplf_cli.plan.calibration import Calibration, CommandOptions
from wsplf_cli.plan.sizes import SlideSize
from wsplf_cli.segmentation.cross_fit import blocks_of_slide
from wsplf_cli.segmentation.train import FitSettings
from wsplf_cli.weak.features import WAITING_BYTES

#: Steps that are done once for the cohort, not on slides.
COHORT_STEPS = ("linear probes",)
#: Predicting a block out of fold, as a share of a step of training: a block is half a batch, and has no gradient.
PREDICTED_BLOCK_STEPS = 1 / 6


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a command takes: seconds, peak bytes of each process, and bytes in the project's folder.

    ``most_disk_bytes`` is the disk were all tissue of positive slides tumour. ``longest`` is the slide that takes
    longest, and its seconds; None where no slide can be read. ``memory_bytes`` is None where the system does not tell.
    """

    seconds: float
    longest: tuple[str, float] | None
    memory_bytes: int | None
    gpu_bytes: int | None
    disk_bytes: int
    most_disk_bytes: int

    @property
    def document(self) -> dict[str, Any]:
        """As ``wsplf plan --json`` has it."""
        longest = None if self.longest is None else {"name": self.longest[0], "seconds": self.longest[1]}
        return {
            "seconds": self.seconds,
            "longest": longest,
            "memory_bytes": self.memory_bytes,
            "gpu_bytes": self.gpu_bytes,
            "disk_bytes": self.disk_bytes,
            "most_disk_bytes": self.most_disk_bytes,
        }


def estimate(
    sizes: Sequence[SlideSize], calibration: Calibration, options: CommandOptions, *, workers: int = 0
) -> Estimate:
    """The time, memory and disk of a command.

    With workers, the work on slides is shared out, and takes at least as long as the longest slide.

    Args:
        sizes: Of the slides that can be read.
        calibration: Of this machine and these options.
        options: Of the command.
        workers: Worker processes; 0 for none.
    """
    of_slides = [slide_seconds(size, calibration.rates) for size in sizes]
    names = [size.name for size in sizes]
    longest = max(zip(names, of_slides, strict=True), key=lambda item: item[1], default=None)
    cohort = sum(calibration.rates.get(step, 0.0) * size.work.get(step, 0.0) for size in sizes for step in COHORT_STEPS)
    if isinstance(options, TrainOptions) and sizes:
        cohort += calibration.rates["train"] * training_steps(options, sizes)
    shared = sum(of_slides)
    if workers:
        slowest = 0.0 if longest is None else longest[1]
        shared = calibration.fixed_seconds + max(shared / workers, slowest)
    memory = calibration.memory_bytes
    if memory is not None:
        memory += round(extra_bytes(sizes))
    return Estimate(
        calibration.fixed_seconds + cohort + shared,
        longest,
        memory,
        calibration.gpu_bytes,
        _disk_bytes(sizes, sum(size.work.get("polygons", 0.0) for size in sizes), calibration, options),
        _disk_bytes(sizes, sum(size.most_prompted for size in sizes), calibration, options),
    )


def slide_seconds(size: SlideSize, rates: Mapping[str, float]) -> float:
    """The seconds that the work on one slide takes, all steps together."""
    return sum(rates.get(step, 0.0) * units for step, units in size.work.items() if step not in COHORT_STEPS)


def fit_settings(options: TrainOptions) -> FitSettings:
    """The settings of a training with these options, as far as they say how long it takes."""
    return FitSettings(options.epochs, options.tiles.tile_px, options.tiles.tile_px)


def training_steps(options: TrainOptions, sizes: Sequence[SlideSize]) -> float:
    """Steps of training on slides, without each fold, with the predictions out of fold counted as such.

    A step is one of each network that the segmenter builds.
    """
    settings = fit_settings(options)
    folds = min(options.folds, len(sizes) // 2)  # about so many patients have polygons
    folds = 0 if folds < 2 else folds
    predicted = sum(min(size.tiles, blocks_of_slide(len(sizes))) for size in sizes) if folds else 0
    if options.segmenter == "unet":
        built = len(backbone_names(options.backbone, options.backbone_weights))
        networks = max(folds, built) / built
    else:  # the model is a network of its own
        networks = folds + 1
    return settings.steps * networks + predicted * PREDICTED_BLOCK_STEPS


def extra_bytes(sizes: Sequence[SlideSize]) -> float:
    """The memory that slides take beside what any run of a command takes."""
    kept = sum(size.kept_bytes for size in sizes) + min(sum(size.waiting_bytes for size in sizes), WAITING_BYTES)
    return kept + max((size.working_bytes for size in sizes), default=0.0)


def _disk_bytes(
    sizes: Sequence[SlideSize], embeddings: float, calibration: Calibration, options: CommandOptions
) -> int:
    disk = calibration.disk_bytes + calibration.slide_disk_bytes * len(sizes)
    if isinstance(options, PseudolabelOptions):
        disk += round(min(calibration.embedding_bytes * embeddings, options.cache_gb * 1e9))
    return disk


def describe(document: Mapping[str, Any]) -> list[str]:
    """The totals of what ``wsplf plan --json`` prints, in lines for people."""
    unread = f"; {document['failed']} cannot be read and are not counted" if document["failed"] else ""
    workers = f" with {document['workers']} workers" if document["workers"] else ""
    longest = document["longest"]
    most = f"; the longest slide, {longest['name']}, {_duration(longest['seconds'])}" if longest else ""
    memory, gpu = document["memory_bytes"], document["gpu_bytes"]
    of_process = " for each process" if document["workers"] else ""
    of_gpu = f", and {gpu / 1e9:.1f} GB on the GPU" if gpu else ""
    share = document["assumed_tumour_share"]
    most_mb = document["most_disk_bytes"] / 1e6
    more_disk = f", at most {most_mb:.0f} MB, were all tissue tumour" if most_mb > document["disk_bytes"] / 1e6 else ""
    return [
        f"{document['command']}: {document['slides']} slides, {document['tissue_mm2']:.1f} mm2 of tissue,"
        f" {document['tiles']} tiles{unread}",
        f"time: {_duration(document['seconds'])}{workers}{most}",
        "memory: " + (f"{memory / 1e9:.1f} GB{of_process}{of_gpu}" if memory else "not known on this system"),
        f"disk: {document['disk_bytes'] / 1e6:.0f} MB in the project{more_disk}",
        *([f"slides that may be positive are taken to hold {share:.0%} of tumour"] if share else []),
        f"measured once on this machine; to measure again, delete {document['calibration']}",
    ]


def _duration(seconds: float) -> str:
    """``45 s``, ``12 min`` or ``3.4 h``."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
