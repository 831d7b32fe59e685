"""A command on small synthetic slides, in a process of its own: seconds by step, peak memory and disk."""

import gc
import json
import pickle
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from shapely import MultiPolygon

from wsplf_cli import plugins
from wsplf_cli.backends import Project
from wsplf_cli.cache import Store
from wsplf_cli.cohort.labels import resolve_labels
from wsplf_cli.cohort.slide import PrepareSlide
from wsplf_cli.errors import SlideError
from wsplf_cli.networks.device import peak_memory, pick_device, start_peak_memory
from wsplf_cli.networks.sam import Sam, load_sam
from wsplf_cli.options import PseudolabelOptions, SegmentOptions, TrainOptions
from wsplf_cli.plan.calibration import Calibration, CommandOptions, Request
from wsplf_cli.plan.estimate import extra_bytes, slide_seconds, training_steps
from wsplf_cli.plan.sizes import (
    PseudolabelSize,
    SegmentSize,
    Sizer,
    SlideSize,
    TrainSize,
    foreground,
    foreground_map,
    read_tissue,
)
from wsplf_cli.qupath.create import Image, create_project
from wsplf_cli.review.memory import Review
from wsplf_cli.runs import layout
from wsplf_cli.schema import Annotation, Entry, Silent
from wsplf_cli.segmentation.appearance import describe_slide
from wsplf_cli.segmentation.loading import describe_model, load_model
from wsplf_cli.segmentation.outlines import asks_sam
from wsplf_cli.segmentation.predict import CELL_PX
from wsplf_cli.slides.map import SlideMap
from wsplf_cli.slides.window import tissue_cells
from wsplf_cli.synthetic.pyramid import write_pyramid
from wsplf_cli.synthetic.slide import generate_slide
from wsplf_cli.weak.cam import dense_inference
from wsplf_cli.weak.method import Networks, load_networks
from wsplf_cli.weak.polygons import draw_polygons
from wsplf_cli.weak.sam import refiners
from wsplf_cli.weak.sam.embeddings import Embedder
from wsplf_cli.weak.sam.refine import refine

#: Side of the synthetic slides in pixels of the tiles.
SIDE_PX = 700
#: A slide with little tissue, which tells what an area without any takes.
EMPTY_SIDE_PX, PATCH_PX = 4096, 256
SEED = 17


class StepTimes(Silent):
    """A Tracker that takes the time of each step, and of each entry in it.

    The time is that of the clock, or of the processor where that is less: other programs took the rest.
    """

    def __init__(self) -> None:
        self.before = 0.0
        self.of_steps: dict[str, float] = defaultdict(float)
        self.of_entries: dict[tuple[str, str], float] = defaultdict(float)
        self._step = self._name = ""
        self._began = self._began_entry = (time.monotonic(), time.process_time())

    def start(self, name: str, total: int) -> None:
        """A step begins, and the one before ends."""
        self.end()
        self._step = self._name = name

    def advance(self, steps: int = 1, message: str = "") -> None:
        """An entry has ended where ``steps`` is not 0."""
        if steps:
            self.of_entries[self._step, message] += _seconds_since(self._began_entry)
            self._began_entry = (time.monotonic(), time.process_time())

    def end(self) -> None:
        """The last step ends."""
        seconds = _seconds_since(self._began)
        if self._step:
            self.of_steps[self._step] += seconds
        else:
            self.before += seconds
        self._began = self._began_entry = (time.monotonic(), time.process_time())


@dataclass(frozen=True, slots=True)
class SyntheticProject:
    """A project of synthetic slides, and its entries with their labels."""

    project: Project
    entries: list[Entry]


def main() -> None:
    """Measure what standard input asks for, and print the calibration as JSON."""
    request: Request = pickle.loads(sys.stdin.buffer.read())
    with tempfile.TemporaryDirectory(prefix="wsplf-plan-") as folder:
        calibration = measure(request, Path(folder))
    sys.stdout.write("\n" + json.dumps(asdict(calibration)) + "\n")


