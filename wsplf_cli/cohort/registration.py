"""``wsplf doctor --registration``: proof, entry by entry, that an annotation lands on the pixels it was drawn on.

Two things are looked at. Markers at the corners of every entry are written into a copy of the project and read back:
the file must return their coordinates. And the thumbnail that QuPath made of the image is laid over the slide as wsplf
reads it, in all eight orientations: it must fit as it is, without a shift. The project itself is not written to.
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
from wsplf_cli.commands.create import THUMBNAIL_COMMENT
from wsplf_cli.errors import ProjectError, SlideError
from wsplf_cli.options import DoctorOptions, ProjectOptions
from wsplf_cli.schema import Annotation, Check, Entry, Tracker, titles
from wsplf_cli.slides.entry import slide_of
from wsplf_cli.slides.open import Slide

RUN = "registration"
#: QuPath 0.6 and later round shapes to this when they read them, so no file needs to be better.
TOLERANCE_PX0 = 0.01
#: Thumbnails are compared at most so large, in pixels of the longer side, and moved by so many pixels.
COMPARED_PX = 512
REACH_PX = 4
MOST_SHIFT_PX = 1.0
#: For the orientation smaller pictures are enough.
TURNED_PX = 160
TURNED_REACH_PX = 2
#: Grey levels (0..255, standard deviation) below which a thumbnail shows nothing that could be laid over anything.
LEAST_CONTRAST = 3.0
#: A correlation below this means that the two pictures do not show the same, or not at the same scale.
LEAST_CORRELATION = 0.8
ONLY = "only the file round trip was checked"
STOP = "write no annotations into this entry; check that the slide is the one that was added to the project"
REFRESH = "in QuPath's list of images: right-click, Refresh thumbnail; then run this again"


def check_registration(
    project: Project, entries: Sequence[Entry], options: DoctorOptions, tracker: Tracker
) -> list[Check]:
    """One check for each entry, PASS only where both parts were proved.

    Raises:
        ProjectError: the project cannot be copied into the folder for temporary files.
    """
    with tempfile.TemporaryDirectory(prefix="wsplf-", ignore_cleanup_errors=True) as folder:
        path = _copy(project, entries, Path(folder))
        access = ProjectOptions(backend=options.project.backend)
        errors = _errors_px0(path, entries, access)
    checks = []
    tracker.start("registration", len(entries))
    for entry, title, error in zip(entries, titles(entries), errors, strict=True):
        checks.append(_check(project.folder, entry, error, name=f"registration of {title}"))
        tracker.advance(1, message=entry.name)
    return checks


def _copy(project: Project, entries: Sequence[Entry], folder: Path) -> Path:
    """A copy of the project with the data of the entries, without slides and thumbnails; returns its project file."""
    names = ("data.qpdata", "data.qpdata.bkp", "server.json", "summary.json")
    wanted = [project.path, project.folder / "classifiers" / "classes.json", project.folder / "data" / "metadata.json"]
    wanted += [project.folder / "data" / entry.id / name for entry in entries for name in names]
    try:
        for path in wanted:
            if path.is_file():
                copy = folder / path.relative_to(project.folder)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)
    except OSError as error:
        raise ProjectError(
            f"the project cannot be copied to {folder}: {error.strerror}", hint="free disk space, or set TMPDIR"
        ) from error
    return folder / project.path.name


def _errors_px0(path: Path, entries: Sequence[Entry], access: ProjectOptions) -> list[float | str]:
    """By how much the corner markers of each entry come back displaced, or why they do not come back at all."""
    backend = plugins.load("backends", access.backend)
    copy: Project = backend.open_project(path, access)
    refused: dict[str, str] = {}
    for entry in entries:
        try:
            copy.replace(entry.id, origin="prediction", annotations=_markers(entry))
        except SlideError as error:
            refused[entry.id] = error.message
    reopened: Project = backend.open_project(path, access)
    return [refused.get(entry.id) or _error_px0(reopened, entry) for entry in entries]


def _markers(entry: Entry) -> list[Annotation]:
    """A triangle in each corner, no two alike when turned or mirrored, and one with a hole in the middle."""
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
        Annotation(uuid4(), shape, "Tumor", run_id=RUN, name=f"{RUN} {number}") for number, shape in enumerate(shapes)
    ]


def _rounded(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(round(x, 2), round(y, 2)) for x, y in points]


def _error_px0(project: Project, entry: Entry) -> float | str:
    try:
        found = {one.name: one.shape for one in project.annotations(entry.id) if one.run_id == RUN}
    except SlideError as error:
        return error.message
    drawn = {one.name: one.shape for one in _markers(entry)}
    if set(found) != set(drawn):
        return f"{len(found)} of {len(drawn)} markers came back"
    return float(max(shape.hausdorff_distance(found[name]) for name, shape in drawn.items()))


def _check(folder: Path, entry: Entry, error: float | str, *, name: str) -> Check:
    if isinstance(error, str):
        return Check("FAIL", name, f"markers could not be written and read: {error}")
    if error > TOLERANCE_PX0:
        return Check("FAIL", name, f"markers came back {error:.3f} px from where they were written")
    written = f"markers came back to within {max(error, 0.001):.3f} px"
    shown, why = _thumbnail(folder / "data" / entry.id / "thumbnail.jpg")
    if shown is None:
        return Check("WARN", name, f"{written}; {why}: {ONLY}", REFRESH)
    try:
        fit = _fit(shown, _overview(slide_of(entry), shown.shape))
    except SlideError as unread:
        return Check("WARN", name, f"{written}; {unread.message}: {ONLY}", unread.hint)
    status, message, fix = _judged(fit, px0=fit.shift_px * entry.width_px0 / shown.shape[1])
    return Check(status, name, f"{written}; {message}", fix)


def _judged(fit: "_Fit", *, px0: float) -> tuple[Literal["PASS", "WARN", "FAIL"], str, str]:
    """Status, what is to be said, and what to do about how a thumbnail fits; ``px0``: its shift at level 0."""
    figures = f"correlation {fit.correlation:.3f}, shift {fit.shift_px:.1f} thumbnail px = {px0:.0f} px"
    if max(fit.correlation, fit.other) < LEAST_CORRELATION:
        return "WARN", f"QuPath's thumbnail does not look like the slide ({figures}): {ONLY}", REFRESH
    if fit.other > fit.same:
        return "FAIL", f"QuPath's thumbnail fits the slide {fit.turn} better ({fit.other:.3f}; {figures})", STOP
    if fit.shift_px > MOST_SHIFT_PX:
        return "FAIL", f"QuPath's thumbnail lies beside the slide ({figures})", STOP
    if 1 - fit.other < 2 * (1 - fit.same):
        return "WARN", f"the slide looks the same {fit.turn}, so its orientation is not proved ({figures})", ""
    return "PASS", f"QuPath's thumbnail lies on the slide ({figures}; any other way at most {fit.other:.3f})", ""


def _overview(slide: Slide, shape: tuple[int, int]) -> NDArray[np.float32]:
    """The whole slide in grey, float32 of ``shape`` (rows, columns) in 0..255, its edges exactly at the array's."""
    rows, columns = shape
    width, height = slide.width_px0, slide.height_px0
    downsample = max(1.0, min(width / columns, height / rows))
    box = (width / downsample, height / downsample)
    pixels = slide.read(0, 0, size_px=(math.ceil(box[0]), math.ceil(box[1])), downsample=downsample)
    picture = Image.fromarray(pixels).convert("L")
    return np.asarray(picture.resize((columns, rows), Image.Resampling.BOX, box=(0, 0, *box)), np.float32)


