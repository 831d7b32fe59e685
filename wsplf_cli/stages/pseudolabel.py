"""``wsplf pseudolabel``: from slide labels to polygons that a pathologist can review."""

import time
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from wsplf_cli import plugins
from wsplf_cli.backends import Project
from wsplf_cli.cache import Store
from wsplf_cli.config import PseudolabelOptions
from wsplf_cli.errors import ConfigError, ProjectError
from wsplf_cli.models.backbone import build_backbone
from wsplf_cli.models.mil import MilNetwork
from wsplf_cli.models.sam import Sam, load_sam
from wsplf_cli.prediction import refiners
from wsplf_cli.prediction.calibration import Calibration, calibrate, level
from wsplf_cli.prediction.cams import HeatMap, heat_map
from wsplf_cli.prediction.embeddings import Embedder
from wsplf_cli.prediction.tile_scale import tile_cam
from wsplf_cli.prompts import Strategy
from wsplf_cli.runtime import pick_device, seed_everything
from wsplf_cli.schema import Entry, EntryResult, StageReport, Tracker
from wsplf_cli.slides import entry_slide
from wsplf_cli.stages import Run, done, each, merge, start_run
from wsplf_cli.stages._bags import Prepared, folds_of, tile_sources
from wsplf_cli.stages._learning import learning_key
from wsplf_cli.stages._outline import Cams, writer
from wsplf_cli.stages._review import read_review
from wsplf_cli.stages._rounds import tune_rounds
from wsplf_cli.stages.labels import require_both
from wsplf_cli.tiles import make_grid, tissue_mask, tissue_um2
from wsplf_cli.training.mil import Bag, MilSettings, fit, steps_of

#: Tiles overlap by half, so that whatever is cut by one is in the middle of another.
TILE_OVERLAP = 0.5


@dataclass(frozen=True, slots=True)
class Parts:
    """What the user chose by name, loaded before any work begins, so that a wrong name costs nothing."""

    sam: Sam
    strategy: Strategy
    network: Callable[[], MilNetwork]