def measure(request: Request, folder: Path) -> Calibration:
    """Run the command on synthetic slides in a folder.

    Raises:
        SlideError: A step fails on a slide.
    """
    began, imports = time.monotonic(), time.process_time()
    options = request.options
    device = pick_device(options.run.device)
    made = make_project(folder, options)
    peaks = []
    rates: dict[str, float] = {}
    embedding_bytes = 0
    times = StepTimes()
    start_peak_memory(device)
    run_options = replace(options, outlines="network") if isinstance(options, SegmentOptions) else options
    report = request.command(made.project, made.entries, run_options, times)  # first: nothing of the slides is kept yet
    times.end()
    peaks.append(peak_memory(device))
    if failed := next((result for result in report.entries if result.status == "failed"), None):
        raise SlideError(failed.reason)
    sizer = sizer_of(options)
    sizes = [sizer(entry, Silent()) for entry in made.entries]
    if isinstance(options, PseudolabelOptions):
        assert isinstance(sizer, PseudolabelSize)
        gc.collect()
        start_peak_memory(device)
        rates["polygons"], embedding_bytes = _time_polygons(made.entries[0], options, sizer, folder / "embeddings")
        peaks.append(peak_memory(device))
    if isinstance(sizer, SegmentSize) and sizer.sam_side_px:
        start_peak_memory(device)
        rates["outlines"] = _time_outlines(made.entries[0], sizer)
        peaks.append(peak_memory(device))
    fixed = imports + times.before
    if isinstance(sizer, SegmentSize):
        rates["appearance"] = _time_appearance(made.entries[0], sizer)
        seconds = [times.of_entries["segment", size.name] for size in sizes]
        rates |= segment_rates(sizes[1:], seconds[1:], appearance=rates["appearance"])
        fixed += first_slide_more(sizes[0], seconds[0], rates)
    else:
        rates = _rates(times, sizes, options) | rates
    host = [peak.host_bytes for peak in peaks if peak.host_bytes is not None]
    gpu = [peak.gpu_bytes for peak in peaks if peak.gpu_bytes is not None]
    of_slides, of_run = _disk_bytes(folder / "project", options, slides=len(made.entries))
    return Calibration(
        fixed_seconds=fixed,
        rates=rates,
        memory_bytes=round(max(host) - extra_bytes(sizes)) if host else None,
        gpu_bytes=max(gpu) if gpu else None,
        slide_disk_bytes=of_slides,
        disk_bytes=of_run,
        embedding_bytes=embedding_bytes,
        seconds=time.monotonic() - began,
    )


def sizer_of(options: CommandOptions, networks: Networks | None = None) -> Sizer:
    """What measures the slides of a command.

    Args:
        options: Of the command. The model of ``segment`` is a path.
        networks: Those of ``pseudolabel``, where they are loaded already.
    """
    if isinstance(options, TrainOptions):
        return TrainSize(options)
    if isinstance(options, SegmentOptions):
        checkpoint = describe_model(Path(options.model))
        side_px = _sam(options).side_px if asks_sam(options, checkpoint) else 0
        return SegmentSize(options, checkpoint, side_px)
    networks = networks or load_networks(options, pick_device(options.run.device), Silent())
    assert networks.backbone is not None
    return PseudolabelSize(options, networks.backbone, networks.sam.side_px)


def make_project(folder: Path, options: CommandOptions) -> SyntheticProject:
    """Synthetic slides at the scale of the tiles, half of them positive, with their tumour drawn for ``train``.

    For that there is a positive slide for each fold. For ``segment``, the last slide holds little tissue.
    """
    if isinstance(options, SegmentOptions):
        mpp, labels = describe_model(Path(options.model)).mpp, ["", "", ""]
    elif isinstance(options, TrainOptions):
        mpp, labels = options.tiles.mpp, ["tumor", "normal"] * options.folds
    else:
        mpp, labels = options.mpp, ["tumor", "normal", "tumor", "normal"]
    images, tumours = [], []
    for number, label in enumerate(labels):
        share = 0.0 if label == "normal" else 0.25
        rng = np.random.default_rng([SEED, number])
        slide = generate_slide(rng, size_px=SIDE_PX, mpp=1.0, tumour_share=share, pen=False)
        is_empty = isinstance(options, SegmentOptions) and number == len(labels) - 1
        rgb = _mostly_empty(slide.rgb) if is_empty else slide.rgb
        path = folder / f"slide-{number}.tif"
        write_pyramid(path, rgb, mpp=mpp)
        side = len(rgb)
        levels = [(1.0, side, side)]
        images.append(Image(path, path.name, side, side, mpp, levels, {"label": label} if label else {}))
        tumours.append(slide.tumour)
    project_file = create_project(folder / "project", images, classes=[])
    project: Project = plugins.load("backends", options.project.backend).open_project(project_file, options.project)
    entries = resolve_labels(project.entries(), options.project)
    if isinstance(options, TrainOptions):
        for entry, tumour in zip(entries, tumours, strict=True):
            _draw(project, entry, tumour, options.project.path_class)
    return SyntheticProject(project, entries)


def _draw(project: Project, entry: Entry, tumour: MultiPolygon, path_class: str) -> None:
    annotations = [Annotation(UUID(int=number + 1), polygon, path_class) for number, polygon in enumerate(tumour.geoms)]
    if annotations:
        project.add(entry.id, annotations)