def _thumbnail(path: Path) -> tuple[NDArray[np.float32] | None, str]:
    """QuPath's thumbnail in grey, float32 [h, w] in 0..255, or None and why it cannot be used."""
    try:
        with Image.open(path) as picture:
            if picture.info.get("comment") == THUMBNAIL_COMMENT:
                return None, "the thumbnail is wsplf's, there is none by QuPath"
            picture.thumbnail((COMPARED_PX, COMPARED_PX), Image.Resampling.BOX)
            shown = np.asarray(picture.convert("L"), np.float32)
    except OSError:  # there is none yet, or a broken one, which QuPath makes anew
        return None, "no thumbnail by QuPath"
    if shown.std() < LEAST_CONTRAST:
        return None, "the thumbnail is blank and proves nothing"
    return shown, ""


@dataclass(frozen=True, slots=True)
class _Fit:
    """How a thumbnail fits: correlation and shift as it is; of the pictures made small, ``same`` as they are and
    ``other``, the best of all other ways, which is ``turn``.
    """

    correlation: float
    shift_px: float
    same: float
    other: float
    turn: str


def _fit(shown: NDArray[np.float32], slide: NDArray[np.float32]) -> _Fit:
    """Lay a thumbnail over the slide's own in the eight orientations; both float32 [h, w]."""
    turns = {
        f"{'mirrored ' if mirrored else ''}turned by {90 * quarters} degrees": (mirrored, quarters)
        for mirrored, quarters in product((False, True), range(4))
    }
    correlation, shift_px = _best(shown, slide, reach=REACH_PX)
    side = max(shown.shape)
    rows, columns = (max(1, round(length * min(1.0, TURNED_PX / side))) for length in shown.shape)
    small = _resized(shown, (rows, columns))
    scores = {}
    for turn, (mirrored, quarters) in turns.items():
        laid = np.rot90(slide[:, ::-1] if mirrored else slide, -quarters)
        scores[turn] = _best(small, _resized(laid, (rows, columns)), reach=TURNED_REACH_PX)[0]
    same = scores.pop("turned by 0 degrees")
    turn = max(scores, key=lambda one: scores[one])
    return _Fit(correlation, shift_px, same, scores[turn], turn)


