"""Proof, for each entry, that an annotation lies on the pixels on which it was drawn (``wsplf doctor --registration``).

There are two tests. Markers at the corners of an entry are written into a copy of the project and read back: the file
must return their coordinates. The pixels that wsplf reads are compared with what QuPath shows:

- The thumbnail that QuPath made of the image is compared with the slide, in all eight orientations: it must match best
  as it is, without a shift.
- An entry without such a thumbnail, as in the projects that wsplf makes, is compared with the slide's file. QuPath
  shows the pixels that OpenSlide gives, from the corner of the scanned bounds on, and those of a PNG or JPEG file. So
  squares of level 0 in the file must be equal, pixel for pixel, to those that wsplf reads at the same place. An image
  that QuPath turns or crops has only the thumbnail as a witness. A thumbnail that wsplf made must still match: it shows
  the slide that was added.

The project itself is not changed.
"""

import math
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from shapely import Polygon

from wsplf_cli import plugins
from wsplf_cli.backends import Project
from wsplf_cli.cohort.run import SlideStep, for_each_slide
from wsplf_cli.errors import ProjectError, SlideError
from wsplf_cli.executors.workers import IN_PROCESS, Workers
from wsplf_cli.options import ProjectOptions
from wsplf_cli.qupath import project_file, servers
from wsplf_cli.qupath.create import THUMBNAIL_COMMENT
from wsplf_cli.qupath.data_folder import entry_folder
from wsplf_cli.schema import Annotation, Check, Entry, Tracker, titles, without_name
from wsplf_cli.slides.direct import FilePixels
from wsplf_cli.slides.entry import slide_of
from wsplf_cli.slides.open import Slide

Reader = Literal["openslide", "picture", ""]
#: Status, message and fix.
Verdict = tuple[Literal["PASS", "WARN", "FAIL"], str, str]

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
#: Squares that are compared with the file: their side in level-0 pixels, and the number of rows and columns of them.
SQUARE_PX0 = 256
SQUARES = 4
ONLY = "only the file round trip was checked"
STOP = "write no annotations into this entry; check that the slide is the one that was added to the project"
REFRESH = "in QuPath's list of images: right-click, Refresh thumbnail; then run this again"


def check_registration(
    project: Project, entries: Sequence[Entry], backend: str, tracker: Tracker, *, workers: Workers = IN_PROCESS
) -> list[Check]:
    """One check for each entry; PASS only where both tests passed. ``backend`` is the name of the project's backend.

    Raises:
        ProjectError: the project cannot be copied into the folder for temporary files.
    """
    with tempfile.TemporaryDirectory(prefix="wsplf-", ignore_cleanup_errors=True) as folder:
        path = _copy(project, entries, Path(folder))
        errors = _round_trip_errors_px0(path, entries, ProjectOptions(backend=backend))
    images = {project_file.entry_id(image): image for image in project_file.read(project.path).images}
    marked = {
        entry.id: _MarkedEntry(entry, f"registration of {title}", error, _file_reader(images[entry.id]))
        for entry, title, error in zip(entries, titles(entries), errors, strict=True)
    }
    checks: dict[str, Check] = {}

    def receive(entry: Entry, check: Check) -> Mapping[str, float]:
        checks[entry.id] = check
        return {}

    step = SlideStep("registration", lambda entry: marked[entry.id], _CheckSlide(project.folder), receive)
    results = for_each_slide(entries, step, tracker=tracker, workers=workers)
    return [checks.get(result.id, Check("FAIL", marked[result.id].name, result.reason)) for result in results]


@dataclass(frozen=True, slots=True)
class _MarkedEntry:
    """An entry, what its check is called, how its markers came back, and what reads its file as QuPath does."""

    entry: Entry
    name: str
    error: float | str
    reader: Reader


