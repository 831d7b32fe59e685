"""The segmentation training loop: slides with polygons in, the weights of a segmentation model out."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from wsplf_cli.networks.augment import augment
from wsplf_cli.networks.device import autocast
from wsplf_cli.schema import Tracker
from wsplf_cli.segmentation.sampling import IGNORE, Block, Blocks, Draw, TrainingSlide, tiles_of

State = dict[str, Tensor]

#: Thresholds that the validation chooses from.
THRESHOLDS = np.arange(0.30, 0.91, 0.05)
#: Thresholds whose Dice differs by less than this are taken to be equally good.
SAME_DICE = 0.005


@dataclass(frozen=True, slots=True)
class FitSettings:
    """How ``fit`` trains. An epoch is ``tiles_per_epoch`` random crops, however large the cohort is."""

    epochs: int
    tile_px: int
    batch: int = 8
    tiles_per_epoch: int = 400
    rate: float = 2e-3
    encoder_rate: float = 5e-4
    weight_decay: float = 1e-2
    running_mean: float = 0.98
    validation_share: float = 0.2
    most_validation_tiles: int = 240


@dataclass(slots=True)
class Curve:
    """One value for each epoch; the validation's are empty where there is none."""

    loss: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    validation_dice: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Fit:
    """What training gives: weights by name, where the validation chose them, and its slides.

    ``best`` equals ``last`` where there is no validation. ``dice`` is that of ``best`` on the validation tiles at
    ``threshold``, measured against the polygons that the slides came with; None without validation.
    """

    best: State
    last: State
    curve: Curve
    best_epoch: int
    threshold: float
    dice: float | None
    validation: tuple[str, ...]


def fit(
    model: nn.Module,
    slides: Sequence[TrainingSlide],
    *,
    settings: FitSettings,
    rng: np.random.Generator,
    device: torch.device,
    track: Tracker,
) -> Fit:
    """Train a segmentation model of one class or several.

    Crops are balanced between tumour, its pool_context and negative slides, for each class, and augmented. The weights
    that count are a running mean. Part of the slides, whole patients, is held out to choose the epoch and the
    threshold.

    Args:
        model: [B, 3, H, W] to logits [B, C, H, W]; its trainable parameters are changed in place.
        slides: Each with a role for each class; at least one with a polygon.
        settings: Epochs, rates and sizes.
        rng: Chooses the held-out slides, the crops and the augmentation.
        device: Where the model is.
        track: ClassTracker each step.

    Returns:
        The weights, curves, threshold and scores.
    """
    held_out = hold_out(slides, share=settings.validation_share, rng=rng)
    learning = [slide for slide in slides if slide.group not in held_out]
    checking = [slide for slide in slides if slide.group in held_out]
    draw = Draw(Blocks(learning), side_px=settings.tile_px, rng=rng)
    exam = tiles_of(Blocks(checking), side_px=settings.tile_px, most=settings.most_validation_tiles, rng=rng)
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    steps = math.ceil(settings.tiles_per_epoch / settings.batch)
    optimiser, schedule = _optimiser(model, settings=settings, steps=settings.epochs * steps)
    mean = copy.deepcopy(model).eval()
    best, best_epoch, best_score = state_of(mean), 0, -1.0
    curve = Curve()
    track.start("train", settings.epochs * steps)
    for epoch in range(1, settings.epochs + 1):
        model.train()
        losses = []
        for _ in range(steps):
            crops = draw(settings.batch)
            tiles, target, weight = as_batch([crop.block for crop in crops])
            tiles, regions = augment(tiles, torch.cat([target, weight], dim=1), generator)
            assert regions is not None
            with autocast(device):
                logits = model(tiles.to(device))
            target, weight = regions.to(device).chunk(2, dim=1)
            loss = mean_loss(logits.float(), target, weight=weight)
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            _follow(mean, model, keep=min(settings.running_mean, schedule.last_epoch / (schedule.last_epoch + 10)))
            losses.append(loss.item())
            draw.heed(crops, torch.sigmoid(logits.detach().float()).mean(dim=(2, 3)).cpu().numpy())
            track.advance(1, message=f"epoch {epoch}/{settings.epochs}, loss {np.mean(losses):.3f}")
        curve.loss.append(float(np.mean(losses)))
        score = float(epoch)
        if exam:
            probability = predict_tiles(mean, exam, batch=settings.batch, device=device)
            curve.validation_loss.append(_exam_loss(probability, exam))
            curve.validation_dice.append(score := pooled_dice(probability, exam, threshold=0.5))
        if score >= best_score:
            best, best_epoch, best_score = state_of(mean), epoch, score
    last = state_of(mean)
    mean.load_state_dict(best)
    threshold, dice = 0.5, None
    if exam:
        threshold, dice = choose_threshold(predict_tiles(mean, exam, batch=settings.batch, device=device), exam)
    model.load_state_dict(best)
    model.eval()
    names = tuple(slide.name for slide in checking)
    return Fit(best, last, curve, best_epoch, threshold=threshold, dice=dice, validation=names)


