"""Trains the tiny SAM that ships, on synthetic tissue alone: no real image, no other network.

    python -m wsplf_cli.pretraining sam --seed 0

Its input layer is the ``small`` backbone, which is trained first (``python -m wsplf_cli.pretraining backbone``) and
frozen here. At first only the encoder learns, to predict the tissue and the borders of glands at each location of a
window, by a layer that is not kept. It goes on doing so while the whole network is trained as SAM was: prompts of every
kind on targets of every kind, a loss for the best of three masks, one more mask for unambiguous prompts, and at times a
second pass that gets the mask of the first and one more point.

The shipped weights were made by that command on the shipped backbone: 1600 steps in 21 minutes on one of two busy cores
(12 minutes of CPU). On windows of the next seed, the mean IoU of the mask with the highest estimated IoU, and of the
best mask, are: 0.50 and 0.64 for 3 points, 0.58 and 0.68 with 3 more points outside, 0.47 and 0.63 for a box, 0.65 and
0.72 for prompts from a bad CAM whose own IoU is 0.71. So its masks should be used only where they agree with the CAM.
"""

import itertools
from collections.abc import Generator, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional

from wsplf_cli.files import write_bytes
from wsplf_cli.networks.augment import rescan, restain, turn
from wsplf_cli.networks.backbone import build_backbone
from wsplf_cli.networks.sam import Sam, build_tiny
from wsplf_cli.networks.state import average_weights
from wsplf_cli.pretraining.targets import (
    MAP_PX,
    Map,
    Window,
    bad_cam,
    box,
    choose_target,
    correct,
    generate_windows,
    make_prompts,
    points,
    strategies,
)
from wsplf_cli.schema import Tracker
from wsplf_cli.synthetic.kinds import STRUCTURES
from wsplf_cli.weak.prompts import FOREGROUND, Strategy

STEPS = 1600
ENCODER_SHARE = 0.08
"""Share of the steps in which only the encoder learns."""
WINDOWS = 4
"""Windows in a step."""
PROMPTS = 6
"""Prompts on each window."""
NEW_WINDOWS = 100
"""Windows that are generated at once. All windows stay in use."""
GENERATE_EVERY = 100
"""Steps after which new windows are generated."""
SECOND_PASS = 0.25
"""Probability of a second pass."""
LEARNING_RATE = 8e-4
WARM_UP = 150
"""Steps in which the learning rate rises."""
EMA_DECAY = 0.997
EMA_WARM_UP = 9


def pretrain(out: Path, *, seed: int, steps: int = STEPS, tracker: Tracker) -> dict[str, float]:
    """Train the tiny SAM, write its averaged weights in half precision to ``out``, and return its scores.

    Args:
        out: The safetensors file to write, after every 100 steps and at the end.
        seed: Seed of the tissue, the prompts and the initial weights. The evaluation uses the next seed.
        steps: Optimiser steps.
        tracker: Is told of each step.

    Returns:
        The scores of ``evaluate``.
    """
    rng = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    network = build_tiny()
    couple_queries_and_keys(network)
    trunk = build_backbone().trunk
    network.image_encoder.patch_embed.backbone.trunk.load_state_dict(trunk.state_dict())
    network.image_encoder.patch_embed.backbone.requires_grad_(False)
    sam = Sam(network, name="tiny", device=torch.device("cpu"))
    network.train()
    averaged = average_weights(network, decay=EMA_DECAY, warm_up=EMA_WARM_UP)
    structure_head = nn.Sequential(nn.Conv2d(128, 16 * (len(STRUCTURES) + 1), 1), nn.PixelShuffle(4))
    weights = [
        parameter for parameter in (*network.parameters(), *structure_head.parameters()) if parameter.requires_grad
    ]
    optimiser = torch.optim.AdamW(weights, lr=LEARNING_RATE, weight_decay=0.02, betas=(0.9, 0.98))
    strategy_of = strategies()
    shown: dict[str, float] = {}
    pool: list[Window] = []
    new_windows = generate_in_background(seed)
    tracker.start("tiny SAM", steps)
    for step in range(steps):
        if step % GENERATE_EVERY == 0:
            pool += next(new_windows)
        for group in optimiser.param_groups:
            group["lr"] = LEARNING_RATE * learning_rate_factor(step, steps=steps)
        batch = [pool[int(index)] for index in rng.integers(len(pool), size=WINDOWS)]
        rgb, maps = augment_windows(batch, generator)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            embedding = sam.encode(rgb)
            losses = {"structure": structure_loss(structure_head(embedding).float(), maps)}
            if step >= ENCODER_SHARE * steps:
                of_windows = [
                    window_loss(
                        sam,
                        window_embedding,
                        tissue=tissue,
                        instance=instance,
                        rng=rng,
                        strategy_of=strategy_of,
                    )
                    for window_embedding, (tissue, instance, _) in zip(embedding, maps.numpy(), strict=True)
                ]
                losses["mask"], iou = (torch.stack(values).mean() for values in zip(*of_windows, strict=True))
                shown["iou"] = 0.98 * shown.get("iou", iou.item()) + 0.02 * iou.item()
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(list(losses.values()))
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        averaged.update_parameters(network)
        for name, loss in losses.items():
            shown[name] = 0.98 * shown.get(name, loss.item()) + 0.02 * loss.item()
        message = ", ".join(f"{name} {value:.3f}" for name, value in shown.items())
        tracker.advance(1, message=message)
        if step % 100 == 99:
            tracker.say(f"step {step + 1} of {steps}: {message}")
            save_weights(averaged.module, out)
    new_windows.close()
    save_weights(averaged.module, out)
    return evaluate(Sam(averaged.module, name="tiny", device=torch.device("cpu")), seed=seed + 1)


