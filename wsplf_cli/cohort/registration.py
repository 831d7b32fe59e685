"""Proof, for each entry, that an annotation lies on the pixels on which it was drawn (``wsplf doctor --registration``).

There are two tests. Markers at the corners of an entry are written into a copy of the project and read back: the file
must return their coordinates. The thumbnail that QuPath made of the image is compared with the slide as wsplf reads
it, in all eight orientations: it must match best as it is, without a shift. The project itself is not changed.
"""

import math
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from shapely import Polygon

from wsplf_cli import plugins
from wsplf_cli.backends import Project
from wsplf_cli.errors import ProjectError, SlideError
from wsplf_cli.options import ProjectOptions
from wsplf_cli.qupath.create import THUMBNAIL_COMMENT
from wsplf_cli.schema import Annotation, Check, Entry, Tracker, titles
from wsplf_cli.slides.entry import slide_of
from wsplf_cli.slides.open import Slide

MARKER_RUN = "registration"
#: QuPath 0.6 and later round shapes to this when they read them, so no file needs to be more exact.
TOLERANCE_PX0 = 0.01
#: Longer side of the thumbnails that are compared, and the largest shift that is tried.
COMPARED_PX = 512
MOST_TRIED_SHIFT_PX = 4
MOST_SHIFT_PX = 1.0
#: The same for the orientation, for which smaller pictures are enough.
ORIENTATION_PX = 160
ORIENTATION_MOST_TRIED_SHIFT_PX = 2
#: A thumbnail with less contrast (standard deviation of grey levels 0..255) is blank.
LEAST_CONTRAST = 3.0
#: A correlation below this means that the two pictures do not show the same, or not at the same scale.
LEAST_CORRELATION = 0.8
ONLY = "only the file round trip was checked"
STOP = "write no annotations into this entry; check that the slide is the one that was added to the project"
REFRESH = "in QuPath's list of images: right-click, Refresh thumbnail; then run this again"


def check_registration(project: Project, entries: Sequence[Entry], backend: str, tracker: Tracker) -> list[Check]:
    """One check for each entry; PASS only where both tests passed. ``backend`` is the name of the project's backend.

    Raises:
        ProjectError: the project cannot be copied into the folder for temporary files.
    """
    with tempfile.TemporaryDirectory(prefix="wsplf-", ignore_cleanup_errors=True) as folder:
        path = _copy(project, entries, Path(folder))
        errors = _round_trip_errors_px0(path, entries, ProjectOptions(backend=backend))
    checks = []
    tracker.start("registration", len(entries))
    for entry, title, error in zip(entries, titles(entries), errors, strict=True):
        checks.append(_check(project.folder, entry, error, name=f"registration of {title}"))
        tracker.advance(1, message=entry.name)
    return checks


def _copy(project: Project, entries: Sequence[Entry], folder: Path) -> Path:
    """A copy of the project with the data of the entries, without slides and thumbnails; returns its project file."""
    names = ("data.qpdata", "data.qpdata.bkp", "server.json", "summary.json")
    paths = [project.path, project.folder / "classifiers" / "classes.json", project.folder / "data" / "metadata.json"]
    paths += [project.folder / "data" / entry.id / name for entry in entries for name in names]
    try:
        for path in paths:
            if path.is_file():
                copy = folder / path.relative_to(project.folder)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)
    except OSError as error:
        raise ProjectError(
            f"the project cannot be copied to {folder}: {error.strerror}", hint="free disk space, or set TMPDIR"
        ) from error
    return folder / project.path.name


def _round_trip_errors_px0(path: Path, entries: Sequence[Entry], options: ProjectOptions) -> list[float | str]:
    """The displacement of each entry's markers after writing and reading, or why they could not be compared."""
    backend = plugins.load("backends", options.backend)
    copy: Project = backend.open_project(path, options)
    refused: dict[str, str] = {}
    for entry in entries:
        try:
            copy.replace(entry.id, origin="prediction", annotations=_markers(entry))
        except SlideError as error:
            refused[entry.id] = error.message
    reopened: Project = backend.open_project(path, options)
    return [refused.get(entry.id) or _displacement_px0(reopened, entry) for entry in entries]