def _resized(grey: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32]:
    if grey.shape == shape:
        return grey
    picture = Image.fromarray(np.ascontiguousarray(grey)).resize(shape[::-1], Image.Resampling.BOX)
    return np.asarray(picture, np.float32)


def _best(one: NDArray[np.float32], other: NDArray[np.float32], *, reach: int) -> tuple[float, float]:
    """The highest correlation over small shifts, and the length of the shift with it in pixels, to parts of one."""
    reach = min(reach, min(one.shape) // 4)
    rows, columns = one.shape
    shifts = range(-reach, reach + 1)
    table = np.empty((len(shifts), len(shifts)))
    for down, across in product(shifts, repeat=2):
        part = one[max(down, 0) : rows + min(down, 0), max(across, 0) : columns + min(across, 0)]
        same = other[max(-down, 0) : rows + min(-down, 0), max(-across, 0) : columns + min(-across, 0)]
        table[down + reach, across + reach] = _correlation(part, same)
    row, column = np.unravel_index(int(table.argmax()), table.shape)
    length = math.hypot(_peak(table[:, column], int(row)) - reach, _peak(table[row], int(column)) - reach)
    return float(table.max()), length


def _peak(values: NDArray[np.float64], place: int) -> float:
    """Where the parabola through the highest of some values and its neighbours is highest."""
    if not 0 < place < len(values) - 1:
        return float(place)
    before, top, after = values[place - 1 : place + 2]
    bend = before - 2 * top + after
    return place + (0.5 * float(before - after) / float(bend) if bend < 0 else 0.0)


def _correlation(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Normalised cross-correlation, -1..1; 0 where one of the two is blank."""
    first, second = one - one.mean(), other - other.mean()
    size = float(np.sqrt((first * first).sum() * (second * second).sum()))
    return float((first * second).sum()) / size if size > 0 else 0.0
