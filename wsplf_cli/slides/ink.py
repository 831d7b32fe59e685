"""Where marker ink lies on a slide: lines, rings and dots of black, blue, green and red pens, fresh or washed out.

Two properties tell ink from stained tissue. First, ink is continuous over many cells, while tissue has pale gaps
between its nuclei and fibres. The morphological opening of the optical density keeps only what fills a square wider
than a nucleus; behind it, no tissue is as dark in all channels, as blue, or as red as ink. Second, a pen draws strokes:
long, of one width. Fresh ink is told by its colour. Washed-out ink has colours that stained tissue can have on other
slides. It is accepted where its colour differs from the rest of the slide and it is a stroke or touches fresh ink.

Colour rules for pens in the literature are thresholds on RGB or HSV pixels: HistoQC (Janowczyk et al., JCO Clinical
Cancer Informatics 2019), deep-histopath (CODAIT, filters for red, green and blue pen), and Schueffler et al., Journal
of Pathology Informatics 2021, 12:9. Those thresholds also take red blood cells and counterstained nuclei for ink. The
limits here were set on ratios of optical densities of pens against published stain vectors (Ruifrok and Johnston, 2001)
and on slides without ink.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

#: Side of the square that ink fills: wider than most nuclei, narrower than a pen stroke.
OPENING_UM = 10.0
#: Washed-out strokes are wider than this: chains of dark nuclei are not.
STROKE_UM = 18.0
#: Mean optical density of washed-out and of fresh ink.
WEAK_DENSITY, FRESH_DENSITY = 0.10, 0.22
#: Blue and green ink absorb red at least this much more than green. Haematoxylin reaches 1.25 where it is alone.
FRESH_RED_OVER_GREEN = 1.35
#: Dark blue ink absorbs red as much as green, at a mean density that haematoxylin has in nuclei alone.
NAVY_RED_OVER_GREEN, NAVY_DENSITY = 0.93, 0.5
#: Red ink absorbs blue at least this much, nearly as much as green, and hardly any red. Red blood cells absorb blue up
#: to about 0.6, DAB absorbs a third as much red as blue.
RED_BLUE_DENSITY, RED_BLUE_OVER_GREEN, RED_REST = 0.66, 0.72, 0.28
#: Black ink absorbs all colours, the least absorbed at least this much and this share of the most absorbed.
BLACK_DENSITY, BLACK_EVENNESS = 0.5, 0.62
#: Washed-out ink exceeds the slide's median by this much, within two limits: red over green, blue over green, evenness.
#: On slides without ink, 99.9 % of the tissue stays below.
WEAK_RED_OVER_GREEN, WEAK_BLUE_OVER_GREEN, WEAK_EVENNESS = (0.35, 0.5, 1.02), (0.18, 0.4, 0.95), (0.15, 0.42, 0.78)
#: Fresh ink is followed into washed-out ink over this distance.
FOLLOW_UM = 400.0
MIN_FRESH_UM2 = 1_000.0
MIN_STROKE_UM2 = 4_000.0
#: A stroke is this many times longer than wide, on average, and nowhere wider than this many times its mean width.
STROKE_LENGTH, STROKE_WIDEST = 6.0, 2.5
#: The soft edge of a stroke.
EDGE_UM = 8.0


@dataclass(frozen=True, slots=True)
class InkEvidence:
    """Which pixels have the colour of ink, bool [h, w] each: ``fresh`` beyond doubt, ``weak`` perhaps."""

    fresh: NDArray[np.bool_]
    weak: NDArray[np.bool_]


def ink_mask(density: NDArray[np.float32], *, mpp: float) -> NDArray[np.bool_]:
    """Where there is ink, bool [h, w], with the soft edges of its strokes.

    Args:
        density: Optical density (base 10) of red, green and blue above that of the glass, float32 [h, w, 3].
        mpp: Micrometres per pixel, up to about 10.
    """
    evidence = ink_colours(density, mpp=mpp)
    if not evidence.fresh.any() and not evidence.weak.any():
        return evidence.fresh
    fresh = _without_small(evidence.fresh, min_px=MIN_FRESH_UM2 / mpp**2)
    side = _odd_side(STROKE_UM, mpp)
    wide = _opened(evidence.weak, side)
    ink = fresh | _strokes(wide | fresh, min_px=MIN_STROKE_UM2 / mpp**2)
    if not ink.any():
        return ink
    followed: NDArray[np.bool_] = ndimage.binary_dilation(
        ink, structure=np.ones((3, 3), bool), iterations=math.ceil(FOLLOW_UM / mpp), mask=evidence.weak | ink
    )
    distance_px = ndimage.distance_transform_edt(~followed)
    edge: NDArray[np.bool_] = distance_px * mpp <= max(EDGE_UM, mpp)
    return edge


def ink_colours(density: NDArray[np.float32], *, mpp: float) -> InkEvidence:
    """Which pixels have the colour of ink; arguments as ``ink_mask``."""
    side = _odd_side(OPENING_UM, mpp)
    red, green, blue = (
        ndimage.maximum_filter(ndimage.minimum_filter(np.ascontiguousarray(density[..., channel]), side), side)
        for channel in range(3)
    )
    mean = (red + green + blue) / 3
    least = np.minimum(np.minimum(red, green), blue)
    most = np.maximum(np.maximum(np.maximum(red, green), blue), np.float32(0.02))
    red_over_green, blue_over_green = (channel / np.maximum(green, np.float32(0.02)) for channel in (red, blue))
    evenness = least / most
    coloured = mean > WEAK_DENSITY
    reddish = red < RED_REST * most
    fresh = (
        ((red_over_green > FRESH_RED_OVER_GREEN) & (mean > FRESH_DENSITY))
        | ((red_over_green > NAVY_RED_OVER_GREEN) & (mean > NAVY_DENSITY))
        | ((blue > RED_BLUE_DENSITY) & (blue_over_green > RED_BLUE_OVER_GREEN) & reddish)
        | ((least > BLACK_DENSITY) & (evenness > BLACK_EVENNESS) & (red > 0.75 * blue))
    )
    weak = coloured & (
        (red_over_green > _limit(red_over_green[coloured], *WEAK_RED_OVER_GREEN))
        | (reddish & (blue_over_green > _limit(blue_over_green[coloured & reddish], *WEAK_BLUE_OVER_GREEN)))
        | ((least > 2 * WEAK_DENSITY) & (evenness > _limit(evenness[coloured], *WEAK_EVENNESS)))
    )
    return InkEvidence(fresh, weak)


def _odd_side(side_um: float, mpp: float) -> int:
    """The side of a square in pixels, odd and at least 3."""
    return max(3, 2 * math.floor(side_um / mpp / 2) + 1)


def _opened(mask: NDArray[np.bool_], side: int) -> NDArray[np.bool_]:
    """A mask without what a square does not fit into; nothing lies beyond its border."""
    eroded = ndimage.minimum_filter(mask.view(np.uint8), side, mode="constant", cval=0)
    opened: NDArray[np.bool_] = ndimage.maximum_filter(eroded, side, mode="constant", cval=0).view(np.bool_)
    return opened


def _limit(values: NDArray[np.float32], excess: float, lowest: float, highest: float) -> float:
    """The median of some values and the excess, within two limits."""
    median = float(np.median(values[:: max(1, values.size // 200_000)])) if values.size else highest
    return min(max(median + excess, lowest), highest)


def _strokes(mask: NDArray[np.bool_], *, min_px: float) -> NDArray[np.bool_]:
    """The connected parts of a mask that are long and of one width."""
    labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
    if not count:
        return mask
    depth_px = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    parts = np.arange(1, count + 1)
    area = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    width = 4 * ndimage.mean(depth_px, labels, parts)  # the mean depth of a band is a quarter of its width
    widest = 2 * ndimage.maximum(depth_px, labels, parts)
    long = area / width**2 > STROKE_LENGTH
    is_stroke = np.concatenate([[False], (area >= min_px) & long & (widest < STROKE_WIDEST * width)])
    strokes: NDArray[np.bool_] = is_stroke[labels]
    return strokes


def _without_small(mask: NDArray[np.bool_], *, min_px: float) -> NDArray[np.bool_]:
    labels, _ = ndimage.label(mask, structure=np.ones((3, 3)))
    large = np.bincount(labels.ravel()) >= min_px
    large[0] = False
    kept: NDArray[np.bool_] = large[labels]
    return kept
