"""``wsplf demo``: the whole loop on synthetic slides, through the same functions as the other commands."""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsplf_cli import plugins
from wsplf_cli.backends import Project
from wsplf_cli.benchmark.color_threshold import predict_by_colour
from wsplf_cli.cohort.demo_folder import make_folder, slide_images
from wsplf_cli.cohort.labels import resolve_labels
from wsplf_cli.commands.evaluate import evaluate
from wsplf_cli.commands.pseudolabel import pseudolabel
from wsplf_cli.commands.report import report
from wsplf_cli.commands.segment import segment
from wsplf_cli.commands.train import train
from wsplf_cli.errors import ProjectError, WsplfError
from wsplf_cli.files import write_json
from wsplf_cli.options import (
    EvaluateOptions,
    ProjectOptions,
    PseudolabelOptions,
    ReportOptions,
    RunOptions,
    SegmentOptions,
    TileOptions,
    TrainOptions,
)
from wsplf_cli.qupath.create import create_project
from wsplf_cli.recipes import Recipe
from wsplf_cli.schema import Entry, PathClass, Silent, StageReport, Tracker
from wsplf_cli.synthetic.cohort import SyntheticSlide, make_cohort


@dataclass(frozen=True, slots=True)
class Size:
    """How large a demo is: (positive, negative) slides to train and to test on, their side, and the training.

    One encoder and not two, three folds and not four, and fewer epochs than by default, so that the whole loop takes
    about five minutes on two cores.
    """

    train: tuple[int, int] = (8, 6)
    test: tuple[int, int] = (4, 3)
    size_px: int = 2048
    tile_px: int = Recipe().tile_px
    crop_px: int = TileOptions().tile_px
    segmenter_epochs: int = 4
    folds: int = 3
    encoder: str = "small"


def demo(out: Path, *, seed: int, device: str, tracker: Tracker, size: Size | None = None) -> dict[str, Any]:
    """Make a cohort and a project in ``out``, run every command on it, measure, and write the report.

    Returns:
        What ``out/results.json`` holds: ``seconds``, and what ``evaluate`` returns for the pseudo-labels of the
        training slides (``pseudolabel``), for the predictions on the held-out test slides (``prediction``) and for
        the best threshold on one colour channel of these, chosen with their truth (``threshold``); and the paths of
        ``project`` and ``report``.

    Raises:
        ConfigError: ``out`` holds something that the demo did not make, or something that a person made in it.
        ProjectError: ``out`` cannot be written.
        WsplfError: a command failed on a slide.
    """
    began = time.monotonic()
    size = size or Size()
    make_folder(out)
    slides = _make_slides(out, size, seed, tracker)
    project, entries = _make_project(out / "project", slides, classes=[PathClass("Tumor", (200, 0, 0))])
    training = [entry for entry in entries if entry.split == "train"]
    testing = [entry for entry in entries if entry.split == "test"]
    run = RunOptions(device=device, seed=seed)
    tiles = TileOptions(tile_px=size.crop_px)

    labelling = PseudolabelOptions(run=run, recipe=Recipe(tile_px=size.tile_px))
    _require_all_done(pseudolabel(project, training, labelling, tracker))
    learning = TrainOptions(tiles=tiles, run=run, epochs=size.segmenter_epochs, folds=size.folds, backbone=size.encoder)
    _require_all_done(train(project, training, learning, tracker))
    _require_all_done(segment(project, testing, SegmentOptions(run=run), tracker))

    truth = out / "truth"
    results: dict[str, Any] = {
        "pseudolabel": evaluate(project, training, EvaluateOptions(truth=truth, origin="pseudolabel"), tracker),
        "prediction": evaluate(project, testing, EvaluateOptions(truth=truth, origin="prediction"), tracker),
        "threshold": _evaluate_colour_threshold([slide for slide in slides if slide.split == "test"], truth=truth),
    }
    results = {"seconds": time.monotonic() - began} | results
    try:
        write_json(out / "results.json", results)
    except OSError as error:
        raise ProjectError(f"cannot write {out / 'results.json'}: {error.strerror}") from error
    written = report(project, entries, ReportOptions(out=out / "report.html", scores=out / "results.json"), tracker)
    return results | {"project": str(project.path), "report": str(written.page)}


def _make_slides(out: Path, size: Size, seed: int, tracker: Tracker) -> Sequence[SyntheticSlide]:
    """Synthetic slides with their truth, in ``out``."""
    tracker.start("slides", sum(size.train) + sum(size.test))
    try:
        return make_cohort(
            out,
            seed=seed,
            train=size.train,
            test=size.test,
            size_px=size.size_px,
            on_slide=lambda name: tracker.advance(1, message=name),
        )
    except OSError as error:
        raise ProjectError(f"cannot write {out}: {error.strerror}", hint="choose another folder with --out") from error


def _make_project(
    folder: Path, slides: Sequence[SyntheticSlide], *, classes: Sequence[PathClass]
) -> tuple[Project, list[Entry]]:
    """A new project of the slides, and its entries with their labels."""
    path = create_project(folder, slide_images(slides), classes=classes)
    options = ProjectOptions()
    project: Project = plugins.load("backends", options.backend).open_project(path, options)
    return project, resolve_labels(project.entries(), options)


def _require_all_done(stage: StageReport) -> None:
    failed = next((entry for entry in stage.entries if entry.status == "failed"), None)
    if failed is not None:
        raise WsplfError(f"{stage.stage} failed on {failed.reason}")


def _evaluate_colour_threshold(slides: Sequence[SyntheticSlide], *, truth: Path) -> dict[str, Any]:
    """The scores of the best colour threshold, by way of a temporary project of its own, and the ``chosen`` one."""
    with tempfile.TemporaryDirectory() as folder:
        project, entries = _make_project(Path(folder) / "project", slides, classes=[])
        best = predict_by_colour(project, entries, truth=truth, path_class=ProjectOptions().path_class)
        scores = evaluate(project, entries, EvaluateOptions(truth=truth, origin="prediction"), Silent())
    chosen = {"channel": best.channel, "smoothing_um": best.smoothing_um, "above": best.above, "value": best.value}
    return scores | {"chosen": chosen}
