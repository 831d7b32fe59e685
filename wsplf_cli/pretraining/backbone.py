"""Trains the ``small`` backbone on synthetic tissue: to tell structures, nuclei and attributes, not tumour.

    python -m wsplf_cli.pretraining backbone --seed 0

with the defaults below made the weights that ship (54 minutes on one busy core). On held-out canvases, 90.8 % of the
locations have the right structure, nuclei have a Dice of 0.69, and 40 % of the variance of the attributes is explained.

The labels of a pixel of synthetic tissue are its structure (stroma, gland, lumen, lymphoid, fat, ...), whether it is
nucleus, the radius of the nuclei around it, and the attributes of the tissue (synthetic/attributes.py). If one linear
layer can predict them from a feature map, the map holds the terms of histology, and classifiers of slides can use them.
No slide, label or outside weight is used.
"""

import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from wsplf_cli.networks.augment import augment
from wsplf_cli.networks.backbone import Backbone, small_trunk
from wsplf_cli.schema import Tracker
from wsplf_cli.synthetic.attributes import NAMES, attributes
from wsplf_cli.synthetic.kinds import STRUCTURES
from wsplf_cli.synthetic.tissue import random_layout, render_layout

STEPS = 4500
CANVASES = 1500
BATCH = 12
CROP_PX = 224
CANVAS_PX = 640
MPP_RANGE = (0.8, 1.3)
#: The weight of the attributes beside structure, nuclei and radius.
ATTRIBUTE_WEIGHT = 2.0
_UPSCALE = 2
"""Structure and nuclei are predicted at half the stride of the features: 2 x 2 locations for each feature."""


@dataclass(frozen=True, slots=True)
class Canvas:
    """A synthetic image with its labels.

    ``layers`` uint8 [7, H, W]: RGB, structure, nucleus mask, nucleus radius in tenths of a um, and code. ``table``
    float32 [n, K]: the attributes of each code (see ``synthetic.attributes``).
    """

    layers: NDArray[np.uint8]
    table: NDArray[np.float32]


class LinearDecoder(nn.Module):
    """Two linear layers that predict the labels from features [B, D, h, w].

    One gives structures, nucleus and log radius [B, S + 2, 2h, 2w], the other the attributes [B, K, h, w].
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Conv2d(channels, (len(STRUCTURES) + 2) * _UPSCALE**2, kernel_size=1)
        self.attributes = nn.Conv2d(channels, len(NAMES), kernel_size=1)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Both predictions from features."""
        labels: Tensor = functional.pixel_shuffle(self.linear(features), _UPSCALE)
        predicted_attributes: Tensor = self.attributes(features)
        return labels, predicted_attributes


def pretrain(out: Path, *, seed: int, steps: int, canvases: int, batch: int, tracker: Tracker) -> dict[str, float]:
    """Train the backbone, write its trunk's weights in half precision to ``out``, and return its scores.

    Args:
        out: The safetensors file to write.
        seed: Seed of the tissue, the crops and the initial weights.
        steps: Optimiser steps.
        canvases: Synthetic images of 640 x 640 px from which tiles are cropped; one in twenty is held out.
        batch: Tiles in a step.
        tracker: Is told of each canvas and of each step.

    Returns:
        On held-out canvases "structure_accuracy", "nucleus_dice", and the explained share of the variance of each
        attribute, "explained of NAME"; and "seconds".
    """
    start = time.monotonic()
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    tracker.start("synthetic tissue", canvases)
    all_canvases = _standardised(list(_generate_all(seed, canvases, tracker)))
    held_out_count = max(1, canvases // 20)
    held_out, training = all_canvases[:held_out_count], all_canvases[held_out_count:]
    backbone = Backbone(small_trunk(), mean=(0.5,) * 3, std=(0.25,) * 3)
    decoder = LinearDecoder(backbone.channels)
    network = nn.ModuleList([backbone, decoder])
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=1.5e-3, total_steps=steps, pct_start=0.1)
    averaged = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.995))  # type: ignore[no-untyped-call]
    generator = torch.Generator().manual_seed(seed)
    tracker.start("backbone", steps)
    smoothed_loss = 0.0
    for step in range(steps):
        tiles, targets = _random_crops(training, rng, count=batch)
        augmented, turned = augment(tiles, targets, generator)
        assert turned is not None
        labels, predicted_attributes = decoder(backbone(augmented))
        loss = label_loss(labels, turned[:, :3])
        loss = loss + ATTRIBUTE_WEIGHT * attribute_loss(predicted_attributes, turned[:, 3:])
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        averaged.update_parameters(network)
        smoothed_loss = loss.item() if step == 0 else 0.98 * smoothed_loss + 0.02 * loss.item()
        tracker.advance(1, message=f"loss {smoothed_loss:.3f}")
        if step % 500 == 499:
            tracker.say(f"step {step + 1}: loss {smoothed_loss:.3f}, {time.monotonic() - start:.0f} s")
            _save_trunk(averaged.module.get_submodule("0"), out)
    final_backbone, final_decoder = averaged.module.get_submodule("0"), averaged.module.get_submodule("1")
    scores = evaluate(final_backbone, final_decoder, held_out, seed=seed)
    _save_trunk(final_backbone, out)
    return scores | {"seconds": time.monotonic() - start}


