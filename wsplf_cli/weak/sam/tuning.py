"""Tuning SAM's mask decoder on given masks: the paper's knowledge transfer.

The image encoder is frozen, so an epoch never reads a window: it takes the embeddings that were computed once. The
masks come from a CAM, or from SAM itself on prompts from the CAM, and some of them are wrong. Hence the weights, and a
loss that yields where the decoder and a mask keep contradicting each other.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from wsplf_cli.networks.sam import Sam
from wsplf_cli.schema import Prompt, Tracker
from wsplf_cli.weak.prompts import FOREGROUND, Strategy


@dataclass(frozen=True, slots=True)
class Example:
    """One window to learn from, all in ``m`` x ``m`` pixels, the size of SAM's mask logits.

    ``embedding`` gives the window's embedding float16 [C, g, g]. Prompts are made of ``cam`` float32 [m, m] in 0..1.
    ``target`` bool [m, m] is the mask to predict, ``weight`` float32 [m, m] in 0..1 says how far it is trusted.
    """

    embedding: Callable[[], NDArray[np.float16]]
    cam: NDArray[np.float32]
    target: NDArray[np.bool_]
    weight: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class TuneSettings:
    """How ``tune`` trains.

    ``multimask``: all four masks of a prompt learn, else only SAM's single answer. ``robust``: ``robust_loss``, else
    ``overlap_loss``.
    """

    epochs: int = 6
    batch: int = 4
    rate: float = 2e-4
    weight_decay: float = 1e-2
    multimask: bool = True
    robust: bool = True


@dataclass(slots=True)
class Curve:
    """Mean loss of each epoch."""

    loss: list[float] = field(default_factory=list)


def tune(
    sam: Sam,
    examples: Sequence[Example],
    *,
    strategy: Strategy,
    settings: TuneSettings,
    rng: np.random.Generator,
    track: Tracker,
) -> Curve:
    """Tune the mask decoder of a SAM, in place; the encoders stay as they are.

    Args:
        sam: Has its own copy of the decoder (``with_own_decoder``).
        examples: The windows.
        strategy: Makes new prompts each time, as it does when the decoder is used.
        settings: Epochs, rates and sizes.
        rng: For the order of the windows and the prompts.
        track: Is told each step.

    Returns:
        The curve of the loss.
    """
    decoder = sam.network.mask_decoder
    optimiser = torch.optim.AdamW(decoder.parameters(), lr=settings.rate, weight_decay=settings.weight_decay)
    steps = settings.epochs * steps_of(len(examples), settings)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=max(1, steps))
    curve = Curve()
    decoder.train()
    for epoch in range(1, settings.epochs + 1):
        losses = []
        order = rng.permutation(len(examples))
        for first in range(0, len(order), settings.batch):
            batch = [examples[index] for index in order[first : first + settings.batch]]
            terms = [_window_loss(sam, example, strategy=strategy, settings=settings, rng=rng) for example in batch]
            prompted = [term for term in terms if term is not None]
            if prompted:
                total = torch.stack(prompted).mean()
                optimiser.zero_grad()
                torch.autograd.backward(total)
                torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
                optimiser.step()
                schedule.step()
                losses.append(total.item())
            track.advance(1, message=f"epoch {epoch}/{settings.epochs}, loss {np.mean(losses or [np.nan]):.3f}")
        curve.loss.append(float(np.mean(losses)) if losses else float("nan"))
    decoder.eval()
    return curve


def steps_of(examples: int, settings: TuneSettings) -> int:
    """Steps of one epoch."""
    return -(-examples // settings.batch)


def robust_loss(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Cross-entropy and Dice in which hard pixels count less, after OEEM (Li et al., MICCAI 2022).

    A pixel that the decoder contradicts is more often a wrong pixel of the mask than a hard one. So a pixel weighs as
    much as the likelihood that the decoder gives the mask there, relative to the window's mean.
    """
    entropy = functional.binary_cross_entropy_with_logits(logits, target.expand_as(logits), reduction="none")
    ease = torch.exp(-entropy.detach())
    counted = weight * ease / (weight * ease).sum((2, 3), keepdim=True).clamp(min=1e-6) * weight.sum((2, 3), True)
    share = torch.sigmoid(logits)
    both = (counted * share * target).sum((2, 3))
    dice = 1 - (2 * both + 1) / ((counted * (share + target)).sum((2, 3)) + 1)
    return (counted * entropy).sum((2, 3)) / weight.sum((2, 3)).clamp(min=1e-6) + dice


def overlap_loss(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Dice and IoU loss that trusts every pixel of the mask: EP-SAM's."""
    share = torch.sigmoid(logits)
    both = (weight * share * target).sum((2, 3))
    total = (weight * (share + target)).sum((2, 3))
    return (1 - (2 * both + 1) / (total + 1)) + (1 - (both + 1) / (total - both + 1))


def target_of(prompt: Prompt, example: Example) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """The mask that a prompt asks for, bool [m, m], and how far it is trusted, float32 [m, m].

    A prompt for one component of the CAM asks for the part of the mask there. Nobody knows whether other parts of the
    mask belong to it, so they get no weight.
    """
    cam_components, _ = ndimage.label(example.cam >= FOREGROUND, structure=np.ones((3, 3)))
    points = prompt.points_px[prompt.point_labels == 1].astype(np.intp)
    prompted = np.setdiff1d(np.unique(cam_components[points[:, 1], points[:, 0]]), [0])
    mask_components, _ = ndimage.label(example.target, structure=np.ones((3, 3)))
    wanted = np.setdiff1d(np.unique(mask_components[np.isin(cam_components, prompted)]), [0])
    target = np.isin(mask_components, wanted)
    return target, np.where(example.target & ~target, np.float32(0), example.weight)


def _window_loss(
    sam: Sam, example: Example, *, strategy: Strategy, settings: TuneSettings, rng: np.random.Generator
) -> Tensor | None:
    """The loss of one window, None where its CAM prompts nothing."""
    prompts = strategy(example.cam, rng)
    if not prompts:
        return None
    targets, weights = zip(*(target_of(prompt, example) for prompt in prompts), strict=True)
    target, weight = (
        torch.from_numpy(np.stack(layers).astype(np.float32)).to(sam.device)[:, None] for layers in (targets, weights)
    )
    embedding = torch.from_numpy(example.embedding()).to(sam.device).float()
    logits, estimated_iou = sam.logits(embedding, prompts, window_px=len(example.cam))
    losses = (robust_loss if settings.robust else overlap_loss)(logits, target, weight)
    total = losses[:, 0]
    if settings.multimask:  # as SAM was trained: the best of the three alternatives learns
        total = total + losses[:, 1:].min(dim=1).values + 0.05 * losses[:, 1:].mean(dim=1)
    iou = _iou(logits.detach(), target, weight)
    return (total + functional.mse_loss(estimated_iou, iou, reduction="none").mean(dim=1)).mean()


def _iou(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Weighted IoU [P, 4] of the masks with the targets: what SAM's own estimates should be."""
    mask = (logits > 0).float() * weight
    both = (mask * target).sum((2, 3))
    return both / (mask.sum((2, 3)) + (weight * target).sum((2, 3)) - both).clamp(min=1e-6)
