"""``wsplf import``: annotations from GeoJSON files or ASAP's XML into the entries of a project."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from wsplf_cli.backends import Project
from wsplf_cli.cohort.annotation_files import (
    AsapGroups,
    is_xml,
    list_files,
    load_asap,
    load_geojson,
    match_files,
    require_planes,
)
from wsplf_cli.cohort.duplicates import new_annotations
from wsplf_cli.cohort.run import for_each_entry
from wsplf_cli.errors import ConfigError
from wsplf_cli.options import ImportOptions
from wsplf_cli.qupath.geojson import Contents
from wsplf_cli.runs.record import start_run
from wsplf_cli.schema import Entry, PathClass, StageReport, Tracker

COUNTS = ("added", "already there", "left out")


def import_files(
    project: Project, entries: Sequence[Entry], paths: Sequence[Path], options: ImportOptions, tracker: Tracker
) -> StageReport:
    """Add the annotations of files to entries. Existing annotations are not changed, and none is added twice.

    An entry gets the annotations of all of its files, or none: when a file is malformed, lies outside the image, names
    a plane that the image does not have, or holds an annotation that the entry has in another state. Single annotations
    outside the image are left out. Planes are kept.

    Args:
        project: The project to write to.
        entries: The entries that the files may belong to.
        paths: GeoJSON files, also compressed, XML files of ASAP, and folders that hold such files.
        options: The options of the command.
        tracker: Where progress is shown.

    Returns:
        One result per entry with what was added, and one for each file that belongs to no entry.

    Raises:
        ConfigError: ``--asap-class`` is malformed, or there is no ASAP file; a folder holds no file to import.
        ProjectError: no file belongs to an entry, or a file of the project cannot be written.
    """
    groups = AsapGroups(options.asap_class)
    files = list_files(paths, options.image)
    asap_files = {path for path in files if is_xml(path)}
    if groups and not asap_files:
        raise ConfigError("--asap-class is for ASAP's XML, but no file is one", hint="leave --asap-class out")
    matched = match_files(files, entries, options.image)

    def import_entry(entry: Entry) -> Mapping[str, float]:
        contents = Contents()
        for path in matched.by_entry[entry.id]:
            loaded = (
                load_asap(path, entry, groups, tracker) if path in asap_files else load_geojson(path, entry, tracker)
            )
            contents.annotations.extend(loaded.annotations)
            contents.rgb.update(loaded.rgb)
            contents.left_out.update(loaded.left_out)
        left_out = +contents.left_out
        if left_out:
            words = ", ".join(f"{count} {what}" for what, count in left_out.items())
            tracker.say(f"{entry.name}: not imported: {words}")
        new = new_annotations(contents.annotations, project.annotations(entry.id), entry)
        require_planes(new, entry)
        if not options.dry_run:
            project.add(entry.id, new, path_classes=[PathClass(name, rgb) for name, rgb in contents.rgb.items()])
        known = len(contents.annotations) - len(new)
        return dict(zip(COUNTS, (len(new), known, left_out.total()), strict=True))

    with start_run(project, "import", options=options, seed=0, dry_run=options.dry_run) as run:
        for result in matched.unmatched:
            tracker.say(result.reason)
        with_files = [entry for entry in entries if entry.id in matched.by_entry]
        results = for_each_entry(with_files, import_entry, tracker=tracker, name="import")
        if groups.unused:
            tracker.say(f"warning: --asap-class: no file has the group {', '.join(sorted(groups.unused))}")
        totals = {name: sum(result.counts.get(name, 0) for result in results) for name in COUNTS}
        verb = "would be added" if options.dry_run else "added"
        tracker.say(f"{totals['added']:.0f} annotations {verb}, {totals['already there']:.0f} there already")
        return run.finish([*results, *matched.unmatched], details=totals | {"dry_run": options.dry_run})
