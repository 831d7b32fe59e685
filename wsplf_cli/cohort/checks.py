"""The checks of a project: can every entry be read, and does the cohort have the labels to learn from."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from wsplf_cli.backends import Project
from wsplf_cli.cohort.labels import LabelRow, classes_of, count_classes, label_rows, require_both
from wsplf_cli.cohort.run import SlideStep, for_each_slide
from wsplf_cli.errors import ProjectError, SlideError
from wsplf_cli.executors.workers import IN_PROCESS, Workers
from wsplf_cli.options import ProjectOptions
from wsplf_cli.qupath.data_folder import BACKUP, DATA, FOLDER, entry_folder, find_data, how_to_restore, unused_folders
from wsplf_cli.review.on_image import OnImage, on_image
from wsplf_cli.schema import Annotation, Check, Entry, Silent, Tracker, titles, without_name
from wsplf_cli.slides.checks import check_pixels, require_colour
from wsplf_cli.slides.entry import entry_slide

#: Side of the picture that is read of each slide, to see that its pixels can be read and have colour.
TRIAL_PX = 256
#: Names that the line of a group shows.
SHOWN_NAMES = 3
#: Missing slides are shown by folder; from more folders than this, by the folders above.
MOST_FOLDERS = 10


def check_project(
    project: Project,
    entries: Sequence[Entry],
    options: ProjectOptions,
    *,
    tracker: Tracker | None = None,
    workers: Workers = IN_PROCESS,
) -> list[Check]:
    """The checks of the project, of each entry (slide, mpp, data file, label), and of the labels as a whole."""
    rows = label_rows(entries, options)
    classes = classes_of(options)
    checks = [Check("PASS", "project", f"{project.path}, QuPath {project.version}, {len(entries)} entries")]
    if not os.access(project.folder, os.W_OK):
        checks.append(
            Check(
                "WARN",
                "folder",
                f"{project.folder} cannot be written",
                fix="commands that only read work; copy the project to write annotations",
            )
        )
    checks += _check_data_folders(project)
    folders = _folders_of_missing_slides(entries)
    row_of = {row.entry.id: _LabelledEntry(row, title) for row, title in zip(rows, titles(entries), strict=True)}
    data_checks_of: dict[str, list[Check]] = {}
    slide_checks: dict[str, Check] = {}

    def read(entry: Entry) -> tuple[_LabelledEntry, Sequence[Annotation]]:
        annotations, data_checks_of[entry.id] = _check_data(project, entry, title=row_of[entry.id].title)
        return row_of[entry.id], annotations

    def receive(entry: Entry, check: Check) -> Mapping[str, float]:
        slide_checks[entry.id] = check
        return {}

    step = SlideStep("slides", read, _CheckSlide(tuple(classes), options.mpp_override), receive)
    results = for_each_slide([row.entry for row in rows], step, tracker=tracker or Silent(), workers=workers)
    for row, result in zip(rows, results, strict=True):
        data_checks, title = data_checks_of[row.entry.id], row_of[row.entry.id].title
        check = slide_checks.get(row.entry.id, Check("FAIL", title, without_name(result.reason, title)))
        checks += data_checks
        if row.entry.id in folders:
            check = replace(check, group=f"slides missing from {folders[row.entry.id]}")
        if check.status == "FAIL" or not any(data_check.status == "FAIL" for data_check in data_checks):
            checks.append(check)
    return [*checks, _check_labels(rows, classes)]


def group_checks(checks: Sequence[Check]) -> list[Check]:
    """The checks for a reader: those of one group as one, with their number and the first few names."""
    members: dict[tuple[str, str], list[Check]] = {}
    for check in checks:
        members.setdefault((check.status, check.group or check.name), []).append(check)
    grouped = []
    for check in checks:
        group = members[check.status, check.group or check.name]
        if not check.group or len(group) == 1:
            grouped.append(check)
        elif check is group[0]:
            names = ", ".join(member.name for member in group[:SHOWN_NAMES])
            more = f" and {len(group) - SHOWN_NAMES} more" if len(group) > SHOWN_NAMES else ""
            fix = f"{check.fix}; --verbose lists them all" if more else check.fix
            grouped.append(Check(check.status, f"{len(group)} {check.group}", names + more, fix))
    return grouped


def _check_data_folders(project: Project) -> list[Check]:
    """The checks of the folders in the project's data folder: is it there, and does an entry use each of them."""
    all_entries = project.entries()
    if all_entries and not (project.folder / FOLDER).is_dir():
        fix = "if images were annotated, copy the project again with this folder"
        return [Check("WARN", "data", f"{project.folder / FOLDER} is not there: no entry has annotations", fix)]
    return [
        Check(
            "WARN",
            f"{FOLDER}/{folder.name}",
            "no entry uses this folder" + ("; it holds objects of an image" if find_data(folder) else ""),
            fix="QuPath leaves them when images are removed from a project: look into them before you delete them",
            group="data folders that no entry uses",
        )
        for folder in unused_folders(project.folder, {entry.id for entry in all_entries})
    ]