def _mostly_empty(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A large white picture with a patch of tissue, the middle of ``rgb``."""
    empty = np.full((EMPTY_SIDE_PX, EMPTY_SIDE_PX, 3), 244, np.uint8)
    first = (len(rgb) - PATCH_PX) // 2
    empty[:PATCH_PX, :PATCH_PX] = rgb[first : first + PATCH_PX, first : first + PATCH_PX]
    return empty


def _time_polygons(entry: Entry, options: PseudolabelOptions, sizer: PseudolabelSize, cache: Path) -> tuple[float, int]:
    """Seconds of drawing for each window in which SAM is prompted, and the bytes of one of its embeddings.

    How much of the synthetic slides the classifiers take for tumour does not matter here.
    """
    networks = load_networks(options, pick_device(options.run.device), Silent())
    slide = PrepareSlide(options)((entry, Review(entry.id)), Silent())
    inference = dense_inference(slide, sizer.backbone, options)
    inside = tissue_cells(slide.tissue, shape=inference.shape(slide.open()), downsample=inference.downsample)
    embed = Embedder(networks.sam, Store(cache, most_bytes=10**9))
    refiner = refiners.build(options.recipe.refiner, sam=networks.sam, embed=embed, strategy=networks.strategy)
    cam = SlideMap(foreground(inside), inference.downsample)
    began = (time.monotonic(), time.process_time())
    draw_polygons(slide, cam, refiner, options, np.random.default_rng(SEED))
    seconds = _seconds_since(began)
    windows = sizer.prompted_windows(slide, inside, inference.downsample)
    kept = sum(path.stat().st_size for path in cache.rglob("*.npy"))
    return seconds / max(1, windows), kept // max(1, embed.computed)


def _time_outlines(entry: Entry, sizer: SegmentSize) -> float:
    """Seconds for each window in which SAM is prompted, were a share of the tissue of a class."""
    refiner = refiners.prompted_sam(_sam(sizer.options))
    slide, mpp, tissue = read_tissue(entry, None)
    downsample = sizer.checkpoint.mpp / mpp
    cam = foreground_map(slide, tissue, downsample=CELL_PX * downsample)
    began = (time.monotonic(), time.process_time())
    for _ in refine(slide, cam, refiner, window_downsample=downsample, rng=np.random.default_rng(SEED)):
        pass
    return _seconds_since(began) / max(1, sizer.prompted_windows(slide, tissue, mpp_slide=mpp))


def _time_appearance(entry: Entry, sizer: SegmentSize) -> float:
    """Seconds for each tile whose appearance is described; 0 where the model does not say what its slides look like."""
    appearance = load_model(Path(sizer.options.model), threshold=None, device="cpu").appearance
    if appearance is None or not appearance.aspects:
        return 0.0
    _slide, mpp, tissue = read_tissue(entry, None)
    began = (time.monotonic(), time.process_time())
    tiles = describe_slide(entry, tissue, mpp=sizer.checkpoint.mpp, mpp_slide=mpp)
    return _seconds_since(began) / max(1, len(tiles))


def _sam(options: SegmentOptions) -> Sam:
    return load_sam(options.sam, checkpoint=options.sam_checkpoint, device=pick_device(options.run.device))


def _disk_bytes(project: Path, options: CommandOptions, *, slides: int) -> tuple[int, int]:
    """Bytes that a run has written for each slide, and for all of them together.

    SAM's embeddings are counted for themselves. What is kept of a fit has a bound of its own.
    """
    embeddings = layout.embeddings_folder(project)
    files = [path for path in (project / layout.FOLDER).rglob("*") if path.is_file()]
    written = sum(path.stat().st_size for path in files if not path.is_relative_to(embeddings))
    if isinstance(options, TrainOptions):
        return 0, written
    fits = [layout.fit_file(run, "") for run in layout.run_folders(project)]
    of_fit = sum(path.stat().st_size for path in fits if path.is_file())
    return (written - of_fit) // slides, of_fit


def _rates(times: StepTimes, sizes: Sequence[SlideSize], options: CommandOptions) -> dict[str, float]:
    """Seconds for each unit of work."""
    rates = {}
    for step in sizes[0].work:
        units = sum(size.work[step] for size in sizes)
        rates[step] = times.of_steps.get(step, 0.0) / units if units else 0.0
    if isinstance(options, PseudolabelOptions) and not rates["CAM"]:  # of small slides, whose features waited
        rates["CAM"] = rates["features"]
    if isinstance(options, TrainOptions):
        rates["train"] = times.of_steps["train"] / training_steps(options, sizes)
    return rates


def first_slide_more(size: SlideSize, seconds: float, rates: Mapping[str, float]) -> float:
    """Seconds that ``segment`` takes for its first slide beyond its work: it waits for what is loaded only then."""
    without_outlines = {step: of_unit for step, of_unit in rates.items() if step != "outlines"}
    return max(0.0, seconds - slide_seconds(size, without_outlines))


def segment_rates(sizes: Sequence[SlideSize], seconds: Sequence[float], *, appearance: float) -> dict[str, float]:
    """Seconds for a megapixel of the canvas and for a window, neither below 0, from two slides without outlines.

    ``appearance`` are the seconds of a tile whose appearance is described.
    """
    units = np.array([[size.work["canvas"], size.work["windows"]] for size in sizes])
    described = appearance * np.array([size.work["appearance"] for size in sizes])
    left = np.maximum(np.array(seconds) - described, 0.0)
    canvas, windows = np.linalg.solve(units, left)
    if canvas < 0:
        canvas, windows = 0.0, left.sum() / units[:, 1].sum()
    return {"canvas": float(canvas), "windows": float(max(windows, 0.0))}


def _seconds_since(began: tuple[float, float]) -> float:
    """Seconds since then: of the clock, or of the processor where that is less."""
    return max(0.0, min(time.monotonic() - began[0], time.process_time() - began[1]))
