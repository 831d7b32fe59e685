"""Trains the tiny SAM that ships, on painted tissue alone: no real image, no other network.

    python -m wsplf_cli.pretraining sam --seed 0

It sees through the ``small`` backbone, which is trained first (``python -m wsplf_cli.pretraining backbone``) and stays as
it is. First the encoder alone learns what is where in its window (kind of tissue and borders of glands, by a layer
that is thrown away), and goes on doing so. Then all learn as SAM did: prompts of every kind on targets of every kind,
the best of three masks counts, one mask besides for prompts that leave no doubt, and at times a second pass that is
given the mask of the first and one more point.

The shipped weights: that command on the shipped backbone, 1600 steps in 21 minutes on one of two busy cores (12 minutes
of CPU). On windows of the next seed, mean IoU of the mask that it holds for the best of its three, and of the best:
0.50 and 0.64 for 3 points, 0.58 and 0.68 with 3 more outside, 0.47 and 0.63 for a box; 0.65 and 0.72 for prompts of a
bad CAM whose own IoU is 0.71. So its masks are to be taken where they agree with the CAM, not for themselves.
"""

import copy
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
from wsplf_cli.pretraining.targets import (
    MAP_PX,
    Map,
    Window,
    ask,
    bad_cam,
    box,
    choose_target,
    correct,
    paint_windows,
    points,
    strategies,
)
from wsplf_cli.schema import Tracker
from wsplf_cli.synthetic.kinds import STRUCTURES
from wsplf_cli.weak.prompts import FOREGROUND, Strategy

STEPS = 1600
ENCODER_SHARE = 0.08
"""Of the steps, those in which the encoder learns alone."""
WINDOWS = 4
"""Windows in a step."""
PROMPTS = 6
"""Prompts on each window."""
PAINTED = 100
"""Windows that are painted in one go; all that were painted stay in use."""
PAINT_EVERY = 100
"""Steps between."""
SECOND_PASS = 0.25
LEARNING_RATE = 8e-4
WARM_UP = 150
EMA = 0.997


def pretrain(out: Path, *, seed: int, steps: int = STEPS, tracker: Tracker) -> dict[str, float]:
    """Train, write the averaged weights in half precision to ``out``, and measure them.

    Args:
        out: The safetensors file to write, now and then and at the end.
        seed: Seed of the tissue, the prompts and the first weights; the measure takes the next one.
        steps: Optimiser steps.
        tracker: Where progress is told.

    Returns:
        What ``measure`` returns.
    """
    rng = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    network = build_tiny()
    start_local(network)
    trunk = build_backbone().trunk
    network.image_encoder.patch_embed.backbone.trunk.load_state_dict(trunk.state_dict())
    network.image_encoder.patch_embed.backbone.requires_grad_(False)
    sam = Sam(network, name="tiny", device=torch.device("cpu"))
    network.train()
    averaged = copy.deepcopy(network)
    guess = nn.Sequential(nn.Conv2d(128, 16 * (len(STRUCTURES) + 1), 1), nn.PixelShuffle(4))
    weights = [part for part in (*network.parameters(), *guess.parameters()) if part.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=LEARNING_RATE, weight_decay=0.02, betas=(0.9, 0.98))
    choices = strategies()
    shown: dict[str, float] = {}
    pool: list[Window] = []
    painted = painting(seed)
    tracker.start("tiny SAM", steps)
    for step in range(steps):
        if step % PAINT_EVERY == 0:
            pool += next(painted)
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * rate(step, steps=steps)
        batch = [pool[int(index)] for index in rng.integers(len(pool), size=WINDOWS)]
        rgb, maps = augmented(batch, generator)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            embedding = sam.encode(rgb)
            parts = {"what": what_loss(guess(embedding).float(), maps)}
            if step >= ENCODER_SHARE * steps:
                asked = [
                    window_loss(sam, image, sort=sort, instance=instance, rng=rng, choices=choices)
                    for image, (sort, instance, _) in zip(embedding, maps.numpy(), strict=True)
                ]
                parts["mask"], iou = (torch.stack(values).mean() for values in zip(*asked, strict=True))
                shown["iou"] = 0.98 * shown.get("iou", iou.item()) + 0.02 * iou.item()
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(list(parts.values()))
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        follow(averaged, network, keep=min(EMA, (step + 1) / (step + 10)))
        for name, loss in parts.items():
            shown[name] = 0.98 * shown.get(name, loss.item()) + 0.02 * loss.item()
        message = ", ".join(f"{name} {value:.3f}" for name, value in shown.items())
        tracker.advance(1, message=message)
        if step % 100 == 99:
            tracker.say(f"step {step + 1} of {steps}: {message}")
            write(averaged, out)
    painted.close()
    write(averaged, out)
    return measure(Sam(averaged, name="tiny", device=torch.device("cpu")), seed=seed + 1)


