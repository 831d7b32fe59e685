"""The mask of the tissue on a slide: everything coloured that is not pen."""

import logging
import math

import numpy as np
from numpy.typing import NDArray
from skimage.filters import threshold_otsu
from skimage.morphology import isotropic_closing, isotropic_dilation, remove_small_holes, remove_small_objects

from wsplf_cli.errors import SlideError
from wsplf_cli.schema import TissueMask
from wsplf_cli.slides.checks import require_colour
from wsplf_cli.slides.open import Slide

log = logging.getLogger(__name__)

#: Otsu's threshold on the colour strength is kept within these limits, so that an empty slide has no tissue and a full
#: slide has tissue everywhere.
COLOUR_LIMITS = (0.03, 0.07)
CLOSE_UM = 24.0
MIN_TISSUE_UM2 = 10_000.0
MIN_TISSUE_HOLE_UM2 = 20_000.0
MIN_INK_UM2 = 4_000.0
#: Pen absorbs red more than green, by at least this share of its mean optical density. The share is below 0 for H&E, up
#: to 0.17 for pure haematoxylin, from 0.28 for navy blue pen, and 0.8 for green pen.
PEN_RED_OVER_GREEN = 0.22
STRIP_ROWS = 256
#: A small slide gets a finer mask than asked for, so that the longer side of the mask has at least this many pixels.
MIN_LONGER_SIDE_PX = 256


def tissue_mask(slide: Slide, *, mpp_slide: float, mpp: float = 8.0) -> TissueMask:
    """The tissue of a slide: pixels with colour against the slide's own background, without pen.

    The colour strength of a pixel is the range of its optical density over red, green and blue. Otsu's threshold is
    applied to it; gaps are closed, then small pieces and small holes are removed. Grey and black (dust, folds of the
    cover glass, black pen) have no colour. Blue and green pen absorb red more than green, which stained tissue does
    not. A part of the slide that cannot be read counts as background and is logged.

    Args:
        slide: An open slide.
        mpp_slide: Micrometres per pixel at level 0.
        mpp: Micrometres per pixel of the mask; finer on very small slides.

    Returns:
        The mask over the whole entry. It is all False where there is no tissue.

    Raises:
        SlideError: No part of the slide can be read, or it is no colour image.
    """
    require_colour(slide)
    longer_side_px0 = max(slide.width_px0, slide.height_px0)
    downsample = max(1.0, min(mpp / mpp_slide, longer_side_px0 / MIN_LONGER_SIDE_PX))
    mpp_mask = downsample * mpp_slide
    colour, ink = _colour_and_ink(_overview(slide, downsample))
    threshold = float(np.clip(threshold_otsu(colour) if np.ptp(colour) > 0 else 0.0, *COLOUR_LIMITS))
    size = colour.size

    def area_px(area_um2: float) -> int:
        return min(round(area_um2 / mpp_mask**2), size // 20)

    tissue = _close(colour > threshold, radius_px=round(CLOSE_UM / 2 / mpp_mask))
    tissue = _without_small_pieces(tissue, min_px=area_px(MIN_TISSUE_UM2))
    tissue = remove_small_holes(tissue, max_size=max(area_px(MIN_TISSUE_HOLE_UM2) - 1, 0))
    ink = _without_small_pieces(_close(ink, radius_px=1), min_px=area_px(MIN_INK_UM2))
    if ink.any():
        tissue = tissue & ~isotropic_dilation(ink, max(1.0, CLOSE_UM / mpp_mask))
        tissue = _without_small_pieces(tissue, min_px=area_px(MIN_TISSUE_UM2))
    return TissueMask(mask=tissue, downsample=downsample)


def tissue_um2(mask: TissueMask, *, mpp_slide: float) -> float:
    """The area of the tissue in square micrometres."""
    return float(mask.mask.sum()) * (mask.downsample * mpp_slide) ** 2


def _overview(slide: Slide, downsample: float) -> NDArray[np.uint8]:
    """The whole slide as uint8 [h, w, 3], read in strips. Strips that cannot be read are white."""
    width = math.ceil(slide.width_px0 / downsample - 1e-6)
    height = math.ceil(slide.height_px0 / downsample - 1e-6)
    overview = np.full((height, width, 3), 255, np.uint8)
    unread_strips = 0
    starts = range(0, height, STRIP_ROWS)
    for top in starts:
        rows = min(STRIP_ROWS, height - top)
        try:
            overview[top : top + rows] = slide.read(0, top * downsample, size_px=(width, rows), downsample=downsample)
        except SlideError as error:
            unread_strips += 1
            log.warning("this part of the slide counts as background: %s", error.message)
            if unread_strips == len(starts):
                raise
    return overview


def _colour_and_ink(rgb: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The colour strength of each pixel, float32 [h, w], and where there is pen, bool [h, w].

    The colour strength is the range of the optical density over red, green and blue.
    """
    density = -np.log10((rgb.astype(np.float32) + 1) / 256)
    spread = np.ptp(density, axis=2)
    glass = (density.max(axis=2) < 0.1) & (spread < 0.04)
    if glass.mean() > 0.005:
        density = np.maximum(density - np.median(density[glass], axis=0), 0)
        spread = np.ptp(density, axis=2)
    mean = density.mean(axis=2)
    red_over_green = density[..., 0] - density[..., 1]
    black = (mean > 0.5) & (spread < 0.2 * mean)
    blue_or_green = (spread > COLOUR_LIMITS[1]) & (red_over_green > PEN_RED_OVER_GREEN * mean)
    return np.where(black, np.float32(0), spread), black | blue_or_green


def _close(mask: NDArray[np.bool_], *, radius_px: int) -> NDArray[np.bool_]:
    """The mask with the gaps closed into which no disk of that radius fits. It does not grow along the border."""
    if not mask.any():
        return mask
    margin = radius_px + 1
    closed: NDArray[np.bool_] = isotropic_closing(np.pad(mask, margin), radius_px)
    return closed[margin:-margin, margin:-margin]


def _without_small_pieces(mask: NDArray[np.bool_], *, min_px: int) -> NDArray[np.bool_]:
    """The mask without its connected pieces of fewer than ``min_px`` pixels."""
    kept: NDArray[np.bool_] = remove_small_objects(mask, max_size=max(min_px - 1, 0))
    return kept
