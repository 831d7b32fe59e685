"""From a calibrated CAM to a finer probability map: a refiner works in overlapping windows over the foreground."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from wsplf_cli.geometry import mask_polygons, union
from wsplf_cli.networks.device import compute_alone
from wsplf_cli.schema import Prompt, PromptedMask, TileMask
from wsplf_cli.slides.map import SlideMap
from wsplf_cli.slides.open import Slide
from wsplf_cli.slides.window import Window, reader_threads
from wsplf_cli.weak.prompts import BACKGROUND, FOREGROUND

#: One pixel of the refined map is this many pixels of a window: SAM's own masks are coarser than the window.
REFINED_PX = 2
#: From one window to the next, in sides of a window.
STEP = 0.7
#: Weight of SAM's mask beside the CAM, per unit of its estimated IoU. Where it is discarded, the CAM counts alone.
SAM_WEIGHT = 0.8
#: A mask is outlined, to be shown, on a grid of at most about twice this side.
OUTLINED_PX = 128
#: A mask whose soft Dice with the CAM is below this is discarded.
LEAST_SOFT_DICE = 0.5


@dataclass(frozen=True, slots=True)
class RefinedRegion:
    """The refined map over a region of a slide, all float32 [rows, columns]; a pixel is ``downsample`` level-0 pixels.

    ``probability`` 0..1 is foreground from 0.5 on. ``cam`` 0..1 is the CAM. ``sam`` 0..1 is the mean estimated IoU of
    the SAM masks that cover the pixel, 0 where none does. ``prompted`` are SAM's masks of all its windows.
    """

    origin_px0: tuple[float, float]
    downsample: float
    probability: NDArray[np.float32]
    cam: NDArray[np.float32]
    sam: NDArray[np.float32]
    prompted: tuple[PromptedMask, ...] = ()


@dataclass(frozen=True, slots=True)
class WindowMask:
    """SAM's mask for a prompt of a window, its soft Dice with the CAM where that was asked, and whether it counted."""

    prompt: Prompt
    mask: TileMask
    soft_dice: float | None
    used: bool


@dataclass(frozen=True, slots=True)
class RefinedWindow:
    """What a refiner says of one window, all float32 [S, S].

    ``probability`` 0..1 is foreground from 0.5 on. ``score`` is the sum of the estimated IoUs of the SAM masks that
    cover a pixel, ``count`` the number of these masks. ``masks`` has one for each prompt.
    """

    probability: NDArray[np.float32]
    score: NDArray[np.float32]
    count: NDArray[np.float32]
    masks: tuple[WindowMask, ...] = ()


class Refiner(Protocol):
    """Gives the CAM of a window its outline."""

    @property
    def side_px(self) -> int:
        """Side of the windows that it wants, in pixels."""

    def prompts(self, cam: NDArray[np.float32], rng: np.random.Generator) -> list[Prompt]:
        """What SAM is asked for the CAM of a window, float32 [S, S] in 0..1; empty where SAM is not asked."""

    def __call__(self, window: Window, cam: NDArray[np.float32], prompts: Sequence[Prompt]) -> RefinedWindow:
        """The refined window for the CAM, foreground from 0.5 on, and its prompts. Several threads may call it."""


def refine(
    slide: Slide, cam: SlideMap, refiner: Refiner, *, window_downsample: float, rng: np.random.Generator
) -> Iterator[RefinedRegion]:
    """Refine the foreground of a slide's CAM; one region for each group of touching windows.

    Windows are prompted in order and refined in threads, one a core; the result does not depend on their number.

    Args:
        slide: The open slide.
        cam: In 0..1, foreground from 0.5 on.
        refiner: Works on windows of its own side.
        window_downsample: Level-0 pixels per pixel of the windows.
        rng: For the refiner's prompts.
    """
    groups = foreground_windows(slide, cam, side_px=refiner.side_px, window_downsample=window_downsample)
    for windows in groups:
        yield _refine_group(windows, cam, refiner, rng=rng)


def foreground_windows(slide: Slide, cam: SlideMap, *, side_px: int, window_downsample: float) -> list[list[Window]]:
    """Overlapping windows over the foreground of a slide's CAM, in groups that touch; arguments as ``refine``."""
    pixel_px0 = REFINED_PX * window_downsample
    groups = []
    for corners in _window_groups(cam.values, side=side_px * window_downsample / cam.downsample):
        corners_px0 = np.round(corners * cam.downsample / pixel_px0) * pixel_px0
        groups.append([Window(slide, float(x), float(y), side_px, window_downsample) for x, y in corners_px0])
    return groups


