"""An ensemble of fine-tuned MIL networks, one per fold, and their logits over a slide on one scale."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from wsplf_cli.cohort.class_tracker import ClassTracker
from wsplf_cli.cohort.folds import fold_assignment, missing_for_folds
from wsplf_cli.cohort.slide import CohortSlide, SlideTiles
from wsplf_cli.networks.inference import on_arrays
from wsplf_cli.networks.mil import MilNetwork
from wsplf_cli.options import PseudolabelOptions
from wsplf_cli.slides.window import DenseInference, infer_map
from wsplf_cli.weak.mil.training import Bag, MilSettings, fit, steps_of
from wsplf_cli.weak.pooling import masked_gaussian

#: The CAM is smoothed by a Gaussian of this standard deviation: a large nucleus at 1 um per pixel.
SMOOTH_PX = 16.0


@dataclass(frozen=True, slots=True)
class MilEnsemble:
    """MIL networks in eval mode, each trained on the slides outside its fold; with a single fold, on all slides.

    ``in_sample`` says why there is a single fold; empty where there are several.
    """

    fold_of: Mapping[str, int]
    networks: Sequence[MilNetwork]
    in_sample: str = ""


def fit_ensemble(
    tiles: Sequence[SlideTiles],
    path_class: str,
    make_network: Callable[[], MilNetwork],
    *,
    options: PseudolabelOptions,
    rng: np.random.Generator,
    tracker: ClassTracker,
) -> MilEnsemble:
    """MIL networks for one class, trained through the backbone, one for each fold of the recipe.

    Args:
        tiles: The tiles of each slide to learn from.
        path_class: The class.
        make_network: Makes a new network on its device.
        options: The recipe and the seed.
        rng: Chooses folds, tiles and augmentation.
        tracker: Where progress is shown and curves are kept.
    """
    recipe = options.recipe
    fold_of = fold_assignment([of_slide.slide for of_slide in tiles], path_class, folds=recipe.folds, rng=rng)
    bags = []
    for of_slide in tiles:
        slide = of_slide.slide
        target = np.array([float(slide.is_positive(path_class))], np.float32)
        known = partial(slide.known_tiles, path_class) if slide.regions(path_class).teaches else None
        bags.append(Bag(slide.entry.id, of_slide, target, known=known))
    settings = MilSettings(epochs=recipe.epochs)
    if not recipe.contrast:
        settings = replace(settings, contrast_weight=0.0)
    folds = sorted(set(fold_of.values()))
    training_bags = [[bag for bag in bags if len(folds) == 1 or fold_of[bag.entry_id] != fold] for fold in folds]
    tracker.start("MIL", sum(steps_of(fold_bags, settings) for fold_bags in training_bags))
    networks, losses = [], {}
    for fold, fold_bags in zip(folds, training_bags, strict=True):
        torch.manual_seed(options.run.seed + fold)
        network = make_network()
        curve = fit(network, fold_bags, settings=settings, rng=rng, track=tracker)
        losses[f"fold {fold + 1}"] = curve.loss
        networks.append(network)
        tracker.curve("MIL loss", x=range(1, recipe.epochs + 1), y=losses)
    in_sample = ""
    if len(folds) == 1:
        in_sample = missing_for_folds([of_slide.slide for of_slide in tiles], path_class) or "the recipe has one fold"
    return MilEnsemble(fold_of, networks, in_sample)


def network_map(slide: CohortSlide, network: MilNetwork, inference: DenseInference) -> NDArray[np.float32]:
    """The CAM logits of a network over a slide, smoothed, float32 [C, rows, columns], NaN outside the tissue."""
    infer = on_arrays(network.cam, device=network.backbone.device, rotations=inference.rotations)
    logits = infer_map(slide.open(), slide.tissue, infer, inference, channels=len(network.classifier.bias))
    return masked_gaussian(logits, ~np.isnan(logits[0]), sigma=SMOOTH_PX / inference.stride)


def on_one_scale(
    negatives: Sequence[str],
    ensemble: MilEnsemble,
    maps: Mapping[str, NDArray[np.float16]],
) -> dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """For each slide the out-of-fold logits and the mean logits of all networks, on one scale.

    Each network has its own scale: (logit - centre) / spread is comparable between networks, with both measured on
    negative slides of the network's fold, or on all negative slides where the fold has none.

    Args:
        negatives: Entry ids of the negative slides.
        ensemble: The networks.
        maps: Logits of each network over each slide, by entry id, [networks, rows, columns].
    """
    levels = []
    for fold in range(len(ensemble.networks)):
        in_fold = [entry_id for entry_id in negatives if ensemble.fold_of[entry_id] == fold]
        of_tissue = [maps[entry_id][fold].astype(np.float32) for entry_id in in_fold or negatives]
        levels.append(centre_and_spread([logits[~np.isnan(logits)] for logits in of_tissue]))
    centre, spread = (np.array(values, np.float32)[:, None, None] for values in zip(*levels, strict=True))
    scaled = {}
    for entry_id, logits in maps.items():
        comparable = (logits - centre) / spread
        scaled[entry_id] = (comparable[ensemble.fold_of[entry_id]], comparable.mean(axis=0))
    return scaled


def centre_and_spread(negatives: Sequence[NDArray[np.float32]]) -> tuple[float, float]:
    """The median of one network's logits on negative slides, and how far their 95th percentile lies above it.

    Both are means over the slides.
    """
    quantiles = np.array([np.quantile(logits, (0.5, 0.95)) for logits in negatives if logits.size])
    centre, high = quantiles.mean(axis=0)
    return float(centre), float(max(high - centre, 1e-3))
