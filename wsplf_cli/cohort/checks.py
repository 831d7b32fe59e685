"""The checks of a project: can every entry be read, and does the cohort have the labels to learn from."""

import os
from collections.abc import Sequence

from wsplf_cli.backends import Project
from wsplf_cli.cohort.labels import LabelRow, classes_of, count_classes, label_rows, require_both
from wsplf_cli.errors import ProjectError, SlideError
from wsplf_cli.options import ProjectOptions
from wsplf_cli.review.on_image import OnImage, on_image
from wsplf_cli.schema import Check, Entry, titles
from wsplf_cli.slides.checks import check_pixels, require_colour
from wsplf_cli.slides.entry import entry_slide

#: Side of the picture that is read of each slide, to see that its pixels can be read and have colour.
TRIAL_PX = 256


def check_project(project: Project, entries: Sequence[Entry], options: ProjectOptions) -> list[Check]:
    """The checks of the project, of each entry (slide, mpp, data file, label), and of the labels as a whole."""
    rows = label_rows(entries, options)
    classes = classes_of(options)
    checks = [Check("PASS", "project", f"{project.path}, QuPath {project.version}, {len(entries)} entries")]
    if not os.access(project.folder, os.W_OK):
        checks.append(Check("WARN", "folder", f"{project.folder} cannot be written", fix="copy the project elsewhere"))
    for row, title in zip(rows, titles(entries), strict=True):
        checks.append(_check_entry(project, row, title=title, classes=classes, mpp_override=options.mpp_override))
    return [*checks, _check_labels(rows, classes)]


def _check_entry(
    project: Project, row: LabelRow, *, title: str, classes: Sequence[str], mpp_override: float | None
) -> Check:
    """The check of one entry: the first thing that prevents work on it, else what deserves a warning."""
    entry = row.entry
    try:
        slide, pixel_size = entry_slide(entry, mpp_override=mpp_override)
        require_colour(slide)
        check_pixels(slide, slide.thumbnail(TRIAL_PX)[0])
        annotations = project.annotations(entry.id)
    except SlideError as error:
        return Check("FAIL", title, error.message, fix=error.hint)
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
        return Check("WARN", title, f"{message}; {pixel_size.warning}", fix="correct the pixel size in QuPath")
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
