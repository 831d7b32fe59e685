"""``wsplf train``: a segmentation model from the project's annotations, each in the role that review gave it."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

from wsplf_cli import plugins
from wsplf_cli.backends import Project
from wsplf_cli.cohort.labels import ClassTracker, classes_of, names_of
from wsplf_cli.cohort.run import Skipped, each
from wsplf_cli.errors import ConfigError, ProjectError
from wsplf_cli.networks.device import pick_device, seed_everything
from wsplf_cli.options import TrainOptions
from wsplf_cli.review.memory import read_review
from wsplf_cli.review.regions import ReviewRegions
from wsplf_cli.runs.lock import hold
from wsplf_cli.runs.record import Run, start_run
from wsplf_cli.schema import Entry, StageReport, Tracker
from wsplf_cli.segmentation import checkpoint
from wsplf_cli.segmentation.checkpoint import Checkpoint
from wsplf_cli.segmentation.sampling import ClassTargets, TrainingSlide
from wsplf_cli.segmentation.train import FitResult, FitSettings, fit
from wsplf_cli.slides.entry import entry_slide
from wsplf_cli.slides.grid import make_grid, read_tiles
from wsplf_cli.slides.tissue import tissue_mask

BLOCK_TILES = 2
"""Side of a block in tiles: crops at random places in it, and still read from the slide in one go."""
BLOCK_TISSUE = 0.05
"""A block needs less tissue than a tile: the glass at the tissue's edge must be learned as well."""


def train(project: Project, entries: Sequence[Entry], options: TrainOptions, tracker: Tracker) -> StageReport:
    """Train a segmentation model and write it to ``wsplf/models/NAME/``.

    Args:
        project: The project; its annotations are read, none is written.
        entries: The entries to use, labels resolved.
        options: The options of the command.
        tracker: Where progress is shown.

    Returns:
        One result per entry (counts of tiles and polygons by role) and, in ``details``, the model's scores.

    Raises:
        ProjectError: there is no polygon of a class to learn from, or the model cannot be written.
        ConfigError: a segmenter, backbone or SAM that does not exist or does not fit its weights.
    """
    if not re.fullmatch(r"\w[\w.-]*", options.name):
        raise ConfigError(f"--name {options.name!r}: letters, digits, '_', '-' and '.' only", hint="--name second-try")
    plugin = plugins.load("segmentation.models", options.segmenter)
    classes = classes_of(options.project)
    device = pick_device(options.run.device)
    run = start_run(
        project,
        "train",
        options=options,
        seed=options.run.seed,
        device=str(device),
        dry_run=options.run.dry_run,
    )
    with run, _only_one(project, options):
        rng = seed_everything(options.run.seed)
        slides: dict[str, TrainingSlide] = {}

        def prepare(entry: Entry) -> Mapping[str, float] | Skipped:
            return _prepare(project, entry, options, classes, slides, tracker=tracker)

        results = each(entries, prepare, tracker=tracker, name="read annotations")
        chosen = list(slides.values())
        _require_polygons(chosen, classes)
        for place, name in enumerate(names_of(classes)):
            _say([slide.classes[place] for slide in chosen], ClassTracker(tracker, run, name))
        if options.run.dry_run:
            tracker.say("dry run: nothing was trained or written")
            return run.finish(results, details={"slides": len(chosen)})
        settings = plugin.settings(options)
        model = plugin.build(len(classes), weights=plugin.weights(options), **settings).to(device)
        tile_px = options.tiles.tile_px
        found = fit(
            model,
            chosen,
            settings=FitSettings(epochs=options.epochs, tile_px=tile_px),
            rng=rng,
            device=device,
            tracker=tracker,
        )
        _keep_curves(run, found)
        scores = {} if found.dice is None else {"validation_dice": found.dice}
        described = Checkpoint(
            plugin=options.segmenter,
            settings=settings,
            classes=classes,
            tile_px=tile_px,
            mpp=options.tiles.mpp,
            run_id=run.id,
            threshold=found.threshold,
            scores=scores,
        )
        folder = project.folder / "wsplf" / "models" / options.name
        checkpoint.save(folder, described, best=found.best, last=found.last)
        details = _details(found) | {"model": str(folder), "slides": len(chosen)}
        _say_result(details, found, classes, tracker)
        return run.finish(results, details=details)


