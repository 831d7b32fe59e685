"""Which annotations lie on what wsplf analyses of an image: its first plane, inside its borders.

wsplf reads the pixels of the first z-slice and time point (see ``Plane.analysed``). Annotations on other planes stay in
the project as they are, are exported with their plane, and count nowhere else: nothing is learned from them, and they
are not measured, neither as truth nor as prediction.

What is drawn past the border of the image is cut off before anything is learned or measured. The project keeps it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from wsplf_cli.errors import SlideError
from wsplf_cli.geometry import clip, place_on_image
from wsplf_cli.schema import Annotation, Entry


@dataclass(frozen=True, slots=True)
class OnImage:
    """The ``annotations`` on the analysed plane, clipped to the image, and how many others there are.

    ``other_planes``: on another z-slice or time point; ``missing_planes``: those of them on a plane that the image does
    not have. ``outside``: on the analysed plane, with no part on the image. ``partly_outside``: clipped.
    """

    annotations: tuple[Annotation, ...]
    other_planes: int = 0
    missing_planes: int = 0
    outside: int = 0
    partly_outside: int = 0

    @property
    def left_out(self) -> str:
        """What was left out, for people; empty where nothing was."""
        counts = (
            (self.other_planes, "on another plane than the first z-slice and time point"),
            (self.outside, "outside the image"),
        )
        return ", ".join(f"{count} {where}" for count, where in counts if count)


def on_image(annotations: Iterable[Annotation], entry: Entry) -> OnImage:
    """The annotations of an entry that wsplf learns from and measures, and how many it leaves out."""
    kept: list[Annotation] = []
    other_planes = missing_planes = outside = partly_outside = 0
    for annotation in annotations:
        missing_planes += not entry.has_plane(annotation.plane)
        if not annotation.plane.analysed:
            other_planes += 1
            continue
        place = place_on_image(annotation.shape, entry.size_px0)
        outside += place == "outside"
        partly_outside += place == "partly outside"
        if place != "outside":
            clipped = clip(annotation.shape, entry.size_px0)
            kept.append(annotation if clipped is annotation.shape else replace(annotation, shape=clipped))
    return OnImage(tuple(kept), other_planes, missing_planes, outside, partly_outside)


def require_on_image(annotations: Iterable[Annotation], entry: Entry, source: str) -> OnImage:
    """``on_image`` of what ``source`` holds of an entry.

    Raises:
        SlideError: There are annotations, and none of them lies on the first plane of the image and inside it.
    """
    placed = on_image(annotations, entry)
    if placed.left_out and not placed.annotations:
        raise SlideError(
            f"{source}: none of its annotations lies in {entry.name}: {placed.left_out}",
            hint="check that they belong to this slide, at its full resolution",
        )
    return placed