@dataclass(frozen=True, slots=True)
class _CheckSlide:
    """Checks that annotations land on the pixels of a slide of the project in ``folder``."""

    folder: Path

    def __call__(self, marked: _MarkedEntry, tracker: Tracker) -> Check:
        return _check(self.folder, marked.entry, marked.error, name=marked.name, reader=marked.reader)


def _file_reader(image: Mapping[str, Any]) -> Reader:
    """What reads an entry's file as QuPath does; empty for an image that QuPath derives from another."""
    chain = servers.builders(image)
    if len(chain) != 1:
        return ""
    return "openslide" if "openslide" in str(chain[0].get("providerClassName")).lower() else "picture"


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


def _check(folder: Path, entry: Entry, error: float | str, *, name: str, reader: Reader) -> Check:
    if isinstance(error, str):
        return Check("FAIL", name, f"markers could not be written and read: {without_name(error, entry.name)}")
    if error > TOLERANCE_PX0:
        return Check("FAIL", name, f"markers came back {error:.3f} px from where they were written")
    round_trip = f"markers came back to within {max(error, 0.001):.3f} px"
    thumbnail, owner = _read_thumbnail(entry_folder(folder, entry.id) / "thumbnail.jpg")
    try:
        verdicts = [] if thumbnail is None else [_compare_thumbnail(thumbnail, entry, owner)]
        if owner != "QuPath":
            verdicts.append(_compare_file(entry, reader))
    except SlideError as unreadable:
        message = f"{round_trip}; {without_name(unreadable.message, entry.name)}: {ONLY}"
        return Check("WARN", name, message, unreadable.hint, group="registrations not proved: the slide cannot be read")
    status, _, fix = min(verdicts, key=lambda verdict: ("FAIL", "WARN", "PASS").index(verdict[0]))
    return Check(status, name, "; ".join([round_trip, *(message for _, message, _ in verdicts)]), fix)


def _compare_thumbnail(thumbnail: NDArray[np.float32], entry: Entry, owner: str) -> Verdict:
    """How a thumbnail, grey levels [H, W], lies on the slide; ``owner`` is the program that made it."""
    if thumbnail.std() < LEAST_CONTRAST:
        return "WARN", f"the thumbnail is blank and proves nothing: {ONLY}", REFRESH
    match = _match(thumbnail, _overview(slide_of(entry), thumbnail.shape))
    return _assess(match, shift_px0=match.shift_px * entry.width_px0 / thumbnail.shape[1], owner=owner)


def _compare_file(entry: Entry, reader: Reader) -> Verdict:
    """How the pixels that wsplf reads of an entry lie on those of its file.

    Raises:
        SlideError: the slide cannot be read.
    """
    if not reader:
        return "WARN", f"no thumbnail by QuPath: {ONLY}", REFRESH
    slide, squares = slide_of(entry), 0
    side_px = min(SQUARE_PX0, slide.width_px0, slide.height_px0)
    try:
        with FilePixels(slide.path, by_openslide=reader == "openslide", crop_to_bounds=entry.crop_to_bounds) as file:
            for x_px0, y_px0 in _corners_of_squares(slide, side_px):
                stored = file.read(x_px0, y_px0, side_px=side_px)
                if stored.std() < LEAST_CONTRAST or _is_symmetric(stored):
                    continue
                if not np.array_equal(stored, slide.read(x_px0, y_px0, size_px=(side_px, side_px), downsample=1)):
                    return "FAIL", f"the file has other pixels than wsplf reads at x {x_px0}, y {y_px0}", STOP
                squares += 1
    except SlideError as error:
        return "WARN", f"no thumbnail by QuPath, and {error.message}: {ONLY}", REFRESH
    if not squares:
        return "WARN", f"no thumbnail by QuPath, and the slide has no part with contrast: {ONLY}", REFRESH
    squares_of = f"{squares} squares of {side_px} x {side_px} px"
    return "PASS", f"{squares_of} are in the slide's file, pixel for pixel, where wsplf reads them", ""


