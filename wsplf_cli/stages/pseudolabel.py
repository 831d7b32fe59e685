"""``wsplf pseudolabel``: from slide labels to polygons that a pathologist can review."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from shapely import Polygon

from wsplf_cli import plugins
from wsplf_cli.backends import Project
from wsplf_cli.config import PseudolabelOptions
from wsplf_cli.errors import ProjectError
from wsplf_cli.files import replacing
from wsplf_cli.geometry import mask_polygons, rasterise
from wsplf_cli.models.backbone import build_backbone
from wsplf_cli.models.mil import MilNetwork
from wsplf_cli.models.sam import Sam, load_sam
from wsplf_cli.prediction.calibration import Calibration, calibrate, level
from wsplf_cli.prediction.cams import HeatMap, heat_map
from wsplf_cli.prediction.refine import Refined, refine
from wsplf_cli.prompts import Strategy
from wsplf_cli.runtime import pick_device, seed_everything
from wsplf_cli.schema import Annotation, Entry, EntryResult, StageReport, Tracker
from wsplf_cli.slides import entry_slide
from wsplf_cli.stages import Run, Skipped, done, each, merge, start_run
from wsplf_cli.stages._bags import Prepared, folds_of, tile_sources
from wsplf_cli.stages._own import without
from wsplf_cli.stages._review import REVIEWED, read_review, write_polygons
from wsplf_cli.stages.labels import require_both
from wsplf_cli.tiles import make_grid, tissue_mask, tissue_um2
from wsplf_cli.training.mil import Bag, MilSettings, fit, steps_of

#: Tiles overlap by half, so that whatever is cut by one is in the middle of another.
TILE_OVERLAP = 0.5
#: Outlines are simplified by this much: under a third of a nucleus.
TOLERANCE_UM = 1.5
#: Smaller holes are filled: a lumen belongs to its gland, a vessel of this size is no border.
MIN_HOLE_UM2 = 2000.0


@dataclass(frozen=True, slots=True)
class Parts:
    """What the user chose by name, loaded before any work begins, so that a wrong name costs nothing."""

    sam: Sam
    strategy: Strategy
    network: Callable[[], MilNetwork]


def pseudolabel(
    project: Project, entries: Sequence[Entry], options: PseudolabelOptions, tracker: Tracker
) -> StageReport:
    """Learn from slide labels where the tumour is, and write it as pending pseudo-labels into the positive slides.

    Slides without a label and held-out slides are left as they are, known-negative ones get no polygon.

    Args:
        project: Where the polygons go.
        entries: With their labels resolved.
        options: All that can be chosen.
        tracker: Where progress is told.

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
        prepared, first = _tile(project, used, options, tracker)
        fold_of = folds_of(prepared, folds=options.folds, rng=rng)
        networks = _fit(prepared, fold_of, parts, options=options, rng=rng, device=device, run=run, tracker=tracker)
        looked, second = _look(prepared, fold_of, networks, options=options, device=device, tracker=tracker)
        prepared = [one for one in prepared if one.entry.id in looked]
        calibration = _calibrate(prepared, looked, tracker=tracker)
        last = each(
            [one.entry for one in prepared],
            _writer(
                project, prepared, looked, calibration, parts=parts, options=options, run=run, rng=rng, tracker=tracker
            ),
            tracker=tracker,
            name="polygons",
        )
        return run.finish(merge(first, second, last), details=_details(calibration, fold_of))


def _say_left_out(entries: Sequence[Entry], used: Sequence[Entry], tracker: Tracker) -> None:
    held_out = sum(entry.held_out for entry in entries)
    unlabelled = len(entries) - held_out - len(used)
    positive = sum(bool(entry.label and entry.label.classes) for entry in used)
    tracker.say(
        f"{len(used)} labelled slides ({positive} positive, {len(used) - positive} negative); left out: "
        f"{unlabelled} without label, {held_out} held out"
    )


def _load(options: PseudolabelOptions, device: torch.device) -> Parts:
    head = plugins.load("heads", options.head)
    strategy: Strategy = plugins.load("prompts", options.prompts).build()
    sam = load_sam(options.sam, checkpoint=options.sam_checkpoint, device=device)

    def network() -> MilNetwork:
        backbone = build_backbone(options.backbone, weights=options.backbone_weights, adl=True)
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
    """CAM logits of one slide: ``unseen`` by the classifier that did not learn from it, ``mean`` by all of them."""

    unseen: HeatMap
    mean: HeatMap


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
        looked[entry_id] = Looked(HeatMap(even[fold_of[entry_id]], size), HeatMap(np.mean(even, axis=0), size))
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


def _details(calibration: Calibration, fold_of: Mapping[str, int]) -> dict[str, object]:
    return {
        "tumour_share": calibration.tumour_share,
        "called_share": calibration.called_share,
        "expected_dice": calibration.expected_dice,
        "negative_share_above_threshold": calibration.false_positive_share,
        "folds": dict(fold_of),
    }


