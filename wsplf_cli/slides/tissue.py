"""Where the tissue of a slide is, the grid of tiles over it, and reading those tiles. No torch here."""

import logging
import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.filters import threshold_otsu

from wsplf_cli.errors import SlideError
from wsplf_cli.schema import TissueMask
from wsplf_cli.slides.open import Slide

log = logging.getLogger(__name__)

#: Otsu's threshold on the colour strength is kept within these: a white slide has no tissue, a full slide only tissue.
COLOUR_LIMITS = (0.03, 0.07)
CLOSE_UM = 24.0
SMALL_TISSUE_UM2 = 10_000.0
SMALL_HOLE_UM2 = 20_000.0
SMALL_INK_UM2 = 4_000.0
#: Share of its mean optical density by which pen absorbs red more than green: below 0 for H&E, to 0.17 for pure
#: haematoxylin, from 0.28 for navy blue pen, 0.8 for green.
PEN_RED_OVER_GREEN = 0.22
STRIP_ROWS = 256
#: Small slides get a finer mask than asked for, so that their longer side has at least this many pixels.
LEAST_SIDE_PX = 256


def tissue_mask(slide: Slide, *, mpp_slide: float, mpp: float = 8.0) -> TissueMask:
    """Find the tissue: pixels with colour (in optical density, against the slide's own background), without pen.

    Otsu's threshold within sane limits, closing, then small pieces and small holes are removed. Grey and black (dust,
    folds of the cover glass, black pen) has no colour; blue and green pen absorbs red more than green, which stained
    tissue does not. A part of the slide that cannot be read counts as background and is logged.

    Args:
        slide: an open slide.
        mpp_slide: micrometres per pixel at level 0.
        mpp: micrometres per pixel of the mask; finer on very small slides.

    Returns:
        The mask over the whole entry; all False where there is no tissue.

    Raises:
        SlideError: nothing of the slide can be read.
    """
    longer = max(slide.width_px0, slide.height_px0)
    downsample = max(1.0, min(mpp / mpp_slide, longer / LEAST_SIDE_PX))
    mpp_mask = downsample * mpp_slide
    colour, ink = _colour_and_ink(_overview(slide, downsample))
    threshold = float(np.clip(threshold_otsu(colour) if np.ptp(colour) > 0 else 0.0, *COLOUR_LIMITS))
    size = colour.size

    def pixels(area_um2: float) -> int:
        return min(round(area_um2 / mpp_mask**2), size // 20)

    tissue = _close(colour > threshold, radius_px=round(CLOSE_UM / 2 / mpp_mask))
    tissue = _drop_small(tissue, least_px=pixels(SMALL_TISSUE_UM2))
    tissue = ~_drop_small(~tissue, least_px=pixels(SMALL_HOLE_UM2))
    ink = _drop_small(_close(ink, radius_px=1), least_px=pixels(SMALL_INK_UM2))
    if ink.any():
        tissue = tissue & ~_grow(ink, radius_px=max(1.0, CLOSE_UM / mpp_mask))
        tissue = _drop_small(tissue, least_px=pixels(SMALL_TISSUE_UM2))
    return TissueMask(mask=tissue, downsample=downsample)


def tissue_um2(mask: TissueMask, *, mpp_slide: float) -> float:
    """Area of the tissue in square micrometres."""
    return float(mask.mask.sum()) * (mask.downsample * mpp_slide) ** 2


def _overview(slide: Slide, downsample: float) -> NDArray[np.uint8]:
    """The whole slide as uint8 [h, w, 3], read in strips; what cannot be read is white."""
    width = math.ceil(slide.width_px0 / downsample - 1e-6)
    height = math.ceil(slide.height_px0 / downsample - 1e-6)
    overview = np.full((height, width, 3), 255, np.uint8)
    unread = 0
    starts = range(0, height, STRIP_ROWS)
    for top in starts:
        rows = min(STRIP_ROWS, height - top)
        try:
            overview[top : top + rows] = slide.read(0, top * downsample, size_px=(width, rows), downsample=downsample)
        except SlideError as error:
            unread += 1
            log.warning("counted as background: %s", error.message)
            if unread == len(starts):
                raise
    return overview


def _colour_and_ink(rgb: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """How coloured each pixel is (float32 [h, w], range of the optical density over R, G, B), and what is pen."""
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


def _grow(mask: NDArray[np.bool_], *, radius_px: float) -> NDArray[np.bool_]:
    """All pixels within a distance of the mask; by distances, so a large radius costs no more than a small one."""
    if not mask.any():
        return mask
    near: NDArray[np.bool_] = ndimage.distance_transform_edt(~mask) <= radius_px
    return near


def _close(mask: NDArray[np.bool_], *, radius_px: int) -> NDArray[np.bool_]:
    """The mask with gaps closed into which no disk of that radius fits; it does not grow along the border."""
    margin = radius_px + 1
    grown = _grow(np.pad(mask, margin), radius_px=radius_px)
    return ~_grow(~grown, radius_px=radius_px)[margin:-margin, margin:-margin]


def _drop_small(mask: NDArray[np.bool_], *, least_px: int) -> NDArray[np.bool_]:
    """The mask without its connected pieces of fewer than ``least_px`` pixels."""
    labels, _ = ndimage.label(mask)
    keep = np.bincount(labels.ravel()) >= least_px
    keep[0] = False
    kept: NDArray[np.bool_] = keep[labels]
    return kept
