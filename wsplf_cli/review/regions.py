"""Where a person has decided what is there, per class: the regions of a review."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from wsplf_cli.class_names import is_a
from wsplf_cli.geometry import polygonal, rasterise, union
from wsplf_cli.review.roles import CONFIDENCE, role_of
from wsplf_cli.schema import Annotation, TileGrid


@dataclass(frozen=True, slots=True)
class ReviewRegions:
    """What is known about a slide beside its label, for one class; shapes are in level-0 pixels.

    ``positive`` are of the class for sure, ``pending`` are pseudo-labels with their confidence 0..1, ``negative`` is
    background for sure and clear of ``positive``, ``ignored`` teaches nothing. ``complete``: a person has reviewed the
    whole image, so all else is background for sure as well.
    """

    positive: tuple[BaseGeometry, ...] = ()
    pending: tuple[tuple[BaseGeometry, float], ...] = ()
    negative: tuple[BaseGeometry, ...] = ()
    ignored: tuple[BaseGeometry, ...] = ()
    complete: bool = False

    @property
    def reviewed(self) -> tuple[BaseGeometry, ...]:
        """Where a person has spoken: nothing new is drawn there."""
        return (*self.positive, *self.negative, *self.ignored)


def review_regions(
    annotations: Iterable[Annotation],
    path_class: str,
    *,
    removed: Sequence[BaseGeometry] = (),
    reviewed: bool = False,
) -> ReviewRegions:
    """What a person's review says of one entry.

    Args:
        annotations: All of the entry.
        path_class: The class that is learned.
        removed: Where wsplf's polygons were that a person deleted (see ``removed``).
        reviewed: Whether the image is marked as reviewed.
    """
    by_role: dict[str, list[Annotation]] = {"positive": [], "pending": [], "negative": [], "ignored": [], "": []}
    for one in annotations:
        by_role[role_of(one, path_class)].append(one)
    pending, decided = by_role["pending"], [one.shape for one in by_role["positive"]]
    if reviewed:
        pending, decided = [], decided + [one.shape for one in pending]
    truth = union(decided)
    own_ignored = [one.shape for one in by_role["ignored"] if one.origin != "human"]
    return ReviewRegions(
        positive=tuple(decided),
        pending=tuple(
            (one.shape, one.measurements.get(CONFIDENCE, 1.0)) for one in pending if one.origin == "pseudolabel"
        ),
        negative=tuple(outside([*(one.shape for one in by_role["negative"]), *removed], truth)),
        ignored=(*(one.shape for one in by_role["ignored"] if one.origin == "human"), *outside(own_ignored, truth)),
        complete=reviewed,
    )


def removed(
    written: Iterable[Annotation],
    annotations: Sequence[Annotation],
    path_class: str,
    *,
    reviewed: bool = False,
    sliver_px0: float = 4.0,
) -> list[BaseGeometry] | None:
    """Where a run wrote polygons of a class and there is none any more: a person deleted them, or cut a part off.

    None when nothing can be said: of what was written nothing at all is left. Then the image was most likely open in
    QuPath while wsplf wrote, and was saved later as it had been. Who has deleted all on purpose regions the image as
    reviewed.

    Args:
        written: What the last run wrote into the entry, as it wrote it.
        annotations: All of the entry now.
        path_class: The class that is learned.
        reviewed: Whether the image is marked as reviewed.
        sliver_px0: What is nowhere wider than twice this is dropped, the rest of a corrected outline.
    """
    before = list(written)
    ids = {one.id for one in annotations}
    if before and not reviewed and not any(one.id in ids for one in before):
        return None
    there = union(one.shape for one in annotations if one.origin != "human" or is_a(one.path_class, path_class))
    mine = [one.shape for one in before if is_a(one.path_class, path_class)]
    return [part for part in outside(mine, there) if not part.buffer(-sliver_px0).is_empty]


def known_cells(
    regions: ReviewRegions, grid: TileGrid, indices: NDArray[np.integer], *, side_px: int
) -> NDArray[np.float32]:
    """Where in tiles a person has said what is there, float32 [len(indices), 2, side_px, side_px] of 0 and 1.

    The first layer is the class for sure, the second is not the class for sure; 0 in both: not known.
    """
    layers = np.zeros((len(indices), 2, side_px, side_px), np.float32)
    if not regions.reviewed and not regions.complete:
        return layers
    downsample = grid.side_px0 / side_px
    for place, (x_px0, y_px0) in enumerate(grid.xy_px0[indices].astype(float)):
        layers[place] = known_area(
            regions, origin_px0=(x_px0, y_px0), downsample=downsample, size_px=(side_px, side_px)
        )
    return layers


def known_area(
    regions: ReviewRegions, *, origin_px0: tuple[float, float], downsample: float, size_px: tuple[int, int]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Where in an area a person has said that the class is, and that it is not: bool [height, width] each.

    The area begins at ``origin_px0`` (x, y) and has ``size_px`` (width, height) pixels of ``downsample`` level-0 ones.
    """
    far = (origin_px0[0] + size_px[0] * downsample, origin_px0[1] + size_px[1] * downsample)
    area = shapely.box(*origin_px0, *far)
    decided, refused, ignored = (
        rasterise(
            [shape for shape in shapes if shape.intersects(area)],
            origin_px0=origin_px0,
            downsample=downsample,
            size_px=size_px,
        )
        for shapes in (regions.positive, regions.negative, regions.ignored)
    )
    return decided & ~ignored, (refused | regions.complete) & ~decided & ~ignored


def outside(shapes: Iterable[BaseGeometry], taken: BaseGeometry) -> list[BaseGeometry]:
    """The polygonal parts of shapes outside another one."""
    left: list[BaseGeometry] = []
    for shape in shapes:
        if taken.is_empty or not shape.intersects(taken):
            left.append(shape)
        else:
            left += polygonal(shape.difference(taken))
    return left