def painting(seed: int) -> Generator[list[Window], None, None]:
    """Ever more painted windows; the next ones are painted in another process meanwhile."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as painter:
        coming = painter.submit(paint_windows, PAINTED, seed=(seed, 0))
        for part in itertools.count(1):
            ready = coming.result()
            coming = painter.submit(paint_windows, PAINTED, seed=(seed, part))
            yield ready


def start_local(network: nn.Module) -> None:
    """Let prompts and places look first at what is near or alike, by making queries and keys of the decoder alike."""
    for name, part in network.named_modules():
        if name.endswith(("token_to_image", "image_to_token")):
            with torch.no_grad():
                part.q_proj.weight.mul_(2.0)
                part.k_proj.weight.copy_(part.q_proj.weight)


def rate(step: int, *, steps: int) -> float:
    """The share of the learning rate at a step: up in a line, down in half a cosine."""
    if step < WARM_UP:
        return (step + 1) / WARM_UP
    return 0.01 + 0.99 * 0.5 * (1 + float(np.cos(np.pi * (step - WARM_UP) / max(1, steps - WARM_UP))))


def augmented(batch: list[Window], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Windows float32 [B, 3, 256, 256] in 0..1 turned and restained, and their maps int16 [B, 3, 64, 64] turned."""
    rgb = torch.from_numpy(np.stack([window.rgb for window in batch])).permute(0, 3, 1, 2).float() / 255
    maps = torch.from_numpy(np.stack([(window.sort, window.instance, window.structure) for window in batch]))
    # a map is half as large as its window, and so turned by itself, in the same way
    state = generator.get_state()
    rgb, _ = turn(rgb, None, generator)
    generator.set_state(state)
    maps, _ = turn(maps, None, generator)
    return rescan(restain(rgb, generator), generator), maps


def what_loss(guess: Tensor, maps: Tensor) -> Tensor:
    """How wrong the guessed structures and borders of glands are: logits [B, S + 1, 64, 64], maps [B, 3, 64, 64]."""
    instance = functional.pad(maps[:, 1], (0, 1, 0, 1), mode="replicate")
    inner = instance[:, :-1, :-1]
    border = (inner != instance[:, :-1, 1:]) | (inner != instance[:, 1:, :-1])
    kinds = functional.cross_entropy(guess[:, :-1], maps[:, 2].long())
    return kinds + functional.binary_cross_entropy_with_logits(guess[:, -1], border.float())


