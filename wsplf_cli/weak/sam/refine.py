"""From a calibrated CAM to masks with outlines: SAM is prompted in overlapping windows, its masks vote with the CAM."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from wsplf_cli.schema import Prompt, TileMask
from wsplf_cli.slides.open import Slide
from wsplf_cli.weak.prompts import FOREGROUND

#: One pixel of the votes is this many pixels of a window: SAM's own masks are coarser than the window.
VOTE_PX = 2
#: From one window to the next, in sides of a window.
STEP = 0.7
#: What SAM's mask counts against the CAM in a vote. Where SAM's mask is refused, the CAM votes alone.
SAM_WEIGHT = 0.15
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
class Window:
    """A square of a slide, not read yet: ``side_px`` pixels of ``downsample`` level-0 pixels from (x, y) on."""

    slide: Slide
    x_px0: float
    y_px0: float
    side_px: int
    downsample: float

    def read(self) -> NDArray[np.uint8]:
        """Its pixels uint8 [S, S, 3], RGB."""
        size_px = (self.side_px, self.side_px)
        return self.slide.read(self.x_px0, self.y_px0, size_px=size_px, downsample=self.downsample)


@dataclass(frozen=True, slots=True)
class RefinedWindow:
    """What is said of one window, all float32 [S, S].

    ``vote`` 0..1 is foreground from 0.5 on, ``score`` the sum of SAM's estimates of the IoU of the masks that cover a
    pixel, ``count`` the number of these masks.
    """

    vote: NDArray[np.float32]
    score: NDArray[np.float32]
    count: NDArray[np.float32]


class Refiner(Protocol):
    """Gives the CAM of a window its outline."""

    @property
    def side_px(self) -> int:
        """Side of the windows that it wants, in pixels."""

    def __call__(self, window: Window, cam: NDArray[np.float32], rng: np.random.Generator) -> RefinedWindow:
        """The votes on a window with the CAM float32 [S, S] in 0..1, foreground from 0.5 on."""


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
    refiner: Refiner,
    *,
    cell_px0: float,
    mpp: float,
    mpp_slide: float,
    rng: np.random.Generator,
) -> Iterator[Refined]:
    """Refine the foreground of a slide's CAM; one part for each group of touching windows.

    Args:
        slide: An open slide.
        cam: Float32 [rows, columns] in 0..1, foreground from 0.5 on, one cell ``cell_px0`` level-0 pixels wide.
        refiner: Judges windows of its own side.
        cell_px0: See ``cam``.
        mpp: Micrometres per pixel of the windows.
        mpp_slide: Micrometres per pixel at level 0.
        rng: For the refiner's prompts.
    """
    for group in windows_on(slide, cam, side_px=refiner.side_px, cell_px0=cell_px0, mpp=mpp, mpp_slide=mpp_slide):
        yield _refine_group(group, cam, refiner, cell_px0=cell_px0, rng=rng)


def windows_on(
    slide: Slide, cam: NDArray[np.float32], *, side_px: int, cell_px0: float, mpp: float, mpp_slide: float
) -> list[list[Window]]:
    """Overlapping windows over the foreground of a slide's CAM, in groups that touch; arguments as ``refine``."""
    vote_px0 = VOTE_PX * mpp / mpp_slide
    groups = []
    for corners in _groups(cam, side=side_px * mpp / mpp_slide / cell_px0):
        places = np.round(corners * cell_px0 / vote_px0) * vote_px0
        groups.append([Window(slide, float(x), float(y), side_px, mpp / mpp_slide) for x, y in places])
    return groups


def best_mask(masks: list[TileMask], cam: NDArray[np.float32]) -> tuple[TileMask, float]:
    """Of the masks of one prompt the one that agrees most with the CAM, and its agreement 0..1.

    The agreement is the Dice of the mask with the CAM above half its threshold, taken as weights: it punishes what
    the mask misses and what it adds. SAM's own estimate counts as much as the agreement in the choice.
    """
    agreements = [agreement(mask.mask, cam) for mask in masks]
    ranked = [agreed * (0.5 + 0.5 * mask.score) for agreed, mask in zip(agreements, masks, strict=True)]
    best = int(np.argmax(ranked))
    return masks[best], agreements[best]


