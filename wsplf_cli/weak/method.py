"""``wsplf pseudolabel``: from slide labels to polygons that a pathologist can review."""

import time
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray

from wsplf_cli import plugins
from wsplf_cli.backends import Project
from wsplf_cli.cache import Store
from wsplf_cli.cohort.label_table import require_both
from wsplf_cli.cohort.labels import ClassTracker, classes_of, names_of, naming
from wsplf_cli.cohort.run import done, each, merge
from wsplf_cli.cohort.slide import CohortSlide, require_kinds, tile_sources
from wsplf_cli.errors import ConfigError
from wsplf_cli.networks.backbone import build_backbone
from wsplf_cli.networks.device import pick_device, seed_everything
from wsplf_cli.networks.mil import MilNetwork
from wsplf_cli.networks.sam import Sam, load_sam
from wsplf_cli.options import PseudolabelOptions
from wsplf_cli.review.memory import read_review
from wsplf_cli.runs.record import Run, start_run
from wsplf_cli.schema import Entry, EntryResult, StageReport, Tracker
from wsplf_cli.slides.entry import entry_slide
from wsplf_cli.slides.grid import make_grid
from wsplf_cli.slides.tissue import tissue_mask, tissue_um2
from wsplf_cli.weak.calibration import (
    Calibration,
    PeakThreshold,
    calibrate,
    core,
    keep_components_with_peak,
    typical_top_decile,
)
from wsplf_cli.weak.cam import Learnt, Networks, SlideLogits, fit_ensemble, look, looking_at, require_used, tissue_of
from wsplf_cli.weak.class_fit import Taught, details_of, say_left_out
from wsplf_cli.weak.epithelium import layer_of
from wsplf_cli.weak.features import fit_probes, sample_instances
from wsplf_cli.weak.fit_key import learning_key
from wsplf_cli.weak.linear_probe import LinearProbe
from wsplf_cli.weak.polygons import Cams, Drawing, resolve_overlap, writer
from wsplf_cli.weak.prompts import Strategy
from wsplf_cli.weak.sam import refiners
from wsplf_cli.weak.sam.embeddings import Embedder
from wsplf_cli.weak.sam.rounds import tune_rounds
from wsplf_cli.weak.tile_scale import tile_cam

#: Tiles overlap by half, so that whatever is cut by one is in the middle of another.
TILE_OVERLAP = 0.5
#: The core of a piece must lie so far between the threshold and what is typical_top_decile on positive slides: what nowhere looks
#: more like tumour than that is seldom one.
CORE_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class Parts:
    """What the user chose by name, loaded before any work begins, so that a wrong name costs nothing.

    ``layer`` tells epithelium, if tumour is looked for there; ``said`` is what to say of where it is looked for.
    """

    sam: Sam
    strategy: Strategy
    networks: Networks
    layer: LinearProbe | None
    said: str


@dataclass(frozen=True, slots=True)
class Learned:
    """What the slide labels taught of each class, and the ``seconds`` that it took."""

    taught: list[Taught]
    results: list[EntryResult]
    seconds: float


@dataclass(frozen=True, slots=True)
class CalibratedCam:
    """The CAMs of a class in 0..1, with what the core of a piece must reach, and what is to be said of the scale."""

    cams: Cams
    core: float | None
    details: dict[str, object]


Memory = MutableMapping[str, Learned]
"""What earlier runs on the same entries learned, by the options that it depends on."""


