"""``wsplf demo``: the whole loop on synthetic slides, through the same stages as the other commands."""

import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from wsplf_cli import plugins
from wsplf_cli.backends import Project
from wsplf_cli.benchmark.evaluation import evaluate
from wsplf_cli.cohort.label_table import resolve_labels
from wsplf_cli.commands.segment import segment
from wsplf_cli.commands.train import train
from wsplf_cli.errors import ConfigError, ProjectError, WsplfError
from wsplf_cli.files import write_bytes, write_json
from wsplf_cli.geometry import mask_polygons, rasterise
from wsplf_cli.options import (
    EvaluateOptions,
    ProjectOptions,
    PseudolabelOptions,
    RunOptions,
    SegmentOptions,
    TileOptions,
    TrainOptions,
)
from wsplf_cli.qupath import geojson
from wsplf_cli.qupath.create import Image, create_project
from wsplf_cli.recipes import Recipe
from wsplf_cli.report.page import report
from wsplf_cli.schema import Annotation, Entry, PathClass, Silent, StageReport, Tracker
from wsplf_cli.slides.entry import entry_slide
from wsplf_cli.slides.tissue import tissue_mask
from wsplf_cli.synthetic.cohort import SyntheticSlide, make_cohort
from wsplf_cli.synthetic.threshold import best_threshold
from wsplf_cli.weak.method import pseudolabel

#: ReviewRegions a folder that the demo made, from its first moment, so that it can be made anew.
MARK = ".wsplf-demo"
PARTS = ("project", "slides", "truth", "report.html", "results.json")
#: The colour baseline looks at the slides at this mpp: finer than its smoothing, coarse enough to be quick.
THRESHOLD_MPP = 2.0
#: Its smaller pieces are dropped: less than a nucleus, so that it keeps what its Dice was chosen for.
THRESHOLD_LEAST_UM2 = 20.0


@dataclass(frozen=True, slots=True)
class Size:
    """How large a demo is: (positive, negative) slides to learn from and to test on, their side, and the epochs.

    Fewer epochs than the command's default: the whole loop has five minutes on two cores.
    """

    train: tuple[int, int] = (8, 6)
    test: tuple[int, int] = (4, 3)
    size_px: int = 2048
    tile_px: int = TileOptions().tile_px
    segmenter_epochs: int = 14