def best_mask(masks: list[TileMask], cam: NDArray[np.float32]) -> tuple[TileMask, float]:
    """Of the masks of one prompt the one that agrees most with the CAM, and its soft Dice 0..1 with the CAM.

    SAM's own estimate of the IoU counts as much as the soft Dice in the choice.
    """
    agreements = [soft_dice(mask.mask, cam) for mask in masks]
    ranks = [agreement * (0.5 + 0.5 * mask.score) for agreement, mask in zip(agreements, masks, strict=True)]
    best = int(np.argmax(ranks))
    return masks[best], agreements[best]


def soft_dice(mask: NDArray[np.bool_], cam: NDArray[np.float32]) -> float:
    """Dice 0..1 of a mask with the CAM above half its threshold, taken as weights.

    It penalises what the mask misses and what it adds.
    """
    weights = np.clip((cam - BACKGROUND) / 0.5, 0.0, 1.0)
    return 2 * float(weights[mask].sum()) / max(1e-6, float(weights.sum()) + float(mask.sum()))


def _window_groups(cam: NDArray[np.float32], *, side: float) -> list[NDArray[np.float64]]:
    """Top-left corners (x, y) of windows in cells, float64 [N, 2], in groups that touch.

    Windows overlap and cover every foreground cell of the CAM; near a window's border there is a second one.
    """
    step = STEP * side
    rows, columns = (int(np.ceil(length / step)) + 1 for length in cam.shape)
    used = np.zeros((rows + 1, columns + 1), bool)
    row, column = np.nonzero(cam >= FOREGROUND)
    at_row, at_column = (row / step).astype(np.intp), (column / step).astype(np.intp)
    for down in (0, 1):  # window [r, c] begins at (r - 1, c - 1) steps; the window before it reaches a little further
        for right in (0, 1):
            near_top, near_left = row < (at_row - 1) * step + side, column < (at_column - 1) * step + side
            reached = (near_top | bool(down)) & (near_left | bool(right))
            used[at_row[reached] + down, at_column[reached] + right] = True
    labels, count = ndimage.label(used, structure=np.ones((3, 3)))
    groups = []
    for label in range(1, count + 1):
        window_rows, window_columns = np.nonzero(labels == label)
        groups.append(np.stack([window_columns - 1, window_rows - 1], axis=1).astype(np.float64) * step)
    return groups


def _refine_group(
    windows: Sequence[Window], cam: SlideMap, refiner: Refiner, *, rng: np.random.Generator
) -> RefinedRegion:
    """The weighted mean of the refined windows of a group, where they overlap."""
    side = refiner.side_px // REFINED_PX
    pixel_px0 = REFINED_PX * windows[0].downsample
    corners = np.array(
        [(round(window.x_px0 / pixel_px0), round(window.y_px0 / pixel_px0)) for window in windows], np.intp
    )
    first = corners.min(axis=0)
    width, height = corners.max(axis=0) - first + side
    weights, probability, cams, score, masks = (np.zeros((height, width), np.float32) for _ in range(5))
    window_weight = _window_weight(side)
    prompted: list[PromptedMask] = []
    refined_windows = _refined_in_order(windows, cam, refiner, rng=rng)
    for window, (x, y), (window_cam, refined) in zip(windows, corners, refined_windows, strict=True):
        part = np.s_[y - first[1] : y - first[1] + side, x - first[0] : x - first[0] + side]
        weights[part] += window_weight
        probability[part] += window_weight * _shrink(refined.probability)
        cams[part] += window_weight * _shrink(window_cam)
        if refined.count.any():
            score[part] += window_weight * _shrink(refined.score)
            masks[part] += window_weight * _shrink(refined.count)
        prompted += [_on_slide(mask, window) for mask in refined.masks]
    total = np.maximum(weights, 1e-6)
    return RefinedRegion(
        origin_px0=(float(first[0] * pixel_px0), float(first[1] * pixel_px0)),
        downsample=pixel_px0,
        probability=(probability / total).astype(np.float32),
        cam=(cams / total).astype(np.float32),
        sam=np.where(masks > 0, score / np.maximum(masks, 1e-6), 0.0).astype(np.float32),
        prompted=tuple(prompted),
    )


def _refined_in_order(
    windows: Sequence[Window], cam: SlideMap, refiner: Refiner, *, rng: np.random.Generator
) -> Iterator[tuple[NDArray[np.float32], RefinedWindow]]:
    """The CAM and the refined map of each window, in order; at most two windows a thread are under way."""
    threads = reader_threads()
    waiting: deque[tuple[NDArray[np.float32], Future[RefinedWindow]]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="wsplf-refine", initializer=compute_alone) as pool:
        try:
            for window in windows:
                window_cam = cam_of(window, cam, size=refiner.side_px)
                prompts = refiner.prompts(window_cam, rng)
                waiting.append((window_cam, pool.submit(refiner, window, window_cam, prompts)))
                if len(waiting) > 2 * threads:
                    ready_cam, refined = waiting.popleft()
                    yield ready_cam, refined.result()
            while waiting:
                ready_cam, refined = waiting.popleft()
                yield ready_cam, refined.result()
        finally:
            for _, pending in waiting:
                pending.cancel()


