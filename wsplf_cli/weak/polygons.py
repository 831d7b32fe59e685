"""From the CAM of a slide to polygons: refined, outlined, cut, and measured once, last, in their final shape."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from shapely import Polygon

from wsplf_cli.cohort.slide import CohortSlide
from wsplf_cli.geometry import clip_polygons, mask_polygons, rasterise
from wsplf_cli.options import PseudolabelOptions
from wsplf_cli.review.merge import subtract_regions
from wsplf_cli.review.roles import AREA, CONFIDENCE
from wsplf_cli.schema import PromptedMask
from wsplf_cli.slides.map import SlideMap
from wsplf_cli.slides.tissue import ink_polygons
from wsplf_cli.weak.overlap import split_polygons
from wsplf_cli.weak.prompts import FOREGROUND
from wsplf_cli.weak.sam.refine import RefinedRegion, Refiner, refine

#: Outlines are simplified by this much: under a third of a nucleus.
TOLERANCE_UM = 1.5
#: Smaller holes of pseudo-labels are filled: a lumen belongs to its gland. (Holes of predictions: see
#: ``segmentation.annotate.MIN_GAP_UM2``.)
MIN_LUMEN_UM2 = 2000.0
#: SAM's masks that are kept of a polygon, to be shown.
MOST_MASKS = 40


@dataclass(frozen=True, slots=True)
class DrawnPolygon:
    """A polygon of a slide in level-0 pixels, and the refined region that it was drawn from."""

    shape: Polygon
    region: RefinedRegion


def draw_polygons(
    slide: CohortSlide,
    cam: SlideMap,
    refiner: Refiner,
    options: PseudolabelOptions,
    rng: np.random.Generator,
) -> list[DrawnPolygon]:
    """The polygons of one class on one slide, from its CAM in 0..1."""
    drawn = []
    for region in refine(slide.open(), cam, refiner, window_downsample=options.mpp / slide.mpp, rng=rng):
        shapes = mask_polygons(
            region.probability >= FOREGROUND,
            origin_px0=region.origin_px0,
            downsample=region.downsample,
            tolerance_px0=TOLERANCE_UM / slide.mpp,
            min_area_px0=options.min_area_um2 / slide.mpp**2,
            min_hole_px0=MIN_LUMEN_UM2 / slide.mpp**2,
        )
        # the last cells of a map may reach beyond the image
        parts = clip_polygons(shapes, slide.entry.size_px0, min_area_px0=options.min_area_um2 / slide.mpp**2)
        drawn += [DrawnPolygon(part, region) for parts_of_shape in parts for part in parts_of_shape]
    return drawn


def outside_of_review(
    drawn: Sequence[DrawnPolygon], slide: CohortSlide, path_class: str, *, min_area_px0: float
) -> list[DrawnPolygon]:
    """What of the polygons lies outside everything that a person decided for the class, and outside marker ink."""
    taken = [*slide.regions(path_class).reviewed, *ink_polygons(slide.tissue)]
    parts = subtract_regions([polygon.shape for polygon in drawn], taken, min_area_px0=min_area_px0)
    return _with_parts(drawn, parts)


def separate_classes(
    drawn: Sequence[Sequence[DrawnPolygon]], cams: Sequence[SlideMap], *, min_area_px0: float
) -> list[list[DrawnPolygon]]:
    """The polygons of several classes without overlaps: an overlap goes to the class with the higher CAM."""
    shapes = [[polygon.shape for polygon in of_class] for of_class in drawn]
    split = split_polygons(shapes, cams, min_area_px0=min_area_px0)
    return [_with_parts(of_class, parts) for of_class, parts in zip(drawn, split, strict=True)]


def measure(polygon: DrawnPolygon, *, mpp_slide: float) -> dict[str, float]:
    """The measurements of one polygon: confidence, what it is made of, and area. What is not known is left out."""
    shape, region = polygon.shape, polygon.region
    left, top, right, bottom = shape.bounds
    height, width = region.probability.shape
    x, y = ((np.array([left, top]) - region.origin_px0) / region.downsample).astype(np.intp).clip(0)
    size = np.ceil(np.array([right - left, bottom - top]) / region.downsample).astype(np.intp) + 2
    size = np.minimum(size, (width - x, height - y))
    origin = (region.origin_px0[0] + x * region.downsample, region.origin_px0[1] + y * region.downsample)
    inside = rasterise([shape], origin_px0=origin, downsample=region.downsample, size_px=(int(size[0]), int(size[1])))
    measurements = {AREA: float(shape.area * mpp_slide**2)}
    if not inside.any():  # a sliver between the centres of pixels
        return measurements
    window = np.s_[y : y + size[1], x : x + size[0]]
    probability, cam, sam = (layer[window][inside] for layer in (region.probability, region.cam, region.sam))
    covered = sam > 0
    sam_iou = {"wsplf: SAM IoU": float(sam[covered].mean())} if covered.any() else {}
    return {
        CONFIDENCE: float(probability.mean()),
        "wsplf: CAM": float(cam.mean()),
        **sam_iou,
        "wsplf: SAM share": float(covered.mean()),
        **measurements,
    }


def prompted_masks(polygon: DrawnPolygon) -> list[PromptedMask]:
    """SAM's masks that touch a polygon, or were prompted in it: at most ``MOST_MASKS``, the largest overlaps first."""
    shapely.prepare(polygon.shape)
    touching = []
    for mask in polygon.region.prompted:
        inside = mask.points_px0[mask.point_labels == 1]
        prompted = shapely.intersects_xy(polygon.shape, inside[:, 0], inside[:, 1]).any()
        if prompted or polygon.shape.intersects(mask.shape):
            touching.append(mask)
    if len(touching) > 1:
        touching.sort(key=lambda mask: -float(mask.shape.intersection(polygon.shape).area))
    return touching[:MOST_MASKS]


def _with_parts(drawn: Sequence[DrawnPolygon], parts: Sequence[Sequence[Polygon]]) -> list[DrawnPolygon]:
    return [
        DrawnPolygon(part, polygon.region)
        for polygon, of_polygon in zip(drawn, parts, strict=True)
        for part in of_polygon
    ]
