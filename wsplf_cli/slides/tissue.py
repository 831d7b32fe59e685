"""The mask of the tissue on a slide: everything coloured that is not marker ink.

Every command needs it, so that it is kept for the user (see ``cache.keep_arrays``).
"""

import logging
import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from shapely import Polygon
from skimage.filters import threshold_otsu
from skimage.morphology import isotropic_closing, isotropic_dilation, remove_small_holes, remove_small_objects

from wsplf_cli.cache import digest_of, keep_arrays, kept_arrays, key_of
from wsplf_cli.errors import SlideError
from wsplf_cli.geometry import mask_polygons
from wsplf_cli.schema import TissueMask
from wsplf_cli.slides import ink as ink_module
from wsplf_cli.slides.checks import require_colour
from wsplf_cli.slides.entry import file_of
from wsplf_cli.slides.ink import ink_mask
from wsplf_cli.slides.open import Slide

log = logging.getLogger(__name__)

#: Otsu's threshold on the colour strength is kept within these limits, so that an empty slide has no tissue and a full
#: slide has tissue everywhere.
COLOUR_LIMITS = (0.03, 0.07)
CLOSE_UM = 24.0
MIN_TISSUE_UM2 = 10_000.0
MIN_TISSUE_HOLE_UM2 = 20_000.0
#: Tissue this near to ink is left out as well: what a network sees there is partly ink.
INK_MARGIN_UM = 16.0
#: Ink is searched for at this many micrometres per pixel, or more where the longer side had more pixels than that.
INK_MPP, INK_LONGER_SIDE_PX = 2.0, 4096
STRIP_ROWS = 256
#: The optical density (base 10) of each 8-bit value.
_DENSITY_OF_VALUE = -np.log10((np.arange(256, dtype=np.float32) + 1) / 256)
#: A small slide gets a finer mask than asked for, so that the longer side of the mask has at least this many pixels.
MIN_LONGER_SIDE_PX = 256


def tissue_mask(slide: Slide, *, mpp_slide: float, mpp: float = 8.0, find_ink: bool = True) -> TissueMask:
    """The tissue of a slide: pixels with colour against the slide's own background, without marker ink.

    The colour strength of a pixel is the range of its optical density over red, green and blue. Otsu's threshold is
    applied to it; gaps are closed, then small pieces and small holes are removed. Grey and black (dust, folds of the
    cover glass) have no colour. Marker ink (see ``ink``) is no tissue. A part of the slide that cannot be read counts
    as background and is logged.

    A mask that was found before is taken from the user's cache, where the file has not changed since.

    Args:
        slide: An open slide.
        mpp_slide: Micrometres per pixel at level 0.
        mpp: Micrometres per pixel of the mask; finer on very small slides.
        find_ink: False where ink does not matter: ink then counts as what its colour says, and the mask takes a
            fraction of the time.

    Returns:
        The mask over the whole entry. It is all False where there is no tissue.

    Raises:
        SlideError: No part of the slide can be read, or it is no colour image.
    """
    require_colour(slide)
    key = key_of([_source(), file_of(slide), slide.shown, mpp_slide, mpp, find_ink])
    kept = kept_arrays("tissue", key)
    mask = None if kept is None else _unpacked(kept)
    if mask is None:
        mask, whole = _find_tissue(slide, mpp_slide=mpp_slide, mpp=mpp, find_ink=find_ink)
        if whole:
            keep_arrays("tissue", key, _packed(mask))
    return mask


class _Overview(NamedTuple):
    """A whole slide as ``rgb`` uint8 [h, w, 3]; ``whole`` says that every part could be read."""

    rgb: NDArray[np.uint8]
    whole: bool


