"""The classifiers of a pseudolabel run, and what they see on every slide.

Two kinds judge, either or both. Linear classifiers of places on the frozen backbone (``_places.py``) learn much from
few slides; MIL networks, trained through the backbone, learn what its features do not tell. The CAM of both is their
mean.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from wsplf_cli import settings
from wsplf_cli.cohort.class_tracker import Curves
from wsplf_cli.cohort.run import for_each_entry
from wsplf_cli.cohort.slide import CohortSlide, SlideTiles, folds_of
from wsplf_cli.errors import ConfigError
from wsplf_cli.networks.backbone import Backbone
from wsplf_cli.networks.mil import MilNetwork
from wsplf_cli.options import PseudolabelOptions
from wsplf_cli.schema import Entry, EntryResult, Tracker
from wsplf_cli.weak.calibration import level
from wsplf_cli.weak.dense import DenseInference, LogitMap, cam_logits
from wsplf_cli.weak.epithelium import restrict_to_epithelium
from wsplf_cli.weak.features import FittedProbes, cam
from wsplf_cli.weak.mil.training import Bag, MilSettings, fit, steps_of

#: Options of the MIL networks, which classifiers of places do not have.
OF_MIL = ("head", "epochs", "folds", "adl", "contrast", "high_frequency")


@dataclass(frozen=True, slots=True)
class Networks:
    """Makes a new MIL network, or the backbone with the weights that it came with, in eval mode on the device."""

    mil: Callable[[], MilNetwork]
    frozen: Callable[[], Backbone]


@dataclass(frozen=True, slots=True)
class MilEnsemble:
    """MIL networks in eval mode, each trained on the slides outside its own fold; with a single fold, on all."""

    fold_of: Mapping[str, int]
    networks: Sequence[MilNetwork]


@dataclass(frozen=True, slots=True)
class Learnt:
    """What judges the places of slides: a ``committee``, or ``judged`` with its frozen ``backbone``, or both."""

    committee: MilEnsemble | None = None
    judged: FittedProbes | None = None
    backbone: Backbone | None = None

    @property
    def suspects(self) -> Mapping[str, str]:
        """The entry ids whose label is doubted, with why."""
        return {} if self.judged is None else self.judged.suspects

    @property
    def within(self) -> str:
        """Where tumour is looked for."""
        return "tissue" if self.judged is None or self.judged.layer is None else "epithelium"

    @property
    def folds(self) -> dict[str, int]:
        """The fold of each entry id in the MIL committee."""
        return {} if self.committee is None else dict(self.committee.fold_of)


@dataclass(frozen=True, slots=True)
class SlideLogits:
    """CAM logits of one slide: ``unseen`` by the classifiers that did not learn from it, ``mean`` by all of them.

    ``raw`` is the mean of the logits as the classifiers give them, above 0 where they rather see tumour.
    """

    unseen: LogitMap
    mean: LogitMap
    raw: LogitMap


def require_used(options: PseudolabelOptions) -> None:
    """Refuse an option of the MIL networks where there are none.

    Raises:
        ConfigError: one of ``OF_MIL`` is not its default, and the classifier is "places".
    """
    if options.recipe.backbone_mode != "frozen":
        return
    known = settings.options(PseudolabelOptions)
    for name in OF_MIL:
        value = getattr(options, name)
        if value != known[name].default:
            key = known[name].key
            said = f"--{key} {value}" if not isinstance(value, bool) else f"--{'' if value else 'no-'}{key}"
            raise ConfigError(
                f"{said} is of MIL networks, which --classifier places does not train",
                hint="--classifier mil or both, or leave it out",
            )


def fit_ensemble(
    prepared: Sequence[CohortSlide],
    sources: Mapping[str, SlideTiles],
    networks: Networks,
    *,
    options: PseudolabelOptions,
    rng: np.random.Generator,
    device: torch.device,
    run: Curves,
    tracker: Tracker,
) -> MilEnsemble:
    """MIL networks trained through the backbone, one for each of ``options.recipe.folds``."""
    fold_of = folds_of(prepared, folds=options.recipe.folds, rng=rng)
    bags = [
        Bag(one.entry.id, sources[one.entry.id], np.array([float(one.positive)], np.float32), known=one.known)
        for one in prepared
    ]
    settings = MilSettings(epochs=options.recipe.epochs)
    if not options.recipe.contrast:
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
        run.curve("MIL loss", x=range(1, options.recipe.epochs + 1), y=losses)
    return MilEnsemble(fold_of, fitted)


def look(
    views: Sequence[Sequence[CohortSlide]],
    learnt: Sequence[Learnt],
    *,
    options: PseudolabelOptions,
    device: torch.device,
    tracker: Tracker,
) -> tuple[list[dict[str, SlideLogits]], list[EntryResult]]:
    """For each class the CAMs of every slide, logits in spreads of those of negatives that a classifier did not see.

    ``views`` are the slides as each class sees them, ``learnt`` what judges them for it; the classifiers of places of
    all classes look at a slide in one pass.
    """
    by_id = {slide[0].entry.id: slide for slide in zip(*views, strict=True)}
    networks: list[dict[str, NDArray[np.float16]]] = [{} for _ in views]  # half precision: all maps are kept
    places: list[dict[str, NDArray[np.float32]]] = [{} for _ in views]
    downsample: dict[str, float] = {}
    backbone = learnt[0].backbone

    def infer_map(entry: Entry) -> Mapping[str, float]:
        heats = [
            [_heat(one, network, options, device) for network in judges.committee.networks]
            for one, judges in zip(by_id[entry.id], learnt, strict=True)
            if judges.committee is not None
        ]
        for maps, own in zip(heats, networks, strict=False):  # none, or of each class
            own[entry.id] = np.concatenate([heat.logits for heat in maps]).astype(np.float16)
            downsample[entry.id] = maps[0].downsample
        judged = [judges.judged for judges in learnt if judges.judged is not None]
        if backbone is not None and judged:
            one = by_id[entry.id][0]
            looking = looking_at(one, backbone, options=options, device=device)
            layers = [own.layer for own in judged if own.layer is not None][:1]  # one serves all classes
            seen = cam(one, backbone, [*(own.judges[entry.id] for own in judged), *layers], looking)
            for kept, of_class, logits in zip(places, judged, seen, strict=False):
                kept[entry.id] = logits if of_class.layer is None else restrict_to_epithelium(logits, seen[-1], looking)
            downsample[entry.id] = looking.downsample
        return {}

    results = for_each_entry([one.entry for one in views[0]], infer_map, tracker=tracker, name="CAM")
    return [
        _joined(view, judges, nets, linear, downsample)
        for view, judges, nets, linear in zip(views, learnt, networks, places, strict=True)
    ], results


def _joined(
    prepared: Sequence[CohortSlide],
    learnt: Learnt,
    networks: Mapping[str, NDArray[np.float16]],
    places: Mapping[str, NDArray[np.float32]],
    downsample: Mapping[str, float],
) -> dict[str, SlideLogits]:
    """What both kinds of classifiers see of each entry id, joined."""
    seen = {} if learnt.committee is None else _even(prepared, learnt.committee, networks, doubted=learnt.suspects)
    looked = {}
    for entry_id, side_px0 in downsample.items():
        own = [places[entry_id]] if entry_id in places else []
        both = [[*own, *([seen[entry_id][which]] if entry_id in seen else [])] for which in (0, 1)]
        unseen, mean = (LogitMap(np.mean(logits, axis=0, keepdims=True), side_px0) for logits in both)
        raw = networks[entry_id].mean(axis=0, dtype=np.float32) if entry_id in networks else places[entry_id]
        looked[entry_id] = SlideLogits(unseen, mean if entry_id in seen else unseen, LogitMap(raw[None], side_px0))
    return looked


def looking_at(
    one: CohortSlide, backbone: Backbone, *, options: PseudolabelOptions, device: torch.device
) -> DenseInference:
    """How a slide is looked at with these options."""
    return DenseInference(
        mpp=options.mpp,
        mpp_slide=one.mpp_slide,
        block_px=block_side(options.recipe.tile_px),
        stride=backbone.stride,
        device=device,
        turns=options.recipe.tta,
    )


def _heat(one: CohortSlide, network: MilNetwork, options: PseudolabelOptions, device: torch.device) -> LogitMap:
    return cam_logits(
        one.slide(),
        one.tissue,
        network,
        mpp=options.mpp,
        mpp_slide=one.mpp_slide,
        block_px=block_side(options.recipe.tile_px),
        device=device,
        turns=options.recipe.tta,
    )


def _even(
    prepared: Sequence[CohortSlide],
    committee: MilEnsemble,
    maps: Mapping[str, NDArray[np.float16]],
    *,
    doubted: Mapping[str, str],
) -> dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Of each slide the logits of the network that did not see it, and the mean of all, on one scale."""
    negatives = [one.entry.id for one in prepared if not one.positive and one.entry.id in maps]
    negatives = [entry_id for entry_id in negatives if entry_id not in doubted] or negatives
    levels = []
    for fold in range(len(committee.networks)):
        judged = [entry_id for entry_id in negatives if committee.fold_of[entry_id] == fold]
        levels.append(level([tissue_of(maps[entry_id][fold].astype(np.float32)) for entry_id in judged or negatives]))
    centre, spread = (np.array(values, np.float32)[:, None, None] for values in zip(*levels, strict=True))
    found = {}
    for entry_id, logits in maps.items():
        even = (logits - centre) / spread
        found[entry_id] = (even[committee.fold_of[entry_id]], even.mean(axis=0))
    return found


def block_side(tile_px: int) -> int:
    """Side of the blocks in which a slide is looked at: two tiles or more, a multiple of every network's stride."""
    return max(256, -(-2 * tile_px // 32) * 32)


def tissue_of(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """The logits of the tissue, float32 [N], of a map [rows, columns]."""
    values: NDArray[np.float32] = logits[~np.isnan(logits)]
    return values