def _only_one(project: Project, options: TrainOptions) -> AbstractContextManager[None]:
    """The lock of the model: it lasts for hours, and must not keep others from writing into the project meanwhile.

    Raises:
        ProjectError: another process trains a model of this name.
    """
    if options.run.dry_run:
        return nullcontext()
    return hold(project.folder / "wsplf" / f"train-{options.name}.lock", command="train")


def _prepare(
    project: Project,
    entry: Entry,
    options: TrainOptions,
    classes: Sequence[str],
    slides: dict[str, TrainingSlide],
    *,
    tracker: Tracker,
) -> Mapping[str, float] | Skipped:
    """Put the slide of an entry among ``slides``, or say why it is left out."""
    if entry.held_out:
        return Skipped(f"held out (split: {entry.split})")
    review = read_review(project, entry, classes[0], tracker)
    roles = tuple(_role(entry, review.of(path_class).regions, path_class) for path_class in classes)
    if not any(role.known for role in roles):
        return Skipped("no polygon to learn from: without one, nothing says where its background is")
    slide, pixel_size = entry_slide(entry, mpp_override=options.project.mpp_override)
    grid = make_grid(
        entry.id,
        tissue_mask(slide, mpp_slide=pixel_size.mpp),
        tile_px=BLOCK_TILES * options.tiles.tile_px,
        mpp=options.tiles.mpp,
        mpp_slide=pixel_size.mpp,
        min_tissue=BLOCK_TISSUE,
    )
    slides[entry.id] = TrainingSlide(
        name=entry.name,
        group=entry.metadata.get("patient", "") or entry.id,
        grid=grid,
        read=lambda indices: read_tiles(entry, grid, indices),
        classes=roles,
    )
    return {
        "blocks": len(grid.xy_px0),
        "positive": sum(len(role.regions.positive) for role in roles),
        "pending": sum(len(role.regions.pending) for role in roles),
        "negative": sum(len(role.regions.negative) for role in roles),
        "reviewed": int(entry.reviewed),
    }


def _role(entry: Entry, regions: ReviewRegions, path_class: str) -> ClassTargets:
    """What a slide is for one class. Known is where a person or the label has spoken, or where polygons are."""
    negative = entry.label is not None and path_class not in entry.label.classes
    if negative:
        regions = replace(regions, pending=())
    marked = bool(regions.positive or regions.pending)
    return ClassTargets(marked and not negative, regions, known=marked or negative or regions.complete)


def _require_polygons(slides: Sequence[TrainingSlide], classes: Sequence[str]) -> None:
    for place, path_class in enumerate(classes):
        if not any(slide.classes[place].has_polygons for slide in slides):
            raise ProjectError(
                f"no polygon of class {path_class!r} to learn from",
                hint="make some with: wsplf pseudolabel PROJECT (or draw them in QuPath, or name another --path-class)",
            )


def _say(roles: Sequence[ClassTargets], tracker: Tracker) -> None:
    counts = Counter[str]()
    for role in roles:
        if role.known:
            counts["slides with polygons" if role.positive else "negative slides"] += 1
        counts["polygons a person decided on"] += len(role.regions.positive)
        counts["pending pseudo-labels"] += len(role.regions.pending)
        counts["areas of background by a person"] += len(role.regions.negative)
        counts["slides reviewed as a whole"] += role.regions.complete
    tracker.say("learning from: " + ", ".join(f"{count} {what}" for what, count in counts.items() if count))


def _keep_curves(run: Run, found: FitResult) -> None:
    epochs = range(1, len(found.curves.loss) + 1)
    losses = {"train": found.curves.loss}
    if found.curves.validation_loss:
        losses["validation"] = found.curves.validation_loss
        run.curve("validation Dice", x=epochs, y={"validation": found.curves.validation_dice})
    run.curve("loss", x=epochs, y=losses)


def _details(found: FitResult) -> dict[str, Any]:
    return {
        "best_epoch": found.best_epoch,
        "threshold": found.threshold,
        "validation_dice": found.dice,
        "validation_slides": list(found.validation_slides),
    }


def _say_result(details: Mapping[str, Any], found: FitResult, classes: Sequence[str], tracker: Tracker) -> None:
    if found.dice is None:
        tracker.say("no validation: polygons of two patients or more are needed; the last epoch is kept")
    else:
        shared = " for all classes" if len(classes) > 1 else ""
        tracker.say(
            f"best epoch {found.best_epoch} of {len(found.curves.loss)}: Dice {found.dice:.3f} at threshold"
            f" {found.threshold:g}{shared}, against the polygons of {len(found.validation_slides)} held-out slides"
        )
    tracker.say(f"model: {details['model']}")