def _folders_of_missing_slides(entries: Sequence[Entry]) -> dict[str, str]:
    """Entry id -> folder that a missing slide was in, in words; many folders are taken together by their parents."""
    recorded = {entry.id: PurePosixPath(entry.recorded_path).parent for entry in entries if entry.slide_missing}
    folders = dict(recorded)
    while len(set(folders.values())) > MOST_FOLDERS:
        depth = max(len(folder.parts) for folder in folders.values())
        if depth <= 1:
            break
        folders = {
            entry_id: folder.parent if len(folder.parts) == depth else folder for entry_id, folder in folders.items()
        }
    lifted = {folder for entry_id, folder in folders.items() if folder != recorded[entry_id]}
    return {
        entry_id: f"{folder} and below" if folder in lifted else str(folder) for entry_id, folder in folders.items()
    }


def _check_data(project: Project, entry: Entry, *, title: str) -> tuple[Sequence[Annotation], list[Check]]:
    """The annotations of an entry, and the checks of its data file that it does not pass."""
    try:
        annotations = project.annotations(entry.id)
    except SlideError as error:
        return [], [Check("FAIL", title, without_name(error.message, entry.name), fix=error.hint)]
    folder = entry_folder(project.folder, entry.id)
    source = find_data(folder)
    if source is None or source.name != BACKUP:
        return annotations, []
    message = f"{folder / DATA} is missing; {BACKUP} is read in its place: {len(annotations)} annotations"
    return annotations, [Check("WARN", title, message, fix=how_to_restore(folder))]


@dataclass(frozen=True, slots=True)
class _LabelledEntry:
    """An entry with its label, and its title."""

    row: LabelRow
    title: str


@dataclass(frozen=True, slots=True)
class _CheckSlide:
    """Checks a slide and its label."""

    classes: tuple[str, ...]
    mpp_override: float | None

    def __call__(self, item: tuple[_LabelledEntry, Sequence[Annotation]], tracker: Tracker) -> Check:
        return _check_slide(*item, classes=self.classes, mpp_override=self.mpp_override)


def _check_slide(
    labelled: _LabelledEntry,
    annotations: Sequence[Annotation],
    *,
    classes: Sequence[str],
    mpp_override: float | None,
) -> Check:
    """The check of one entry's slide and label: the first thing that prevents work, else what deserves a warning."""
    row, title, entry = labelled.row, labelled.title, labelled.row.entry
    try:
        slide, pixel_size = entry_slide(entry, mpp_override=mpp_override)
        require_colour(slide)
        check_pixels(slide, slide.thumbnail(TRIAL_PX)[0])
    except SlideError as error:
        return Check("FAIL", title, without_name(error.message, entry.name), fix=error.hint)
    label = f"label {row.word!r} ({row.source}): {row.meaning}" if row.word else "unlabelled"
    if len(classes) > 1 and row.classes(classes):
        label += f" for {' and '.join(row.classes(classes))}"
    placed = on_image(annotations, entry)
    message = f"{pixel_size.text} um/px ({pixel_size.source}), {label}, {len(annotations)} annotations"
    if placed.partly_outside:
        message += f", {placed.partly_outside} of them partly outside the image"
    if placed.left_out:
        message += f"; left out of learning and measuring: {placed.left_out}"
    if entry.steps:
        message += f"; QuPath shows it {' and '.join(step.kind for step in entry.steps)}"
    if row.unknown:
        fix = f"--positive {row.word!r} or --negative {row.word!r}, or correct the label in QuPath"
        return Check("FAIL", title, message, fix=fix)
    if misplaced := _check_places(placed, title=title, message=message):
        return misplaced
    if pixel_size.warning:
        warning = without_name(pixel_size.warning, entry.name)
        return Check("WARN", title, f"{message}; {warning}", fix="correct the pixel size in QuPath")
    if entry.label is None:
        return Check("WARN", title, message, fix="pseudolabel leaves it out; see wsplf labels")
    return Check("PASS", title, message)


def _check_places(placed: OnImage, *, title: str, message: str) -> Check | None:
    """A FAIL where no annotation lies on the image, a WARN where some do not; None where all do."""
    if placed.outside and not placed.annotations:
        fix = (
            "they belong to another slide, or to another scale of it: remove them in QuPath, then import the right ones"
        )
        return Check("FAIL", title, f"{message}; no annotation lies on the image", fix=fix)
    if not placed.outside and not placed.missing_planes:
        return None
    lacking = f"; {placed.missing_planes} on planes that the image does not have" if placed.missing_planes else ""
    return Check("WARN", title, message + lacking, fix="check in QuPath that they belong to this slide")


def _check_labels(rows: Sequence[LabelRow], classes: Sequence[str]) -> Check:
    """The check that there are slides of each kind to learn from."""
    entries = [row.entry for row in rows]
    try:
        require_both(entries, classes)
    except ProjectError as error:
        return Check("WARN", "labels", error.message, fix=error.hint)
    positive = sum(row.meaning == "positive" for row in rows)
    negative = sum(row.meaning == "negative" for row in rows)
    message = f"{positive} positive, {negative} negative"
    if len(classes) > 1:
        counts = count_classes(entries, classes)
        message += "; " + ", ".join(f"{count} {name}" for name, count in counts.items())
    return Check("PASS", "labels", message)
