"""``wsplf report``: one self-contained HTML page about a project, or the sheet of what is left to review."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wsplf_cli import files
from wsplf_cli.backends import Project
from wsplf_cli.cohort.labels import label_word
from wsplf_cli.cohort.names import all_entries
from wsplf_cli.cohort.run import SlideStep, for_each_slide
from wsplf_cli.errors import ProjectError
from wsplf_cli.executors.choose import open_workers
from wsplf_cli.options import ReportOptions
from wsplf_cli.report.entries import EntryView, ShowSlide, read_entry, thumbnail_px
from wsplf_cli.report.page import render_page
from wsplf_cli.report.review_sheet import render_sheet
from wsplf_cli.report.runs import read_runs
from wsplf_cli.report.scores import kept_scores, read_scores, rows_of_entries
from wsplf_cli.runs.layout import report_file, review_file
from wsplf_cli.schema import Entry, Tracker


@dataclass(frozen=True, slots=True)
class WrittenReport:
    """The page, and the number of entries whose annotations could not be read."""

    page: Path
    failed: int


def report(project: Project, entries: Sequence[Entry], options: ReportOptions, tracker: Tracker) -> WrittenReport:
    """Write the page.

    An entry that cannot be shown gets a note in place of a picture. What no run has made yet is left out.

    Args:
        project: The project; it is only read.
        entries: The entries to show, labels resolved where they are known.
        options: The options of the command. Without ``scores``, the page shows the last evaluation of each origin
            among the project's runs. With ``review``, it shows the pending polygons instead.
        tracker: Where progress is shown.

    Raises:
        ConfigError: the scores cannot be read.
        ProjectError: the page cannot be written.
    """
    if options.review:
        out = options.out or review_file(project.folder)
        page, failed = render_sheet(project, entries, options.project, tracker)
    else:
        out = options.out or report_file(project.folder)
        page, failed = _report_page(project, entries, options, out.parent, tracker)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        files.write_bytes(out, page.encode())
    except OSError as error:
        raise ProjectError(f"cannot write the report {out}: {error.strerror}", hint="name a file with --out") from error
    return WrittenReport(out, failed)


def _report_page(
    project: Project, entries: Sequence[Entry], options: ReportOptions, folder: Path, tracker: Tracker
) -> tuple[str, int]:
    """The page in ``folder`` about the project as HTML, and the number of entries whose annotations are unreadable."""
    runs = read_runs(project.folder)
    scores = read_scores(options.scores) if options.scores else kept_scores([run.record for run in runs])
    rows = rows_of_entries(scores, all_entries(project, entries))
    view_of: dict[str, EntryView] = {}

    def receive(entry: Entry, view: EntryView) -> Mapping[str, float]:
        view_of[entry.id] = view
        if view.problem:
            tracker.say(f"{entry.name}: shown without a picture, {view.problem}")
        return {}

    work = ShowSlide(options.project, thumbnail_px(len(entries)))
    step = SlideStep("report", lambda entry: read_entry(project, entry, runs, rows[entry.id]), work, receive)
    with open_workers(options.workers, entries, tracker, files=[project.folder]) as workers:
        results = for_each_slide(entries, step, tracker=tracker, workers=workers)
    views = [
        view_of.get(entry.id, EntryView(entry, label_word(entry, options.project), problem=result.reason, failed=True))
        for entry, result in zip(entries, results, strict=True)
    ]
    page = render_page(project, views, runs, scores, options=options.project, folder=folder)
    return page, sum(view.failed for view in views)
