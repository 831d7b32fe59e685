"""Trains the ``small`` backbone on procedural tissue: what structure, which nuclei, how built; no notion of a tumour.

    python -m wsplf_cli.pretraining backbone --seed 0

with the defaults below made the weights that ship (54 minutes on one busy core; on painted canvases that were kept out
90.8 % of the places have the right structure, nuclei a Dice of 0.69, and of how the tissue is built 40 % is explained).

Every pixel of a painted tile says which structure it belongs to (stroma, gland, lumen, lymphoid, fat, ...), whether it
is nucleus, how large the nuclei around it are, and how the tissue is built (synthetic/attributes.py). A network that
reads these off its own feature map with one linear layer has the words of histology in that map, and classifiers of
slides can use them. No slide, label or outside weight enters.
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
from wsplf_cli.synthetic.tissue import paint_planned, random_plan

STEPS = 4500
CANVASES = 1500
BATCH = 12
CROP_PX = 224
CANVAS_PX = 640
MPP_RANGE = (0.8, 1.3)
#: The weight of the attributes beside structure, nuclei and radius.
ATTRIBUTE_WEIGHT = 2.0
_FINE = 2
"""Targets are read at half the stride of the features: one linear layer gives 2 x 2 places a feature."""


@dataclass(frozen=True, slots=True)
class Canvas:
    """A painted canvas: ``layers`` uint8 [7, H, W], RGB, structure, nucleus mask, nucleus radius in tenths of a um and
    code; ``table`` float32 [n, K], the attributes of each code (see ``synthetic.attributes``).
    """

    layers: NDArray[np.uint8]
    table: NDArray[np.float32]


class Reader(nn.Module):
    """One linear layer each from features [B, D, h, w] to readings: of 2 x 2 places a feature the structures, nucleus
    and log radius [B, S + 2, 2h, 2w], and of each feature the attributes [B, K, h, w].
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Conv2d(channels, (len(STRUCTURES) + 2) * _FINE**2, kernel_size=1)
        self.attributes = nn.Conv2d(channels, len(NAMES), kernel_size=1)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features to readings."""
        readings: Tensor = functional.pixel_shuffle(self.linear(features), _FINE)
        built: Tensor = self.attributes(features)
        return readings, built


def pretrain(out: Path, *, seed: int, steps: int, canvases: int, batch: int, tracker: Tracker) -> dict[str, float]:
    """Train, and write the trunk's weights in half precision to ``out``.

    Args:
        out: The safetensors file to write.
        seed: Seed of the tissue, the crops and the first weights.
        steps: Optimiser steps.
        canvases: Painted canvases of 640 x 640 px from which tiles are cropped; one in twenty is kept to measure on.
        batch: Tiles in a step.
        tracker: Where progress is told.

    Returns:
        Figures on canvases that were not trained on: "structure_accuracy", "nucleus_dice", "explained of NAME" for
        each attribute that they have; and "seconds".
    """
    start = time.monotonic()
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    tracker.start("painting", canvases)
    painted = list(_paint_all(seed, canvases, tracker))
    painted = _standardised(painted)
    held = painted[: max(1, canvases // 20)]
    backbone = Backbone(small_trunk(), mean=(0.5,) * 3, std=(0.25,) * 3)
    reader = Reader(backbone.channels)
    network = nn.ModuleList([backbone, reader])
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=1.5e-3, total_steps=steps, pct_start=0.1)
    mean = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.995))  # type: ignore[no-untyped-call]
    generator = torch.Generator().manual_seed(seed)
    tracker.start("backbone", steps)
    smooth = 0.0
    for step in range(steps):
        tiles, targets = _crops(painted[len(held) :], rng, count=batch)
        augmented, turned = augment(tiles, targets, generator)
        assert turned is not None
        readings, built = reader(backbone(augmented))
        value = loss(readings, turned[:, :3]) + ATTRIBUTE_WEIGHT * attribute_loss(built, turned[:, 3:])
        optimiser.zero_grad()
        torch.autograd.backward(value)
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        mean.update_parameters(network)
        smooth = value.item() if step == 0 else 0.98 * smooth + 0.02 * value.item()
        tracker.advance(1, message=f"loss {smooth:.3f}")
        if step % 500 == 499:
            tracker.say(f"step {step + 1}: loss {smooth:.3f}, {time.monotonic() - start:.0f} s")
            _save(mean.module.get_submodule("0"), out)
    averaged, averaged_reader = mean.module.get_submodule("0"), mean.module.get_submodule("1")
    figures = measure(averaged, averaged_reader, held, seed=seed)
    _save(averaged, out)
    return figures | {"seconds": time.monotonic() - start}


def loss(readings: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of the structure, of the nucleus share, and squared error of the log radius where nuclei are.

    Args:
        readings: Float [B, S + 2, h, w].
        targets: Float [B, 3, H, W]: structure id, nucleus mask, nucleus radius in um (0 where there is none).
    """
    factor = targets.shape[-1] // readings.shape[-1]
    structure = targets[:, 0, factor // 2 :: factor, factor // 2 :: factor].long()
    share = functional.avg_pool2d(targets[:, 1:2], factor)[:, 0]
    radius = functional.avg_pool2d(targets[:, 1:2] * targets[:, 2:3], factor)[:, 0] / share.clamp(min=1e-3)
    present = (share > 0.2).float()
    off = (readings[:, -1] - radius.clamp(min=1.0).log()) ** 2
    return (
        functional.cross_entropy(readings[:, :-2], structure)
        + functional.binary_cross_entropy_with_logits(readings[:, -2], share)
        + 2.0 * (off * present).sum() / present.sum().clamp(min=1.0)
    )


def attribute_loss(built: Tensor, targets: Tensor) -> Tensor:
    """Mean Huber loss of attributes float [B, K, h, w] where they are known; targets [B, K, H, W], NaN elsewhere."""
    factor = targets.shape[-1] // built.shape[-1]
    wanted = targets[:, :, factor // 2 :: factor, factor // 2 :: factor]
    known = ~wanted.isnan()
    return functional.huber_loss(built[known], wanted[known]) if known.any() else 0.0 * built.sum()


@torch.no_grad()
def measure(backbone: nn.Module, reader: nn.Module, held: list[Canvas], *, seed: int) -> dict[str, float]:
    """On canvases that were kept out: accuracy of the structure, Dice of the nuclei, explained share of attributes."""
    backbone.eval()
    tiles, targets = _crops(held, np.random.default_rng(seed), count=64)
    readings, built = reader(backbone(tiles))
    factor = targets.shape[-1] // readings.shape[-1]
    structure = targets[:, 0, factor // 2 :: factor, factor // 2 :: factor].long()
    share = functional.avg_pool2d(targets[:, 1:2], factor)[:, 0]
    nucleus, truth = readings[:, -2] > 0, share > 0.5
    accuracy = (readings[:, :-2].argmax(dim=1) == structure).float().mean().item()
    dice = 2 * (nucleus & truth).sum().item() / max(1, nucleus.sum().item() + truth.sum().item())
    coarse = targets.shape[-1] // built.shape[-1]
    wanted = targets[:, 3:, coarse // 2 :: coarse, coarse // 2 :: coarse]
    figures = {"structure_accuracy": accuracy, "nucleus_dice": dice}
    for name, own, want in zip(NAMES, built.movedim(1, 0), wanted.movedim(1, 0), strict=True):
        known = ~want.isnan()
        if known.sum() < 2:
            continue
        left = (own[known] - want[known]).square().mean() / want[known].var().clamp(min=1e-6)
        figures[f"explained of {name}"] = 1.0 - left.item()
    return figures


def _paint_all(seed: int, canvases: int, tracker: Tracker) -> Iterator[Canvas]:
    with ProcessPoolExecutor(max_workers=2) as pool:
        for canvas in pool.map(_paint, [(seed, index) for index in range(canvases)], chunksize=8):
            tracker.advance()
            yield canvas


def _paint(key: tuple[int, int]) -> Canvas:
    """One canvas, its attributes as they are."""
    rng = np.random.default_rng(key)
    plan = random_plan(rng, (CANVAS_PX, CANVAS_PX), rng.uniform(*MPP_RANGE))
    painted = paint_planned(rng, plan)
    codes, table = attributes(plan)
    radius = np.clip(painted.nucleus_radius_um * 10, 0, 255)
    layers = [*painted.rgb.transpose(2, 0, 1), painted.structure, painted.nuclei, radius, codes]
    return Canvas(np.stack([layer.astype(np.uint8) for layer in layers]), table)


def _standardised(canvases: list[Canvas]) -> list[Canvas]:
    """The canvases with their attributes in standard deviations from the mean over all of them."""
    rows = np.concatenate([canvas.table for canvas in canvases])
    centre, spread = np.nanmean(rows, axis=0), np.nanstd(rows, axis=0) + 1e-3
    return [replace(canvas, table=((canvas.table - centre) / spread).astype(np.float32)) for canvas in canvases]


def _crops(canvases: list[Canvas], rng: np.random.Generator, *, count: int) -> tuple[Tensor, Tensor]:
    """Tiles float [B, 3, H, W] in 0..1 and targets float [B, 3 + K, H, W] as the losses take them."""
    crops, built = [], []
    for _ in range(count):
        canvas = canvases[rng.integers(len(canvases))]
        row, column = rng.integers(0, CANVAS_PX - CROP_PX + 1, size=2)
        crop = canvas.layers[:, row : row + CROP_PX, column : column + CROP_PX]
        crops.append(crop[:6])
        built.append(canvas.table[crop[6]].transpose(2, 0, 1))
    batch = torch.from_numpy(np.stack(crops)).float()
    targets = [batch[:, 3:5], batch[:, 5:] / 10.0, torch.from_numpy(np.stack(built))]
    return batch[:, :3] / 255.0, torch.cat(targets, dim=1)


def _save(backbone: nn.Module, out: Path) -> None:
    trunk = backbone.get_submodule("trunk")
    state = {key: value.half().contiguous() for key, value in trunk.state_dict().items()}
    temporary = out.with_name(out.name + ".part")
    save_file(state, temporary, metadata={"trunk": "resnet10t, half width, group norm, stride 16"})
    temporary.replace(out)
