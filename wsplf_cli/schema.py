"""The records that travel between the stages: frozen, with units in the names.

``_px0`` is pixels at level 0 in the coordinates that QuPath shows, ``_px`` pixels of the tile as read, ``_um`` and
``_um2`` micrometres, ``mpp`` micrometres per pixel. Points are (x, y); arrays are [row, column].
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from shapely import MultiPolygon, Polygon
from shapely.geometry.base import BaseGeometry

Origin = Literal["human", "pseudolabel", "prediction"]
Review = Literal["pending", "accepted", "rejected"]
Status = Literal["done", "skipped", "failed"]

#: Keys of the object metadata by which wsplf knows its own annotations again (string -> string).
ORIGIN_KEY = "wsplf.origin"
RUN_KEY = "wsplf.run"
REVIEW_KEY = "wsplf.review"
SHAPE_KEY = "wsplf.shape"
CLASS_KEY = "wsplf.class"

#: Key of an entry's metadata: a person has reviewed the whole image (when and who; "no" takes it back).
REVIEWED_KEY = "wsplf.reviewed"

#: Values of an entry's split that keep it back: no stage learns anything from it.
HELD_OUT = frozenset({"test", "held-out", "held out", "holdout", "hold-out"})


@dataclass(frozen=True, slots=True)
class SlideLabel:
    """The classes that a slide is known to hold; empty means a known negative. ``None`` on an entry: unlabelled."""

    classes: frozenset[str]


@dataclass(frozen=True, slots=True)
class Entry:
    """One image of a project.

    ``slide_path`` is None where the slide cannot be used; ``problem`` says why and, behind "; ", what to do.
    """

    id: str
    name: str
    slide_path: Path | None
    width_px0: int
    height_px0: int
    mpp: float | None
    mpp_source: str
    label: SlideLabel | None = None
    split: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    crop_to_bounds: bool = True
    problem: str = ""

    @property
    def reviewed(self) -> bool:
        """True when a person marked the image as reviewed: all that is annotated now is right, the rest background."""
        return self.metadata.get(REVIEWED_KEY, "").strip().casefold() not in {"", "no", "false", "0"}

    @property
    def held_out(self) -> bool:
        """True for a slide kept back to test on: nothing is learned from it, its label is not used."""
        return (self.split or "").strip().casefold() in HELD_OUT


@dataclass(frozen=True, slots=True)
class PathClass:
    """A QuPath class: full name ("Tumor: Positive") and colour (r, g, b) in 0..255, or None for QuPath's choice."""

    name: str
    rgb: tuple[int, int, int] | None = None


@dataclass(frozen=True, slots=True)
class Annotation:
    """One annotation of an entry. ``shape`` is in level-0 pixels, y down.

    ``origin`` and ``review`` come from the object's metadata. ``edited`` is true when wsplf made the annotation and
    its shape or class is no longer as wsplf wrote it.
    """

    id: UUID
    shape: BaseGeometry
    path_class: str | None
    origin: Origin = "human"
    review: Review = "pending"
    run_id: str = ""
    name: str = ""
    measurements: Mapping[str, float] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    locked: bool = False
    edited: bool = False


@dataclass(frozen=True, slots=True)
class Replaced:
    """What a replacement did: annotations added, own pending ones removed, own ones kept since a person decided."""

    added: int
    removed: int
    kept: int


@dataclass(frozen=True, slots=True)
class TileGrid:
    """Where the tiles of one entry lie. ``xy_px0`` int32 [N, 2] top-left corners; ``tissue`` float32 [N] in 0..1."""

    entry_id: str
    tile_px: int
    mpp: float
    side_px0: float
    xy_px0: NDArray[np.int32]
    tissue: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class TissueMask:
    """``mask`` bool [rows, columns] over the whole entry; one mask pixel is ``downsample`` level-0 pixels."""

    mask: NDArray[np.bool_]
    downsample: float


@dataclass(frozen=True, slots=True)
class Prompt:
    """``points_px`` float32 [K, 2] (x, y), ``point_labels`` int8 [K] (1 in, 0 out), ``box_px`` float32 [4] xyxy."""

    points_px: NDArray[np.float32]
    point_labels: NDArray[np.int8]
    box_px: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class TileMask:
    """One mask of one window. ``mask`` bool [H, W]; ``score`` 0..1 is SAM's estimate of its IoU."""

    mask: NDArray[np.bool_]
    score: float


@dataclass(frozen=True, slots=True)
class EntryResult:
    """What a stage did with one entry."""

    id: str
    name: str
    status: Status
    reason: str = ""
    seconds: float = 0.0
    counts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StageReport:
    """What a stage did. ``details`` holds JSON values of the stage's own (curves, figures, paths)."""

    stage: str
    run_id: str
    entries: tuple[EntryResult, ...]
    seconds: float
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def failed(self) -> int:
        """Number of entries that failed."""
        return sum(entry.status == "failed" for entry in self.entries)


@dataclass(frozen=True, slots=True)
class Check:
    """One line of ``wsplf doctor``: what was looked at, what was found, and what to do about it."""

    status: Literal["PASS", "WARN", "FAIL"]
    name: str
    message: str
    fix: str = ""


class Tracker(Protocol):
    """Where long work reports how far it is. ``ui`` shows it; tests and libraries may pass ``silent``."""

    def start(self, name: str, total: int) -> None:
        """Begin a piece of work of ``total`` steps."""

    def advance(self, steps: int = 1, message: str = "") -> None:
        """Go on by ``steps``; ``message`` replaces the short text beside the bar."""

    def say(self, message: str) -> None:
        """Tell the user one line, on stderr."""


class Silent:
    """A Tracker that shows nothing."""

    def start(self, name: str, total: int) -> None:
        """Ignore."""

    def advance(self, steps: int = 1, message: str = "") -> None:
        """Ignore."""

    def say(self, message: str) -> None:
        """Ignore."""


Polygonal = Polygon | MultiPolygon