def window_loss(
    sam: Sam, image: Tensor, *, sort: Map, instance: Map, rng: np.random.Generator, choices: Mapping[str, Strategy]
) -> tuple[Tensor, Tensor]:
    """Loss and IoU (of the best of three) over the prompts on one window, whose embedding ``image`` is [C, g, g]."""
    drawn = [choose_target(rng, sort, instance) for _ in range(PROMPTS)]
    targets = [target for target in drawn if target is not None]
    if not targets:
        return image.sum() * 0, image.new_zeros(())
    asked = ask(rng, targets, choices)
    prompts = [prompt for prompt, _ in asked]
    wanted = np.stack([mask for _, mask in asked])
    truth = functional.avg_pool2d(torch.from_numpy(wanted)[:, None].float(), MAP_PX // sam.mask_px)
    logits, guessed = sam.logits(image, prompts, window_px=MAP_PX)
    loss, iou = loss_of(logits, guessed, truth)
    if rng.random() < SECOND_PASS:
        best = guessed[:, 1:].argmax(1) + 1
        before = logits[torch.arange(len(prompts)), best].detach()
        shown = (functional.interpolate(before[:, None], (MAP_PX, MAP_PX), mode="bilinear")[:, 0] > 0).numpy()
        again = [
            correct(rng, prompt, found=found, wanted=mask)
            for prompt, found, mask in zip(prompts, shown, wanted, strict=True)
        ]
        second, _ = loss_of(*sam.logits(image, again, window_px=MAP_PX, mask_input=before), truth)
        loss = (loss + second) / 2
    return loss, iou


def loss_of(logits: Tensor, guessed: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Loss and IoU of the best of three, means over P prompts; ``truth`` float32 [P, 1, 64, 64] in 0..1.

    The single mask always learns, of the three the one that is nearest to the truth (and, a little, the others).
    """
    with torch.no_grad():
        found = (logits > 0).float()
        right = (truth > 0.5).float()
        both = (found * right).sum((2, 3))
        iou = both / (found.sum((2, 3)) + right.sum((2, 3)) - both).clamp(min=1)
    share = torch.sigmoid(logits)
    dice = 1 - (2 * (share * truth).sum((2, 3)) + 1) / (share.sum((2, 3)) + truth.sum((2, 3)) + 1)
    entropy = functional.binary_cross_entropy_with_logits(logits, truth.expand_as(logits), reduction="none")
    wrong = entropy.mean((2, 3)) + dice
    best = wrong[:, 1:].min(dim=1).values + 0.05 * wrong[:, 1:].mean(dim=1)
    loss = wrong[:, 0] + best + functional.mse_loss(guessed, iou, reduction="none").mean(dim=1)
    return loss.mean(), iou[:, 1:].max(dim=1).values.mean()


@torch.no_grad()
def follow(averaged: nn.Module, network: nn.Module, *, keep: float) -> None:
    """Move the averaged weights towards those of the network."""
    torch._foreach_lerp_(list(averaged.parameters()), list(network.parameters()), 1 - keep)


def write(network: nn.Module, out: Path) -> None:
    """The weights as float16 safetensors."""
    state = {name: value.detach().half().contiguous() for name, value in network.state_dict().items()}
    write_bytes(out, save(state))


def measure(sam: Sam, *, seed: int, windows: int = 60) -> dict[str, float]:
    """Mean IoU of the mask that SAM holds for its best, on windows painted with another seed; targets of one part.

    ``points K+N``: K points in the target and N outside; ``box``; ``CAM``: the prompt that ``spread`` makes of a bad
    CAM, beside the IoU of that CAM itself. ``best of three`` is what the right choice of the three masks would give.
    """
    rng = np.random.default_rng(seed)
    spread = strategies()["spread"]
    scores: dict[str, list[float]] = {}
    for window in paint_windows(windows, seed=(seed,)):
        embedding = sam.embed(window.rgb)
        for _ in range(3):
            target = choose_target(rng, window.sort, window.instance)
            if target is None or len(np.unique(target.parts)) > 2:
                continue
            asked = {"box": box(rng, target.mask, pointed=False)}
            for inside, outside in ((1, 0), (3, 0), (6, 0), (3, 3)):
                asked[f"points {inside}+{outside}"] = points(rng, target.mask, inside=inside, outside=outside)
            cam = bad_cam(rng, target.mask)
            prompts = spread(cam, rng)
            if prompts:
                asked["CAM"] = prompts[0]
                scores.setdefault("CAM itself", []).append(overlap(cam >= FOREGROUND, target.mask))
            for name, prompt in asked.items():
                ious = [overlap(one.mask, target.mask) for one in sam.prompt(embedding, [prompt], window_px=MAP_PX)[0]]
                scores.setdefault(name, []).append(ious[0])
                scores.setdefault(f"{name}, best of three", []).append(max(ious))
    return {name: float(np.mean(values)) for name, values in sorted(scores.items())}


def overlap(found: NDArray[np.bool_], wanted: NDArray[np.bool_]) -> float:
    """Intersection over union of two masks, not both empty."""
    return float((found & wanted).sum() / (found | wanted).sum())
