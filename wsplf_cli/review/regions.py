"""Where on a slide a person has decided what is there, for one class: polygons, and masks of them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from wsplf_cli.cache import digest_of
from wsplf_cli.class_names import is_a
from wsplf_cli.geometry import polygonal, rasterise, union
from wsplf_cli.review.roles import CONFIDENCE, Role, role_of
from wsplf_cli.schema import Annotation, TileGrid

#: What remains of a deleted polygon and is nowhere this wide is the rim of a corrected outline, not a deletion.
SLIVER_UM = 4.0


@dataclass(frozen=True, slots=True)
class ReviewRegions:
    """What is known about a slide besides its label, for one class. Shapes are in level-0 pixels.

    ``positive`` shapes belong to the class for sure. ``pending`` are pseudo-labels with their confidence 0..1.
    ``negative`` shapes are background for sure and do not overlap ``positive``. ``ignored`` shapes teach nothing.
    ``complete``: a person has reviewed the whole image, so everything else is background for sure as well.
    """

    positive: tuple[BaseGeometry, ...] = ()
    pending: tuple[tuple[BaseGeometry, float], ...] = ()
    negative: tuple[BaseGeometry, ...] = ()
    ignored: tuple[BaseGeometry, ...] = ()
    complete: bool = False

    @property
    def reviewed(self) -> tuple[BaseGeometry, ...]:
        """Where a person has decided: nothing new is drawn there."""
        return (*self.positive, *self.negative, *self.ignored)

    @property
    def teaches(self) -> bool:
        """Whether a person's decisions say of any pixel that it is positive or negative."""
        return bool(self.positive or self.negative or self.complete)

    @property
    def digest(self) -> str:
        """A digest of what a person decided; pending pseudo-labels do not count."""
        groups = (self.positive, self.negative, self.ignored)
        parts = [part for group in groups for part in (str(len(group)), *map(shapely.to_wkb, group))]
        return digest_of(str(self.complete), *parts)


def review_regions(
    annotations: Iterable[Annotation],
    path_class: str,
    *,
    removed: Sequence[BaseGeometry] = (),
    reviewed: bool = False,
) -> ReviewRegions:
    """What a person's review says of one entry, for one class.

    Args:
        annotations: All annotations of the entry.
        path_class: The class.
        removed: Where a person deleted polygons of wsplf (see ``removed``).
        reviewed: Whether the image is marked as reviewed.
    """
    by_role: dict[Role, list[Annotation]] = {"positive": [], "pending": [], "negative": [], "ignored": [], "": []}
    for annotation in annotations:
        by_role[role_of(annotation, path_class)].append(annotation)
    pending = by_role["pending"]
    positive = [annotation.shape for annotation in by_role["positive"]]
    if reviewed:
        pending, positive = [], positive + [annotation.shape for annotation in pending]
    positive_area = union(positive)
    negative = [*(annotation.shape for annotation in by_role["negative"]), *removed]
    ignored_by_hand = [annotation.shape for annotation in by_role["ignored"] if annotation.origin == "human"]
    ignored_of_ours = [annotation.shape for annotation in by_role["ignored"] if annotation.origin != "human"]
    return ReviewRegions(
        positive=tuple(positive),
        pending=tuple(
            (annotation.shape, annotation.measurements.get(CONFIDENCE, 1.0))
            for annotation in pending
            if annotation.origin == "pseudolabel"
        ),
        negative=tuple(outside(negative, positive_area)),
        ignored=(*ignored_by_hand, *outside(ignored_of_ours, positive_area)),
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
    """Where a run wrote polygons of a class and there are none now: a person deleted them, or cut a part off.

    None when nothing can be concluded, because nothing at all is left of what was written. Most likely the image was
    open in QuPath while wsplf wrote, and was saved later in its old state. A person who deleted everything on purpose
    marks the image as reviewed.

    Args:
        written: What the last run wrote into the entry, as it wrote it.
        annotations: All annotations of the entry now.
        path_class: The class.
        reviewed: Whether the image is marked as reviewed.
        sliver_px0: A remainder that is nowhere wider than twice this is dropped, as the rim of a corrected outline.
    """
    before = list(written)
    ids_now = {annotation.id for annotation in annotations}
    if before and not reviewed and not any(annotation.id in ids_now for annotation in before):
        return None
    area_now = union(
        annotation.shape
        for annotation in annotations
        if annotation.origin != "human" or is_a(annotation.path_class, path_class)
    )
    written_shapes = [annotation.shape for annotation in before if is_a(annotation.path_class, path_class)]
    return [part for part in outside(written_shapes, area_now) if not part.buffer(-sliver_px0).is_empty]


def known_cells(
    regions: ReviewRegions, grid: TileGrid, indices: NDArray[np.integer], *, side_px: int
) -> NDArray[np.float32]:
    """Where in tiles a person has decided, float32 [len(indices), 2, side_px, side_px] of 0 and 1.

    Layer 0 is positive for sure, layer 1 negative for sure; 0 in both: not known.
    """
    layers = np.zeros((len(indices), 2, side_px, side_px), np.float32)
    if not regions.reviewed and not regions.complete:
        return layers
    downsample = grid.side_px0 / side_px
    for tile, (x_px0, y_px0) in enumerate(grid.xy_px0[indices].astype(float)):
        layers[tile] = known_area(regions, origin_px0=(x_px0, y_px0), downsample=downsample, size_px=(side_px, side_px))
    return layers


def known_area(
    regions: ReviewRegions, *, origin_px0: tuple[float, float], downsample: float, size_px: tuple[int, int]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Where in a rectangle the class is for sure, and where it is not for sure: bool [height, width] each.

    Args:
        regions: What a person decided.
        origin_px0: (x, y) of the rectangle's top-left corner.
        downsample: Level-0 pixels per pixel of the masks.
        size_px: (width, height) of the masks.
    """
    far_corner = (origin_px0[0] + size_px[0] * downsample, origin_px0[1] + size_px[1] * downsample)
    rectangle = shapely.box(*origin_px0, *far_corner)
    positive, negative, ignored = (
        rasterise(
            [shape for shape in shapes if shape.intersects(rectangle)],
            origin_px0=origin_px0,
            downsample=downsample,
            size_px=size_px,
        )
        for shapes in (regions.positive, regions.negative, regions.ignored)
    )
    return positive & ~ignored, (negative | regions.complete) & ~positive & ~ignored


def outside(shapes: Iterable[BaseGeometry], taken: BaseGeometry) -> list[BaseGeometry]:
    """The polygonal parts of shapes outside another shape."""
    remaining: list[BaseGeometry] = []
    for shape in shapes:
        if taken.is_empty or not shape.intersects(taken):
            remaining.append(shape)
        else:
            remaining += polygonal(shape.difference(taken))
    return remaining