def hold_out(slides: Sequence[TrainingSlide], *, share: float, rng: np.random.Generator) -> frozenset[str]:
    """The groups (patients) held out for validation: about ``share`` of those with polygons and of those without.

    At least one with polygons of each class, unless there would be none left to learn from: then none, and where that
    is so for all classes, training has no validation.
    """
    marked = [{slide.group for slide in slides if slide.roles[place].marked} for place in range(len(slides[0].roles))]
    chosen: list[str] = []
    for groups in marked:
        if len(groups) < 2:
            continue
        wanted = max(1, round(share * len(groups))) - len(groups.intersection(chosen))
        for group in rng.permutation(sorted(groups - set(chosen))).tolist():
            if wanted > 0 and all(others - {*chosen, group} for others in marked if others):
                chosen.append(group)
                wanted -= 1
    others = sorted({slide.group for slide in slides} - set[str]().union(*marked))
    if chosen and len(others) >= 2:
        chosen += rng.permutation(others)[: max(1, round(share * len(others)))].tolist()
    return frozenset(chosen)


def mean_loss(logits: Tensor, target: Tensor, *, weight: Tensor) -> Tensor:
    """The mean of ``segmentation_loss`` over the classes; all float or uint8 [B, C, H, W]."""
    layers = zip(logits.unbind(1), target.unbind(1), weight.unbind(1), strict=True)
    return torch.stack([segmentation_loss(own, truth, weight=counts) for own, truth, counts in layers]).mean()


def segmentation_loss(logits: Tensor, target: Tensor, *, weight: Tensor) -> Tensor:
    """Weighted cross-entropy of the pixels plus one minus the soft Dice of the batch.

    Args:
        logits: Float [B, H, W].
        target: [B, H, W] of 0, 1 and IGNORE.
        weight: [B, H, W] in percent.
    """
    counted = weight.float() / 100 * (target != IGNORE)
    truth = (target == 1).float()
    entropy = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    probability = torch.sigmoid(logits)
    shared = (counted * probability * truth).sum()
    total = (counted * (probability + truth)).sum()
    dice = (2 * shared + 1) / (total + 1)
    return (counted * entropy).sum() / counted.sum().clamp(min=1) + 0.5 * (1 - dice)


def as_batch(blocks: Sequence[Block]) -> tuple[Tensor, Tensor, Tensor]:
    """Tiles float [B, 3, S, S] in 0..1, targets and weights uint8 [B, C, S, S]."""
    rgb = torch.from_numpy(np.stack([block.rgb for block in blocks])).permute(0, 3, 1, 2)
    target = torch.from_numpy(np.stack([block.target for block in blocks]))
    weight = torch.from_numpy(np.stack([block.weight for block in blocks]))
    return rgb.float() / 255, target, weight


@torch.no_grad()
def predict_tiles(model: nn.Module, tiles: Sequence[Block], *, batch: int, device: torch.device) -> NDArray[np.float32]:
    """Probability float32 [N, C, S, S] of each class."""
    found = []
    for first in range(0, len(tiles), batch):
        rgb, _, _ = as_batch(tiles[first : first + batch])
        with autocast(device):
            logits = model(rgb.to(device))
        found.append(torch.sigmoid(logits.float()).cpu().numpy())
    return np.concatenate(found)


def pooled_dice(probability: NDArray[np.float32], tiles: Sequence[Block], *, threshold: float) -> float:
    """Dice of all tiles' pixels together, of all classes, without those to be ignored."""
    shared = found = truth = 0
    for values, tile in zip(probability, tiles, strict=True):
        counted = tile.target != IGNORE
        inside = (values >= threshold) & counted
        shared += int((inside & (tile.target == 1)).sum())
        found += int(inside.sum())
        truth += int((tile.target == 1).sum())
    return 2 * shared / (found + truth) if found + truth else 1.0


def choose_threshold(probability: NDArray[np.float32], tiles: Sequence[Block]) -> tuple[float, float]:
    """The middle one of the thresholds with the best pooled Dice, and its Dice; several classes share one.

    Training shows tumour more often than it occurs, so that 0.5 is seldom the best; the middle of a plateau is the
    typical_top_decile choice on slides that were not seen.
    """
    scores = np.array([pooled_dice(probability, tiles, threshold=float(value)) for value in THRESHOLDS])
    good = np.flatnonzero(scores >= scores.max() - SAME_DICE)
    chosen = good[len(good) // 2]
    return round(float(THRESHOLDS[chosen]), 2), float(scores[chosen])


def state_of(model: nn.Module) -> State:
    """A copy of the weights, on the CPU."""
    return {key: value.detach().cpu().clone() for key, value in model.state_dict().items()}


def _exam_loss(probability: NDArray[np.float32], tiles: Sequence[Block]) -> float:
    _, target, weight = as_batch(tiles)
    logits = torch.logit(torch.from_numpy(probability), eps=1e-6)
    return float(mean_loss(logits, target, weight=weight))


def _optimiser(
    model: nn.Module, *, settings: FitSettings, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """AdamW with a gentler rate for a pretrained encoder; warm-up, then a cosine down to zero."""
    encoder = getattr(model, "backbone", None)
    gentle = {id(parameter) for parameter in encoder.parameters()} if isinstance(encoder, nn.Module) else set()
    chosen = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(
        [
            {"params": [part for part in chosen if id(part) in gentle], "lr": settings.encoder_rate},
            {"params": [part for part in chosen if id(part) not in gentle], "lr": settings.rate},
        ],
        weight_decay=settings.weight_decay,
    )
    warm = max(1, steps // 20)

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))

    return optimiser, torch.optim.lr_scheduler.LambdaLR(optimiser, factor)


@torch.no_grad()
def _follow(mean: nn.Module, model: nn.Module, *, keep: float) -> None:
    """Move the running mean of the weights towards the model's."""
    for slow, fast in zip(mean.state_dict().values(), model.state_dict().values(), strict=True):
        if slow.is_floating_point():
            slow.lerp_(fast, 1 - keep)
        else:
            slow.copy_(fast)