def pseudolabel(
    project: Project,
    entries: Sequence[Entry],
    options: PseudolabelOptions,
    tracker: Tracker,
    *,
    memory: Memory | None = None,
) -> StageReport:
    """Learn from slide labels where the tumour is, and write it as pending pseudo-labels into the positive slides.

    Slides without a label and held-out slides are left as they are, known-negative ones get no polygon. Each of several
    classes is learned against the rest; a slide gets polygons of those that its label names.

    Args:
        project: Where the polygons go.
        entries: With their labels resolved.
        options: All that can be chosen.
        tracker: Where progress is told.
        memory: Of earlier runs on these entries in this process: what they learned is not learned again.

    Raises:
        ProjectError: no positive or no negative slide of a class can be used, or the project cannot be written.
        ConfigError: an unknown part, or weights that do not fit.
    """
    device = pick_device(options.run.device)
    rng = seed_everything(options.run.seed)
    classes = classes_of(options.project)
    used = [entry for entry in entries if entry.label is not None and not entry.held_out]
    require_both([entry for entry in entries if not entry.held_out], classes)
    say_left_out(entries, used, classes, tracker)
    parts = _load(options, device)
    run = start_run(
        project,
        "pseudolabel",
        options=options,
        seed=options.run.seed,
        device=str(device),
        dry_run=options.run.dry_run,
    )
    with run:
        learned = _recall(memory, options)
        if learned is None:
            learned = _learn(project, used, parts, options=options, rng=rng, device=device, run=run, tracker=tracker)
            _keep(memory, options, learned)
        store = Store(
            None if run.folder is None else project.folder / "wsplf" / "cache" / "embeddings",
            most_bytes=round(options.cache_gb * 1e9),
        )
        embed = Embedder(parts.sam, store)
        cell_px0 = {entry_id: heat.mean.downsample for entry_id, heat in learned.taught[0].looked.items()}
        told = [ClassTracker(tracker, run, one.name) for one in learned.taught]
        scaled = [_scaled(one, options=options, tracker=own) for one, own in zip(learned.taught, told, strict=True)]
        drawings = _drawings(parts, learned.taught, scaled, cell_px0=cell_px0, embed=embed, options=options, told=told)
        last = each(
            [one.entry for one in learned.taught[0].prepared],
            writer(project, drawings, cell_px0=cell_px0, options=options, run=run),
            tracker=tracker,
            name="polygons",
        )
        details = details_of(learned.taught, [one.details for one in scaled]) | {
            "learn_seconds": learned.seconds,
            "embedded": embed.computed,
        }
        return run.finish(merge(learned.results, last), details=details)


def _drawings(
    parts: Parts,
    taught: Sequence[Taught],
    scaled: Sequence[CalibratedCam],
    *,
    cell_px0: Mapping[str, float],
    embed: Embedder,
    options: PseudolabelOptions,
    told: Sequence[ClassTracker],
) -> list[Drawing]:
    """How each class is drawn: where slides hold several, a place is of one; with a SAM that is tuned where wanted."""
    slides = [{one.entry.id: one for one in own.prepared} for own in taught]
    cams = resolve_overlap(slides, [one.cams for one in scaled], least=[one.core for one in scaled])
    drawings = []
    for number, one in enumerate(taught):
        sam = parts.sam
        if options.recipe.rounds:
            tuned = tune_rounds(
                parts.sam,
                [view for view in one.prepared if view.positive],
                cams[number],
                cell_px0=cell_px0,
                embed=embed,
                strategy=parts.strategy,
                options=options,
                run=told[number],
                tracker=told[number],
            )
            sam = tuned.sam
            scaled[number].details["round_windows"] = list(tuned.windows)
        refiner = refiners.build(options.recipe.refiner, sam=sam, embed=embed, strategy=parts.strategy)
        drawings.append(Drawing(one.path_class, slides[number], cams[number], refiner))
    return drawings


def _recall(memory: Memory | None, options: PseudolabelOptions) -> Learned | None:
    return None if memory is None else memory.get(learning_key(options))


def _keep(memory: Memory | None, options: PseudolabelOptions, learned: Learned) -> None:
    if memory is not None:
        memory[learning_key(options)] = learned


