"""The colour baseline of the demo: the best threshold on one channel of the slides, chosen with their truth."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from wsplf_cli.backends import Project
from wsplf_cli.geometry import mask_polygons, rasterise
from wsplf_cli.qupath import geojson
from wsplf_cli.schema import Annotation, Entry
from wsplf_cli.slides.entry import entry_slide
from wsplf_cli.slides.tissue import tissue_mask
from wsplf_cli.synthetic.threshold import ColourThreshold, best_threshold

#: The slides are read at this mpp: finer than the baseline's smoothing, coarse enough to be quick.
THRESHOLD_MPP = 2.0
#: Smaller pieces are dropped: less than a nucleus, so that the polygons keep the Dice for which it was chosen.
MIN_AREA_UM2 = 20.0


@dataclass(frozen=True, slots=True)
class _Overview:
    """A slide at ``THRESHOLD_MPP``: ``rgb`` uint8 [H, W, 3], ``truth`` and ``tissue`` bool [H, W]."""

    rgb: NDArray[np.uint8]
    truth: NDArray[np.bool_]
    tissue: NDArray[np.bool_]
    downsample: float


def predict_by_colour(project: Project, entries: Sequence[Entry], *, truth: Path, path_class: str) -> ColourThreshold:
    """The colour threshold with the best mean Dice on these entries; its polygons are written as their predictions.

    Args:
        project: The project to write to.
        entries: Its entries.
        truth: A folder with SLIDE-STEM.geojson for each of them.
        path_class: The class of the predictions.
    """
    overviews = [_overview(entry, truth=truth) for entry in entries]
    best = best_threshold(
        [overview.rgb for overview in overviews],
        [overview.truth for overview in overviews],
        [overview.tissue for overview in overviews],
        mpp=THRESHOLD_MPP,
    )
    for entry, overview in zip(entries, overviews, strict=True):
        polygons = mask_polygons(
            best.mask(overview.rgb, overview.tissue, mpp=THRESHOLD_MPP),
            origin_px0=(0.0, 0.0),
            downsample=overview.downsample,
            tolerance_px0=0.5 * overview.downsample,
            min_area_px0=MIN_AREA_UM2 / THRESHOLD_MPP**2 * overview.downsample**2,
        )
        annotations = [
            Annotation(uuid4(), polygon, path_class, origin="prediction", run_id="threshold") for polygon in polygons
        ]
        project.replace(entry.id, origin="prediction", annotations=annotations)
    return best


def _overview(entry: Entry, *, truth: Path) -> _Overview:
    slide, pixel_size = entry_slide(entry)
    downsample = THRESHOLD_MPP / pixel_size.mpp
    size_px = (int(slide.width_px0 / downsample), int(slide.height_px0 / downsample))
    tissue = tissue_mask(slide, mpp_slide=pixel_size.mpp)
    rows, columns = (
        np.minimum((np.arange(count) + 0.5) * downsample / tissue.downsample, limit - 1).astype(np.intp)
        for count, limit in zip(size_px[::-1], tissue.mask.shape, strict=True)
    )
    shapes = [annotation.shape for annotation in geojson.read(truth / f"{Path(entry.name).stem}.geojson")]
    return _Overview(
        rgb=slide.read(0, 0, size_px=size_px, downsample=downsample),
        truth=rasterise(shapes, origin_px0=(0.0, 0.0), downsample=downsample, size_px=size_px),
        tissue=tissue.mask[np.ix_(rows, columns)],
        downsample=downsample,
    )
