"""From a calibrated CAM to masks with outlines: SAM is prompted in overlapping windows, its masks vote with the CAM."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from wsplf_cli.models.sam import Sam
from wsplf_cli.prompts import FOREGROUND, Strategy
from wsplf_cli.schema import TileMask
from wsplf_cli.slides import Slide

#: One pixel of the votes is this many pixels of a window: SAM's own masks are coarser than the window.
VOTE_PX = 2
#: From one window to the next, in sides of a window.
STEP = 0.7
#: What SAM's mask counts against the CAM in a vote. Where SAM's mask is refused, the CAM votes alone.
SAM_WEIGHT = 0.6
#: A mask is refused when its overlap with the CAM (Dice, the CAM's values taken as they are) is below this.
LEAST_AGREEMENT = 0.5


@dataclass(frozen=True, slots=True)
class Refined:
    """The votes over one part of a slide, all float32 [rows, columns]; a pixel is ``downsample`` level-0 pixels.

    ``vote`` 0..1 is foreground from 0.5 on; ``cam`` 0..1 the CAM; ``sam`` 0..1 the mean estimate of the IoU of the SAM
    masks that cover the pixel, 0 where none does.
    """

    origin_px0: tuple[float, float]
    downsample: float
    vote: NDArray[np.float32]
    cam: NDArray[np.float32]
    sam: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _Sums:
    """Running sums over the windows of a part, each float32 [rows, columns]."""

    weight: NDArray[np.float32]
    vote: NDArray[np.float32]
    cam: NDArray[np.float32]
    score: NDArray[np.float32]
    masks: NDArray[np.float32]


def refine(
    slide: Slide,
    cam: NDArray[np.float32],
    sam: Sam,
    *,
    cell_px0: float,
    mpp: float,
    mpp_slide: float,
    strategy: Strategy,
    rng: np.random.Generator,
) -> Iterator[Refined]:
    """Refine the foreground of a slide's CAM; one part for each group of touching windows.

    Args:
        slide: An open slide.
        cam: Float32 [rows, columns] in 0..1, foreground from 0.5 on, one cell ``cell_px0`` level-0 pixels wide.
        sam: The model that is prompted, in windows of its own side.
        cell_px0: See ``cam``.
        mpp: Micrometres per pixel of the windows.
        mpp_slide: Micrometres per pixel at level 0.
        strategy: Makes prompts from the CAM of a window.
        rng: For the strategy.
    """
    side_px0 = sam.side_px * mpp / mpp_slide
    groups = _groups(cam, side=side_px0 / cell_px0)
    for group in groups:
        yield _refine_group(
            slide, cam, sam, group, cell_px0=cell_px0, mpp=mpp, mpp_slide=mpp_slide, strategy=strategy, rng=rng
        )


def best_mask(masks: list[TileMask], cam: NDArray[np.float32]) -> tuple[TileMask, float]:
    """Of the masks of one prompt the one that agrees most with the CAM, and its agreement 0..1.

    The agreement is the Dice of the mask with the CAM above half its threshold, taken as weights: it punishes what
    the mask misses and what it adds. SAM's own estimate counts as much as the agreement in the choice.
    """
    weights = np.clip((cam - 0.25) / 0.5, 0.0, 1.0)
    total = float(weights.sum())
    agreements = [2 * float(weights[mask.mask].sum()) / max(1e-6, total + float(mask.mask.sum())) for mask in masks]
    ranked = [agreement * (0.5 + 0.5 * mask.score) for agreement, mask in zip(agreements, masks, strict=True)]
    best = int(np.argmax(ranked))
    return masks[best], agreements[best]


def _groups(cam: NDArray[np.float32], *, side: float) -> list[NDArray[np.float64]]:
    """Top-left corners (x, y) of windows in cells, float64 [N, 2], in groups that touch.

    Windows overlap and cover every foreground cell of the CAM; near a window's border there is a second one.
    """
    step = STEP * side
    rows, columns = (int(np.ceil(length / step)) + 1 for length in cam.shape)
    used = np.zeros((rows + 1, columns + 1), bool)
    row, column = np.nonzero(cam >= FOREGROUND)
    at_row, at_column = (row / step).astype(np.intp), (column / step).astype(np.intp)
    for down in (0, 1):  # window [r, c] begins at (r - 1, c - 1) steps; the one before reaches a little further
        for right in (0, 1):
            near_top, near_left = row < (at_row - 1) * step + side, column < (at_column - 1) * step + side
            reached = (near_top | bool(down)) & (near_left | bool(right))
            used[at_row[reached] + down, at_column[reached] + right] = True
    labels, count = ndimage.label(used, structure=np.ones((3, 3)))
    corners = []
    for number in range(1, count + 1):
        r, c = np.nonzero(labels == number)
        corners.append(np.stack([c - 1, r - 1], axis=1).astype(np.float64) * step)
    return corners


def _refine_group(
    slide: Slide,
    cam: NDArray[np.float32],
    sam: Sam,
    corners: NDArray[np.float64],
    *,
    cell_px0: float,
    mpp: float,
    mpp_slide: float,
    strategy: Strategy,
    rng: np.random.Generator,
) -> Refined:
    side = sam.side_px // VOTE_PX
    vote_px0 = VOTE_PX * mpp / mpp_slide
    places = np.round(corners * cell_px0 / vote_px0).astype(np.intp)
    first = places.min(axis=0)
    width, height = places.max(axis=0) - first + side
    sums = _Sums(*(np.zeros((height, width), np.float32) for _ in range(5)))
    weight = _window_weight(side)
    for x, y in places:
        x_px0, y_px0 = x * vote_px0, y * vote_px0
        rgb = slide.read(x_px0, y_px0, size_px=(sam.side_px, sam.side_px), downsample=mpp / mpp_slide)
        local = crop(
            cam, x=x_px0 / cell_px0, y=y_px0 / cell_px0, side=sam.side_px * mpp / mpp_slide / cell_px0, size=sam.side_px
        )
        vote, score, masks = _window_vote(sam, rgb, local, strategy=strategy, rng=rng)
        part = np.s_[y - first[1] : y - first[1] + side, x - first[0] : x - first[0] + side]
        sums.weight[part] += weight
        sums.vote[part] += weight * _shrink(vote)
        sums.cam[part] += weight * _shrink(local)
        sums.score[part] += weight * _shrink(score)
        sums.masks[part] += weight * _shrink(masks)
    total = np.maximum(sums.weight, 1e-6)
    return Refined(
        origin_px0=(float(first[0] * vote_px0), float(first[1] * vote_px0)),
        downsample=vote_px0,
        vote=(sums.vote / total).astype(np.float32),
        cam=(sums.cam / total).astype(np.float32),
        sam=np.where(sums.masks > 0, sums.score / np.maximum(sums.masks, 1e-6), 0.0).astype(np.float32),
    )


def _window_vote(
    sam: Sam, rgb: NDArray[np.uint8], cam: NDArray[np.float32], *, strategy: Strategy, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Vote, sum of SAM's estimates, and number of masks at each pixel of one window, float32 [S, S]."""
    vote, score, count = cam.copy(), np.zeros_like(cam), np.zeros_like(cam)
    prompts = strategy(cam, rng)
    if not prompts:
        return vote, score, count
    pieces, _ = ndimage.label(cam >= FOREGROUND, structure=np.ones((3, 3)))
    answers = sam.prompt(sam.embed(rgb), prompts)
    union = np.zeros(cam.shape, bool)
    refused = np.zeros(cam.shape, bool)
    for prompt, masks in zip(prompts, answers, strict=True):
        inside = prompt.points_px[prompt.point_labels == 1].astype(np.intp)
        numbers = np.setdiff1d(np.unique(pieces[inside[:, 1], inside[:, 0]]), [0])
        own = np.isin(pieces, numbers)
        others = (pieces > 0) & ~own
        mask, agreement = best_mask(masks, np.where(others, np.float32(0.5), cam) if others.any() else cam)
        if agreement < LEAST_AGREEMENT:
            refused |= own
            continue
        union |= mask.mask
        score += mask.score * mask.mask
        count += mask.mask
    voted = ~refused
    vote[voted] = (1 - SAM_WEIGHT) * cam[voted] + SAM_WEIGHT * union[voted]
    return vote, score, count


def crop(cam: NDArray[np.float32], *, x: float, y: float, side: float, size: int) -> NDArray[np.float32]:
    """The square of ``side`` cells at (x, y) of a CAM, bilinear, as float32 [size, size]; 0 outside the CAM."""
    centres = (np.arange(size) + 0.5) * side / size - 0.5
    rows, columns = np.meshgrid(y + centres, x + centres, indexing="ij")
    values: NDArray[np.float32] = ndimage.map_coordinates(cam, [rows, columns], order=1, mode="constant", cval=0.0)
    return values.astype(np.float32)


def _window_weight(side: int) -> NDArray[np.float32]:
    """Float32 [side, side], highest in the middle and never 0: windows overlap and so add up smoothly."""
    ramp = np.sin(np.pi * (np.arange(side) + 0.5) / side) ** 2 + 1e-3
    return np.outer(ramp, ramp).astype(np.float32)


def _shrink(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean over squares of ``VOTE_PX``."""
    size = values.shape[0] // VOTE_PX
    image = Image.fromarray(values.astype(np.float32)).resize((size, size), Image.Resampling.BOX)
    return np.asarray(image, np.float32)
