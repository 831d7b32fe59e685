"""Train a model on all slides, and others without the patients of one fold each, to measure what such a model draws.

What is measured on the slides left out chooses the threshold of the model and the confidence that a polygon needs. The
networks of the folds learn for fewer epochs and from fewer slides, so that the model itself is rather better than they.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import compress

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from wsplf_cli.cohort.folds import split_by_patient
from wsplf_cli.networks.ensemble import members_of
from wsplf_cli.schema import Tracker
from wsplf_cli.segmentation.operating_point import OperatingPoint, OutOfFold
from wsplf_cli.segmentation.sampling import Blocks, TrainingSlide
from wsplf_cli.segmentation.train import FitSettings, fit, predict_block

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
        network: RGB tiles float [B, 3, H, W] in 0..1 to logits [B, C, H, W], in eval mode.
        folds: How many folds there were; 0 for none.
        losses: The loss of each epoch, of each network that the model is the mean of.
        point: Where the model draws, with the Dice out of fold against the polygons that the slides came with.
        held_out: Names of the slides that were predicted out of fold.
        unvalidated: Indices of the classes of which the blocks out of fold hold no pixel.
        pending: Whether some of the polygons compared with are pseudo-labels that nobody has reviewed.
    """

    network: nn.Module
    folds: int
    losses: tuple[tuple[float, ...], ...]
    point: OperatingPoint
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
    """Train a model, and one for each fold of the patients; none of these where patients are too few.

    Args:
        build: Makes a new network on the device, or an ensemble, of which each network is trained alone.
        slides: Slides with targets for each class, at least one of them with a polygon of each.
        settings: Epochs, folds, learning rates and sizes.
        rng: Draws folds, crops, augmentation and the blocks out of fold.
        device: The device of the networks.
        tracker: Is told of each step.
    """
    fold_of = assign_folds(slides, folds=settings.folds, rng=rng)
    count = 0 if fold_of is None else int(fold_of.max()) + 1
    of_fold = settings.of_fold
    model = build()
    tracker.start("train", len(members_of(model)) * (settings.steps + count * of_fold.steps))
    measured = OutOfFold(len(slides[0].classes))
    for fold in range(count):
        assert fold_of is not None
        held_out = list(compress(slides, fold_of == fold))
        learned_from = list(compress(slides, fold_of != fold))
        network = build()
        _fit_members(network, learned_from, settings=of_fold, rng=rng, device=device, tracker=tracker)
        for slide in held_out:
            indices = np.sort(rng.permutation(len(slide.grid.xy_px0))[: blocks_of_slide(len(slides))]).tolist()
            _measure(measured, slide, indices, network, window_px=settings.window_px, device=device)
    losses = _fit_members(model, slides, settings=settings, rng=rng, device=device, tracker=tracker)
    point = measured.operating_point(alpha=settings.alpha)
    return CrossFit(
        model.eval(),
        count,
        losses,
        point,
        held_out=tuple(measured.slides),
        unvalidated=measured.unvalidated,
        pending=count > 0 and any(targets.regions.pending for slide in slides for targets in slide.classes),
    )


def _fit_members(
    network: nn.Module,
    slides: Sequence[TrainingSlide],
    *,
    settings: FitSettings,
    rng: np.random.Generator,
    device: torch.device,
    tracker: Tracker,
) -> tuple[tuple[float, ...], ...]:
    """Train each network of an ensemble, or the one that there is; the loss of each epoch of each."""
    return tuple(
        tuple(fit(member, slides, settings=settings, rng=rng, device=device, tracker=tracker))
        for member in members_of(network)
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


def blocks_of_slide(slides: int) -> int:
    """How many blocks of each slide are predicted out of fold, of so many slides."""
    return int(np.clip(_BLOCKS // slides, _FEWEST_BLOCKS, _BLOCKS_OF_SLIDE))


def _measure(
    measured: OutOfFold,
    slide: TrainingSlide,
    indices: Sequence[int],
    network: nn.Module,
    *,
    window_px: int,
    device: torch.device,
) -> None:
    """Predict some blocks of a slide that the network did not learn from."""
    read = Blocks([slide], cache_bytes=0)
    blocks = [read(0, index) for index in indices]
    predicted = [predict_block(network, block, window_px=window_px, device=device) for block in blocks]
    measured.add(slide, indices, blocks, np.stack(predicted))
