"""``wsplf labels``: the slide label of each entry and where it comes from; labels from a table."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from wsplf_cli.backends import Project
from wsplf_cli.cohort.label_table import match_table, read_table
from wsplf_cli.cohort.labels import LabelRow, classes_of, count_classes, label_rows, require_both, require_known
from wsplf_cli.cohort.names import all_entries
from wsplf_cli.cohort.project_images import MPP_COLUMN
from wsplf_cli.errors import ConfigError, ProjectError
from wsplf_cli.options import LabelsOptions
from wsplf_cli.runs.record import start_run
from wsplf_cli.schema import Entry, Tracker


@dataclass(frozen=True, slots=True)
class LabelReport:
    """The labels of a project: one row per entry, what prevents learning from them, and what a table changed."""

    rows: tuple[LabelRow, ...]
    problems: tuple[ProjectError, ...] = ()
    written: int = 0
    warnings: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """Number of entries by meaning."""
        counts = Counter(row.meaning for row in self.rows)
        return {meaning: counts[meaning] for meaning in ("positive", "negative", "unlabelled", "unknown")}

    @property
    def document(self) -> dict[str, Any]:
        """What ``wsplf labels --json`` prints."""
        entries = [
            {
                "name": row.entry.name,
                "label": row.meaning,
                "classes": row.classes(self.classes),
                "word": row.word,
                "source": row.source,
                "patient": row.entry.patient,
                "split": row.entry.split or "",
            }
            for row in self.rows
        ]
        problems = [{"error": problem.message, "hint": problem.hint} for problem in self.problems]
        return {
            "entries": entries,
            "counts": self.counts,
            "classes": count_classes([row.entry for row in self.rows], self.classes),
            "written": self.written,
            "problems": problems,
            "warnings": self.warnings,
        }


def labels(project: Project, entries: Sequence[Entry], options: LabelsOptions, tracker: Tracker) -> LabelReport:
    """Resolve the slide labels; with ``options.csv``, write that table into the entries' metadata first.

    Raises:
        ConfigError: the table cannot be read or has no usable columns, or no row belongs to an entry.
        ProjectError: the metadata cannot be written.
    """
    warnings: list[str] = []
    written = 0
    if options.csv is not None:
        table_rows, label_key = read_table(options.csv), options.project.label_key
        of_project = all_entries(project, entries)
        metadata, warnings = match_table(table_rows, entries, label_key=label_key, all_entries=of_project)
        if any(row.get(MPP_COLUMN) for row in table_rows):
            warnings.append(f"the column {MPP_COLUMN} is read by project create alone; set pixel sizes in QuPath")
        if not metadata:
            raise ConfigError(f"{options.csv}: no row belongs to an entry", hint=warnings[0] if warnings else "")
        entries = [replace(entry, metadata={**entry.metadata, **metadata.get(entry.id, {})}) for entry in entries]
        if not options.dry_run:
            with start_run(project, "labels", options=options, seed=0) as run:
                project.set_metadata(metadata)
                written = len(metadata)
                run.finish([], details={"written": written})
        tracker.say(f"{options.csv}: {len(metadata)} of {len(entries)} entries matched, {written} written")
    rows = label_rows(entries, options.project)
    classes = classes_of(options.project)
    problems = []
    try:
        require_known(rows)
        require_both([row.entry for row in rows], classes)
    except ProjectError as error:
        problems.append(error)
    return LabelReport(tuple(rows), tuple(problems), written=written, warnings=tuple(warnings), classes=classes)
