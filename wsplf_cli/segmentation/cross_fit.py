"""Train the networks of a model, each without the patients of one fold, and measure what they draw there.

What is measured on the slides left out chooses the threshold of the model and the confidence that a polygon needs. The
model is the mean of these very networks (as in bagging), so that their probabilities are on its scale: networks that
learn less than the model are less sure of themselves, and their confidences let more through. Where one network is
large already, the model is one more, trained on all slides.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import compress

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from wsplf_cli.cohort.folds import split_by_patient
from wsplf_cli.networks.ensemble import mean_of, members_of
from wsplf_cli.networks.side_by_side import networks_at_once, side_by_side
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
        network: The model, RGB tiles float [B, 3, H, W] in 0..1 to logits [B, C, H, W], in eval mode.
        folds: How many folds there were; 0 for none.
        losses: The loss of each epoch, of each network that the model is the mean of.
        point: Where the model draws, with the Dice out of fold against the polygons that the slides came with.
        held_out: Names of the slides that were predicted out of fold.
        unvalidated: Indices of the classes of which the blocks out of fold hold no pixel.
        pending: Whether some of the polygons compared with are pseudo-labels that nobody has reviewed.
    """

    network: nn.Module
    folds: int
    losses: Sequence[Sequence[float]]
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
    """Train a network without each fold of the patients; on all slides alone where patients are too few for folds.

    There are at least as many networks as folds, and as networks in an ensemble: these take turns.

    Args:
        build: Makes a new network on the device, or an ensemble, of which each network is trained alone.
        slides: Slides with targets for each class, at least one of them with a polygon of each.
        settings: Epochs, folds, learning rates and sizes.
        rng: Draws folds, crops, augmentation and the blocks out of fold.
        device: The device of the networks.
        tracker: Is told of each step.
    """
    measured = OutOfFold(len(slides[0].classes))
    learn = partial(fit, settings=settings, rng=rng, device=device, tracker=tracker)
    learn_all = partial(_learn_side_by_side, settings=settings, rng=rng, device=device, tracker=tracker)
    fold_of = assign_folds(slides, folds=settings.folds, rng=rng)
    networks = members_of(build())
    if fold_of is None:
        tracker.start("train", len(networks) * settings.steps)
        losses = learn_all(networks, [slides] * len(networks))
        return CrossFit(mean_of(networks), 0, losses, measured.operating_point(alpha=settings.alpha))
    folds = int(fold_of.max()) + 1

    def measure(network: nn.Module, fold: int) -> None:
        for slide in compress(slides, fold_of == fold):
            indices = np.sort(rng.permutation(len(slide.grid.xy_px0))[: blocks_of_slide(len(slides))]).tolist()
            _measure(measured, slide, indices, network, window_px=settings.window_px, device=device)

    if settings.one_network:
        tracker.start("train", (folds + 1) * settings.steps)
        for fold in range(folds):
            of_fold = build()
            learn(of_fold, list(compress(slides, fold_of != fold)))
            measure(of_fold, fold)
        losses = [learn(network, slides) for network in networks]
    else:
        count = max(folds, len(networks))
        while len(networks) < count:
            networks += members_of(build())
        networks = networks[:count]
        tracker.start("train", count * settings.steps)
        outside = [list(compress(slides, fold_of != fold)) for fold in range(folds)]
        losses = learn_all(networks, [outside[number % folds] for number in range(count)])
        for fold in range(folds):
            measure(mean_of(networks[fold::folds]), fold)
    return CrossFit(
        mean_of(networks),
        folds,
        losses,
        measured.operating_point(alpha=settings.alpha),
        held_out=tuple(measured.slides),
        unvalidated=measured.unvalidated,
        pending=any(targets.regions.pending for slide in slides for targets in slide.classes),
    )


def _learn_side_by_side(
    networks: Sequence[nn.Module],
    slides: Sequence[Sequence[TrainingSlide]],
    *,
    settings: FitSettings,
    rng: np.random.Generator,
    device: torch.device,
    tracker: Tracker,
) -> list[list[float]]:
    """Train each network on the slides for it, as many networks as possible at the same time; the losses.

    The largest start first: their steps take longest.
    """
    at_once = networks_at_once(networks, device=device)
    settings = replace(settings, cache_bytes=settings.cache_bytes // at_once)
    rngs = rng.spawn(len(networks))

    def learn(number: int, tracker: Tracker) -> list[float]:
        network, of_network = networks[number], slides[number]
        return fit(network, of_network, settings=settings, rng=rngs[number], device=device, tracker=tracker)

    sizes = [sum(parameter.numel() for parameter in network.parameters()) for network in networks]
    largest_first = np.argsort(sizes, stable=True)[::-1].tolist()
    losses = side_by_side(learn, largest_first, at_once=at_once, tracker=tracker)
    return [losses[largest_first.index(number)] for number in range(len(networks))]


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