@dataclass(frozen=True, slots=True)
class Learned:
    """What the slide labels taught: the CAM logits of every slide, and the ``seconds`` that it took."""

    prepared: list[Prepared]
    fold_of: dict[str, int]
    looked: dict[str, "Looked"]
    results: list[EntryResult]
    seconds: float


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

    Slides without a label and held-out slides are left as they are, known-negative ones get no polygon.

    Args:
        project: Where the polygons go.
        entries: With their labels resolved.
        options: All that can be chosen.
        tracker: Where progress is told.
        memory: Of earlier runs on these entries in this process: what they learned is not learned again.

    Raises:
        ProjectError: no slide of one of the classes can be used, or the project cannot be written.
        ConfigError: an unknown part, or weights that do not fit.
    """
    device = pick_device(options.run.device)
    rng = seed_everything(options.run.seed)
    used = [entry for entry in entries if entry.label is not None and not entry.held_out]
    require_both([entry for entry in entries if not entry.held_out])
    _say_left_out(entries, used, tracker)
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
        prepared = [one for one in learned.prepared if one.entry.id in learned.looked]
        cell_px0 = {entry_id: heat.mean.downsample for entry_id, heat in learned.looked.items()}
        cams, details = _scaled(prepared, learned.looked, options=options, tracker=tracker)
        store = Store(
            None if run.folder is None else project.folder / "wsplf" / "cache" / "embeddings",
            most_bytes=round(options.cache_gb * 1e9),
        )
        embed = Embedder(parts.sam, store)
        sam = parts.sam
        if options.rounds:
            tuned = tune_rounds(
                parts.sam,
                [one for one in prepared if one.positive],
                cams,
                cell_px0=cell_px0,
                embed=embed,
                strategy=parts.strategy,
                options=options,
                run=run,
                tracker=tracker,
            )
            sam = tuned.sam
            details["round_windows"] = list(tuned.windows)
        refiner = refiners.build(options.refiner, sam=sam, embed=embed, strategy=parts.strategy)
        last = each(
            [one.entry for one in prepared],
            writer(project, prepared, cams, cell_px0=cell_px0, refiner=refiner, options=options, run=run),
            tracker=tracker,
            name="polygons",
        )
        details |= {"folds": learned.fold_of, "learn_seconds": learned.seconds, "embedded": embed.computed}
        return run.finish(merge(learned.results, last), details=details)


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
    """Tiles, classifiers and CAMs of the slides."""
    began = time.monotonic()
    prepared, first = _tile(project, used, options, tracker)
    fold_of = folds_of(prepared, folds=options.folds, rng=rng)
    networks = _fit(prepared, fold_of, parts, options=options, rng=rng, device=device, run=run, tracker=tracker)
    looked, second = _look(prepared, fold_of, networks, options=options, device=device, tracker=tracker)
    return Learned(prepared, dict(fold_of), looked, merge(first, second), time.monotonic() - began)


def _say_left_out(entries: Sequence[Entry], used: Sequence[Entry], tracker: Tracker) -> None:
    held_out = sum(entry.held_out for entry in entries)
    unlabelled = len(entries) - held_out - len(used)
    positive = sum(bool(entry.label and entry.label.classes) for entry in used)
    tracker.say(
        f"{len(used)} labelled slides ({positive} positive, {len(used) - positive} negative); left out: "
        f"{unlabelled} without label, {held_out} held out"
    )


def _load(options: PseudolabelOptions, device: torch.device) -> Parts:
    if options.rounds and options.refiner not in ("sam", "sam-alone"):
        raise ConfigError(
            f"--rounds {options.rounds} tunes SAM, which --refiner {options.refiner} does not use",
            hint="--rounds 0, or --refiner sam",
        )
    head = plugins.load("heads", options.head)
    strategy: Strategy = plugins.load("prompts", options.prompts).build()
    sam = load_sam(options.sam, checkpoint=options.sam_checkpoint, device=device)

    def network() -> MilNetwork:
        backbone = build_backbone(
            options.backbone,
            weights=options.backbone_weights,
            adl=options.adl,
            high_frequency=options.high_frequency,
        )
        return MilNetwork(backbone, head.build(backbone.channels, 1))

    network()
    return Parts(sam, strategy, network)


def _tile(
    project: Project, entries: Sequence[Entry], options: PseudolabelOptions, tracker: Tracker
) -> tuple[list[Prepared], list[EntryResult]]:
    """Find the tissue of each slide and lay its tiles; read what a person's review says of it."""
    prepared: dict[str, Prepared] = {}

    def prepare(entry: Entry) -> Mapping[str, float]:
        review = read_review(project, entry, options.project.path_class, tracker)
        slide, calibration = entry_slide(entry, mpp_override=options.project.mpp_override)
        if calibration.warning:
            tracker.say(calibration.warning)
        tissue = tissue_mask(slide, mpp_slide=calibration.mpp)
        grid = make_grid(
            entry.id,
            tissue,
            tile_px=options.tiles.tile_px,
            mpp=options.tiles.mpp,
            mpp_slide=calibration.mpp,
            min_tissue=options.tiles.min_tissue,
            overlap=TILE_OVERLAP,
        )
        prepared[entry.id] = Prepared(entry, calibration.mpp, tissue, grid, review)
        return {"tiles": len(grid.xy_px0), "tissue mm2": tissue_um2(tissue, mpp_slide=calibration.mpp) / 1e6}

    results = each(entries, prepare, tracker=tracker, name="tissue")
    usable = [prepared[entry.id] for entry in done(entries, results)]
    for positive, kind in ((True, "positive"), (False, "negative")):
        if not any(one.positive is positive for one in usable):
            raise ProjectError(
                f"no {kind} slide can be used: "
                + "; ".join(f"{one.name}: {one.reason}" for one in results if one.reason),
                hint="wsplf doctor PROJECT shows every entry",
            )
    return usable, results


def _fit(
    prepared: Sequence[Prepared],
    fold_of: Mapping[str, int],
    parts: Parts,
    *,
    options: PseudolabelOptions,
    rng: np.random.Generator,
    device: torch.device,
    run: Run,
    tracker: Tracker,
) -> list[MilNetwork]:
    """One classifier for each fold, trained on the slides of the others; with a single fold, on all."""
    sources = tile_sources(prepared)
    bags = [
        Bag(one.entry.id, sources[one.entry.id], np.array([float(one.positive)], np.float32), known=one.known)
        for one in prepared
    ]
    settings = MilSettings(epochs=options.epochs)
    if not options.contrast:
        settings = replace(settings, contrast_weight=0.0)
    folds = sorted(set(fold_of.values()))
    learning = [[bag for bag in bags if len(folds) == 1 or fold_of[bag.entry_id] != fold] for fold in folds]
    tracker.start("MIL", sum(steps_of(some, settings) for some in learning))
    networks, losses = [], {}
    for fold, some in zip(folds, learning, strict=True):
        torch.manual_seed(options.run.seed + fold)
        network = parts.network().to(device)
        curve = fit(network, some, settings=settings, rng=rng, device=device, track=tracker)
        losses[f"fold {fold + 1}"] = curve.loss
        networks.append(network)
        run.curve("MIL loss", x=range(1, options.epochs + 1), y=losses)
    return networks


