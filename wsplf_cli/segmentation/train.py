"""The training loop of a segmentation model: slides with polygons in, weights out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR

from wsplf_cli.networks.augment import augment
from wsplf_cli.networks.device import autocast
from wsplf_cli.networks.state import average_weights
from wsplf_cli.schema import Tracker
from wsplf_cli.segmentation.sampling import (
    IGNORE,
    BalancedCropSampler,
    Block,
    Blocks,
    TrainingSlide,
    draw_validation_tiles,
)

State = dict[str, Tensor]

#: Thresholds that the validation chooses from.
THRESHOLDS = np.arange(0.30, 0.91, 0.05)
#: The threshold of the probability until the validation has chosen one.
DEFAULT_THRESHOLD = 0.5
#: Thresholds whose Dice differs by less than this count as equally good.
SAME_DICE = 0.005


@dataclass(frozen=True, slots=True)
class FitSettings:
    """The settings of ``fit``. An epoch is ``tiles_per_epoch`` random crops, however large the cohort is."""

    epochs: int
    tile_px: int
    batch_size: int = 8
    tiles_per_epoch: int = 400
    learning_rate: float = 2e-3
    encoder_learning_rate: float = 5e-4
    weight_decay: float = 1e-2
    ema_decay: float = 0.98
    validation_share: float = 0.2
    max_validation_tiles: int = 240


@dataclass(slots=True)
class LearningCurves:
    """One value for each epoch. The lists of the validation are empty where there is none."""

    loss: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    validation_dice: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class FitResult:
    """What training gives.

    Attributes:
        best: Weights by name of the epoch with the best validation; those of ``last`` where there is no validation.
        last: Weights by name of the last epoch.
        curves: Loss and validation of each epoch.
        best_epoch: The epoch of ``best``, from 1.
        threshold: Probability from which on a pixel belongs to a class.
        dice: Dice of ``best`` at ``threshold`` on the validation tiles, against the polygons that the slides came with;
            None without validation.
        validation_slides: Names of the slides held out for validation.
        unvalidated: Indices of the classes of which the validation tiles hold no pixel.
        pending: Whether some of the polygons of the validation are pseudo-labels that nobody has reviewed.
    """

    best: State
    last: State
    curves: LearningCurves
    best_epoch: int
    threshold: float
    dice: float | None
    validation_slides: tuple[str, ...]
    unvalidated: tuple[int, ...] = ()
    pending: bool = False


def fit(
    model: nn.Module,
    slides: Sequence[TrainingSlide],
    *,
    settings: FitSettings,
    rng: np.random.Generator,
    device: torch.device,
    tracker: Tracker,
) -> FitResult:
    """Train a segmentation model of one or several classes, and return its weights and scores.

    Crops are balanced among the classes and their kinds (see ``BalancedCropSampler``) and augmented. The result is the
    exponential moving average of the weights. A part of the slides, whole patients, is held out to choose the epoch and
    the threshold.

    Args:
        model: [B, 3, H, W] to logits [B, C, H, W]. Its trainable parameters are changed in place.
        slides: Slides with targets for each class, at least one of them with a polygon.
        settings: Epochs, learning rates and sizes.
        rng: Draws the held-out slides, the crops and the augmentation.
        device: The device that the model is on.
        tracker: Is told of each step.
    """
    held_out = hold_out(slides, share=settings.validation_share, rng=rng)
    training_slides = [slide for slide in slides if slide.group not in held_out]
    validation_slides = [slide for slide in slides if slide.group in held_out]
    sampler = BalancedCropSampler(Blocks(training_slides), side_px=settings.tile_px, rng=rng)
    validation_tiles, unvalidated = _validation_tiles(validation_slides, settings, rng)
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    steps = math.ceil(settings.tiles_per_epoch / settings.batch_size)
    optimiser, schedule = _optimiser(model, settings=settings, steps=settings.epochs * steps)
    averaged = average_weights(model, decay=settings.ema_decay)
    predict = partial(predict_tiles, averaged.module, batch_size=settings.batch_size, device=device)
    best, best_epoch, best_score = copy_state(averaged.module), 0, -1.0
    curves = LearningCurves()
    tracker.start("train", settings.epochs * steps)
    for epoch in range(1, settings.epochs + 1):
        model.train()
        losses = []
        for _ in range(steps):
            crops = sampler(settings.batch_size)
            tiles, target, weight = as_batch([crop.block for crop in crops])
            tiles, layers = augment(tiles, torch.cat([target, weight], dim=1), generator)
            assert layers is not None
            with autocast(device):
                logits = model(tiles.to(device))
            target, weight = layers.to(device).chunk(2, dim=1)
            loss = mean_loss(logits.float(), target, weight=weight)
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            averaged.update_parameters(model)
            losses.append(loss.item())
            sampler.update_difficulty(crops, torch.sigmoid(logits.detach().float()).mean(dim=(2, 3)).cpu().numpy())
            tracker.advance(1, message=f"epoch {epoch}/{settings.epochs}, loss {np.mean(losses):.3f}")
        curves.loss.append(float(np.mean(losses)))
        score = float(epoch)
        if validation_tiles:
            probability = predict(validation_tiles)
            curves.validation_loss.append(_validation_loss(probability, validation_tiles))
            score = pooled_dice(probability, validation_tiles, threshold=DEFAULT_THRESHOLD)
            curves.validation_dice.append(score)
        if score >= best_score:
            best, best_epoch, best_score = copy_state(averaged.module), epoch, score
    last = copy_state(averaged.module)
    averaged.module.load_state_dict(best)
    threshold, dice = DEFAULT_THRESHOLD, None
    if validation_tiles:
        threshold, dice = choose_threshold(predict(validation_tiles), validation_tiles)
    model.load_state_dict(best)
    model.eval()
    return FitResult(
        best,
        last,
        curves,
        best_epoch,
        threshold=threshold,
        dice=dice,
        validation_slides=tuple(slide.name for slide in validation_slides),
        unvalidated=unvalidated,
        pending=any(targets.regions.pending for slide in validation_slides for targets in slide.classes),
    )


def hold_out(slides: Sequence[TrainingSlide], *, share: float, rng: np.random.Generator) -> frozenset[str]:
    """The groups (patients) held out for validation: about ``share`` of those with polygons and of those without.

    At least one group with polygons of each class is held out, unless no other would be left to train on. Where that is
    so for all classes, there is no validation.
    """
    classes = range(len(slides[0].classes))
    with_polygons = [
        {slide.group for slide in slides if slide.classes[class_index].has_polygons} for class_index in classes
    ]
    held_out: list[str] = []
    for groups in with_polygons:
        if len(groups) < 2:
            continue
        missing = max(1, round(share * len(groups))) - len(groups.intersection(held_out))
        for group in rng.permutation(sorted(groups - set(held_out))).tolist():
            remaining = [others - {*held_out, group} for others in with_polygons if others]
            if missing > 0 and all(remaining):
                held_out.append(group)
                missing -= 1
    without_polygons = sorted({slide.group for slide in slides} - set[str]().union(*with_polygons))
    if held_out and len(without_polygons) >= 2:
        held_out += rng.permutation(without_polygons)[: max(1, round(share * len(without_polygons)))].tolist()
    return frozenset(held_out)


def mean_loss(logits: Tensor, target: Tensor, *, weight: Tensor) -> Tensor:
    """The mean of ``segmentation_loss`` over the classes; arguments float or uint8 [B, C, H, W]."""
    of_classes = zip(logits.unbind(1), target.unbind(1), weight.unbind(1), strict=True)
    return torch.stack([segmentation_loss(*tensors[:2], weight=tensors[2]) for tensors in of_classes]).mean()


def segmentation_loss(logits: Tensor, target: Tensor, *, weight: Tensor) -> Tensor:
    """The weighted cross-entropy of the pixels, plus half of one minus the soft Dice of the batch.

    Args:
        logits: Float [B, H, W].
        target: [B, H, W] of 0, 1 and IGNORE.
        weight: [B, H, W] in percent.
    """
    pixel_weight = weight.float() / 100 * (target != IGNORE)
    truth = (target == 1).float()
    entropy = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    probability = torch.sigmoid(logits)
    common = (pixel_weight * probability * truth).sum()
    total = (pixel_weight * (probability + truth)).sum()
    dice = (2 * common + 1) / (total + 1)
    return (pixel_weight * entropy).sum() / pixel_weight.sum().clamp(min=1) + 0.5 * (1 - dice)


def as_batch(blocks: Sequence[Block]) -> tuple[Tensor, Tensor, Tensor]:
    """Tiles float [B, 3, S, S] in 0..1, targets and weights uint8 [B, C, S, S]."""
    rgb = torch.from_numpy(np.stack([block.rgb for block in blocks])).permute(0, 3, 1, 2)
    target = torch.from_numpy(np.stack([block.target for block in blocks]))
    weight = torch.from_numpy(np.stack([block.weight for block in blocks]))
    return rgb.float() / 255, target, weight


@torch.no_grad()
def predict_tiles(
    model: nn.Module, tiles: Sequence[Block], *, batch_size: int, device: torch.device
) -> NDArray[np.float32]:
    """The probability of each class, float32 [N, C, S, S], by a model in eval mode."""
    probabilities = []
    for first in range(0, len(tiles), batch_size):
        rgb, _, _ = as_batch(tiles[first : first + batch_size])
        with autocast(device):
            logits = model(rgb.to(device))
        probabilities.append(torch.sigmoid(logits.float()).cpu().numpy())
    return np.concatenate(probabilities)


def pooled_dice(probability: NDArray[np.float32], tiles: Sequence[Block], *, threshold: float) -> float:
    """The Dice of the pixels of all tiles and all classes together, without the ignored ones."""
    common = predicted = truth = 0
    for tile_probability, tile in zip(probability, tiles, strict=True):
        mask = (tile_probability >= threshold) & (tile.target != IGNORE)
        common += int((mask & (tile.target == 1)).sum())
        predicted += int(mask.sum())
        truth += int((tile.target == 1).sum())
    return 2 * common / (predicted + truth) if predicted + truth else 1.0


def choose_threshold(probability: NDArray[np.float32], tiles: Sequence[Block]) -> tuple[float, float]:
    """The middle one of the thresholds with the best pooled Dice, and its Dice. All classes share one threshold.

    Training shows the class more often than it occurs, so that 0.5 is rarely the best threshold. The middle of a
    plateau is the safest choice for slides that were not in the validation.
    """
    scores = np.array([pooled_dice(probability, tiles, threshold=float(threshold)) for threshold in THRESHOLDS])
    best = np.flatnonzero(scores >= scores.max() - SAME_DICE)
    middle = best[len(best) // 2]
    return round(float(THRESHOLDS[middle]), 2), float(scores[middle])


def copy_state(model: nn.Module) -> State:
    """A copy of the weights by name, on the CPU."""
    return {key: value.detach().cpu().clone() for key, value in model.state_dict().items()}


def _validation_tiles(
    slides: Sequence[TrainingSlide], settings: FitSettings, rng: np.random.Generator
) -> tuple[list[Block], tuple[int, ...]]:
    """Tiles of the slides, and the indices of the classes of which no tile holds a pixel; no tiles if none of any."""
    tiles = draw_validation_tiles(
        Blocks(slides), side_px=settings.tile_px, max_tiles=settings.max_validation_tiles, rng=rng
    )
    classes = range(len(slides[0].classes)) if slides else range(0)
    missing = tuple(index for index in classes if not any((tile.target[index] == 1).any() for tile in tiles))
    return [] if len(missing) == len(classes) else tiles, missing


def _validation_loss(probability: NDArray[np.float32], tiles: Sequence[Block]) -> float:
    """The mean loss of probabilities [N, C, S, S] on the tiles."""
    _, target, weight = as_batch(tiles)
    logits = torch.logit(torch.from_numpy(probability), eps=1e-6)
    return float(mean_loss(logits, target, weight=weight))


def _optimiser(model: nn.Module, *, settings: FitSettings, steps: int) -> tuple[torch.optim.Optimizer, LRScheduler]:
    """AdamW with a lower learning rate for a pretrained encoder, and a warm-up followed by a cosine down to zero."""
    encoder = getattr(model, "backbone", None)
    of_encoder = {id(parameter) for parameter in encoder.parameters()} if isinstance(encoder, nn.Module) else set()
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(
        [
            {
                "params": [parameter for parameter in trainable if id(parameter) in of_encoder],
                "lr": settings.encoder_learning_rate,
            },
            {
                "params": [parameter for parameter in trainable if id(parameter) not in of_encoder],
                "lr": settings.learning_rate,
            },
        ],
        weight_decay=settings.weight_decay,
    )
    warm_up = max(1, steps // 20)
    rise = LinearLR(optimiser, start_factor=1 / warm_up, total_iters=warm_up - 1)
    fall = CosineAnnealingLR(optimiser, T_max=max(1, steps - warm_up))
    return optimiser, SequentialLR(optimiser, [rise, fall], milestones=[warm_up])
