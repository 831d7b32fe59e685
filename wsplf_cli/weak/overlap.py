"""Several classes on one slide: a cell belongs to the class with the highest CAM, and polygons do not overlap."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from shapely import Polygon
from shapely.geometry.base import BaseGeometry

from wsplf_cli.geometry import mask_polygons, polygonal, union
from wsplf_cli.review.merge import subtract_regions
from wsplf_cli.slides.map import SlideMap
from wsplf_cli.weak.calibration import BELOW_FOREGROUND, keep_components_with_peak
from wsplf_cli.weak.prompts import FOREGROUND

#: A border between two classes is drawn in pixels of a quarter of a cell, in areas of at most so many on a side.
_FINER = 4
_MOST_PX = 1024


def argmax_cams(cams: Sequence[NDArray[np.float32]], *, peaks: Sequence[float | None]) -> list[NDArray[np.float32]]:
    """CAMs float32 [rows, columns] in 0..1 of several classes, each below 0.5 where another class is higher.

    What a class keeps must reach its peak component by component; otherwise the other classes get the cells.
    """
    current = list(cams)
    while True:
        highest = np.argmax(current, axis=0)
        kept = [np.where(highest == index, cam, np.minimum(cam, BELOW_FOREGROUND)) for index, cam in enumerate(current)]
        with_peak = [
            cam if peak is None else keep_components_with_peak(cam, peak=peak)
            for cam, peak in zip(kept, peaks, strict=True)
        ]
        lost = [(cam >= FOREGROUND) & (peaked < FOREGROUND) for cam, peaked in zip(kept, with_peak, strict=True)]
        if not any(cells.any() for cells in lost):
            return with_peak
        current = [
            np.where(cells, np.minimum(cam, BELOW_FOREGROUND), cam) for cam, cells in zip(current, lost, strict=True)
        ]


def split_polygons(
    polygons: Sequence[Sequence[Polygon]], cams: Sequence[SlideMap], *, min_area_px0: float
) -> list[list[list[Polygon]]]:
    """The parts of each polygon of each class after overlaps went to the class with the higher CAM.

    Args:
        polygons: The polygons of each class.
        cams: The CAM of each class.
        min_area_px0: Smaller parts of a cut polygon are dropped.
    """
    parts = [[[polygon] for polygon in of_class] for of_class in polygons]

    def shapes(index: int) -> list[Polygon]:
        return [part for of_polygon in parts[index] for part in of_polygon]

    def cut(index: int, taken: Sequence[BaseGeometry]) -> None:
        parts[index] = [
            [piece for pieces in subtract_regions(of_polygon, taken, min_area_px0=min_area_px0) for piece in pieces]
            for of_polygon in parts[index]
        ]

    for first, second in combinations(range(len(parts)), 2):
        common = polygonal(union(shapes(first)).intersection(union(shapes(second))))
        if common:
            cut(first, [_where_higher(area, cams[second], cams[first]) for area in common])
            cut(second, shapes(first))
    return parts


def _where_higher(area: BaseGeometry, cam: SlideMap, other: SlideMap) -> BaseGeometry:
    """Where in an area one CAM is higher than another."""
    cell_px0 = cam.downsample
    left, top, right, bottom = (value / cell_px0 for value in area.bounds)
    step = max(1 / _FINER, (right - left) / _MOST_PX, (bottom - top) / _MOST_PX)  # in cells
    columns, rows = (np.arange(first - 1 + step / 2, last + 1, step) for first, last in ((left, right), (top, bottom)))
    positions = np.meshgrid(rows - 0.5, columns - 0.5, indexing="ij")
    cam_values, other_values = (
        ndimage.map_coordinates(layer.values, positions, order=1, mode="nearest") for layer in (cam, other)
    )
    higher = mask_polygons(
        cam_values > other_values,
        origin_px0=((left - 1) * cell_px0, (top - 1) * cell_px0),
        downsample=step * cell_px0,
        tolerance_px0=step * cell_px0,
        min_area_px0=0.0,
    )
    return area.intersection(union(higher))