def _find_tissue(slide: Slide, *, mpp_slide: float, mpp: float, find_ink: bool) -> tuple[TissueMask, bool]:
    """The tissue of a slide as ``tissue_mask`` describes it, and whether every part of the slide could be read."""
    longer_side_px0 = max(slide.width_px0, slide.height_px0)
    downsample = max(1.0, min(mpp / mpp_slide, longer_side_px0 / MIN_LONGER_SIDE_PX))
    mpp_mask = downsample * mpp_slide
    overview, whole = _overview(slide, downsample)
    density = _density(overview)
    ink = np.zeros(density.shape[:2], bool)
    if find_ink:
        ink, ink_whole = _ink(slide, density, downsample=downsample, mpp_slide=mpp_slide)
        whole = whole and ink_whole
    colour = np.where(ink, np.float32(0), _colour_strength(density))
    threshold = float(np.clip(threshold_otsu(colour) if np.ptp(colour) > 0 else 0.0, *COLOUR_LIMITS))
    size = colour.size

    def area_px(area_um2: float) -> int:
        return min(round(area_um2 / mpp_mask**2), size // 20)

    tissue = _close(colour > threshold, radius_px=round(CLOSE_UM / 2 / mpp_mask))
    tissue = _without_small_pieces(tissue, min_px=area_px(MIN_TISSUE_UM2))
    tissue = remove_small_holes(tissue, max_size=max(area_px(MIN_TISSUE_HOLE_UM2) - 1, 0))
    if not ink.any():
        return TissueMask(mask=tissue, downsample=downsample), whole
    tissue = tissue & ~isotropic_dilation(ink, max(1.0, INK_MARGIN_UM / mpp_mask))
    tissue = _without_small_pieces(tissue, min_px=area_px(MIN_TISSUE_UM2))
    return TissueMask(mask=tissue, downsample=downsample, ink=ink), whole


@cache
def _source() -> str:
    """A digest of the code that finds tissue, so that a mask of other code is not taken."""
    return digest_of(*(Path(str(file)).read_bytes() for file in (__file__, ink_module.__file__)))


def _packed(mask: TissueMask) -> dict[str, NDArray[Any]]:
    arrays = {"shape": np.array(mask.mask.shape), "downsample": np.array(mask.downsample), "mask": mask.mask}
    if mask.ink is not None:
        arrays["ink"] = mask.ink
    return {name: np.packbits(array) if array.dtype == bool else array for name, array in arrays.items()}


def _unpacked(arrays: Mapping[str, NDArray[Any]]) -> TissueMask | None:
    """The mask of packed arrays; None where they are not those of a mask."""
    try:
        shape = tuple(int(side) for side in arrays["shape"])
        mask, ink = (
            np.unpackbits(arrays[name], count=math.prod(shape)).astype(bool).reshape(shape) if name in arrays else None
            for name in ("mask", "ink")
        )
        return None if mask is None else TissueMask(mask, float(arrays["downsample"]), ink)
    except (KeyError, ValueError, TypeError) as error:
        log.info("a kept mask is damaged and computed again: %s", error)
        return None


def tissue_um2(mask: TissueMask, *, mpp_slide: float) -> float:
    """The area of the tissue in square micrometres."""
    return float(mask.mask.sum()) * (mask.downsample * mpp_slide) ** 2


def ink_polygons(mask: TissueMask) -> list[Polygon]:
    """The outlines of the marker ink in level-0 pixels, largest first."""
    if mask.ink is None:
        return []
    return mask_polygons(
        mask.ink, origin_px0=(0.0, 0.0), downsample=mask.downsample, tolerance_px0=mask.downsample / 4, min_area_px0=0.0
    )


def ink_um2(mask: TissueMask, *, mpp_slide: float) -> float:
    """The area of the marker ink in square micrometres."""
    return 0.0 if mask.ink is None else float(mask.ink.sum()) * (mask.downsample * mpp_slide) ** 2


def hide_ink(
    pixels: NDArray[np.uint8], mask: TissueMask, *, origin_px0: tuple[float, float], downsample: float
) -> NDArray[np.uint8]:
    """The pixels with white where marker ink lies, so that networks do not see it.

    A ring around the tumour stands on positive slides only: what is seen of it, slide labels teach as tumour.

    Args:
        pixels: A part of the slide, uint8 [h, w, 3].
        mask: The tissue and the ink of the slide.
        origin_px0: (x, y) of the top-left corner of the part.
        downsample: Level-0 pixels per pixel of the part.
    """
    if mask.ink is None:
        return pixels
    ink = np.pad(mask.ink, 1)  # there is no ink outside the slide
    columns, rows = (
        np.clip((start + (np.arange(length) + 0.5) * downsample) // mask.downsample + 1, 0, limit - 1).astype(np.intp)
        for start, length, limit in zip(origin_px0, pixels.shape[1::-1], ink.shape[::-1], strict=True)
    )
    hidden: NDArray[np.uint8] = np.where(ink[np.ix_(rows, columns)][..., None], np.uint8(255), pixels)
    return hidden


def _overview(slide: Slide, downsample: float) -> _Overview:
    """The whole slide, read in strips. Strips that cannot be read are white."""
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
    return _Overview(overview, unread_strips == 0)


def _ink(
    slide: Slide, density: NDArray[np.float32], *, downsample: float, mpp_slide: float
) -> tuple[NDArray[np.bool_], bool]:
    """Where an overview has marker ink, bool [h, w], and whether every part of the slide could be read.

    Ink is where a pixel is touched by any ink that is seen at a finer scale.

    Args:
        slide: The open slide.
        density: The optical density of the overview, float32 [h, w, 3].
        downsample: Level-0 pixels per pixel of the overview.
        mpp_slide: Micrometres per pixel at level 0.
    """
    longer_side_px0 = max(slide.width_px0, slide.height_px0)
    finer = max(1.0, INK_MPP / mpp_slide, longer_side_px0 / INK_LONGER_SIDE_PX)
    if finer >= downsample:
        return ink_mask(density, mpp=downsample * mpp_slide), True
    overview, whole = _overview(slide, finer)
    ink = ink_mask(_density(overview), mpp=finer * mpp_slide)
    height, width = density.shape[:2]
    box = (0.0, 0.0, min(width * downsample / finer, ink.shape[1]), min(height * downsample / finer, ink.shape[0]))
    share = Image.fromarray(ink.astype(np.float32)).resize((width, height), Image.Resampling.BOX, box=box)
    touched: NDArray[np.bool_] = np.asarray(share) > 0.05
    return touched, whole


def _density(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The optical density (base 10) of an image above that of its glass, float32 [h, w, 3]."""
    density = _DENSITY_OF_VALUE[rgb]
    most, least = _most_and_least(density)
    glass = (most < 0.1) & (most - least < 0.04)
    if glass.mean() > 0.005:
        density = np.maximum(density - np.median(density[glass], axis=0), 0)
    return density


def _colour_strength(density: NDArray[np.float32]) -> NDArray[np.float32]:
    """The range of the optical density over red, green and blue, float32 [h, w]; 0 for black."""
    most, least = _most_and_least(density)
    spread = most - least
    mean = (density[..., 0] + density[..., 1] + density[..., 2]) / 3
    black = (mean > 0.5) & (spread < 0.2 * mean)
    strength: NDArray[np.float32] = np.where(black, np.float32(0), spread)
    return strength


def _most_and_least(density: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The largest and the smallest of the three channels, float32 [h, w]; several times as fast as over an axis."""
    red, green, blue = (density[..., channel] for channel in range(3))
    return np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)


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
