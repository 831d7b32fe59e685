"""The records that the packages exchange: frozen, with units in the names.

``_px0`` is pixels at level 0 in the coordinates that QuPath shows, ``_px`` pixels of the tile as read, ``_um`` and
``_um2`` micrometres, ``mpp`` micrometres per pixel. Points are (x, y); arrays are [row, column].
"""

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from wsplf_cli.class_names import is_a

Origin = Literal["human", "pseudolabel", "prediction"]
Review = Literal["pending", "accepted", "rejected"]
Status = Literal["done", "skipped", "failed"]
ObjectKind = Literal["root", "annotation", "detection", "cell", "tile", "tma_core"]
BoundsRoi = Literal["", "EllipseROI", "RectangleROI"]

#: Keys of the object metadata by which wsplf knows its own annotations again (string -> string).
ORIGIN_KEY = "wsplf.origin"
RUN_KEY = "wsplf.run"
REVIEW_KEY = "wsplf.review"
SHAPE_KEY = "wsplf.shape"
CLASS_KEY = "wsplf.class"
#: The name as wsplf wrote it: an annotation with another name was renamed by a person, who so decided on it.
NAME_KEY = "wsplf.name"
#: The run that trained the model of a prediction.
MODEL_KEY = "wsplf.model"
#: The class of polygons on which readers disagree, and its colour. ``DISPUTED_KEY`` holds the class that is in dispute.
DISPUTED = "Disputed"
DISPUTED_RGB = (0, 158, 224)
DISPUTED_KEY = "wsplf.disputed"
#: The colour that wsplf's scripts give to rejected polygons.
REJECTED_RGB = (140, 140, 140)
#: What each reader decided on the polygon, as "A: accepted; B: rejected".
READERS_KEY = "wsplf.readers"
#: QuPath keeps the description of an annotation under this key.
DESCRIPTION_KEY = "ANNOTATION_DESCRIPTION"

#: Key of an entry's metadata: a person has reviewed the whole image (when and who; "no" withdraws it).
REVIEWED_KEY = "wsplf.reviewed"

#: Values of an entry's split that hold it out: nothing is learned from it.
HELD_OUT = frozenset({"test", "held-out", "held out", "holdout", "hold-out"})


def marks_reviewed(value: str) -> bool:
    """Whether a value of ``REVIEWED_KEY`` marks an image as reviewed."""
    return value.strip().casefold() not in {"", "no", "false", "0"}


@dataclass(frozen=True, slots=True)
class SlideLabel:
    """The classes that a slide is known to hold; empty means a known negative. ``None`` on an entry: unlabelled."""

    classes: frozenset[str]

    def holds(self, path_class: str) -> bool:
        """Whether the slide is known to hold the class, or one derived from it."""
        return any(is_a(name, path_class) for name in self.classes)


@dataclass(frozen=True, slots=True)
class Step:
    """One step by which QuPath derives an image from another.

    ``values`` are in pixels of the image before the step:

    - rotated: quarter turns clockwise
    - flipped: mirrored left-right, mirrored top-bottom (0 or 1 each)
    - cropped: x, y, width, height
    - affine: m00, m10, m01, m11, m02, m12 as Java orders them, from the image before the step to the one after it,
      whose recorded size is ``size_px0``
    - reordered: the channel before the step (0 red, 1 green, 2 blue) that each of the three after it is
    """

    kind: Literal["rotated", "flipped", "cropped", "affine", "reordered"]
    values: tuple[float, ...]
    size_px0: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """One image of a project. Its size, its mpp and its annotations are those of the image that QuPath shows.

    ``slide_path`` is None where the slide cannot be used; ``problem`` says why and, behind "; ", what to do.
    ``steps`` lead from the slide to the image that QuPath shows; none for most. ``recorded_path`` is where the project
    says that the slide is, with forward slashes. ``slide_missing``: it is neither there nor elsewhere. ``mpp_xy`` are
    micrometres per pixel along x and y, None where they are unknown or equal; ``mpp`` is their mean.
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
    steps: tuple[Step, ...] = ()
    recorded_path: str = ""
    slide_missing: bool = False
    mpp_xy: tuple[float, float] | None = None
    channels: int = 3
    z_slices: int = 1
    time_points: int = 1

    @property
    def size_px0(self) -> tuple[int, int]:
        """(width, height); 0 where it is unknown."""
        return self.width_px0, self.height_px0

    def has_plane(self, plane: "Plane") -> bool:
        """Whether the image has a plane."""
        return -1 <= plane.c < self.channels and 0 <= plane.z < self.z_slices and 0 <= plane.t < self.time_points

    @property
    def reviewed(self) -> bool:
        """Whether a person marked the image as reviewed: its annotations are right, and the rest is background."""
        return marks_reviewed(self.metadata.get(REVIEWED_KEY, ""))

    @property
    def patient(self) -> str:
        """The patient as the metadata names it, in any case of the key; empty where it does not."""
        named = (value.strip() for key, value in self.metadata.items() if key.strip().casefold() == "patient")
        return unicodedata.normalize("NFC", next(named, ""))

    @property
    def held_out(self) -> bool:
        """Whether the slide is held out for testing: nothing is learned from it, and its label is not used."""
        return (self.split or "").strip().casefold() in HELD_OUT


@dataclass(frozen=True, slots=True)
class PathClass:
    """A QuPath class: full name ("Tumor: Positive") and colour (r, g, b) in 0..255, or None for QuPath's choice."""

    name: str
    rgb: tuple[int, int, int] | None = None


