"""The training loop of a segmentation model: slides with polygons in, weights out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR

from wsplf_cli.networks import distributed
from wsplf_cli.networks.augment import augment, zoom
from wsplf_cli.networks.device import autocast
from wsplf_cli.networks.state import average_weights
from wsplf_cli.schema import Tracker
from wsplf_cli.segmentation.sampling import (
    CACHE_BYTES,
    IGNORE,
    BalancedCropSampler,
    Block,
    Blocks,
    TrainingSlide,
)

#: Crops are enlarged or reduced by up to this factor.
ZOOM = 1.3


@dataclass(frozen=True, slots=True)
class FitSettings:
    """The settings of training. An epoch is ``tiles_per_epoch`` random crops, however large the cohort is.

    ``folds``, ``one_network`` and ``alpha``: see ``cross_fit`` and ``operating_point``. The model will predict windows
    of ``window_px``. Blocks of slides are kept in memory up to ``cache_bytes``.
    """

    epochs: int
    tile_px: int
    window_px: int
    folds: int = 1
    one_network: bool = False
    alpha: float = 0.01
    cache_bytes: int = CACHE_BYTES
    batch_size: int = 8
    tiles_per_epoch: int = 400
    learning_rate: float = 2e-3
    encoder_learning_rate: float = 5e-4
    weight_decay: float = 1e-2
    ema_decay: float = 0.98

    @property
    def steps(self) -> int:
        """The optimiser steps of one network."""
        return self.epochs * math.ceil(self.tiles_per_epoch / self.batch_size)


def fit(
    model: nn.Module,
    slides: Sequence[TrainingSlide],
    *,
    settings: FitSettings,
    rng: np.random.Generator,
    device: torch.device,
    tracker: Tracker,
) -> list[float]:
    """Train a segmentation model of one or several classes, and return the mean loss of each epoch.

    Crops are balanced among the classes and their kinds (see ``BalancedCropSampler``) and augmented. The model gets the
    exponential moving average of its weights, and is in eval mode then.

    Args:
        model: [B, 3, H, W] to logits [B, C, H, W]. Its trainable parameters are changed in place.
        slides: Slides with targets for each class, at least one of them with a polygon.
        settings: Epochs, learning rates and sizes.
        rng: Draws the crops and the augmentation.
        device: The device that the model is on.
        tracker: Is told of each step.
    """
    sampler = BalancedCropSampler(
        Blocks(slides, cache_bytes=settings.cache_bytes), side_px=round(ZOOM * settings.tile_px), rng=rng
    )
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    optimiser, schedule = _optimiser(model, settings=settings)
    averaged = average_weights(model, decay=settings.ema_decay)
    network = distributed.parallel(model, tell=tracker.say)
    share = distributed.share_of(settings.batch_size)
    epoch_losses: list[float] = []
    for epoch in range(1, settings.epochs + 1):
        model.train()
        losses = []
        for _ in range(settings.steps // settings.epochs):
            crops = sampler(settings.batch_size)
            tiles, target, weight = as_batch([crop.block for crop in crops])
            tiles, zoomed = zoom(
                tiles, torch.cat([target, weight], dim=1), generator, side_px=settings.tile_px, most=ZOOM
            )
            tiles, layers = augment(tiles, zoomed, generator)
            assert layers is not None
            with autocast(device):
                logits = network(tiles[share].to(device))
            target, weight = layers[share].to(device).chunk(2, dim=1)
            loss = mean_loss(logits.float(), target, weight=weight)
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            averaged.update_parameters(model)
            losses.append(loss.item())
            probability = torch.sigmoid(logits.detach().float()).mean(dim=(2, 3))
            sampler.update_difficulty(crops, distributed.gather(probability, len(crops)).cpu().numpy())
            tracker.advance(1, message=f"epoch {epoch}/{settings.epochs}, loss {np.mean(losses):.3f}")
        epoch_losses.append(float(np.mean(losses)))
    model.load_state_dict(averaged.module.state_dict())
    model.eval()
    return epoch_losses


def mean_loss(logits: Tensor, target: Tensor, *, weight: Tensor) -> Tensor:
    """The mean of ``segmentation_loss`` over the classes; arguments float or uint8 [B, C, H, W]."""
    of_classes = zip(logits.unbind(1), target.unbind(1), weight.unbind(1), strict=True)
    return torch.stack([segmentation_loss(*tensors[:2], weight=tensors[2]) for tensors in of_classes]).mean()


def segmentation_loss(logits: Tensor, target: Tensor, *, weight: Tensor) -> Tensor:
    """The weighted cross-entropy of the pixels, plus half of one minus the soft Dice of the batch.

    The sums are those of the global batch, where several processes train together.

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
    both = (pixel_weight * (probability + truth)).sum()
    sums = torch.stack([common, both, (pixel_weight * entropy).sum(), pixel_weight.sum()])
    common, both, weighted_entropy, whole_weight = distributed.sum_over_processes(sums).unbind()
    dice = (2 * common + 1) / (both + 1)
    return weighted_entropy / whole_weight.clamp(min=1) + 0.5 * (1 - dice)


def as_batch(blocks: Sequence[Block]) -> tuple[Tensor, Tensor, Tensor]:
    """Tiles float [B, 3, S, S] in 0..1, targets and weights uint8 [B, C, S, S]."""
    rgb = torch.from_numpy(np.stack([block.rgb for block in blocks])).permute(0, 3, 1, 2)
    target = torch.from_numpy(np.stack([block.target for block in blocks]))
    weight = torch.from_numpy(np.stack([block.weight for block in blocks]))
    return rgb.float() / 255, target, weight


@torch.no_grad()
def predict_block(model: nn.Module, block: Block, *, window_px: int, device: torch.device) -> NDArray[np.float32]:
    """The probability of each class on a block, float32 [C, S, S], by a model in eval mode, window by window."""
    rgb = as_batch([block])[0].to(device)
    rows = []
    for strip in torch.split(rgb, window_px, dim=2):
        with autocast(device):
            logits = [model(window).float() for window in torch.split(strip, window_px, dim=3)]
        rows.append(torch.cat(logits, dim=3))
    probability: NDArray[np.float32] = torch.sigmoid(torch.cat(rows, dim=2))[0].cpu().numpy()
    return probability


def _optimiser(model: nn.Module, *, settings: FitSettings) -> tuple[torch.optim.Optimizer, LRScheduler]:
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
    warm_up = max(1, settings.steps // 20)
    rise = LinearLR(optimiser, start_factor=1 / warm_up, total_iters=warm_up - 1)
    fall = CosineAnnealingLR(optimiser, T_max=max(1, settings.steps - warm_up))
    return optimiser, SequentialLR(optimiser, [rise, fall], milestones=[warm_up])
