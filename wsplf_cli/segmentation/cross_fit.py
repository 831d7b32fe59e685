"""Train the networks of a model, each without the patients of one fold, and measure each on the fold left out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from wsplf_cli.cohort.folds import split_by_patient
from wsplf_cli.schema import Tracker
from wsplf_cli.segmentation.checkpoint import as_one
from wsplf_cli.segmentation.operating_point import DEFAULT_THRESHOLD, OperatingPoint, OutOfFold
from wsplf_cli.segmentation.sampling import Blocks, TrainingSlide
from wsplf_cli.segmentation.train import FitSettings, fit, predict_blocks

#: Random splits that are tried until every network has polygons of each class to learn from.
_TRIES = 20
#: Blocks that are predicted out of fold: at most so many of a slide, about so many in all, but a few of each slide.
_BLOCKS_OF_SLIDE = 16
_BLOCKS = 600
_FEWEST_BLOCKS = 4


@dataclass(frozen=True, slots=True)
class CrossFit:
    """What training gives.

    Attributes:
        network: RGB tiles float [B, 3, H, W] in 0..1 to logits [B, C, H, W], in eval mode: the mean of all networks.
        members: How many networks that are.
        losses: The loss of each epoch of each network.
        point: Where the model draws.
        dice: The Dice out of fold at its threshold, against the polygons that the slides came with; None where nothing
            was held out or held a pixel of a class.
        held_out: Names of the slides that were predicted out of fold.
        unvalidated: Indices of the classes of which the blocks out of fold hold no pixel.
        pending: Whether some of the polygons compared with are pseudo-labels that nobody has reviewed.
    """

    network: nn.Module
    members: int
    losses: tuple[tuple[float, ...], ...]
    point: OperatingPoint
    dice: float | None
    held_out: tuple[str, ...] = ()
    unvalidated: tuple[int, ...] = ()
    pending: bool = False


def cross_fit(
    build: Callable[[], nn.Module],
    slides: Sequence[TrainingSlide],
    *,
    settings: FitSettings,
    rng: np.random.Generator,
    device: torch.device,
    tracker: Tracker,
) -> CrossFit:
    """Train one network for each fold of the patients; a single one on all slides where patients are too few.

    Args:
        build: Makes a new network on the device.
        slides: Slides with targets for each class, at least one of them with a polygon of each.
        settings: Epochs, folds, learning rates and sizes.
        rng: Draws folds, crops, augmentation and the blocks out of fold.
        device: The device of the networks.
        tracker: Is told of each step.
    """
    fold_of = assign_folds(slides, folds=settings.folds, rng=rng)
    count = 1 if fold_of is None else int(fold_of.max()) + 1
    measured = OutOfFold(len(slides[0].classes))
    members, losses = [], []
    tracker.start("train", count * settings.steps)
    for fold in range(count):
        held_out = (
            []
            if fold_of is None
            else [slide for slide, of_slide in zip(slides, fold_of, strict=True) if of_slide == fold]
        )
        learned_from = [slide for slide in slides if slide not in held_out]
        network = build()
        losses.append(fit(network, learned_from, settings=settings, rng=rng, device=device, tracker=tracker))
        members.append(network)
        for slide in held_out:
            _measure(measured, slide, network, per_slide=_blocks_of_slide(len(slides)), rng=rng, device=device)
    point = measured.operating_point(alpha=settings.alpha)
    best = measured.best()
    if fold_of is None:
        point = replace(point, threshold=DEFAULT_THRESHOLD)
    return CrossFit(
        as_one(members).eval(),
        count,
        tuple(tuple(of_network) for of_network in losses),
        point,
        dice=None if best is None else best[1],
        held_out=tuple(measured.slides),
        unvalidated=measured.unvalidated,
        pending=fold_of is not None and any(targets.regions.pending for slide in slides for targets in slide.classes),
    )


def assign_folds(slides: Sequence[TrainingSlide], *, folds: int, rng: np.random.Generator) -> NDArray[np.intp] | None:
    """The fold of each slide, int [slides], slides of a patient in one fold; None where patients are too few.

    Slides with and without polygons of each class are distributed evenly, and outside of every fold there are polygons
    of each class. There are fewer folds where fewer patients have polygons of a class.
    """
    has_polygons = np.array([[targets.has_polygons for targets in slide.classes] for slide in slides])
    patients = np.array([slide.group for slide in slides])
    labels = np.unique(has_polygons, axis=0, return_inverse=True)[1].ravel()
    fewest = min(len(np.unique(patients[of_class])) for of_class in has_polygons.T)
    for count in range(min(folds, fewest), 1, -1):
        for _ in range(_TRIES):
            fold_of = split_by_patient(_strata(labels, count), patients, count=count, seed=int(rng.integers(2**31)))
            if all(has_polygons[fold_of != fold].any(axis=0).all() for fold in range(count)):
                return fold_of
    return None


def _strata(labels: NDArray[np.intp], count: int) -> NDArray[np.intp]:
    """The labels int [slides], those of fewer than ``count`` slides joined, with the commonest one where need be."""
    slides_of_label = np.bincount(labels)
    rare = slides_of_label[labels] < count
    joined = -1 if rare.sum() >= count else int(slides_of_label.argmax())
    strata: NDArray[np.intp] = np.where(rare, joined, labels)
    return strata


def _blocks_of_slide(slides: int) -> int:
    return int(np.clip(_BLOCKS // slides, _FEWEST_BLOCKS, _BLOCKS_OF_SLIDE))


def _measure(
    measured: OutOfFold,
    slide: TrainingSlide,
    network: nn.Module,
    *,
    per_slide: int,
    rng: np.random.Generator,
    device: torch.device,
) -> None:
    """Predict random blocks of a slide that the network did not learn from."""
    indices = np.sort(rng.permutation(len(slide.grid.xy_px0))[:per_slide]).tolist()
    read = Blocks([slide], cache_bytes=0)
    blocks = [read(0, index) for index in indices]
    measured.add(slide, indices, blocks, predict_blocks(network, blocks, device=device))