def label_loss(labels: Tensor, targets: Tensor) -> Tensor:
    """The cross-entropies of structure and nucleus share, plus the squared error of the log radius of nuclei.

    Args:
        labels: Float [B, S + 2, h, w].
        targets: Float [B, 3, H, W]: structure id, nucleus mask, nucleus radius in um (0 where there is none).
    """
    factor = targets.shape[-1] // labels.shape[-1]
    structure = targets[:, 0, factor // 2 :: factor, factor // 2 :: factor].long()
    share = functional.avg_pool2d(targets[:, 1:2], factor)[:, 0]
    radius = functional.avg_pool2d(targets[:, 1:2] * targets[:, 2:3], factor)[:, 0] / share.clamp(min=1e-3)
    has_nucleus = (share > 0.2).float()
    squared_error = (labels[:, -1] - radius.clamp(min=1.0).log()) ** 2
    return (
        functional.cross_entropy(labels[:, :-2], structure)
        + functional.binary_cross_entropy_with_logits(labels[:, -2], share)
        + 2.0 * (squared_error * has_nucleus).sum() / has_nucleus.sum().clamp(min=1.0)
    )


def attribute_loss(predicted: Tensor, targets: Tensor) -> Tensor:
    """The mean Huber loss of attributes float [B, K, h, w], where they are known.

    Targets are float [B, K, H, W], NaN where an attribute is not known.
    """
    factor = targets.shape[-1] // predicted.shape[-1]
    truth = targets[:, :, factor // 2 :: factor, factor // 2 :: factor]
    known = ~truth.isnan()
    return functional.huber_loss(predicted[known], truth[known]) if known.any() else 0.0 * predicted.sum()


@torch.no_grad()
def evaluate(backbone: nn.Module, decoder: nn.Module, held_out: list[Canvas], *, seed: int) -> dict[str, float]:
    """Scores on held-out canvases: accuracy of the structure, Dice of nuclei, explained variance of attributes."""
    backbone.eval()
    tiles, targets = _random_crops(held_out, np.random.default_rng(seed), count=64)
    labels, predicted_attributes = decoder(backbone(tiles))
    factor = targets.shape[-1] // labels.shape[-1]
    structure = targets[:, 0, factor // 2 :: factor, factor // 2 :: factor].long()
    share = functional.avg_pool2d(targets[:, 1:2], factor)[:, 0]
    nucleus, truth = labels[:, -2] > 0, share > 0.5
    accuracy = (labels[:, :-2].argmax(dim=1) == structure).float().mean().item()
    dice = 2 * (nucleus & truth).sum().item() / max(1, nucleus.sum().item() + truth.sum().item())
    stride = targets.shape[-1] // predicted_attributes.shape[-1]
    true_attributes = targets[:, 3:, stride // 2 :: stride, stride // 2 :: stride]
    scores = {"structure_accuracy": accuracy, "nucleus_dice": dice}
    of_attributes = zip(NAMES, predicted_attributes.movedim(1, 0), true_attributes.movedim(1, 0), strict=True)
    for name, predicted, attribute in of_attributes:
        known = ~attribute.isnan()
        if known.sum() < 2:
            continue
        error = (predicted[known] - attribute[known]).square().mean() / attribute[known].var().clamp(min=1e-6)
        scores[f"explained of {name}"] = 1.0 - error.item()
    return scores


def _generate_all(seed: int, canvases: int, tracker: Tracker) -> Iterator[Canvas]:
    """The canvases in order, generated in two processes."""
    with ProcessPoolExecutor(max_workers=2) as pool:
        for canvas in pool.map(_generate, [(seed, index) for index in range(canvases)], chunksize=8):
            tracker.advance()
            yield canvas


def _generate(key: tuple[int, int]) -> Canvas:
    """One canvas, with attributes that are not standardised."""
    rng = np.random.default_rng(key)
    layout = random_layout(rng, (CANVAS_PX, CANVAS_PX), rng.uniform(*MPP_RANGE))
    image = render_layout(rng, layout)
    codes, table = attributes(layout)
    radius = np.clip(image.nucleus_radius_um * 10, 0, 255)
    layers = [*image.rgb.transpose(2, 0, 1), image.structure, image.nuclei, radius, codes]
    return Canvas(np.stack([layer.astype(np.uint8) for layer in layers]), table)


def _standardised(canvases: list[Canvas]) -> list[Canvas]:
    """The canvases with their attributes in standard deviations from the mean over all canvases."""
    rows = np.concatenate([canvas.table for canvas in canvases])
    mean, deviation = np.nanmean(rows, axis=0), np.nanstd(rows, axis=0) + 1e-3
    return [replace(canvas, table=((canvas.table - mean) / deviation).astype(np.float32)) for canvas in canvases]


def _random_crops(canvases: list[Canvas], rng: np.random.Generator, *, count: int) -> tuple[Tensor, Tensor]:
    """Random tiles float [B, 3, H, W] in 0..1, and their targets float [B, 3 + K, H, W] for the two losses."""
    crops, attribute_maps = [], []
    for _ in range(count):
        canvas = canvases[rng.integers(len(canvases))]
        row, column = rng.integers(0, CANVAS_PX - CROP_PX + 1, size=2)
        crop = canvas.layers[:, row : row + CROP_PX, column : column + CROP_PX]
        crops.append(crop[:6])
        attribute_maps.append(canvas.table[crop[6]].transpose(2, 0, 1))
    batch = torch.from_numpy(np.stack(crops)).float()
    targets = [batch[:, 3:5], batch[:, 5:] / 10.0, torch.from_numpy(np.stack(attribute_maps))]
    return batch[:, :3] / 255.0, torch.cat(targets, dim=1)


def _save_trunk(backbone: nn.Module, out: Path) -> None:
    """Write the weights of the backbone's trunk in half precision, in place of the file that is there."""
    trunk = backbone.get_submodule("trunk")
    state = {key: value.half().contiguous() for key, value in trunk.state_dict().items()}
    temporary = out.with_name(out.name + ".part")
    save_file(state, temporary, metadata={"trunk": "resnet10t, half width, group norm, stride 16"})
    temporary.replace(out)
