"""Outlines of predicted polygons from SAM, which is prompted with the network's probabilities as with a CAM.

On slides of other patients a network is less sure of borders than of places, and SAM has learned nothing but borders.
Where SAM's masks contradict the network, its own outline stays.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy import sparse, special
from scipy.sparse import csgraph
from shapely import Polygon, STRtree, affinity

from wsplf_cli.geometry import mask_polygons, rasterise
from wsplf_cli.options import SegmentOptions
from wsplf_cli.segmentation.checkpoint import Checkpoint
from wsplf_cli.segmentation.predict import ClassPrediction, OutlineSettings
from wsplf_cli.slides.map import SlideMap
from wsplf_cli.slides.open import Slide

#: Outlines may differ by this many pixels of the refined map from the exact ones.
TOLERANCE_PX = 0.75
#: Touching polygons get SAM's outline where its masks cover this share of their area.
LEAST_MASKED = 0.5
#: Probabilities count as this far from 0 and 1 at least, so that their logits are finite.
_NEAR_CERTAIN = 1e-3


class Region(Protocol):
    """A refined map over a region of a slide, all float32 [rows, columns]; a pixel is ``downsample`` level-0 pixels.

    ``probability`` 0..1 is foreground from 0.5 on; ``sam`` is above 0 where a mask of SAM that counts covers a pixel.
    """

    @property
    def origin_px0(self) -> tuple[float, float]:
        """(x, y) of the top-left corner."""

    @property
    def downsample(self) -> float:
        """Level-0 pixels per pixel."""

    @property
    def probability(self) -> NDArray[np.float32]:
        """Float32 [rows, columns]."""

    @property
    def sam(self) -> NDArray[np.float32]:
        """Float32 [rows, columns]."""


class RefineMap(Protocol):
    """Refines the foreground of maps of slides."""

    def __call__(
        self, slide: Slide, cam: SlideMap, *, window_downsample: float, rng: np.random.Generator
    ) -> Iterable[Region]:
        """Regions of a map in 0..1, foreground from 0.5 on; windows have so many level-0 pixels per pixel."""


def asks_sam(options: SegmentOptions, checkpoint: Checkpoint) -> bool:
    """Whether SAM outlines the polygons of a model. Those of the ``sam`` segmenter are SAM's already."""
    return options.outlines == "sam" and checkpoint.plugin != "sam"


@dataclass(frozen=True, slots=True)
class OutlineRefiner:
    """What gives polygons their outlines. ``digest`` is one of all that its answers depend on."""

    refine: RefineMap
    digest: str

    def __call__(
        self,
        slide: Slide,
        prediction: ClassPrediction,
        settings: OutlineSettings,
        *,
        window_downsample: float,
        rng: np.random.Generator,
    ) -> list[Polygon]:
        """The polygons of a prediction with their new outlines, largest first; they may reach beyond the image.

        Args:
            slide: The open slide.
            prediction: Polygons, and the map that they come from.
            settings: Those of the prediction.
            window_downsample: Level-0 pixels per pixel of SAM's windows.
            rng: Draws prompts.

        Raises:
            SlideError: The slide cannot be read.
        """
        if not prediction.polygons:
            return []
        refined: list[Polygon] = []
        masked: list[float] = []
        cam = _cam(prediction, threshold=settings.threshold)
        for region in self.refine(slide, cam, window_downsample=window_downsample, rng=rng):
            shapes = mask_polygons(
                region.probability >= 0.5,
                origin_px0=region.origin_px0,
                downsample=region.downsample,
                tolerance_px0=TOLERANCE_PX * region.downsample,
                min_area_px0=settings.min_area_px0,
                min_hole_px0=settings.min_hole_px0,
            )
            refined += shapes
            covered = SlideMap((region.sam > 0).astype(np.float32), region.downsample)
            left, top = region.origin_px0
            masked += [covered.mean_inside(affinity.translate(shape, -left, -top)) for shape in shapes]
        chosen = _chosen(prediction.polygons, refined, masked)
        return sorted(chosen, key=lambda polygon: -polygon.area)


def _cam(prediction: ClassPrediction, *, threshold: float) -> SlideMap:
    """The probabilities in and around the polygons, moved so that the threshold becomes 0.5; 0 elsewhere."""
    values, cell_px0 = prediction.probability.values, prediction.probability.downsample
    rows, columns = values.shape
    around = [polygon.buffer(cell_px0) for polygon in prediction.polygons]
    near = rasterise(around, origin_px0=(0.0, 0.0), downsample=cell_px0, size_px=(columns, rows))
    limits = (_NEAR_CERTAIN, 1 - _NEAR_CERTAIN)
    moved = special.expit(special.logit(np.clip(values, *limits)) - special.logit(np.clip(threshold, *limits)))
    return SlideMap((moved * near).astype(np.float32), cell_px0)


def _chosen(polygons: Sequence[Polygon], refined: Sequence[Polygon], masked: Sequence[float]) -> list[Polygon]:
    """Of polygons that touch, either those of the network or those refined, by the share that SAM's masks cover.

    A refined polygon that touches none of the network is left out.
    """
    if not refined:
        return list(polygons)
    first, second = STRtree(refined).query(polygons, predicate="intersects")
    count = len(polygons) + len(refined)
    touching = sparse.coo_array((np.ones(len(first)), (first, len(polygons) + second)), shape=(count, count))
    groups, group_of = csgraph.connected_components(touching, directed=False)
    of_polygons, of_refined = group_of[: len(polygons)], group_of[len(polygons) :]
    areas = shapely.area(refined)
    covered = np.bincount(of_refined, weights=areas * np.array(masked), minlength=groups)
    whole = np.bincount(of_refined, weights=areas, minlength=groups)
    by_sam = (whole > 0) & (covered >= LEAST_MASKED * whole)
    drawn = np.bincount(of_polygons, minlength=groups) > 0
    kept = [polygon for polygon, group in zip(polygons, of_polygons, strict=True) if not by_sam[group]]
    return kept + [
        polygon for polygon, group in zip(refined, of_refined, strict=True) if by_sam[group] and drawn[group]
    ]