def _corners_of_squares(slide: Slide, side_px0: int) -> list[tuple[int, int]]:
    """Top-left corners of the square with the most contrast in each part of a slide."""
    downsample = max(1.0, max(slide.width_px0, slide.height_px0) / COMPARED_PX)
    shape = (max(1, round(slide.height_px0 / downsample)), max(1, round(slide.width_px0 / downsample)))
    overview = _overview(slide, shape)
    side = max(1, round(side_px0 / downsample))
    last = slide.width_px0 - side_px0, slide.height_px0 - side_px0
    corners = []
    for rows, columns in product(*(np.array_split(np.arange(length), SQUARES) for length in shape)):
        starts = list(product(rows[::side].tolist(), columns[::side].tolist()))
        contrasts = [overview[row : row + side, column : column + side].std() for row, column in starts]
        if contrasts:
            row, column = starts[int(np.argmax(contrasts))]
            corners.append((min(int(column * downsample), last[0]), min(int(row * downsample), last[1])))
    return list(dict.fromkeys(corners))


def _is_symmetric(pixels: NDArray[np.uint8]) -> bool:
    """Whether a square looks the same turned or mirrored, so that it does not tell the orientation."""
    turns = [np.rot90(view, quarters) for view in (pixels, pixels[:, ::-1]) for quarters in range(4)]
    return any(np.array_equal(pixels, turned) for turned in turns[1:])


def _assess(match: "_Match", *, shift_px0: float, owner: str) -> Verdict:
    """The verdict on how a thumbnail matches the slide; ``owner`` is the program that made it."""
    whose, fix = f"{owner}'s thumbnail", REFRESH if owner == "QuPath" else STOP
    figures = f"correlation {match.correlation:.3f}, shift {match.shift_px:.1f} thumbnail px = {shift_px0:.0f} px"
    if max(match.correlation, match.best_turned) < LEAST_CORRELATION:
        return "WARN", f"{whose} does not look like the slide ({figures}): {ONLY}", fix
    if match.best_turned > match.unturned:
        better = f"{whose} fits the slide {match.turn} better ({match.best_turned:.3f}; {figures})"
        return "FAIL", better, STOP
    if match.shift_px > MOST_SHIFT_PX:
        return "FAIL", f"{whose} lies beside the slide ({figures})", STOP
    if owner == "QuPath" and 1 - match.best_turned < 2 * (1 - match.unturned):
        return "WARN", f"the slide looks the same {match.turn}, so its orientation is not proved ({figures})", ""
    others = f"any other way at most {match.best_turned:.3f}"
    return "PASS", f"{whose} lies on the slide ({figures}; {others})", ""


def _overview(slide: Slide, shape: tuple[int, int]) -> NDArray[np.float32]:
    """The whole slide in grey, float32 of ``shape`` (rows, columns) in 0..255, its edges exactly at the array's."""
    rows, columns = shape
    width, height = slide.width_px0, slide.height_px0
    downsample = max(1.0, min(width / columns, height / rows))
    box = (width / downsample, height / downsample)
    pixels = slide.read(0, 0, size_px=(math.ceil(box[0]), math.ceil(box[1])), downsample=downsample)
    picture = Image.fromarray(pixels).convert("L")
    return np.asarray(picture.resize((columns, rows), Image.Resampling.BOX, box=(0, 0, *box)), np.float32)


def _read_thumbnail(path: Path) -> tuple[NDArray[np.float32] | None, str]:
    """The thumbnail in grey, float32 [H, W] in 0..255, and the program that made it; None and "" without one."""
    try:
        with Image.open(path) as picture:
            owner = "wsplf" if picture.info.get("comment") == THUMBNAIL_COMMENT else "QuPath"
            picture.thumbnail((COMPARED_PX, COMPARED_PX), Image.Resampling.BOX)
            return np.asarray(picture.convert("L"), np.float32), owner
    except OSError:  # there is none yet, or a damaged one, which QuPath replaces
        return None, ""


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