def generate_in_background(seed: int) -> Generator[list[Window], None, None]:
    """Lists of new windows, without end. The next list is generated in another process meanwhile."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        next_windows = pool.submit(generate_windows, NEW_WINDOWS, seed=(seed, 0))
        for part in itertools.count(1):
            windows = next_windows.result()
            next_windows = pool.submit(generate_windows, NEW_WINDOWS, seed=(seed, part))
            yield windows


def couple_queries_and_keys(network: nn.Module) -> None:
    """Make queries and keys of the decoder equal, so that prompts first attend to near or similar locations."""
    for name, module in network.named_modules():
        if name.endswith(("token_to_image", "image_to_token")):
            with torch.no_grad():
                module.q_proj.weight.mul_(2.0)
                module.k_proj.weight.copy_(module.q_proj.weight)


def learning_rate_factor(step: int, *, steps: int) -> float:
    """The factor of the learning rate at a step: a linear rise, then half a cosine down to 0.01."""
    if step < WARM_UP:
        return (step + 1) / WARM_UP
    return 0.01 + 0.99 * 0.5 * (1 + float(np.cos(np.pi * (step - WARM_UP) / max(1, steps - WARM_UP))))


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


def window_loss(
    sam: Sam,
    embedding: Tensor,
    *,
    tissue: Map,
    instance: Map,
    rng: np.random.Generator,
    strategy_of: Mapping[str, Strategy],
) -> tuple[Tensor, Tensor]:
    """The loss, and the IoU of the best of three masks, of prompts on a window with ``embedding`` [C, g, g]."""
    drawn = [choose_target(rng, tissue, instance) for _ in range(PROMPTS)]
    targets = [target for target in drawn if target is not None]
    if not targets:
        return embedding.sum() * 0, embedding.new_zeros(())
    prompts_and_masks = make_prompts(rng, targets, strategy_of)
    prompts = [prompt for prompt, _ in prompts_and_masks]
    true_masks = np.stack([mask for _, mask in prompts_and_masks])
    truth = functional.avg_pool2d(torch.from_numpy(true_masks)[:, None].float(), MAP_PX // sam.mask_px)
    logits, estimated_iou = sam.logits(embedding, prompts, window_px=MAP_PX)
    loss, iou = mask_loss(logits, estimated_iou, truth)
    if rng.random() < SECOND_PASS:
        best = estimated_iou[:, 1:].argmax(1) + 1
        first_logits = logits[torch.arange(len(prompts)), best].detach()
        predicted = (functional.interpolate(first_logits[:, None], (MAP_PX, MAP_PX), mode="bilinear")[:, 0] > 0).numpy()
        corrected = [
            correct(rng, prompt, predicted=mask, truth=true_mask)
            for prompt, mask, true_mask in zip(prompts, predicted, true_masks, strict=True)
        ]
        second = sam.logits(embedding, corrected, window_px=MAP_PX, mask_input=first_logits)
        loss = (loss + mask_loss(*second, truth)[0]) / 2
    return loss, iou


def mask_loss(logits: Tensor, estimated_iou: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """The loss, and the IoU of the best of three masks, as means over P prompts.

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
    return loss.mean(), iou[:, 1:].max(dim=1).values.mean()


def save_weights(network: nn.Module, out: Path) -> None:
    """Write the weights as float16 safetensors."""
    state = {name: value.detach().half().contiguous() for name, value in network.state_dict().items()}
    write_bytes(out, save(state))


def evaluate(sam: Sam, *, seed: int, windows: int = 60) -> dict[str, float]:
    """The mean IoU of the mask with the highest estimated IoU, by kind of prompt, on windows of another seed.

    Targets are single glands or pieces. ``points K+N``: K points in the target and N outside; ``box``; ``CAM``: the
    prompt that ``spread`` makes of a bad CAM; ``CAM itself``: the IoU of that CAM. ``best of three`` is the IoU of the
    best mask.
    """
    rng = np.random.default_rng(seed)
    spread = strategies()["spread"]
    scores: dict[str, list[float]] = {}
    for window in generate_windows(windows, seed=(seed,)):
        embedding = sam.embed(window.rgb)
        for _ in range(3):
            target = choose_target(rng, window.tissue, window.instance)
            if target is None or len(np.unique(target.parts)) > 2:
                continue
            prompt_of = {"box": box(rng, target.mask, pointed=False)}
            for inside, outside in ((1, 0), (3, 0), (6, 0), (3, 3)):
                prompt_of[f"points {inside}+{outside}"] = points(rng, target.mask, inside=inside, outside=outside)
            cam = bad_cam(rng, target.mask)
            prompts = spread(cam, rng)
            if prompts:
                prompt_of["CAM"] = prompts[0]
                scores.setdefault("CAM itself", []).append(mask_iou(cam >= FOREGROUND, target.mask))
            for name, prompt in prompt_of.items():
                ious = [
                    mask_iou(mask.mask, target.mask) for mask in sam.prompt(embedding, [prompt], window_px=MAP_PX)[0]
                ]
                scores.setdefault(name, []).append(ious[0])
                scores.setdefault(f"{name}, best of three", []).append(max(ious))
    return {name: float(np.mean(values)) for name, values in sorted(scores.items())}


def mask_iou(mask: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """The intersection over union of two masks, which must not both be empty."""
    return float((mask & other).sum() / (mask | other).sum())
