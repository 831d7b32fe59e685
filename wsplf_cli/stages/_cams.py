"""The classifiers of a pseudolabel run, and what they see on every slide.

Two committees judge. One is trained through the backbone, which makes its CAMs sharp where there are slides enough to
learn from; the other is linear on the frozen backbone, which keeps it from learning the slides of a small cohort by
heart. A CAM is the mean of both.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from wsplf_cli.config import PseudolabelOptions
from wsplf_cli.models.backbone import Backbone
from wsplf_cli.models.mil import MilNetwork
from wsplf_cli.prediction.calibration import level
from wsplf_cli.prediction.cams import HeatMap, heat_map
from wsplf_cli.schema import Entry, EntryResult, Tracker
from wsplf_cli.stages import Run, each
from wsplf_cli.stages._bags import Prepared, SlideTiles, folds_of
from wsplf_cli.training.mil import Bag, MilSettings, fit, steps_of
from wsplf_cli.training.places import Places, learn, sample_places

#: The linear classifiers cost little, so that each may learn from nearly all slides.
PLACE_FOLDS = 6


@dataclass(frozen=True, slots=True)
class Networks:
    """Makes a new MIL network, or the backbone with the weights that it came with, in eval mode on the device."""

    mil: Callable[[], MilNetwork]
    frozen: Callable[[], Backbone]


@dataclass(frozen=True, slots=True)
class Committee:
    """Classifiers, each trained on the slides outside its own fold, 0 to ``folds`` - 1; with a single fold, on all.

    ``networks`` in eval mode together give a CAM of ``folds`` classes, one after another.
    """

    fold_of: Mapping[str, int]
    networks: Sequence[MilNetwork]

    @property
    def folds(self) -> list[int]:
        """The numbers of the folds."""
        return sorted(set(self.fold_of.values()))


@dataclass(frozen=True, slots=True)
class Looked:
    """CAM logits of one slide: ``unseen`` by the classifiers that did not learn from it, ``mean`` by all of them.

    ``raw`` is the mean of the logits as the MIL networks give them, above 0 where they rather see tumour.
    """

    unseen: HeatMap
    mean: HeatMap
    raw: HeatMap


def fit_committee(
    prepared: Sequence[Prepared],
    sources: Mapping[str, SlideTiles],
    networks: Networks,
    *,
    options: PseudolabelOptions,
    rng: np.random.Generator,
    device: torch.device,
    run: Run,
    tracker: Tracker,
) -> Committee:
    """MIL networks trained through the backbone, one for each of ``options.folds``."""
    fold_of = folds_of(prepared, folds=options.folds, rng=rng)
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
    fitted, losses = [], {}
    for fold, some in zip(folds, learning, strict=True):
        torch.manual_seed(options.run.seed + fold)
        network = networks.mil().to(device)
        curve = fit(network, some, settings=settings, rng=rng, device=device, track=tracker)
        losses[f"fold {fold + 1}"] = curve.loss
        fitted.append(network)
        run.curve("MIL loss", x=range(1, options.epochs + 1), y=losses)
    return Committee(fold_of, fitted)


def place_committee(
    prepared: Sequence[Prepared],
    sources: Mapping[str, SlideTiles],
    networks: Networks,
    *,
    rng: np.random.Generator,
    device: torch.device,
    tracker: Tracker,
) -> Committee:
    """Linear classifiers of places on the frozen backbone, one for each of ``PLACE_FOLDS``, in a single network."""
    fold_of = folds_of(prepared, folds=PLACE_FOLDS, rng=rng)
    folds = sorted(set(fold_of.values()))
    backbone = networks.frozen()
    tracker.start("places", len(prepared) + len(folds))
    places = {}
    for one in prepared:
        features = sample_places(backbone, sources[one.entry.id], rng=rng, device=device)
        places[one.entry.id] = Places(features, one.positive)
        tracker.advance(1, message=one.entry.name)
    head = nn.Linear(backbone.channels, len(folds))
    for fold in folds:
        others = [places[entry_id] for entry_id, own in fold_of.items() if len(folds) == 1 or own != fold]
        weight, bias = learn(others, rng=rng)
        with torch.no_grad():
            head.weight[fold] = torch.from_numpy(weight)
            head.bias[fold] = bias
        tracker.advance(1, message=f"fold {fold + 1}/{len(folds)}")
    return Committee(fold_of, [MilNetwork(backbone, head).to(device).eval()])


def look(
    prepared: Sequence[Prepared],
    committees: Sequence[Committee],
    *,
    options: PseudolabelOptions,
    device: torch.device,
    tracker: Tracker,
) -> tuple[dict[str, Looked], list[EntryResult]]:
    """The CAMs of every slide, each classifier's logits in spreads of those of negatives that it did not see."""
    by_id = {one.entry.id: one for one in prepared}
    raw: dict[str, list[NDArray[np.float16]]] = {}  # half precision: all maps of all slides are kept
    downsample: dict[str, float] = {}

    def look_at(entry: Entry) -> Mapping[str, float]:
        one = by_id[entry.id]
        maps = [
            [
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
                for network in committee.networks
            ]
            for committee in committees
        ]
        raw[entry.id] = [np.concatenate([heat.logits for heat in some]).astype(np.float16) for some in maps]
        downsample[entry.id] = maps[0][0].downsample
        return {}

    results = each([one.entry for one in prepared], look_at, tracker=tracker, name="CAM")
    negatives = [one.entry.id for one in prepared if not one.positive and one.entry.id in raw]
    unseen: dict[str, list[NDArray[np.float32]]] = {entry_id: [] for entry_id in raw}
    mean: dict[str, list[NDArray[np.float32]]] = {entry_id: [] for entry_id in raw}
    for place, committee in enumerate(committees):
        levels = []
        for fold in committee.folds:
            judged = [entry_id for entry_id in negatives if committee.fold_of[entry_id] == fold]
            levels.append(
                level([tissue_of(raw[entry_id][place][fold].astype(np.float32)) for entry_id in judged or negatives])
            )
        centre, spread = (np.array(values, np.float32)[:, None, None] for values in zip(*levels, strict=True))
        for entry_id, logits in raw.items():
            even = (logits[place] - centre) / spread
            unseen[entry_id].append(even[committee.fold_of[entry_id]])
            mean[entry_id].append(even.mean(axis=0))
    looked = {
        entry_id: Looked(
            unseen=HeatMap(np.mean(unseen[entry_id], axis=0, keepdims=True), downsample[entry_id]),
            mean=HeatMap(np.mean(mean[entry_id], axis=0, keepdims=True), downsample[entry_id]),
            raw=HeatMap(raw[entry_id][0].mean(axis=0, keepdims=True, dtype=np.float32), downsample[entry_id]),
        )
        for entry_id in raw
    }
    return looked, results


def block_side(tile_px: int) -> int:
    """Side of the blocks in which a slide is looked at: two tiles or more, a multiple of every network's stride."""
    return max(256, -(-2 * tile_px // 32) * 32)


def tissue_of(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """The logits of the tissue, float32 [N], of a map [rows, columns]."""
    values: NDArray[np.float32] = logits[~np.isnan(logits)]
    return values
