"""``wsplf segment``: apply a segmentation model to the entries and write what it finds as annotations."""

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from wsplf_cli.backends import Project
from wsplf_cli.cohort.labels import classes_of, names_of
from wsplf_cli.cohort.run import Skipped, each
from wsplf_cli.errors import SlideError
from wsplf_cli.networks.device import pick_device, seed_everything
from wsplf_cli.options import SegmentOptions
from wsplf_cli.review.memory import REVIEWED, read_review, write_polygons
from wsplf_cli.review.merge import decided, without
from wsplf_cli.runs.record import start_run
from wsplf_cli.schema import Annotation, Entry, StageReport, TissueMask, Tracker
from wsplf_cli.segmentation import checkpoint
from wsplf_cli.segmentation.checkpoint import Checkpoint
from wsplf_cli.segmentation.predict import Outlined, Predict, Sweep, Wanted, outline, predictor, sweep
from wsplf_cli.slides.entry import entry_slide
from wsplf_cli.slides.open import Slide
from wsplf_cli.slides.tissue import tissue_mask

log = logging.getLogger(__name__)

MIN_HOLE_UM2 = 500.0
"""Smaller holes are filled: a gap of a few nuclei is not a finding."""


@dataclass(frozen=True, slots=True)
class Model:
    """What is the same for all entries: the network as a function, what it is, and the threshold in use."""

    predict: Predict
    checkpoint: Checkpoint
    threshold: float


def segment(project: Project, entries: Sequence[Entry], options: SegmentOptions, tracker: Tracker) -> StageReport:
    """Predict every entry with a model and write the polygons as pending predictions, in place of earlier ones.

    A slide whose label says that it lacks a class gets no polygon of it, unless it is held out for testing: there, what
    the model would draw is the false positives to be measured. The area left out so is reported per entry.

    Args:
        project: The project to write to.
        entries: The entries to predict, labels resolved where they are known.
        options: The options of the command.
        tracker: Where progress is shown.

    Returns:
        One result per entry with its polygons and areas.

    Raises:
        ConfigError: no such model, or one that cannot be used.
        ProjectError: a file of the project cannot be written.
    """
    device = pick_device(options.run.device)
    described, network = checkpoint.load(model_folder(project, options.model), device=device)
    threshold = described.threshold if options.threshold is None else options.threshold
    model = Model(predictor(network, device=device), described, threshold)
    run = start_run(
        project, "segment", options=options, seed=options.run.seed, device=str(device), dry_run=options.run.dry_run
    )
    with run:
        seed_everything(options.run.seed)
        _warn_of_strangers(described.classes, entries, options, tracker)
        tracker.say(f"model of run {described.run_id}: {described.plugin}, {described.mpp:g} um/px, from {threshold:g}")

        def work(entry: Entry) -> Mapping[str, float] | Skipped:
            if entry.reviewed:
                return Skipped(REVIEWED)
            return _predict_entry(project, entry, model, options, run_id=run.id, tracker=tracker)

        results = each(entries, work, tracker=tracker, name="segment")
        details = {
            "model": options.model,
            "model_run": described.run_id,
            "threshold": threshold,
            "polygons": sum(result.counts.get("polygons", 0) for result in results),
            "suppressed_um2": sum(result.counts.get("suppressed_um2", 0) for result in results),
        }
        return run.finish(results, details=details)


def _warn_of_strangers(
    classes: Sequence[str], entries: Sequence[Entry], options: SegmentOptions, tracker: Tracker
) -> None:
    """Tell where slides get no polygon of a class only since no word of the labels means it."""
    strange = [name for name in classes if name not in classes_of(options.project)]
    if strange and any(one.label is not None and one.label.classes and not one.held_out for one in entries):
        tracker.say(
            f"warning: no --positive names the model's class {' or '.join(strange)}: slides labelled positive for"
            " another class are taken to lack it (--positive WORD=CLASS)"
        )


def model_folder(project: Project, name: str) -> Path:
    """The folder of a model: that of the project by this name, else the folder at this path."""
    own = project.folder / "wsplf" / "models" / name
    return own if own.is_dir() or not Path(name).is_dir() else Path(name)


def is_known_negative(entry: Entry, path_class: str) -> bool:
    """Whether the slide label rules the class out, on a slide that is not held out for testing."""
    return entry.label is not None and path_class not in entry.label.classes and not entry.held_out