def prompted_cams(cam: NDArray[np.float32], prompts: Sequence[Prompt]) -> NDArray[np.float32]:
    """For each of P prompts the CAM without the components that others prompt for, float32 [P, S, S]."""
    components, _ = ndimage.label(cam >= FOREGROUND, structure=np.ones((3, 3)))
    cams = np.empty((len(prompts), *cam.shape), np.float32)
    for index, prompt in enumerate(prompts):
        points = prompt.points_px[prompt.point_labels == 1].astype(np.intp)
        others = (components > 0) & ~np.isin(components, components[points[:, 1], points[:, 0]])
        cams[index] = np.where(others, np.float32(0), cam)
    return cams


def fuse_cam_and_sam(
    cam: NDArray[np.float32],
    prompts: Sequence[Prompt],
    cams: NDArray[np.float32],
    answers: Sequence[list[TileMask]],
) -> RefinedWindow:
    """The CAM joined with SAM's masks, each of which weighs as much as its IoU is estimated.

    Args:
        cam: Float32 [S, S].
        prompts: P prompts.
        cams: Their ``prompted_cams``, float32 [P, S, S].
        answers: SAM's masks of each prompt. A mask that contradicts its CAM is discarded.
    """
    score, count = np.zeros_like(cam), np.zeros_like(cam)
    # what no prompt asks for, such as a piece that is too small, stays as it is
    probability = np.where((cam >= FOREGROUND) & (cams.max(axis=0) < FOREGROUND), cam, np.float32(0))
    window_masks: list[WindowMask] = []
    for prompt, prompted_cam, masks in zip(prompts, cams, answers, strict=True):
        mask, agreement = best_mask(masks, prompted_cam)
        used = agreement >= LEAST_SOFT_DICE
        window_masks.append(WindowMask(prompt, mask, agreement, used))
        weight = min(1.0, SAM_WEIGHT * mask.score) if used else 0.0
        joined = (1 - weight) * prompted_cam + weight * mask.mask
        np.maximum(probability, joined, out=probability, casting="same_kind")
        if used:
            score += mask.score * mask.mask
            count += mask.mask
    return RefinedWindow(probability, score, count, tuple(window_masks))


def cam_of(window: Window, cam: SlideMap, *, size: int) -> NDArray[np.float32]:
    """A window's part of a slide's CAM, float32 [size, size]."""
    side = window.side_px * window.downsample / cam.downsample
    x, y = window.x_px0 / cam.downsample, window.y_px0 / cam.downsample
    return crop(cam.values, x=x, y=y, side=side, size=size)


def crop(cam: NDArray[np.float32], *, x: float, y: float, side: float, size: int) -> NDArray[np.float32]:
    """The square of ``side`` cells at (x, y) of a CAM, bilinear, as float32 [size, size]; 0 outside the CAM."""
    centres = (np.arange(size) + 0.5) * side / size - 0.5
    rows, columns = np.meshgrid(y + centres, x + centres, indexing="ij")
    values: NDArray[np.float32] = ndimage.map_coordinates(cam, [rows, columns], order=1, mode="constant", cval=0.0)
    return values.astype(np.float32)


def _on_slide(mask: WindowMask, window: Window) -> PromptedMask:
    """A mask of a window in level-0 pixels, outlined from every n-th pixel: it is kept to be shown."""
    corner = np.array([window.x_px0, window.y_px0], np.float32)
    downsample = np.float32(window.downsample)
    every = max(1, len(mask.mask.mask) // OUTLINED_PX)
    shapes = mask_polygons(
        mask.mask.mask[::every, ::every],
        origin_px0=(window.x_px0, window.y_px0),
        downsample=every * window.downsample,
        tolerance_px0=every * window.downsample,
        min_area_px0=0.0,
    )
    box_px = mask.prompt.box_px
    return PromptedMask(
        points_px0=corner + mask.prompt.points_px * downsample,
        point_labels=mask.prompt.point_labels,
        box_px0=None if box_px is None else np.tile(corner, 2) + box_px * downsample,
        shape=union(shapes),
        score=mask.mask.score,
        soft_dice=mask.soft_dice,
        used=mask.used,
    )


def _window_weight(side: int) -> NDArray[np.float32]:
    """Float32 [side, side], highest in the middle and never 0: overlapping windows add up smoothly."""
    ramp = np.sin(np.pi * (np.arange(side) + 0.5) / side) ** 2 + 1e-3
    return np.outer(ramp, ramp).astype(np.float32)


def _shrink(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Means over squares of ``REFINED_PX``."""
    size = values.shape[0] // REFINED_PX
    image = Image.fromarray(values.astype(np.float32)).resize((size, size), Image.Resampling.BOX)
    return np.asarray(image, np.float32)
