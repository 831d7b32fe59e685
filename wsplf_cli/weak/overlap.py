"""Several classes on one slide: each place belongs to one of them, that whose CAM is highest there."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from shapely.geometry.base import BaseGeometry

from wsplf_cli.geometry import mask_polygons, polygonal, union
from wsplf_cli.review.merge import without
from wsplf_cli.schema import Annotation
from wsplf_cli.weak.calibration import BELOW, keep_components_with_peak

#: A border between two classes is drawn in pixels of a quarter of a cell, on areas of at most so many on a side.
_FINER = 4
_MOST_PX = 1024


def share(cams: Sequence[NDArray[np.float32]], *, least: Sequence[float | None]) -> list[NDArray[np.float32]]:
    """CAMs float32 [rows, columns] in 0..1 of several classes, each below 0.5 where another one is higher.

    A piece (0.5 and above) of what a class keeps must reach its ``least``; else the other classes get its place.
    """
    now = list(cams)
    while True:
        first = np.argmax(now, axis=0)
        kept = [np.where(first == place, cam, np.minimum(cam, BELOW)) for place, cam in enumerate(now)]
        cores = [
            own if core is None else keep_components_with_peak(own, least=core)
            for own, core in zip(kept, least, strict=True)
        ]
        lost = [(own >= 0.5) & (core < 0.5) for own, core in zip(kept, cores, strict=True)]
        if not any(places.any() for places in lost):
            return cores
        now = [np.where(places, np.minimum(cam, BELOW), cam) for cam, places in zip(now, lost, strict=True)]


def apart(
    drawn: Sequence[Sequence[Annotation]],
    cams: Sequence[NDArray[np.float32]],
    *,
    cell_px0: float,
    min_area_px0: float,
    mpp_slide: float,
) -> list[list[Annotation]]:
    """The polygons of several classes of a slide without what they have in common: it goes to the higher CAM.

    Args:
        drawn: The polygons of each class.
        cams: Float32 [rows, columns] of each class.
        cell_px0: Side of a cell of a CAM in level-0 pixels.
        min_area_px0: Of what is cut, smaller parts are dropped.
        mpp_slide: Micrometres per pixel at level 0.
    """
    left = [list(some) for some in drawn]

    def cut(place: int, taken: Sequence[BaseGeometry]) -> None:
        before = {id(one) for one in left[place]}
        parts = without(left[place], taken, min_area_px0=min_area_px0)
        left[place] = [one if id(one) in before else _measured(one, mpp_slide) for one in parts]

    for first, second in combinations(range(len(left)), 2):
        common = union(one.shape for one in left[first]).intersection(union(one.shape for one in left[second]))
        parts = polygonal(common)
        if parts:
            cut(first, [_where_higher(part, cams[second], cams[first], cell_px0=cell_px0) for part in parts])
            cut(second, [one.shape for one in left[first]])
    return left


def _where_higher(
    part: BaseGeometry, cam: NDArray[np.float32], other: NDArray[np.float32], *, cell_px0: float
) -> BaseGeometry:
    """Where in an area a CAM is higher than another one."""
    left, top, right, bottom = (value / cell_px0 for value in part.bounds)
    step = max(1 / _FINER, (right - left) / _MOST_PX, (bottom - top) / _MOST_PX)  # in cells
    columns, rows = (np.arange(first - 1 + step / 2, last + 1, step) for first, last in ((left, right), (top, bottom)))
    places = np.meshgrid(rows - 0.5, columns - 0.5, indexing="ij")
    higher, lower = (ndimage.map_coordinates(layer, places, order=1, mode="nearest") for layer in (cam, other))
    found = mask_polygons(
        higher > lower,
        origin_px0=((left - 1) * cell_px0, (top - 1) * cell_px0),
        downsample=step * cell_px0,
        tolerance_px0=step * cell_px0,
        min_area_px0=0.0,
    )
    return part.intersection(union(found))


def _measured(one: Annotation, mpp_slide: float) -> Annotation:
    return replace(one, measurements={**one.measurements, "wsplf: area um^2": float(one.shape.area * mpp_slide**2)})