def _learn(
    project: Project,
    used: Sequence[Entry],
    parts: Parts,
    *,
    options: PseudolabelOptions,
    rng: np.random.Generator,
    device: torch.device,
    run: Run,
    tracker: Tracker,
) -> Learned:
    """Tiles, classifiers and CAMs of the slides, for each class."""
    began = time.monotonic()
    classes = classes_of(options.project)
    told = [ClassTracker(tracker, run, name) for name in names_of(classes)]
    prepared, results = _tile(project, used, options, tracker)
    views = [[one.of(path_class) for one in prepared] for path_class in classes]
    for view, own in zip(views, told, strict=True):
        with naming(own.name):
            require_kinds(view, results)
    learnt = [Learnt() for _ in views]
    if options.recipe.backbone_mode != "fine-tuned":
        backbone = parts.networks.frozen()
        looking = {one.entry.id: looking_at(one, backbone, options=options, device=device) for one in prepared}
        if parts.said:
            tracker.say(parts.said)
        sampled = sample_instances(views, backbone, looking=looking, rng=rng, tracker=tracker)
        for number, (view, places, own) in enumerate(zip(views, sampled.places, told, strict=True)):
            with naming(own.name):
                judged = fit_probes(view, places, results=sampled.results, layer=parts.layer, rng=rng, tracker=own)
            learnt[number] = Learnt(judged=judged, backbone=backbone)
            views[number] = [one for one in view if one.entry.id in judged.judges]
        results = merge(results, sampled.results)
    if options.recipe.backbone_mode != "frozen":
        sources = tile_sources(views[0])
        for number, (view, own) in enumerate(zip(views, told, strict=True)):
            trusted = [one for one in view if one.entry.id not in learnt[number].suspects]
            committee = fit_ensemble(
                trusted, sources, parts.networks, options=options, rng=rng, device=device, run=own, tracker=own
            )
            others = {one.entry.id: 0 for one in view}  # a doubted slide taught no network: any may judge it
            committee = replace(committee, fold_of=others | dict(committee.fold_of))
            learnt[number] = replace(learnt[number], committee=committee)
    looked, last = look(views, learnt, options=options, device=device, tracker=tracker)
    taught = []
    for path_class, own, view, judges, seen in zip(classes, told, views, learnt, looked, strict=True):
        for one in view:
            if one.entry.id in judges.suspects:
                why = judges.suspects[one.entry.id]
                own.say(f"{one.entry.name}: {why}; left out of learning, please check its label")
        kept = [one for one in view if one.entry.id in seen]
        taught.append(Taught(path_class, own.name, kept, judges.folds, judges.suspects, seen, judges.within))
    return Learned(taught, merge(results, last), time.monotonic() - began)


def _load(options: PseudolabelOptions, device: torch.device) -> Parts:
    if options.recipe.rounds and options.recipe.refiner not in ("sam", "sam-only"):
        raise ConfigError(
            f"--rounds {options.recipe.rounds} tunes SAM, which --refiner {options.recipe.refiner} does not use",
            hint="--rounds 0, or --refiner sam",
        )
    require_used(options)
    head = plugins.load("weak.heads", options.recipe.head)
    strategy: Strategy = plugins.load("weak.prompts", options.recipe.prompts).build()
    sam = load_sam(options.sam, checkpoint=options.sam_checkpoint, device=device)

    networks = Networks(
        mil=lambda: _network(options, head),
        frozen=cache(lambda: build_backbone(options.backbone, weights=options.backbone_weights).to(device).eval()),
    )
    (
        networks.frozen if options.recipe.backbone_mode == "frozen" else networks.mil
    )()  # what does not fit is said before any work
    return Parts(sam, strategy, networks, *layer_of(options))


def _network(options: PseudolabelOptions, head: ModuleType) -> MilNetwork:
    backbone = build_backbone(
        options.backbone,
        weights=options.backbone_weights,
        adl=options.recipe.adl,
        high_frequency=options.recipe.high_frequency,
    )
    return MilNetwork(backbone, head.build(backbone.channels, 1))


def _tile(
    project: Project, entries: Sequence[Entry], options: PseudolabelOptions, tracker: Tracker
) -> tuple[list[CohortSlide], list[EntryResult]]:
    """Find the tissue of each slide and lay its tiles; read what a person's review says of it."""
    prepared: dict[str, CohortSlide] = {}

    def prepare(entry: Entry) -> Mapping[str, float]:
        review = read_review(project, entry, classes_of(options.project)[0], tracker)
        slide, pixel_size = entry_slide(entry, mpp_override=options.project.mpp_override)
        if pixel_size.warning:
            tracker.say(pixel_size.warning)
        tissue = tissue_mask(slide, mpp_slide=pixel_size.mpp)
        grid = make_grid(
            entry.id,
            tissue,
            tile_px=options.recipe.tile_px,
            mpp=options.mpp,
            mpp_slide=pixel_size.mpp,
            min_tissue=options.recipe.min_tissue,
            overlap=TILE_OVERLAP,
        )
        prepared[entry.id] = CohortSlide(entry, pixel_size.mpp, tissue, grid, review)
        return {"tiles": len(grid.xy_px0), "tissue mm2": tissue_um2(tissue, mpp_slide=pixel_size.mpp) / 1e6}

    results = each(entries, prepare, tracker=tracker, name="tissue")
    return [prepared[entry.id] for entry in done(entries, results)], results