@dataclass(frozen=True, slots=True)
class Plane:
    """The plane of the image that a shape lies on: channel (-1 for all), z-slice and time point, from 0."""

    c: int = -1
    z: int = 0
    t: int = 0

    @property
    def analysed(self) -> bool:
        """Whether wsplf reads the pixels of this plane: the first z-slice and time point, whatever the channel.

        QuPath shows a shape of one channel on all of them, so such a shape counts as one of the whole image.
        """
        return self.z == 0 and self.t == 0


@dataclass(frozen=True, slots=True)
class Annotation:
    """One annotation of an entry. ``shape`` is in level-0 pixels, y down; ``rgb`` is its own colour, if it has one.

    ``origin`` and ``review`` come from the object's metadata. ``edited`` is true when wsplf made the annotation and its
    shape or class is no longer as wsplf wrote it. ``roi`` is QuPath's name of the kind of shape where QuPath keeps the
    bounds of the shape and not its vertices. ``has_id`` is false where ``id`` is not from QuPath, which
    gives none before 0.4, but from wsplf.
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
    plane: Plane = Plane()
    rgb: tuple[int, int, int] | None = None
    roi: BoundsRoi = ""
    has_id: bool = True


def is_pending(annotation: Annotation) -> bool:
    """Whether wsplf made the annotation and no person has accepted, rejected, locked, renamed, noted or edited it."""
    return (
        annotation.origin != "human"
        and annotation.review == "pending"
        and not annotation.edited
        and not annotation.locked
        and annotation.name == annotation.metadata.get(NAME_KEY, annotation.name)
        and DESCRIPTION_KEY not in annotation.metadata
    )


def is_disputed(annotation: Annotation) -> bool:
    """Whether readers disagree on the annotation and nobody has decided since. A new run leaves it as it is."""
    return DISPUTED_KEY in annotation.metadata and is_pending(annotation)


@dataclass(frozen=True, slots=True)
class PathObject:
    """One object of an entry's hierarchy, of any kind. ``shape`` is in level-0 pixels, y down, empty for the root.

    ``roi`` is QuPath's name of the kind of shape ("PolygonROI", "GeometryROI"). ``nucleus`` is a cell's, ``missing``
    a TMA core's flag and ``grid`` its (row, column) in the image's TMA grid. ``parent`` is the id of the object above.
    """

    id: UUID
    kind: ObjectKind
    shape: BaseGeometry
    parent: UUID | None = None
    path_class: str | None = None
    probability: float | None = None
    name: str = ""
    rgb: tuple[int, int, int] | None = None
    locked: bool = False
    roi: str = ""
    plane: Plane = Plane()
    nucleus: BaseGeometry | None = None
    missing: bool = False
    grid: tuple[int, int] | None = None
    measurements: Mapping[str, float] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Replaced:
    """Counts of a replacement: annotations added, pending ones removed, and wsplf's ones kept as a person decided."""

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
    """``mask`` bool [rows, columns] over the whole entry; one mask pixel is ``downsample`` level-0 pixels.

    ``ink``, of the same shape, is where marker ink lies; None for nowhere. The mask keeps a distance from it.
    """

    mask: NDArray[np.bool_]
    downsample: float
    ink: NDArray[np.bool_] | None = None


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
class PromptedMask:
    """A prompt of SAM and the mask that was taken of its answer, all in level-0 pixels.

    ``points_px0`` float32 [K, 2], ``point_labels`` int8 [K] (1 in, 0 out), ``box_px0`` float32 [4] xyxy. ``shape`` is
    the mask, coarsely outlined. ``score`` 0..1 is SAM's estimate of its IoU; ``soft_dice`` 0..1 is its agreement with
    the CAM, None where that was not asked. ``used``: the mask counted.
    """

    points_px0: NDArray[np.float32]
    point_labels: NDArray[np.int8]
    box_px0: NDArray[np.float32] | None
    shape: BaseGeometry
    score: float
    soft_dice: float | None
    used: bool


@dataclass(frozen=True, slots=True)
class EntryResult:
    """What a command did with one entry."""

    id: str
    name: str
    status: Status
    reason: str = ""
    seconds: float = 0.0
    counts: Mapping[str, float] = field(default_factory=dict)


def titles(records: Sequence[Entry | EntryResult]) -> list[str]:
    """The title of each entry: its name, with its id where several entries have that name, as QuPath allows."""
    counts = Counter(record.name for record in records)
    return [
        f"{record.name} (id {record.id})" if counts[record.name] > 1 and record.id else record.name
        for record in records
    ]


def without_name(message: str, name: str) -> str:
    """A message without the name of its entry in front, for where the name stands beside it already."""
    return message.removeprefix(f"{name}: ")


@dataclass(frozen=True, slots=True)
class StageReport:
    """What a command did. ``details`` holds JSON values that are special to it (curves, figures, paths)."""

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
    """One line of ``wsplf doctor``: what was checked, the result, and how to fix it.

    ``group``: checks of one group have one cause and one fix, and are shown as one line: their number and these words.
    """

    status: Literal["PASS", "WARN", "FAIL"]
    name: str
    message: str
    fix: str = ""
    group: str = ""


class Tracker(Protocol):
    """Receives the progress of long work. ``ui`` shows it; tests and libraries may pass ``Silent()``."""

    def start(self, name: str, total: int) -> None:
        """Begin work of ``total`` steps."""

    def advance(self, steps: int = 1, message: str = "") -> None:
        """Advance by ``steps``; ``message`` replaces the short text beside the bar."""

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