def agreement(mask: NDArray[np.bool_], cam: NDArray[np.float32]) -> float:
    """Dice 0..1 of a mask with the CAM above half its threshold, taken as weights."""
    weights = np.clip((cam - 0.25) / 0.5, 0.0, 1.0)
    return 2 * float(weights[mask].sum()) / max(1e-6, float(weights.sum()) + float(mask.sum()))


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
    windows: Sequence[Window],
    cam: NDArray[np.float32],
    refiner: Refiner,
    *,
    cell_px0: float,
    rng: np.random.Generator,
) -> Refined:
    side = refiner.side_px // VOTE_PX
    vote_px0 = VOTE_PX * windows[0].downsample
    places = np.array([(round(one.x_px0 / vote_px0), round(one.y_px0 / vote_px0)) for one in windows], np.intp)
    first = places.min(axis=0)
    width, height = places.max(axis=0) - first + side
    sums = _Sums(*(np.zeros((height, width), np.float32) for _ in range(5)))
    weight = _window_weight(side)
    for window, (x, y) in zip(windows, places, strict=True):
        local = cam_of(window, cam, cell_px0=cell_px0, size=refiner.side_px)
        votes = refiner(window, local, rng)
        part = np.s_[y - first[1] : y - first[1] + side, x - first[0] : x - first[0] + side]
        sums.weight[part] += weight
        sums.vote[part] += weight * _shrink(votes.vote)
        sums.cam[part] += weight * _shrink(local)
        sums.score[part] += weight * _shrink(votes.score)
        sums.masks[part] += weight * _shrink(votes.count)
    total = np.maximum(sums.weight, 1e-6)
    return Refined(
        origin_px0=(float(first[0] * vote_px0), float(first[1] * vote_px0)),
        downsample=vote_px0,
        vote=(sums.vote / total).astype(np.float32),
        cam=(sums.cam / total).astype(np.float32),
        sam=np.where(sums.masks > 0, sums.score / np.maximum(sums.masks, 1e-6), 0.0).astype(np.float32),
    )


def fuse_cam_and_sam(
    cam: NDArray[np.float32], prompts: Sequence[Prompt], answers: Sequence[list[TileMask]]
) -> RefinedWindow:
    """The CAM's votes joined by those of SAM's masks, ``answers`` to ``prompts``; a mask that disagrees is refused."""
    vote, score, count = cam.copy(), np.zeros_like(cam), np.zeros_like(cam)
    pieces, _ = ndimage.label(cam >= FOREGROUND, structure=np.ones((3, 3)))
    union = np.zeros(cam.shape, bool)
    refused = np.zeros(cam.shape, bool)
    for prompt, masks in zip(prompts, answers, strict=True):
        inside = prompt.points_px[prompt.point_labels == 1].astype(np.intp)
        numbers = np.setdiff1d(np.unique(pieces[inside[:, 1], inside[:, 0]]), [0])
        own = np.isin(pieces, numbers)
        others = (pieces > 0) & ~own
        mask, agreed = best_mask(masks, np.where(others, np.float32(0.5), cam) if others.any() else cam)
        if agreed < LEAST_AGREEMENT:
            refused |= own
            continue
        union |= mask.mask
        score += mask.score * mask.mask
        count += mask.mask
    voted = ~refused
    vote[voted] = (1 - SAM_WEIGHT) * cam[voted] + SAM_WEIGHT * union[voted]
    return RefinedWindow(vote, score, count)


def cam_of(window: Window, cam: NDArray[np.float32], *, cell_px0: float, size: int) -> NDArray[np.float32]:
    """A window's part of a slide's CAM, float32 [size, size]."""
    side = window.side_px * window.downsample / cell_px0
    return crop(cam, x=window.x_px0 / cell_px0, y=window.y_px0 / cell_px0, side=side, size=size)


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
