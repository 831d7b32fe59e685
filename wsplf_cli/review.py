"""What a person's review says of an entry, whatever way it was said: with the scripts, or by simply editing in QuPath.

=============================================  =====================================================================
what the person did                            what it is for a class
=============================================  =====================================================================
drew a polygon of the class                    decided: truth
accepted, edited, locked, named or described   decided: truth as it is now
rejected it                                    refused: background, with the weight of truth
deleted it, or cut a part off                  refused where it was (see ``removed``)
gave it another class, or none                 refused
gave it an ignored class (``Ignore*``)         ignored: neither truth nor background
drew a polygon of another class                refused, but for classes that only mark places (see ``PLACES``)
drew ``Ignore*``                               ignored
nothing, a pseudo-label                        pending, with its confidence
nothing, a prediction                          nothing: a model would learn from itself
marked the image as reviewed                   ``complete``: what is pending is decided, the rest is background
=============================================  =====================================================================

Where they disagree, truth is stronger than refused: who rejects a polygon and draws a better one means the better one.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from wsplf_cli.geometry import polygonal, rasterise, union
from wsplf_cli.qupath.qpdata import undecided
from wsplf_cli.schema import CLASS_KEY, Annotation, TileGrid

CONFIDENCE = "wsplf: confidence"
IGNORED_MARK = "*"
"""QuPath ignores classes whose name ends so, such as Region* and Ignore*."""
IGNORE = "ignore"
PLACES = frozenset({"tissue", "region", "roi", "slide", "section", "core", "area", "annotation"})
"""First words of classes that say where to look, not what is there ("Region 2"): such a polygon teaches nothing."""
SLIVER_UM = 4.0
"""What is left where a polygon was, and is nowhere so wide, is the rest of a corrected outline, not a removal."""


@dataclass(frozen=True, slots=True)
class Marks:
    """What is known about a slide beside its label, for one class; shapes are in level-0 pixels.

    ``decided`` are of the class for sure, ``pending`` are pseudo-labels with their confidence 0..1, ``refused`` is
    background for sure and clear of ``decided``, ``ignored`` teaches nothing. ``complete``: a person has reviewed the
    whole image, so all else is background for sure as well.
    """

    decided: tuple[BaseGeometry, ...] = ()
    pending: tuple[tuple[BaseGeometry, float], ...] = ()
    refused: tuple[BaseGeometry, ...] = ()
    ignored: tuple[BaseGeometry, ...] = ()
    complete: bool = False

    @property
    def settled(self) -> tuple[BaseGeometry, ...]:
        """Where a person has spoken: nothing new is drawn there."""
        return (*self.decided, *self.refused, *self.ignored)


def is_a(name: str | None, path_class: str) -> bool:
    """Whether a class is the other one or derived from it ("Tumor: Necrotic" is a "Tumor")."""
    return name is not None and (name == path_class or name.startswith(path_class + ":"))


def role_of(annotation: Annotation, path_class: str) -> str:
    """What an annotation is for a class: "decided", "pending", "refused", "ignored", or "" for nothing.

    "pending" is every polygon of wsplf's that no person has decided on, a prediction too.
    """
    if annotation.shape.area == 0:
        return ""
    if annotation.origin == "human":
        role = _role_of_persons(annotation.path_class, path_class)
        return role if annotation.review != "rejected" else {"decided": "refused", "ignored": "ignored"}.get(role, "")
    if not is_a(annotation.metadata.get(CLASS_KEY, annotation.path_class), path_class):
        decided = annotation.review != "rejected" and not undecided(annotation)
        return _role_of_persons(annotation.path_class, path_class) if decided else ""
    if not is_a(annotation.path_class, path_class):
        return "ignored" if _is_ignored(annotation.path_class) else "refused"
    if annotation.review == "rejected":
        return "refused"
    return "pending" if undecided(annotation) else "decided"


def marks_of(
    annotations: Iterable[Annotation],
    path_class: str,
    *,
    removed: Sequence[BaseGeometry] = (),
    reviewed: bool = False,
) -> Marks:
    """What a person's review says of one entry.

    Args:
        annotations: All of the entry.
        path_class: The class that is learned.
        removed: Where wsplf's polygons were that a person deleted (see ``removed``).
        reviewed: Whether the image is marked as reviewed.
    """
    by_role: dict[str, list[Annotation]] = {"decided": [], "pending": [], "refused": [], "ignored": [], "": []}
    for one in annotations:
        by_role[role_of(one, path_class)].append(one)
    pending, decided = by_role["pending"], [one.shape for one in by_role["decided"]]
    if reviewed:
        pending, decided = [], decided + [one.shape for one in pending]
    truth = union(decided)
    own_ignored = [one.shape for one in by_role["ignored"] if one.origin != "human"]
    return Marks(
        decided=tuple(decided),
        pending=tuple(
            (one.shape, one.measurements.get(CONFIDENCE, 1.0)) for one in pending if one.origin == "pseudolabel"
        ),
        refused=tuple(outside([*(one.shape for one in by_role["refused"]), *removed], truth)),
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
    QuPath while wsplf wrote, and was saved later as it had been. Who has deleted all on purpose marks the image as
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


def known_places(marks: Marks, grid: TileGrid, indices: NDArray[np.integer], *, side_px: int) -> NDArray[np.float32]:
    """Where in tiles a person has said what is there, float32 [len(indices), 2, side_px, side_px] of 0 and 1.

    The first layer is the class for sure, the second is not the class for sure; 0 in both: not known.
    """
    layers = np.zeros((len(indices), 2, side_px, side_px), np.float32)
    if not marks.settled and not marks.complete:
        return layers
    downsample = grid.side_px0 / side_px
    for place, (x_px0, y_px0) in enumerate(grid.xy_px0[indices].astype(float)):
        layers[place] = known_area(marks, origin_px0=(x_px0, y_px0), downsample=downsample, size_px=(side_px, side_px))
    return layers


def known_area(
    marks: Marks, *, origin_px0: tuple[float, float], downsample: float, size_px: tuple[int, int]
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
        for shapes in (marks.decided, marks.refused, marks.ignored)
    )
    return decided & ~ignored, (refused | marks.complete) & ~decided & ~ignored


def outside(shapes: Iterable[BaseGeometry], taken: BaseGeometry) -> list[BaseGeometry]:
    """The polygonal parts of shapes outside another one."""
    left: list[BaseGeometry] = []
    for shape in shapes:
        if taken.is_empty or not shape.intersects(taken):
            left.append(shape)
        else:
            left += polygonal(shape.difference(taken))
    return left


def _role_of_persons(name: str | None, path_class: str) -> str:
    """What a person's polygon of a class is for another class."""
    if name is None:
        return ""
    if is_a(name, path_class):
        return "decided"
    base = name.split(":")[0].strip().casefold()
    if _is_ignored(name):
        return "ignored" if base.rstrip(IGNORED_MARK).strip() == IGNORE else ""
    first = re.match(r"[^\W\d_]*", base)
    return "" if first is not None and first[0] in PLACES else "refused"


def _is_ignored(name: str | None) -> bool:
    return name is not None and name.strip().endswith(IGNORED_MARK)