def _calibrate(
    prepared: Sequence[CohortSlide], looked: Mapping[str, SlideLogits], *, least: float, tracker: Tracker
) -> Calibration:
    """Choose the threshold of the mean CAM, at least ``least``, and say what it means."""

    def logits(*, positive: bool, unseen: bool) -> list[NDArray[np.float32]]:
        of_kind = [looked[one.entry.id] for one in prepared if one.positive is positive]
        return [tissue_of((one.unseen if unseen else one.mean).logits[0]) for one in of_kind]

    calibration = calibrate(logits(positive=True, unseen=True), logits(positive=False, unseen=True), least=least)
    if any(looked[one.entry.id].unseen is not looked[one.entry.id].mean for one in prepared):
        calibration = calibration.match_positive_rate(
            logits(positive=True, unseen=False), logits(positive=False, unseen=False)
        )
    tracker.say(
        f"the CAM calls {calibration.called_share:.1%} of the tissue of positive slides tumour, and "
        f"{calibration.false_positive_share:.2%} of that of negative slides; up to {calibration.tumour_share:.1%} "
        "may be tumour"
    )
    return calibration


def _core(
    prepared: Sequence[CohortSlide],
    looked: Mapping[str, SlideLogits],
    *,
    alpha: float,
    least: float,
    tracker: Tracker,
) -> PeakThreshold:
    """Choose what the core of a piece must reach, and say what that guarantees and what not."""
    negatives = [tissue_of(looked[one.entry.id].unseen.logits[0]) for one in prepared if not one.positive]
    found = core(negatives, alpha=alpha, least=least)
    promise = f"for a new negative slide {found.guaranteed:.1%} is guaranteed on average"
    if found.slides < found.slides_needed:
        promise += f"; --alpha {alpha:g} itself would take {found.slides_needed} negative slides"
    tracker.say(
        f"each polygon has a core that {found.measured:.2%} of the tissue of {found.slides} negative slides reaches, "
        f"as judged by classifiers that did not see them; {promise}"
    )
    return found


def _scaled(taught: Taught, *, options: PseudolabelOptions, tracker: Tracker) -> CalibratedCam:
    """The CAMs of a class in 0..1 with their threshold at 0.5, by the slides whose labels are trusted."""
    looked = taught.looked
    prepared = [one for one in taught.prepared if one.entry.id not in taught.suspects]
    if options.recipe.cam_scale != "cohort":
        lowest = 0.0 if options.recipe.cam_scale == "tile-gated" else -np.inf

        def by_tile(one: CohortSlide) -> NDArray[np.float32]:
            heat = looked[one.entry.id].raw
            side = round(options.recipe.tile_px * options.mpp / one.mpp_slide / heat.downsample)
            return tile_cam(heat.logits[0], side=max(1, side), least=lowest)

        return CalibratedCam(by_tile, None, {})
    least = (
        0.0 if options.recipe.backbone_mode == "frozen" else -np.inf
    )  # from where the classifiers of places see tumour
    calibration = _calibrate(prepared, looked, least=least, tracker=tracker)
    details: dict[str, object] = {
        "tumour_share": calibration.tumour_share,
        "called_share": calibration.called_share,
        "expected_dice": calibration.expected_dice,
        "negative_share_above_threshold": calibration.false_positive_share,
    }
    positives = [tissue_of(looked[one.entry.id].mean.logits[0]) for one in prepared if one.positive]
    sure = typical_top_decile(positives, threshold=calibration.threshold) - calibration.threshold
    lowest = calibration.threshold + CORE_SHARE * sure
    own_core = _core(prepared, looked, alpha=options.alpha, least=lowest, tracker=tracker)
    details["core"] = asdict(own_core)
    reached = float(calibration.cam(np.array(own_core.threshold, np.float32)))

    def by_cohort(one: CohortSlide) -> NDArray[np.float32]:
        return keep_components_with_peak(calibration.cam(looked[one.entry.id].mean.logits[0]), least=reached)

    return CalibratedCam(by_cohort, reached, details)
