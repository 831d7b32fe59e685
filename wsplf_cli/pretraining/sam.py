"""Trains the tiny SAM that ships, on synthetic tissue alone: no real image, no other network.

    python -m wsplf_cli.pretraining sam --seed 0 --folder FOLDER

Its input layer is the ``small`` backbone, which is trained first (``python -m wsplf_cli.pretraining backbone``) and
frozen here. At first only the encoder learns: the tissue and the borders of glands at each pixel, and which pixels are
of one gland (the affinity that the decoder sees of the points of a prompt). It goes on doing so while the whole network
is trained as SAM was: prompts of every kind on targets of every kind, a loss for the best of three masks, one more mask
for unambiguous prompts, at times the CAM as a mask, and at times a second pass with the mask of the first and one more
point.

The folder keeps the windows and the state of the training. The same command goes on after a stop, with the same weights
in the end, to the byte on one thread. The learning rate falls in the last part of the steps. A finished training goes
on with more ``--steps``, from the state before the rate fell, as if it had been asked for them at first.

The shipped weights were made by that command on the shipped backbone: 3,000 steps, stopped four times before the rate
fell, in about 50 minutes of CPU on one core. The first of their windows were generated before ``choose_target`` got its
present shares of kinds, which also decide which random windows are kept: a new training sees other windows of the same
sort, and gives other weights. On 60 windows of the next seed, the mean IoU of the mask with the highest estimated IoU,
and of the best mask, are: 0.72 and 0.81 for 1 point, 0.81 and 0.85 for 3 points, 0.81 and 0.85 with 3 more points
outside, 0.74 and 0.84 for a box, 0.83 and 0.86 for points from a bad CAM whose own IoU is 0.74, and 0.87 and 0.90 with
this CAM as the mask. After 800 steps they were 0.66, 0.73, 0.74, 0.68, 0.76 and 0.84: they still rise slowly.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from scipy.ndimage import label
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel

from wsplf_cli.files import write_bytes
from wsplf_cli.networks.augment import rescan, restain, turn
from wsplf_cli.networks.backbone import build_backbone
from wsplf_cli.networks.sam import Sam, cam_logits
from wsplf_cli.networks.state import average_weights
from wsplf_cli.networks.tiny_sam import FINE, TinyMaskDecoder, affinity, build_tiny, split_embedding
from wsplf_cli.pretraining.sam_scores import evaluate
from wsplf_cli.pretraining.targets import MAP_PX, Map, Window, choose_target, correct, make_prompts, strategies
from wsplf_cli.pretraining.window_pool import WindowPool
from wsplf_cli.schema import Tracker
from wsplf_cli.synthetic.kinds import STRUCTURES
from wsplf_cli.weak.prompts import Strategy

STEPS = 3000
ENCODER_STEPS = 250
"""First steps, in which only the encoder learns."""
WINDOWS = 4
"""Windows in a step."""
PROMPTS = 6
"""Prompts on each window."""
AFFINITY_PIXELS = 48
"""Pixels of each window whose affinity to all others is learned."""
SECOND_PASS = 0.15
"""Probability of a second pass."""
CAM_INPUT = 0.5
"""Probability that a prompt from a CAM has the CAM as its mask of an earlier pass."""
STRUCTURE_WEIGHT = 0.5
LEARNING_RATE = 1e-3
WARM_UP = 150
"""Steps in which the learning rate rises."""
DECAY_SHARE = 0.3
"""Share of the steps, the last ones, in which the learning rate falls."""
SAY_EVERY = 50
SAVE_EVERY = 50
"""Steps after which the training is saved, to go on after a stop."""
EMA_DECAY = 0.998
EMA_WARM_UP = 9
LATEST = "latest.pt"
UNDECAYED = "undecayed.pt"


@dataclass(slots=True)
class Training:
    """Everything that changes from step to step. ``step`` is the next one."""

    sam: Sam
    averaged: AveragedModel
    structure_head: nn.Module
    optimiser: torch.optim.Optimizer
    rng: np.random.Generator
    generator: torch.Generator
    step: int = 0

    def weights(self) -> list[nn.Parameter]:
        """All that learns."""
        return [
            parameter
            for parameter in (*self.sam.network.parameters(), *self.structure_head.parameters())
            if parameter.requires_grad
        ]

    def state(self) -> dict[str, Any]:
        """All that a training needs to go on as if it had not been stopped."""
        return {
            "network": self.sam.network.state_dict(),
            "averaged": self.averaged.state_dict(),
            "structure_head": self.structure_head.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "rng": self.rng.bit_generator.state,
            "generator": self.generator.get_state(),
            "step": self.step,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to a ``state``."""
        self.sam.network.load_state_dict(state["network"])
        self.averaged.load_state_dict(state["averaged"])
        self.structure_head.load_state_dict(state["structure_head"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.rng.bit_generator.state = state["rng"]
        self.generator.set_state(state["generator"])
        self.step = state["step"]


def pretrain(out: Path, *, seed: int, steps: int = STEPS, folder: Path, tracker: Tracker) -> dict[str, float]:
    """Train the tiny SAM, write its averaged weights in half precision to ``out``, and return its scores.

    Args:
        out: The safetensors file to write at the end.
        seed: Seed of the tissue, the prompts and the initial weights. The evaluation uses the next seed.
        steps: Optimiser steps.
        folder: Keeps the windows and the state of the training, which goes on from what is there.
        tracker: Is told of each step.

    Returns:
        The scores of ``evaluate``.
    """
    training = begin(seed)
    folder.mkdir(parents=True, exist_ok=True)
    resume(training, folder, seed=seed, steps=steps)
    strategy_of = strategies()
    shown: dict[str, float] = {}
    tracker.start("tiny SAM", steps)
    with WindowPool(folder / f"windows-{seed}", seed=seed) as pool:
        while training.step < steps:
            losses = train_step(training, pool.at(training.step), strategy_of, steps=steps)
            for name, loss in losses.items():
                shown[name] = 0.98 * shown.get(name, loss) + 0.02 * loss
            message = ", ".join(f"{name} {value:.3f}" for name, value in shown.items())
            tracker.advance(1, message=message)
            if training.step % SAY_EVERY == 0:
                tracker.say(f"step {training.step} of {steps}: {message}")
            if training.step == decay_start(steps):
                save_training(training, folder / UNDECAYED, seed=seed, steps=steps)
            if training.step % SAVE_EVERY == 0 or training.step == steps:
                save_training(training, folder / LATEST, seed=seed, steps=steps)
    save_weights(training.averaged.module, out)
    return evaluate(Sam(training.averaged.module, name="tiny", device=torch.device("cpu")), seed=seed + 1)


def begin(seed: int) -> Training:
    """A training at its first step."""
    torch.manual_seed(seed)
    network = build_tiny()
    couple_queries_and_keys(network)
    backbone = network.image_encoder.patch_embed.backbone
    backbone.trunk.load_state_dict(build_backbone().trunk.state_dict())
    backbone.requires_grad_(False)
    sam = Sam(network, name="tiny", device=torch.device("cpu"))
    network.train()
    averaged = average_weights(network, decay=EMA_DECAY, warm_up=EMA_WARM_UP)
    structure_head = nn.Conv2d(FINE, len(STRUCTURES) + 1, 1)
    training = Training(
        sam=sam,
        averaged=averaged,
        structure_head=structure_head,
        optimiser=torch.optim.Optimizer.__new__(torch.optim.AdamW),
        rng=np.random.default_rng(seed),
        generator=torch.Generator().manual_seed(seed),
    )
    training.optimiser = torch.optim.AdamW(training.weights(), lr=LEARNING_RATE, weight_decay=0.02, betas=(0.9, 0.98))
    return training


def resume(training: Training, folder: Path, *, seed: int, steps: int) -> None:
    """Set a training to the newest state in the folder from which ``steps`` can be reached as without a stop.

    A state with a fallen learning rate belongs to its own number of steps. A longer training goes on from the state
    that was saved before the rate fell.
    """
    for name in (LATEST, UNDECAYED):
        path = folder / name
        if not path.is_file():
            continue
        saved = torch.load(path, map_location="cpu", weights_only=False)
        undecayed = saved["step"] <= decay_start(saved["steps"]) and saved["step"] <= decay_start(steps)
        if saved["seed"] == seed and (undecayed or saved["steps"] == steps):
            training.restore(saved)
            return


def save_training(training: Training, path: Path, *, seed: int, steps: int) -> None:
    """Save the state of a training on the way to ``steps``, whole or not at all."""
    stream = io.BytesIO()
    torch.save({**training.state(), "seed": seed, "steps": steps}, stream)
    write_bytes(path, stream.getvalue())


def train_step(
    training: Training, pool: Sequence[Window], strategy_of: Mapping[str, Strategy], *, steps: int
) -> dict[str, float]:
    """One optimiser step on windows of the pool; its losses, and the IoU of the best of three masks."""
    sam, rng = training.sam, training.rng
    for group in training.optimiser.param_groups:
        group["lr"] = LEARNING_RATE * learning_rate_factor(training.step, steps=steps)
    batch = [pool[int(index)] for index in rng.integers(len(pool), size=WINDOWS)]
    rgb, maps = augment_windows(batch, training.generator)
    shown: dict[str, float] = {}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        embedding = sam.encode(rgb)
        _, fine = split_embedding(embedding)
        losses = {"structure": structure_loss(training.structure_head(fine).float(), maps)}
        pairs = zip(fine, maps.numpy(), strict=True)
        losses["affinity"] = torch.stack(
            [
                affinity_loss(sam.network.mask_decoder, values[None], parts_of(*of_window[:2]), rng)
                for values, of_window in pairs
            ]
        ).mean()
        if training.step >= ENCODER_STEPS:
            of_windows = [
                window_loss(sam, window_embedding, tissue=tissue, instance=instance, rng=rng, strategy_of=strategy_of)
                for window_embedding, (tissue, instance, _) in zip(embedding, maps.numpy(), strict=True)
            ]
            losses["mask"], iou, chosen = (torch.stack(values).mean() for values in zip(*of_windows, strict=True))
            shown = {"iou": iou.item(), "chosen": chosen.item()}
    training.optimiser.zero_grad(set_to_none=True)
    torch.autograd.backward([STRUCTURE_WEIGHT * losses["structure"], *(losses[n] for n in losses if n != "structure")])
    nn.utils.clip_grad_norm_(training.weights(), 1.0)
    training.optimiser.step()
    training.averaged.update_parameters(sam.network)
    training.step += 1
    return {name: loss.item() for name, loss in losses.items()} | shown


def couple_queries_and_keys(network: nn.Module) -> None:
    """Make queries and keys of the decoder equal, so that prompts first attend to near or similar locations."""
    for name, module in network.named_modules():
        if name.endswith(("token_to_image", "image_to_token")):
            with torch.no_grad():
                module.q_proj.weight.mul_(2.0)
                module.k_proj.weight.copy_(module.q_proj.weight)


def decay_start(steps: int) -> int:
    """The step from which the learning rate falls."""
    return round((1 - DECAY_SHARE) * steps)


def learning_rate_factor(step: int, *, steps: int) -> float:
    """The factor of the learning rate at a step: a rise, a plateau, and half a cosine down to 0.01."""
    if step < WARM_UP:
        return (step + 1) / WARM_UP
    start = decay_start(steps)
    progress = max(0.0, (step - start) / max(1, steps - start))
    return 0.01 + 0.99 * 0.5 * (1 + float(np.cos(np.pi * progress)))


def augment_windows(batch: list[Window], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Augmented windows float32 [B, 3, 256, 256] in 0..1, and their maps int16 [B, 3, 64, 64] turned alike."""
    rgb = torch.from_numpy(np.stack([window.rgb for window in batch])).permute(0, 3, 1, 2).float() / 255
    maps = torch.from_numpy(np.stack([(window.tissue, window.instance, window.structure) for window in batch]))
    # a map is smaller than its window, so it is turned separately, with the same random numbers
    state = generator.get_state()
    rgb, _ = turn(rgb, None, generator)
    generator.set_state(state)
    maps, _ = turn(maps, None, generator)
    return rescan(restain(rgb, generator), generator), maps


def structure_loss(logits: Tensor, maps: Tensor) -> Tensor:
    """The loss of predicted structures and borders of glands: logits [B, S + 1, 64, 64], maps [B, 3, 64, 64]."""
    instance = functional.pad(maps[:, 1], (0, 1, 0, 1), mode="replicate")
    inner = instance[:, :-1, :-1]
    border = (inner != instance[:, :-1, 1:]) | (inner != instance[:, 1:, :-1])
    entropy = functional.cross_entropy(logits[:, :-1], maps[:, 2].long())
    return entropy + functional.binary_cross_entropy_with_logits(logits[:, -1], border.float())


def parts_of(tissue: Map, instance: Map) -> NDArray[np.int_]:
    """A number for each gland, and for each connected piece of other tissue, int [64, 64]."""
    parts = instance.astype(np.int_)
    following = int(parts.max()) + 1
    for kind in np.unique(tissue[instance == 0]):
        pieces, count = label((tissue == kind) & (instance == 0))
        parts = np.where(pieces > 0, pieces + following, parts)
        following += count
    return parts


def affinity_loss(decoder: TinyMaskDecoder, fine: Tensor, parts: NDArray[np.int_], rng: np.random.Generator) -> Tensor:
    """The loss of the affinity of random pixels to all others, of fine features [1, F, 64, 64] of a window.

    ``parts`` int [64, 64] numbers what belongs together.
    """
    flat = torch.from_numpy(parts.ravel())
    indices = torch.from_numpy(rng.integers(parts.size, size=AFFINITY_PIXELS))
    logits = affinity(*decoder.affinity_maps(fine), indices).flatten(1)
    same = (flat[indices][:, None] == flat).float()
    entropy = functional.binary_cross_entropy_with_logits(logits, same, reduction="none")
    inside = (entropy * same).sum(dim=1) / same.sum(dim=1)
    outside = (entropy * (1 - same)).sum(dim=1) / (1 - same).sum(dim=1).clamp(min=1)
    return 0.5 * (inside + outside).mean()


def window_loss(
    sam: Sam,
    embedding: Tensor,
    *,
    tissue: Map,
    instance: Map,
    rng: np.random.Generator,
    strategy_of: Mapping[str, Strategy],
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss of prompts on a window, and the IoU of the best mask and of the chosen one; ``embedding`` [C, g, g]."""
    drawn = [choose_target(rng, tissue, instance) for _ in range(PROMPTS)]
    targets = [target for target in drawn if target is not None]
    if not targets:
        return embedding.sum() * 0, embedding.new_zeros(()), embedding.new_zeros(())
    asked = make_prompts(rng, targets, strategy_of)
    prompts = [task.prompt for task in asked]
    true_masks = np.stack([task.mask for task in asked])
    mask_input = None
    if asked[0].cam is not None and rng.random() < CAM_INPUT:
        mask_input = cam_logits(torch.from_numpy(np.stack([task.cam for task in asked if task.cam is not None])))
    truth = torch.from_numpy(true_masks)[:, None].float()
    logits, estimated_iou = sam.logits(embedding, prompts, window_px=MAP_PX, mask_input=mask_input)
    loss, iou = mask_loss(logits, estimated_iou, truth)
    best_iou, chosen_iou = iou[:, 1:].amax(dim=1).mean(), iou.gather(1, estimated_iou.argmax(1, keepdim=True)).mean()
    if rng.random() < SECOND_PASS:
        best = estimated_iou.argmax(1)
        first_logits = logits[torch.arange(len(prompts)), best].detach()
        predicted = (first_logits > 0).numpy()
        corrected = [
            correct(rng, prompt, predicted=mask, truth=true_mask)
            for prompt, mask, true_mask in zip(prompts, predicted, true_masks, strict=True)
        ]
        second = sam.logits(embedding, corrected, window_px=MAP_PX, mask_input=first_logits)
        loss = (loss + mask_loss(*second, truth)[0]) / 2
    return loss, best_iou, chosen_iou


def mask_loss(logits: Tensor, estimated_iou: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """The loss, and the IoU [P, 4] of the masks of P prompts.

    The single mask always counts, and of the three alternatives the best one (the others a little).

    Args:
        logits: Float32 [P, 4, 64, 64].
        estimated_iou: Float32 [P, 4].
        truth: Float32 [P, 1, 64, 64] in 0..1.
    """
    with torch.no_grad():
        predicted = (logits > 0).float()
        true_mask = (truth > 0.5).float()
        common = (predicted * true_mask).sum((2, 3))
        iou = common / (predicted.sum((2, 3)) + true_mask.sum((2, 3)) - common).clamp(min=1)
    probability = torch.sigmoid(logits)
    dice_loss = 1 - (2 * (probability * truth).sum((2, 3)) + 1) / (probability.sum((2, 3)) + truth.sum((2, 3)) + 1)
    entropy = functional.binary_cross_entropy_with_logits(logits, truth.expand_as(logits), reduction="none")
    of_masks = entropy.mean((2, 3)) + dice_loss
    best = of_masks[:, 1:].min(dim=1).values + 0.05 * of_masks[:, 1:].mean(dim=1)
    loss = of_masks[:, 0] + best + functional.mse_loss(estimated_iou, iou, reduction="none").mean(dim=1)
    return loss.mean(), iou


def save_weights(network: nn.Module, out: Path) -> None:
    """Write the weights as float16 safetensors."""
    state = {name: value.detach().half().contiguous() for name, value in network.state_dict().items()}
    write_bytes(out, save(state))