def _writer(
    project: Project,
    prepared: Sequence[Prepared],
    looked: Mapping[str, Looked],
    calibration: Calibration,
    *,
    parts: Parts,
    options: PseudolabelOptions,
    run: Run,
    rng: np.random.Generator,
    tracker: Tracker,
) -> Callable[[Entry], Mapping[str, float] | Skipped]:
    """The last piece of work on one entry: prompts, SAM masks, polygons, written into the project."""
    by_id = {one.entry.id: one for one in prepared}
    seeds = {one.entry.id: int(rng.integers(2**62)) for one in prepared}

    def write(entry: Entry) -> Mapping[str, float] | Skipped:
        one = by_id[entry.id]
        cam = calibration.cam(looked[entry.id].mean.logits[0])
        if run.folder is not None:
            _save_cam(cam, run.folder / "cams" / f"{entry.id}.png")
        if entry.reviewed:
            return Skipped(REVIEWED)
        annotations: list[Annotation] = []
        if one.positive:
            annotations = outline(
                one,
                cam,
                cell_px0=looked[entry.id].mean.downsample,
                parts=parts,
                options=options,
                run_id=run.id,
                rng=np.random.default_rng(seeds[entry.id]),
                tracker=tracker,
            )
            settled = one.review.marks.settled
            annotations = without(annotations, settled, min_area_px0=options.min_area_um2 / one.mpp_slide**2)
        counts = {
            "polygons": len(annotations),
            "area mm2": sum(a.shape.area for a in annotations) * one.mpp_slide**2 / 1e6,
        }
        if options.run.dry_run:
            return counts
        replaced = write_polygons(project, one.review, annotations=annotations, origin="pseudolabel", run_id=run.id)
        return counts | {"removed": replaced.removed, "kept": replaced.kept}

    return write


def outline(
    one: Prepared,
    cam: NDArray[np.float32],
    *,
    cell_px0: float,
    parts: Parts,
    options: PseudolabelOptions,
    run_id: str,
    rng: np.random.Generator,
    tracker: Tracker,
) -> list[Annotation]:
    """The pseudo-labels of one positive slide from its CAM, float32 [rows, columns] in 0..1."""
    annotations = []
    for part in refine(
        one.slide(),
        cam,
        parts.sam,
        cell_px0=cell_px0,
        mpp=options.tiles.mpp,
        mpp_slide=one.mpp_slide,
        strategy=parts.strategy,
        rng=rng,
    ):
        shapes = mask_polygons(
            part.vote >= 0.5,
            origin_px0=part.origin_px0,
            downsample=part.downsample,
            tolerance_px0=TOLERANCE_UM / one.mpp_slide,
            min_area_px0=options.min_area_um2 / one.mpp_slide**2,
            min_hole_px0=MIN_HOLE_UM2 / one.mpp_slide**2,
        )
        annotations += [
            Annotation(
                id=uuid4(),
                shape=shape,
                path_class=options.project.path_class,
                origin="pseudolabel",
                review="pending",
                run_id=run_id,
                name="",
                measurements=measure(shape, part, mpp_slide=one.mpp_slide),
            )
            for shape in shapes
        ]
    return annotations


def measure(shape: Polygon, part: Refined, *, mpp_slide: float) -> dict[str, float]:
    """What is said of one polygon: its confidence, what it is made of, and its area."""
    left, top, right, bottom = shape.bounds
    height, width = part.vote.shape
    x, y = ((np.array([left, top]) - part.origin_px0) / part.downsample).astype(np.intp).clip(0)
    size = np.ceil(np.array([right - left, bottom - top]) / part.downsample).astype(np.intp) + 2
    size = np.minimum(size, (width - x, height - y))
    origin = (part.origin_px0[0] + x * part.downsample, part.origin_px0[1] + y * part.downsample)
    inside = rasterise([shape], origin_px0=origin, downsample=part.downsample, size_px=(int(size[0]), int(size[1])))
    window = np.s_[y : y + size[1], x : x + size[0]]
    vote, cam, sam = (layer[window][inside] for layer in (part.vote, part.cam, part.sam))
    covered = sam > 0
    return {
        "wsplf: confidence": float(vote.mean()),
        "wsplf: CAM": float(cam.mean()),
        "wsplf: SAM IoU": float(sam[covered].mean()) if covered.any() else float("nan"),
        "wsplf: SAM share": float(covered.mean()),
        "wsplf: area um^2": float(shape.area * mpp_slide**2),
    }


def _save_cam(cam: NDArray[np.float32], path: Path) -> None:
    """The CAM as an 8-bit grey PNG over the whole entry, 128 at the threshold, for the report."""
    path.parent.mkdir(exist_ok=True)
    with replacing(path) as part:
        Image.fromarray((cam * 255).round().astype(np.uint8)).save(part, format="PNG")
