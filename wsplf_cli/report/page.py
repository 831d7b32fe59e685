"""The HTML of the report, from what ``entries``, ``runs`` and ``scores`` gathered."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from wsplf_cli.backends import Project
from wsplf_cli.cohort.labels import classes_of
from wsplf_cli.cohort.names import file_names
from wsplf_cli.options import ProjectOptions
from wsplf_cli.pages.template import heading, load_template
from wsplf_cli.report.entries import EntryView
from wsplf_cli.report.runs import RunView, SlideToCheck, latest_runs, suspected_label_errors, unlike_slides
from wsplf_cli.report.scores import ORIGINS
from wsplf_cli.review.roles import CONFIDENCE
from wsplf_cli.runs.layout import explanation_name, image_explanation_name
from wsplf_cli.schema import Annotation

#: The figures over a whole cohort that ``wsplf evaluate`` prints, and how the report names them.
TOTALS = {
    "mean_dice": "Mean Dice of positive slides",
    "pooled_dice": "Pooled Dice",
    "pooled_iou": "Pooled IoU",
    "negative_fp_share": "False positives, share of tissue on negative slides",
}


@dataclass(frozen=True, slots=True)
class SlideLink:
    """A slide to check, why, and the number of its section on the page, None where it has none."""

    name: str
    reason: str
    section: int | None


def render_page(
    project: Project,
    views: Sequence[EntryView],
    runs: Sequence[RunView],
    scores: Mapping[str, Mapping[str, Any]],
    *,
    options: ProjectOptions,
    folder: Path,
) -> str:
    """The page as HTML.

    Args:
        project: The project.
        views: What to show of each entry, in order.
        runs: The runs of the project, the newest first.
        scores: Tables of evaluations by title.
        options: How the project was reached.
        folder: Where the page will be: polygons are linked to the pages of ``wsplf explain`` beside it.
    """
    pages = {path.name for path in folder.glob("explain-*.html")}
    names = file_names([view.entry for view in views])
    return load_template("report.html").render(
        **heading(project),
        views=views,
        scores=scores,
        totals=TOTALS,
        runs=runs,
        latest=latest_runs(runs),
        labels_to_check=in_order_of_page(suspected_label_errors(runs), views),
        unlike=in_order_of_page(unlike_slides(runs), views),
        classes=classes_of(options),
        page_of={
            annotation.id: link
            for view in views
            for annotation in view.polygons
            if (link := _link_to_explanation(annotation, names[view.entry.id], pages))
        },
        confidence=CONFIDENCE,
        origins={origin: singular for origin, (singular, _) in ORIGINS.items()},
        plurals={origin: plural for origin, (_, plural) in ORIGINS.items()},
    )


def in_order_of_page(slides: Sequence[SlideToCheck], views: Sequence[EntryView]) -> list[SlideLink]:
    """The slides in the order of the page; those of entries that are not on the page come last."""
    sections = {view.entry.id: index if view.pictures else None for index, view in enumerate(views, start=1)}
    order = {entry_id: index for index, entry_id in enumerate(sections)}
    by_page = sorted(slides, key=lambda slide: order.get(slide.entry_id, len(order)))
    return [SlideLink(slide.name, slide.reason, sections.get(slide.entry_id)) for slide in by_page]


def _link_to_explanation(annotation: Annotation, image: str, pages: Set[str]) -> str:
    """The page that explains a polygon, or all polygons of its image, if it is there; else an empty text."""
    if (page := explanation_name(str(annotation.id))) in pages:
        return quote(page)
    page = image_explanation_name(image)
    return f"{quote(page)}#{annotation.id}" if page in pages else ""
