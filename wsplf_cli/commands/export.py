"""``wsplf export``: the annotations of a project as GeoJSON files."""

import time
from collections.abc import Mapping, Sequence
from typing import get_args

from wsplf_cli.backends import Project
from wsplf_cli.cohort.names import file_names
from wsplf_cli.cohort.run import for_each_entry
from wsplf_cli.errors import ConfigError
from wsplf_cli.options import ExportOptions
from wsplf_cli.qupath import geojson
from wsplf_cli.schema import REVIEWED_KEY, Entry, Origin, StageReport, Tracker

SUFFIX = ".geojson"


def export(project: Project, entries: Sequence[Entry], options: ExportOptions, tracker: Tracker) -> StageReport:
    """Write one GeoJSON file per entry, named after it, with its annotations as QuPath imports them.

    An entry without annotations gets an empty file, so that there is a file for every entry. The project is only read.

    Args:
        project: The project to read.
        entries: The entries to write.
        options: The options of the command.
        tracker: Where progress is shown.

    Returns:
        One result per entry with the number of its annotations; ``details`` names the folder and the file of each
        entry.

    Raises:
        ConfigError: an unknown origin, or the folder cannot be made.
        ProjectError: a file cannot be written.
    """
    began = time.monotonic()
    unknown = [origin for origin in options.origin if origin not in get_args(Origin)]
    if unknown:
        raise ConfigError(f"--origin must be one of: {', '.join(get_args(Origin))}, not {unknown[0]}")
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {options.out}: the folder cannot be made: {error.strerror}") from error
    suffix = SUFFIX + (".gz" if options.compress else "")
    files = {entry_id: name + suffix for entry_id, name in file_names(project.entries()).items()}
    path_classes = project.path_classes()

    def export_entry(entry: Entry) -> Mapping[str, float]:
        annotations = [
            annotation
            for annotation in project.annotations(entry.id)
            if not options.origin or annotation.origin in options.origin
        ]
        reviewed = entry.metadata[REVIEWED_KEY] if entry.reviewed else ""
        path = options.out / files[entry.id]
        written = geojson.write(path, annotations, path_classes=path_classes, reviewed=reviewed)
        if written < len(annotations):
            left_out = len(annotations) - written
            tracker.say(f"{entry.name}: {left_out} annotations are left out: their shape vanishes on the pixel grid")
        return {"annotations": written}

    results = for_each_entry(entries, export_entry, tracker=tracker, name="export")
    total = sum(result.counts.get("annotations", 0) for result in results)
    done = sum(result.status == "done" for result in results)
    tracker.say(f"{options.out}: {total:.0f} annotations in {done} files")
    written = {result.id: files[result.id] for result in results if result.status == "done"}
    details = {"folder": options.out, "files": written, "annotations": total}
    return StageReport("export", "", tuple(results), time.monotonic() - began, details)
