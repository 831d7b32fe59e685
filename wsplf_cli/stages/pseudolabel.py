"""``wsplf pseudolabel``: from slide labels to polygons that a pathologist can review."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
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
from wsplf_cli.models.backbone import Backbone, build_backbone
from wsplf_cli.models.mil import MilNetwork
from wsplf_cli.models.sam import Sam, load_sam
from wsplf_cli.prediction.calibration import Calibration, Core, calibrate, core, cored, lower
from wsplf_cli.prediction.refine import Refined, refine
from wsplf_cli.prompts import Strategy
from wsplf_cli.runtime import pick_device, seed_everything
from wsplf_cli.schema import Annotation, Entry, EntryResult, StageReport, Tracker
from wsplf_cli.slides import entry_slide
from wsplf_cli.stages import Run, Skipped, done, each, merge, start_run
from wsplf_cli.stages._bags import Prepared, tile_sources
from wsplf_cli.stages._cams import (
    Committee,
    Looked,
    Networks,
    fit_committee,
    look,
    place_committee,
    tissue_of,
)
from wsplf_cli.stages._own import decided, without
from wsplf_cli.stages.labels import require_both
from wsplf_cli.tiles import make_grid, tissue_mask, tissue_um2

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
    networks: Networks


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
        prepared, first = _tile(used, options, tracker)
        sources = tile_sources(prepared)
        committees = [
            fit_committee(
                prepared, sources, parts.networks, options=options, rng=rng, device=device, run=run, tracker=tracker
            ),
            place_committee(prepared, sources, parts.networks, rng=rng, device=device, tracker=tracker),
        ]
        looked, second = look(prepared, committees, options=options, device=device, tracker=tracker)
        prepared = [one for one in prepared if one.entry.id in looked]
        calibration = _calibrate(prepared, looked, tracker=tracker)
        least = _core(prepared, looked, alpha=options.alpha, tracker=tracker)
        last = each(
            [one.entry for one in prepared],
            _writer(
                project,
                prepared,
                looked,
                calibration,
                least,
                parts=parts,
                options=options,
                run=run,
                rng=rng,
                tracker=tracker,
            ),
            tracker=tracker,
            name="polygons",
        )
        return run.finish(merge(first, second, last), details=_details(calibration, least, committees))


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

    networks = Networks(
        mil=lambda: _network(options, head),
        frozen=lambda: _backbone(options, adl=False).to(device).eval(),
    )
    networks.mil()
    return Parts(sam, strategy, networks)


def _network(options: PseudolabelOptions, head: ModuleType) -> MilNetwork:
    backbone = _backbone(options, adl=True)
    return MilNetwork(backbone, head.build(backbone.channels, 1))


def _backbone(options: PseudolabelOptions, *, adl: bool) -> Backbone:
    return build_backbone(options.backbone, weights=options.backbone_weights, adl=adl)


def _tile(
    entries: Sequence[Entry], options: PseudolabelOptions, tracker: Tracker
) -> tuple[list[Prepared], list[EntryResult]]:
    """Find the tissue of each slide and lay its tiles."""
    prepared: dict[str, Prepared] = {}

    def prepare(entry: Entry) -> Mapping[str, float]:
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
        prepared[entry.id] = Prepared(entry, calibration.mpp, tissue, grid)
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


def _calibrate(prepared: Sequence[Prepared], looked: Mapping[str, Looked], *, tracker: Tracker) -> Calibration:
    """Choose the threshold of the mean CAM, and say what it means."""

    def logits(*, positive: bool, unseen: bool) -> list[NDArray[np.float32]]:
        of_kind = [looked[one.entry.id] for one in prepared if one.positive is positive]
        return [tissue_of((one.unseen if unseen else one.mean).logits[0]) for one in of_kind]

    judged = calibrate(logits(positive=True, unseen=True), logits(positive=False, unseen=True))
    all_of_them = logits(positive=True, unseen=False), logits(positive=False, unseen=False)
    calibration = lower(judged.carried_to(*all_of_them), calibrate(*all_of_them))
    tracker.say(
        f"estimated tumour share of the tissue of positive slides: {calibration.tumour_share:.1%}; "
        f"the CAM calls {calibration.called_share:.1%} of it tumour, and "
        f"{calibration.false_positive_share:.2%} of the tissue of negative slides"
    )
    return calibration


def _core(
    prepared: Sequence[Prepared],
    looked: Mapping[str, Looked],
    *,
    alpha: float,
    tracker: Tracker,
) -> Core:
    """Choose what the core of a piece must reach, and say what that guarantees and what not."""
    negatives = [tissue_of(looked[one.entry.id].unseen.logits[0]) for one in prepared if not one.positive]
    least = core(negatives, alpha=alpha)
    promise = f"for a new negative slide {least.guaranteed:.1%} is guaranteed on average"
    if least.slides < least.slides_needed:
        promise += f"; --alpha {alpha:g} itself would take {least.slides_needed} negative slides"
    tracker.say(
        f"each polygon has a core that {least.measured:.2%} of the tissue of {least.slides} negative slides reaches, "
        f"as judged by classifiers that did not see them; {promise}"
    )
    return least


def _details(calibration: Calibration, least: Core, committees: Sequence[Committee]) -> dict[str, object]:
    return {
        "tumour_share": calibration.tumour_share,
        "called_share": calibration.called_share,
        "expected_dice": calibration.expected_dice,
        "negative_share_above_threshold": calibration.false_positive_share,
        "core": asdict(least),
        "folds": [dict(committee.fold_of) for committee in committees],
    }


def _writer(
    project: Project,
    prepared: Sequence[Prepared],
    looked: Mapping[str, Looked],
    calibration: Calibration,
    least: Core,
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
        cam = cored(cam, least=float(calibration.cam(np.array(least.threshold, np.float32))))
        if run.folder is not None:
            _save_cam(cam, run.folder / "cams" / f"{entry.id}.png")
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
            kept = decided(project.annotations(entry.id), origin="pseudolabel")
            annotations = without(annotations, kept, min_area_px0=options.min_area_um2 / one.mpp_slide**2)
        counts = {
            "polygons": len(annotations),
            "area mm2": sum(a.shape.area for a in annotations) * one.mpp_slide**2 / 1e6,
        }
        if options.run.dry_run:
            return counts
        replaced = project.replace(entry.id, origin="pseudolabel", annotations=annotations)
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
