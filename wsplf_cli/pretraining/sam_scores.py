"""How well a SAM answers prompts on synthetic windows."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsplf_cli.networks.sam import Sam, cam_logits
from wsplf_cli.pretraining.targets import MAP_PX, bad_cam, box, choose_target, generate_windows, points, strategies
from wsplf_cli.schema import Prompt
from wsplf_cli.weak.prompts import FOREGROUND


def evaluate(sam: Sam, *, seed: int, windows: int = 60) -> dict[str, float]:
    """The mean IoU of the mask with the highest estimated IoU, by kind of prompt, on windows of another seed.

    Targets are single glands or pieces. ``points K+N``: K points in the target and N outside; ``box``; ``CAM``: the
    prompt that ``spread`` makes of a bad CAM, and ``CAM as mask`` with that CAM as the mask of an earlier pass;
    ``CAM itself``: the IoU of that CAM. ``best of three`` is the IoU of the best mask.
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
            asked: dict[str, tuple[Prompt, Tensor | None]] = {"box": (box(rng, target.mask, pointed=False), None)}
            for inside, outside in ((1, 0), (3, 0), (6, 0), (3, 3)):
                prompt = points(rng, target.mask, inside=inside, outside=outside)
                asked[f"points {inside}+{outside}"] = prompt, None
            cam = bad_cam(rng, target.mask)
            prompts = spread(cam, rng)
            if prompts:
                asked["CAM"] = prompts[0], None
                asked["CAM as mask"] = prompts[0], cam_logits(torch.from_numpy(cam)[None])
                scores.setdefault("CAM itself", []).append(mask_iou(cam >= FOREGROUND, target.mask))
            for name, (prompt, mask_input) in asked.items():
                masks = sam.prompt(embedding, [prompt], window_px=MAP_PX, mask_input=mask_input)[0]
                ious = [mask_iou(mask.mask, target.mask) for mask in masks]
                scores.setdefault(name, []).append(ious[0])
                scores.setdefault(f"{name}, best of three", []).append(max(ious))
    return {name: float(np.mean(values)) for name, values in sorted(scores.items())}


def mask_iou(mask: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """The intersection over union of two masks, which must not both be empty."""
    return float((mask & other).sum() / (mask | other).sum())
