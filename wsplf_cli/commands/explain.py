"""``wsplf explain``: why a polygon was drawn, or all polygons of an image, as a page and as facts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wsplf_cli import files
from wsplf_cli.backends import Project
from wsplf_cli.cohort.names import EntryNames, file_names
from wsplf_cli.cohort.square_pixels import with_square_pixels
from wsplf_cli.errors import ConfigError, ProjectError
from wsplf_cli.explain.facts import Explainer
from wsplf_cli.explain.page import render_page
from wsplf_cli.explain.pictures import side_px
from wsplf_cli.explain.subject import find_polygon, polygons_of
from wsplf_cli.options import ExplainOptions
from wsplf_cli.runs.layout import explanation_name, image_explanation_name
from wsplf_cli.schema import Entry, Tracker

#: Polygons of an image that are explained in full, the least certain first; the others are listed with their ids.
MOST_POLYGONS = 60


def explain(
    project: Project,
    entries: Sequence[Entry],
    polygon: str | None,
    options: ExplainOptions,
    tracker: Tracker,
    *,
    write: bool = True,
) -> dict[str, Any]:
    """Explain a polygon, or the polygons of the image ``options.image``, and write the page.

    The project is only read.

    Args:
        project: The project.
        entries: All entries, labels resolved where they are known.
        polygon: The id of a pseudo-label or prediction, or the first eight characters of it or more.
        options: The options of the command.
        tracker: Where progress is shown.
        write: Whether the page is written.

    Returns:
        The facts of each polygon, and where the page is (None without one).

    Raises:
        ConfigError: Neither a polygon nor an image is given, or both are.
        ProjectError: There is nothing of wsplf to explain, or the page cannot be written.
        SlideError: The annotations of the image cannot be read.
    """
    if (polygon is None) == (options.image is None):
        raise ConfigError(
            "explain needs the id of a polygon or --image NAME, not both",
            hint="wsplf explain PROJECT UUID, or wsplf explain PROJECT --image NAME",
        )
    image = None if options.image is None else EntryNames(entries).find(options.image)
    project, entries = with_square_pixels(project, entries)
    if polygon is not None:
        subjects = [find_polygon(project, entries, polygon)]
        title = f"{subjects[0].kind} on {subjects[0].title}"
        name = explanation_name(str(subjects[0].annotation.id))
    else:
        entry = next(entry for entry in entries if image is not None and entry.id == image.id)
        subjects = polygons_of(project, entry)
        title = f"{len(subjects)} polygon{'' if len(subjects) == 1 else 's'} on {entry.name}"
        name = image_explanation_name(file_names(entries)[entry.id])
    explained = subjects[:MOST_POLYGONS]
    explainer = Explainer(project, entries, options.project, tracker, side_px(len(explained)))
    explanations = []
    tracker.start("explain", len(explained))
    for subject in explained:
        explanations.append(explainer.explain(subject))
        tracker.advance(1, message=str(subject.annotation.id)[:8])
    for sentence in dict.fromkeys(line for explanation in explanations for line in explanation.facts["missing"]):
        tracker.say(sentence)
    page = None
    if write:
        page = (options.out or default_folder(project.folder) / name).absolute()
        _write(page, render_page(project, title, explanations, subjects[MOST_POLYGONS:]))
    listed = [str(subject.annotation.id) for subject in subjects[MOST_POLYGONS:]]
    facts = [explanation.facts for explanation in explanations]
    return {"page": page, "polygons": facts, "not_explained": listed}


def default_folder(project_folder: Path) -> Path:
    """Where pages go by default: this folder, or the one above the project where this one is inside the project."""
    here, project_folder = Path.cwd().resolve(), project_folder.resolve()
    return project_folder.parent if here.is_relative_to(project_folder) else here


def _write(page: Path, html: str) -> None:
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        files.write_bytes(page, html.encode())
    except OSError as error:
        raise ProjectError(f"cannot write the page {page}: {error.strerror}", hint="name a file with --out") from error