def _markers(entry: Entry) -> list[Annotation]:
    """A triangle in each corner, all different when turned or mirrored, and a polygon with a hole in the middle."""
    width, height = max(entry.width_px0, 8), max(entry.height_px0, 8)
    side = min(width, height) / 8
    shapes = []
    for x, y in product((0.0, float(width)), (0.0, float(height))):
        across, down = (side if x == 0 else -side), (0.37 * side if y == 0 else -0.37 * side)
        shapes.append(Polygon(_rounded([(x, y), (x + across, y), (x, y + down)])))
    x, y = width / 2, height / 2
    outside = [(x - side, y - side), (x + side, y - side), (x + side, y + 0.6 * side), (x - side, y + side)]
    inside = [(x - side / 2, y - side / 2), (x, y - side / 2), (x, y)]
    shapes.append(Polygon(_rounded(outside), [_rounded(inside)]))
    return [
        Annotation(uuid4(), shape, "Tumor", run_id=MARKER_RUN, name=f"{MARKER_RUN} {index}")
        for index, shape in enumerate(shapes)
    ]


def _rounded(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(round(x, 2), round(y, 2)) for x, y in points]


def _displacement_px0(project: Project, entry: Entry) -> float | str:
    """The largest displacement of the markers that were read from an entry, or why there is none."""
    try:
        annotations = project.annotations(entry.id)
    except SlideError as error:
        return error.message
    read = {annotation.name: annotation.shape for annotation in annotations if annotation.run_id == MARKER_RUN}
    written = {marker.name: marker.shape for marker in _markers(entry)}
    if set(read) != set(written):
        return f"{len(read)} of {len(written)} markers came back"
    return float(max(shape.hausdorff_distance(read[name]) for name, shape in written.items()))


def _check(folder: Path, entry: Entry, error: float | str, *, name: str) -> Check:
    if isinstance(error, str):
        return Check("FAIL", name, f"markers could not be written and read: {error}")
    if error > TOLERANCE_PX0:
        return Check("FAIL", name, f"markers came back {error:.3f} px from where they were written")
    round_trip = f"markers came back to within {max(error, 0.001):.3f} px"
    thumbnail, problem = _qupath_thumbnail(folder / "data" / entry.id / "thumbnail.jpg")
    if thumbnail is None:
        return Check("WARN", name, f"{round_trip}; {problem}: {ONLY}", REFRESH)
    try:
        match = _match(thumbnail, _overview(slide_of(entry), thumbnail.shape))
    except SlideError as unreadable:
        return Check("WARN", name, f"{round_trip}; {unreadable.message}: {ONLY}", unreadable.hint)
    status, message, fix = _assess(match, shift_px0=match.shift_px * entry.width_px0 / thumbnail.shape[1])
    return Check(status, name, f"{round_trip}; {message}", fix)


def _assess(match: "_Match", *, shift_px0: float) -> tuple[Literal["PASS", "WARN", "FAIL"], str, str]:
    """Status, message and fix for how a thumbnail matches the slide."""
    figures = f"correlation {match.correlation:.3f}, shift {match.shift_px:.1f} thumbnail px = {shift_px0:.0f} px"
    if max(match.correlation, match.best_turned) < LEAST_CORRELATION:
        return "WARN", f"QuPath's thumbnail does not look like the slide ({figures}): {ONLY}", REFRESH
    if match.best_turned > match.unturned:
        better = f"QuPath's thumbnail fits the slide {match.turn} better ({match.best_turned:.3f}; {figures})"
        return "FAIL", better, STOP
    if match.shift_px > MOST_SHIFT_PX:
        return "FAIL", f"QuPath's thumbnail lies beside the slide ({figures})", STOP
    if 1 - match.best_turned < 2 * (1 - match.unturned):
        return "WARN", f"the slide looks the same {match.turn}, so its orientation is not proved ({figures})", ""
    others = f"any other way at most {match.best_turned:.3f}"
    return "PASS", f"QuPath's thumbnail lies on the slide ({figures}; {others})", ""


def _overview(slide: Slide, shape: tuple[int, int]) -> NDArray[np.float32]:
    """The whole slide in grey, float32 of ``shape`` (rows, columns) in 0..255, its edges exactly at the array's."""
    rows, columns = shape
    width, height = slide.width_px0, slide.height_px0
    downsample = max(1.0, min(width / columns, height / rows))
    box = (width / downsample, height / downsample)
    pixels = slide.read(0, 0, size_px=(math.ceil(box[0]), math.ceil(box[1])), downsample=downsample)
    picture = Image.fromarray(pixels).convert("L")
    return np.asarray(picture.resize((columns, rows), Image.Resampling.BOX, box=(0, 0, *box)), np.float32)


