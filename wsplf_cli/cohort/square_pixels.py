"""A project whose images have square pixels, for learning: images with oblong pixels are shown stretched.

Networks and lengths need tiles in which a micrometre is as many pixels across as down. An image of 1.24 x 0.62 um is
therefore read as one with square pixels of the same area (see ``slides.properties.mean_mpp``), through the same view as
an image that QuPath derives from a slide. Annotations are stretched alike when they are read, and shrunk back when they
are written, so that the project keeps QuPath's coordinates. What wsplf remembers of a run (``runs.written``,
``review.memory``) is kept in the coordinates of the square pixels.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import shapely
from shapely import affinity
from shapely.geometry.base import BaseGeometry

from wsplf_cli.backends import Project
from wsplf_cli.errors import SlideError
from wsplf_cli.geometry import GRID_PX0
from wsplf_cli.schema import Annotation, Entry, Origin, PathClass, PathObject, Replaced, Step
from wsplf_cli.slides.entry import slide_of
from wsplf_cli.slides.properties import mean_mpp

#: Sides that differ by less than this share count as equal.
SAME_SIDE = 0.01

Scale = tuple[float, float]
"""Square pixels per pixel of QuPath's, across and down; their product is 1."""


def with_square_pixels(project: Project, entries: Sequence[Entry]) -> tuple[Project, list[Entry]]:
    """The project and entries with square pixels; the same objects where all pixels are square."""
    scales = {entry.id: scale for entry in entries if (scale := _scale_of(entry)) is not None}
    if not scales:
        return project, list(entries)
    return _SquarePixels(project, scales), [
        _stretched(entry, scales[entry.id]) if entry.id in scales else entry for entry in entries
    ]


def _scale_of(entry: Entry) -> Scale | None:
    """How an entry is stretched; None where its pixels are square or their sides are not known."""
    mpp_xy = entry.mpp_xy
    if entry.mpp is None:
        try:
            mpp_xy = slide_of(entry).view_mpp_xy
        except SlideError:  # said when the entry is used
            return None
    if mpp_xy is None or min(entry.size_px0) <= 0 or abs(mpp_xy[0] / mpp_xy[1] - 1) < SAME_SIDE:
        return None
    mean = mean_mpp(mpp_xy)
    return mpp_xy[0] / mean, mpp_xy[1] / mean


def _stretched(entry: Entry, scale: Scale) -> Entry:
    width, height = (max(1, round(side * factor)) for side, factor in zip(entry.size_px0, scale, strict=True))
    stretch = Step("affine", (scale[0], 0.0, 0.0, scale[1], 0.0, 0.0), size_px0=(width, height))
    return replace(entry, width_px0=width, height_px0=height, steps=(*entry.steps, stretch), mpp_xy=None)


class _SquarePixels:
    """A project that shows the annotations of some entries stretched; everything else is the project's own."""

    def __init__(self, project: Project, scales: Mapping[str, Scale]) -> None:
        self.path: Path = project.path
        self.folder: Path = project.folder
        self.version: str = project.version
        self._project = project
        self._scales = scales

    def entries(self) -> list[Entry]:
        return [
            _stretched(entry, self._scales[entry.id]) if entry.id in self._scales else entry
            for entry in self._project.entries()
        ]

    def path_classes(self) -> list[PathClass]:
        return self._project.path_classes()

    def annotations(self, entry_id: str) -> list[Annotation]:
        across, down = self._scales.get(entry_id, (1.0, 1.0))
        return [
            replace(annotation, shape=_scaled(annotation.shape, across, down))
            for annotation in self._project.annotations(entry_id)
        ]

    def objects(self, entry_id: str) -> list[PathObject]:
        across, down = self._scales.get(entry_id, (1.0, 1.0))
        return [replace(found, shape=_scaled(found.shape, across, down)) for found in self._project.objects(entry_id)]

    def replace(self, entry_id: str, *, origin: Origin, annotations: Sequence[Annotation]) -> Replaced:
        return self._project.replace(entry_id, origin=origin, annotations=self._shrunk(entry_id, annotations))

    def add(self, entry_id: str, annotations: Sequence[Annotation], *, path_classes: Collection[PathClass] = ()) -> int:
        return self._project.add(entry_id, self._shrunk(entry_id, annotations), path_classes=path_classes)

    def set_metadata(self, values: Mapping[str, Mapping[str, str]]) -> None:
        self._project.set_metadata(values)

    def _shrunk(self, entry_id: str, annotations: Sequence[Annotation]) -> list[Annotation]:
        """The annotations in QuPath's coordinates, on its grid."""
        if entry_id not in self._scales:
            return list(annotations)
        across, down = self._scales[entry_id]
        return [
            replace(annotation, shape=shapely.set_precision(_scaled(annotation.shape, 1 / across, 1 / down), GRID_PX0))
            for annotation in annotations
        ]


def _scaled(shape: BaseGeometry, across: float, down: float) -> BaseGeometry:
    return shape if across == down == 1 else affinity.scale(shape, across, down, origin=(0, 0))