def predict_polygons(
    slide: Slide, model: Model, *, absent: Sequence[bool], mpp_slide: float, min_area_um2: float, tracker: Tracker
) -> tuple[list[list[Outlined]], int]:
    """For each class the polygons that the model draws on a slide, and how many windows could not be read.

    A pixel is of the most probable class; one that is ``absent`` by the label takes none from the others.

    Raises:
        SlideError: the slide cannot be read at all.
    """
    downsample = model.checkpoint.mpp / mpp_slide
    side = model.checkpoint.tile_px
    plan = Sweep(
        width_px=math.ceil(slide.width_px0 / downsample - 1e-6),
        height_px=math.ceil(slide.height_px0 / downsample - 1e-6),
        window_px=side,
    )
    wanted = _on_tissue(tissue_mask(slide, mpp_slide=mpp_slide), side_px0=side * downsample, downsample=downsample)
    damaged = done = 0

    def read(x_px: int, y_px: int) -> NDArray[np.uint8]:
        nonlocal damaged
        try:
            return slide.read(x_px * downsample, y_px * downsample, size_px=(side, side), downsample=downsample)
        except SlideError as error:
            damaged += 1
            log.warning("a window was left white: %s", error.message)
            return np.full((side, side, 3), 255, np.uint8)

    def advance(windows: int) -> None:
        nonlocal done
        done += windows
        tracker.advance(0, message=f"{slide.path.name}, {done} windows")

    found = outline(
        sweep(plan, classes=len(absent), read=read, predict=model.predict, wanted=wanted, advance=advance),
        rivals=[not one for one in absent],
        threshold=model.threshold,
        downsample=downsample,
        tolerance_px0=0.5 * downsample,
        min_area_px0=min_area_um2 / mpp_slide**2,
        min_hole_px0=MIN_HOLE_UM2 / mpp_slide**2,
    )
    return found, damaged


def _predict_entry(
    project: Project, entry: Entry, model: Model, options: SegmentOptions, *, run_id: str, tracker: Tracker
) -> Mapping[str, float]:
    """Predict one entry and write its polygons; returns the counts for the report."""
    slide, pixel_size = entry_slide(entry, mpp_override=options.project.mpp_override)
    mpp = pixel_size.mpp
    classes = model.checkpoint.classes
    absent = [is_known_negative(entry, path_class) for path_class in classes]
    min_area_px0 = options.min_area_um2 / mpp**2
    found, damaged = predict_polygons(
        slide, model, absent=absent, mpp_slide=mpp, min_area_um2=options.min_area_um2, tracker=tracker
    )
    suppressed = sum(one.shape.area for own, no in zip(found, absent, strict=True) if no for one in own) * mpp**2
    review = read_review(project, entry, classes[0], tracker)
    kept = [one.shape for one in decided(review.annotations, origin="prediction")]
    annotations: list[Annotation] = []
    for path_class, own, no in zip(classes, found, absent, strict=True):
        regions = review.of(path_class).regions
        drawn = without(
            [] if no else [_annotation(one, path_class, model, run_id=run_id) for one in own],
            [*kept, *regions.negative, *regions.ignored],
            min_area_px0=min_area_px0,
        )
        # simplified outlines of two classes cross each other along their border
        annotations += without(drawn, [one.shape for one in annotations], min_area_px0=min_area_px0)
    annotations = [_with_area(annotation, mpp=mpp) for annotation in annotations]
    each_class = Counter(one.path_class for one in annotations)
    counts = {f"polygons {name}": each_class[name] for name in names_of(classes) if name} | {
        "polygons": len(annotations),
        "area_um2": sum(annotation.shape.area for annotation in annotations) * mpp**2,
        "suppressed_um2": suppressed,
        "damaged_windows": damaged,
    }
    if options.run.dry_run:
        return counts
    replaced = write_polygons(project, review, annotations=annotations, origin="prediction", run_id=run_id)
    return counts | {"removed": replaced.removed, "kept": replaced.kept}


def _annotation(found: Outlined, path_class: str, model: Model, *, run_id: str) -> Annotation:
    return Annotation(
        id=uuid4(),
        shape=found.shape,
        path_class=path_class,
        origin="prediction",
        run_id=run_id,
        measurements={"wsplf: confidence": round(found.confidence, 4)},
        metadata={"wsplf.model": model.checkpoint.run_id},
    )


def _with_area(annotation: Annotation, *, mpp: float) -> Annotation:
    area = round(annotation.shape.area * mpp**2, 1)
    return replace(annotation, measurements={**annotation.measurements, "wsplf: area um^2": area})


def _on_tissue(tissue: TissueMask, *, side_px0: float, downsample: float) -> Wanted:
    """Whether a window of the canvas has any tissue, from an integral image of the mask."""
    height, width = tissue.mask.shape
    integral = np.pad(tissue.mask.cumsum(axis=0, dtype=np.int64).cumsum(axis=1), ((1, 0), (1, 0)))

    def wanted(x_px: int, y_px: int) -> bool:
        left, top = (int(value * downsample / tissue.downsample) for value in (x_px, y_px))
        right, bottom = (math.ceil((value * downsample + side_px0) / tissue.downsample) for value in (x_px, y_px))
        left, right = min(left, width), min(right, width)
        top, bottom = min(top, height), min(bottom, height)
        return bool(integral[bottom, right] - integral[top, right] - integral[bottom, left] + integral[top, left])

    return wanted