@dataclass(frozen=True, slots=True)
class Looked:
    """CAM logits of one slide: ``unseen`` by the classifier that did not learn from it, ``mean`` by all of them.

    ``raw`` is the mean of the logits as the classifiers give them, above 0 where they rather see tumour.
    """

    unseen: HeatMap
    mean: HeatMap
    raw: HeatMap


def _look(
    prepared: Sequence[Prepared],
    fold_of: Mapping[str, int],
    networks: Sequence[MilNetwork],
    *,
    options: PseudolabelOptions,
    device: torch.device,
    tracker: Tracker,
) -> tuple[dict[str, Looked], list[EntryResult]]:
    """The CAMs of every slide, each classifier's logits in spreads of those of negatives that it did not see."""
    by_id = {one.entry.id: one for one in prepared}
    raw: dict[str, list[HeatMap]] = {}

    def look(entry: Entry) -> Mapping[str, float]:
        one = by_id[entry.id]
        raw[entry.id] = [
            heat_map(
                one.slide(),
                one.tissue,
                network,
                mpp=options.tiles.mpp,
                mpp_slide=one.mpp_slide,
                block_px=block_side(options.tiles.tile_px),
                device=device,
                turns=options.turns,
            )
            for network in networks
        ]
        return {}

    results = each([one.entry for one in prepared], look, tracker=tracker, name="CAM")
    levels = []
    for number in range(len(networks)):
        negatives = [one.entry.id for one in prepared if not one.positive and one.entry.id in raw]
        unseen = [entry_id for entry_id in negatives if fold_of[entry_id] == number]
        levels.append(level([_known(raw[entry_id][number]) for entry_id in unseen or negatives]))
    looked = {}
    for entry_id, maps in raw.items():
        even = [(one.logits - centre) / spread for one, (centre, spread) in zip(maps, levels, strict=True)]
        size = maps[0].downsample
        raw_mean = np.mean([one.logits for one in maps], axis=0)
        layers = (even[fold_of[entry_id]], np.mean(even, axis=0), raw_mean)
        looked[entry_id] = Looked(*(HeatMap(layer, size) for layer in layers))
    return looked, results


def block_side(tile_px: int) -> int:
    """Side of the blocks in which a slide is looked at: two tiles or more, a multiple of every network's stride."""
    return max(256, -(-2 * tile_px // 32) * 32)


def _known(heat: HeatMap) -> NDArray[np.float32]:
    """The logits of the tissue, float32 [N]."""
    values: NDArray[np.float32] = heat.logits[0][~np.isnan(heat.logits[0])]
    return values


def _calibrate(prepared: Sequence[Prepared], looked: Mapping[str, Looked], *, tracker: Tracker) -> Calibration:
    """Choose the threshold of the mean CAM, and say what it means."""

    def logits(*, positive: bool, unseen: bool) -> list[NDArray[np.float32]]:
        of_kind = [looked[one.entry.id] for one in prepared if one.positive is positive]
        return [_known(one.unseen if unseen else one.mean) for one in of_kind]

    judged = calibrate(logits(positive=True, unseen=True), logits(positive=False, unseen=True))
    calibration = judged.carried_to(logits(positive=True, unseen=False), logits(positive=False, unseen=False))
    tracker.say(
        f"estimated tumour share of the tissue of positive slides: {calibration.tumour_share:.1%}; "
        f"the CAM calls {calibration.called_share:.1%} of it tumour, and "
        f"{calibration.false_positive_share:.2%} of the tissue of negative slides"
    )
    return calibration


def _scaled(
    prepared: Sequence[Prepared], looked: Mapping[str, Looked], *, options: PseudolabelOptions, tracker: Tracker
) -> tuple[Cams, dict[str, object]]:
    """The CAMs in 0..1 with their threshold at 0.5, and what is to be said of the threshold."""
    if options.cam_scale != "cohort":
        least = 0.0 if options.cam_scale == "tile-gated" else -np.inf

        def by_tile(one: Prepared) -> NDArray[np.float32]:
            heat = looked[one.entry.id].raw
            side = round(options.tiles.tile_px * options.tiles.mpp / one.mpp_slide / heat.downsample)
            return tile_cam(heat.logits[0], side=max(1, side), least=least)

        return by_tile, {}
    calibration = _calibrate(prepared, looked, tracker=tracker)
    details: dict[str, object] = {
        "tumour_share": calibration.tumour_share,
        "called_share": calibration.called_share,
        "expected_dice": calibration.expected_dice,
        "negative_share_above_threshold": calibration.false_positive_share,
    }
    return lambda one: calibration.cam(looked[one.entry.id].mean.logits[0]), details