def demo(out: Path, *, seed: int, device: str, tracker: Tracker, size: Size | None = None) -> dict[str, Any]:
    """Make a cohort and a project in ``out``, run every stage on it, measure, and write the report.

    Returns:
        What ``out/results.json`` holds: ``seconds``, and what ``evaluate`` returns for the pseudo-labels of the
        training slides (``pseudolabel``), for the predictions on the held-back test slides (``prediction``) and for
        the best threshold on one colour channel of these, chosen with their truth (``threshold``); and the paths of
        ``project`` and ``report``.

    Raises:
        ConfigError: ``out`` holds something that the demo did not make, or something that a person made in it.
        ProjectError: ``out`` cannot be written.
        WsplfError: a stage failed on a slide.
    """
    began = time.monotonic()
    size = size or Size()
    _clear(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_bytes(out / MARK, b"Made by wsplf demo; it may be made anew.\n")
        tracker.start("slides", sum(size.train) + sum(size.test))
        slides = make_cohort(
            out,
            seed=seed,
            train=size.train,
            test=size.test,
            size_px=size.size_px,
            on_slide=lambda name: tracker.advance(1, message=name),
        )
    except OSError as error:
        raise ProjectError(f"cannot write {out}: {error.strerror}", hint="choose another folder with --out") from error
    project, entries = _open(
        create_project(out / "project", _images(slides), classes=[PathClass("Tumor", (200, 0, 0))])
    )
    training = [entry for entry in entries if entry.split == "train"]
    testing = [entry for entry in entries if entry.split == "test"]
    run = RunOptions(device=device, seed=seed)
    tiles = TileOptions(tile_px=size.tile_px)
    labelling = PseudolabelOptions(run=run, recipe=Recipe(tile_px=size.tile_px))
    _require_all_done(pseudolabel(project, training, labelling, tracker))
    learning = TrainOptions(tiles=tiles, run=run, epochs=size.segmenter_epochs)
    _require_all_done(train(project, training, learning, tracker))
    _require_all_done(segment(project, testing, SegmentOptions(run=run), tracker))
    truth = out / "truth"
    results: dict[str, Any] = {
        "pseudolabel": evaluate(project, training, EvaluateOptions(truth=truth, origin="pseudolabel"), tracker),
        "prediction": evaluate(project, testing, EvaluateOptions(truth=truth, origin="prediction"), tracker),
        "threshold": _threshold(slides, truth=truth),
    }
    results = {"seconds": time.monotonic() - began} | results
    try:
        write_json(out / "results.json", results)
    except OSError as error:
        raise ProjectError(f"cannot write {out / 'results.json'}: {error.strerror}") from error
    page = report(project, entries, out=out / "report.html", tracker=tracker, scores=out / "results.json")
    return results | {"project": str(project.path), "report": str(page)}


def _open(path: Path) -> tuple[Project, list[Entry]]:
    options = ProjectOptions()
    project: Project = plugins.load("backends", options.backend).open_project(path, options)
    return project, resolve_labels(project, project.entries(), options)


def _images(slides: Sequence[SyntheticSlide]) -> list[Image]:
    return [
        Image(
            path=slide.path,
            name=slide.name,
            width_px0=slide.width_px0,
            height_px0=slide.height_px0,
            mpp=slide.mpp,
            levels=[(slide.width_px0 / width, width, height) for width, height in slide.levels],
            metadata={"label": slide.label, "patient": slide.patient, "split": slide.split},
        )
        for slide in slides
    ]


def _require_all_done(stage: StageReport) -> None:
    failed = next((entry for entry in stage.entries if entry.status == "failed"), None)
    if failed is not None:
        raise WsplfError(f"{stage.stage} failed on {failed.reason}")


def _threshold(slides: Sequence[SyntheticSlide], *, truth: Path) -> dict[str, Any]:
    """What ``evaluate`` says of the best colour threshold, through a project of its own that is thrown away."""
    testing = [slide for slide in slides if slide.split == "test"]
    options = EvaluateOptions(truth=truth, origin="prediction")
    with tempfile.TemporaryDirectory() as folder:
        project, entries = _open(create_project(Path(folder) / "project", _images(testing), classes=[]))
        views = [_view(entry, truth=truth) for entry in entries]
        best = best_threshold(
            [view.rgb for view in views],
            [view.truth for view in views],
            [view.tissue for view in views],
            mpp=THRESHOLD_MPP,
        )
        for entry, view in zip(entries, views, strict=True):
            shapes = mask_polygons(
                best.mask(view.rgb, view.tissue, mpp=THRESHOLD_MPP),
                origin_px0=(0.0, 0.0),
                downsample=view.downsample,
                tolerance_px0=0.5 * view.downsample,
                min_area_px0=THRESHOLD_LEAST_UM2 / THRESHOLD_MPP**2 * view.downsample**2,
            )
            name = options.project.path_class
            found = [Annotation(uuid4(), shape, name, origin="prediction", run_id="threshold") for shape in shapes]
            project.replace(entry.id, origin="prediction", annotations=found)
        scores = evaluate(project, entries, options, Silent())
    chosen = {"channel": best.channel, "smoothing_um": best.smoothing_um, "above": best.above, "value": best.value}
    return scores | {"chosen": chosen}


@dataclass(frozen=True, slots=True)
class _View:
    """A slide at ``THRESHOLD_MPP``: ``rgb`` uint8 [H, W, 3], ``truth`` and ``tissue`` bool [H, W]."""

    rgb: NDArray[np.uint8]
    truth: NDArray[np.bool_]
    tissue: NDArray[np.bool_]
    downsample: float


def _view(entry: Entry, *, truth: Path) -> _View:
    slide, pixel_size = entry_slide(entry)
    downsample = THRESHOLD_MPP / pixel_size.mpp
    size_px = (int(slide.width_px0 / downsample), int(slide.height_px0 / downsample))
    found = tissue_mask(slide, mpp_slide=pixel_size.mpp)
    rows, columns = (
        np.minimum((np.arange(count) + 0.5) * downsample / found.downsample, limit - 1).astype(np.intp)
        for count, limit in zip(size_px[::-1], found.mask.shape, strict=True)
    )
    shapes = [one.shape for one in geojson.read(truth / f"{Path(entry.name).stem}.geojson")]
    return _View(
        rgb=slide.read(0, 0, size_px=size_px, downsample=downsample),
        truth=rasterise(shapes, origin_px0=(0.0, 0.0), downsample=downsample, size_px=size_px),
        tissue=found.mask[np.ix_(rows, columns)],
        downsample=downsample,
    )


def _clear(out: Path) -> None:
    """Make room in ``out``: nothing to do for a new or empty folder; an earlier demo is removed, nothing else ever."""
    if not out.exists() and not out.is_symlink():
        return
    hint = "choose another folder with --out"
    if not out.is_dir():
        raise ConfigError(f"{out} is there and is no folder", hint=hint)
    inside = sorted(out.iterdir())
    if not inside:
        return
    foreign = [path for path in inside if path.name not in (MARK, *PARTS) or path.is_symlink()]
    if not (out / MARK).is_file() or foreign:
        raise ConfigError(f"{out} is not empty: it holds {(foreign or inside)[0].name}", hint=hint)
    touched = _made_by_a_person(out)
    if touched:
        raise ConfigError(f"{out} holds an earlier demo in which {touched}", hint=hint)
    try:
        for name in PARTS:
            path = out / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    except OSError as error:
        raise ProjectError(f"cannot remove the earlier demo in {out}: {error.strerror}", hint=hint) from error


def _made_by_a_person(out: Path) -> str:
    """What a person added to an earlier demo, in words; empty when it is as the demo left it."""
    for folder, suffix in (("slides", ".tif"), ("truth", ".geojson")):
        for path in sorted((out / folder).glob("*")):
            if path.suffix != suffix and not path.name.endswith(".part"):
                return f"{folder}/{path.name} was added"
    known = {"project.qpproj", "project.qpproj.backup", "data", "classifiers", "wsplf"}
    for path in sorted((out / "project").glob("*")):
        if path.name not in known:
            return f"project/{path.name} was added"
    file = out / "project" / "project.qpproj"
    if not file.is_file():
        return ""
    options = ProjectOptions()
    project: Project = plugins.load("backends", options.backend).open_project(file, options)
    for entry in project.entries():
        for annotation in project.annotations(entry.id):
            if annotation.origin == "human" or annotation.edited or annotation.review != "pending":
                return f"a person annotated {entry.name}"
    return ""