def _qupath_thumbnail(path: Path) -> tuple[NDArray[np.float32] | None, str]:
    """QuPath's thumbnail in grey, float32 [H, W] in 0..255, or None and why it cannot be used."""
    try:
        with Image.open(path) as picture:
            if picture.info.get("comment") == THUMBNAIL_COMMENT:
                return None, "the thumbnail is wsplf's, not QuPath's"
            picture.thumbnail((COMPARED_PX, COMPARED_PX), Image.Resampling.BOX)
            grey = np.asarray(picture.convert("L"), np.float32)
    except OSError:  # there is none yet, or a damaged one, which QuPath replaces
        return None, "no thumbnail by QuPath"
    if grey.std() < LEAST_CONTRAST:
        return None, "the thumbnail is blank and proves nothing"
    return grey, ""


@dataclass(frozen=True, slots=True)
class _Match:
    """How a thumbnail matches a slide: the best correlation and the shift at which it is reached.

    Of small copies: the correlation as they are (``unturned``) and the best one of all other orientations
    (``best_turned``, reached by ``turn``).
    """

    correlation: float
    shift_px: float
    unturned: float
    best_turned: float
    turn: str


def _match(thumbnail: NDArray[np.float32], slide: NDArray[np.float32]) -> _Match:
    """Compare a thumbnail with a picture of the slide in the eight orientations; both float32 [H, W]."""
    turns = {
        f"{'mirrored ' if mirrored else ''}turned by {90 * quarters} degrees": (mirrored, quarters)
        for mirrored, quarters in product((False, True), range(4))
    }
    correlation, shift_px = _best_shift(thumbnail, slide, most_px=MOST_TRIED_SHIFT_PX)
    scale = min(1.0, ORIENTATION_PX / max(thumbnail.shape))
    rows, columns = (max(1, round(length * scale)) for length in thumbnail.shape)
    small = _resized(thumbnail, (rows, columns))
    correlations = {}
    for turn, (mirrored, quarters) in turns.items():
        turned = np.rot90(slide[:, ::-1] if mirrored else slide, -quarters)
        small_turned = _resized(turned, (rows, columns))
        correlations[turn] = _best_shift(small, small_turned, most_px=ORIENTATION_MOST_TRIED_SHIFT_PX)[0]
    unturned = correlations.pop("turned by 0 degrees")
    best_turn = max(correlations, key=lambda turn: correlations[turn])
    return _Match(correlation, shift_px, unturned, correlations[best_turn], best_turn)


def _resized(grey: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32]:
    if grey.shape == shape:
        return grey
    picture = Image.fromarray(np.ascontiguousarray(grey)).resize(shape[::-1], Image.Resampling.BOX)
    return np.asarray(picture, np.float32)


def _best_shift(first: NDArray[np.float32], second: NDArray[np.float32], *, most_px: int) -> tuple[float, float]:
    """The highest correlation over shifts of up to ``most_px``, and the length of that shift in (part) pixels."""
    most_px = min(most_px, min(first.shape) // 4)
    rows, columns = first.shape
    shifts = range(-most_px, most_px + 1)
    table = np.empty((len(shifts), len(shifts)))
    for down, across in product(shifts, repeat=2):
        first_part = first[max(down, 0) : rows + min(down, 0), max(across, 0) : columns + min(across, 0)]
        second_part = second[max(-down, 0) : rows + min(-down, 0), max(-across, 0) : columns + min(-across, 0)]
        table[down + most_px, across + most_px] = _correlation(first_part, second_part)
    row, column = np.unravel_index(int(table.argmax()), table.shape)
    length = math.hypot(_peak(table[:, column], int(row)) - most_px, _peak(table[row], int(column)) - most_px)
    return float(table.max()), length


def _peak(values: NDArray[np.float64], index: int) -> float:
    """The position of the maximum between samples: of the parabola through the highest value and its neighbours."""
    if not 0 < index < len(values) - 1:
        return float(index)
    before, top, after = values[index - 1 : index + 2]
    curvature = before - 2 * top + after
    return index + (0.5 * float(before - after) / float(curvature) if curvature < 0 else 0.0)


def _correlation(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """Normalised cross-correlation, -1..1; 0 where one of the two is blank."""
    first, second = first - first.mean(), second - second.mean()
    norm = float(np.sqrt((first * first).sum() * (second * second).sum()))
    return float((first * second).sum()) / norm if norm > 0 else 0.0
