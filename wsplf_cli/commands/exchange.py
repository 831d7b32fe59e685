"""``wsplf export`` and ``wsplf import``: annotations to GeoJSON, and back from GeoJSON or ASAP's XML."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from shapely import box

from wsplf_cli.backends import Project
from wsplf_cli.class_names import class_name
from wsplf_cli.cohort.duplicates import missing
from wsplf_cli.cohort.names import file_names, find, stem
from wsplf_cli.cohort.run import Skipped, each
from wsplf_cli.errors import ConfigError, ProjectError, SlideError
from wsplf_cli.options import ExportOptions, ImportOptions
from wsplf_cli.qupath import asap, geojson
from wsplf_cli.qupath.geojson import Contents
from wsplf_cli.runs.record import start_run
from wsplf_cli.schema import Entry, EntryResult, Origin, PathClass, StageReport, Tracker
from wsplf_cli.slides.entry import slide_of

SUFFIX = ".geojson"


def export(project: Project, entries: Sequence[Entry], options: ExportOptions, tracker: Tracker) -> StageReport:
    """Write one GeoJSON file per entry, named after it, with its annotations as QuPath imports them.

    An entry without annotations gets an empty file, so that the folder tells what the project holds.

    Args:
        project: The project to read.
        entries: The entries to write.
        options: The options of the command.
        tracker: Where progress is shown.

    Returns:
        One result per entry with its annotations; ``details`` names the folder and the file of each entry.

    Raises:
        ConfigError: an unknown origin, or the folder cannot be made.
        ProjectError: a file cannot be written.
    """
    unknown = [origin for origin in options.origin if origin not in get_args(Origin)]
    if unknown:
        raise ConfigError(f"--origin must be one of: {', '.join(get_args(Origin))}, not {unknown[0]}")
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {options.out}: the folder cannot be made: {error.strerror}") from error
    suffix = SUFFIX + (".gz" if options.compress else "")
    files = {key: name + suffix for key, name in file_names(project.entries()).items()}
    path_classes = project.path_classes()

    def work(entry: Entry) -> Mapping[str, float]:
        found = project.annotations(entry.id)
        chosen = [one for one in found if not options.origin or one.origin in options.origin]
        written = geojson.write(options.out / files[entry.id], chosen, path_classes=path_classes)
        if written < len(chosen):
            tracker.say(f"{entry.name}: {len(chosen) - written} annotations without a shape on the grid are left out")
        return {"annotations": written}

    read_only = not os.access(project.folder, os.W_OK)
    with start_run(project, "export", options=options, seed=0, dry_run=read_only) as run:
        results = each(entries, work, tracker=tracker, name="export")
        written = {entry.id: files[entry.id] for entry in entries}
        total = sum(result.counts.get("annotations", 0) for result in results)
        tracker.say(f"{options.out}: {total:.0f} annotations in {sum(one.status == 'done' for one in results)} files")
        return run.finish(results, details={"folder": options.out, "files": written, "annotations": total})


@dataclass(slots=True)
class _Sources:
    """Which files belong to which entry, by id, and those that belong to none."""

    of_entry: dict[str, list[Path]] = field(default_factory=dict)
    lost: list[EntryResult] = field(default_factory=list)


def import_files(
    project: Project, entries: Sequence[Entry], files: Sequence[Path], options: ImportOptions, tracker: Tracker
) -> StageReport:
    """Add the annotations of files to entries; what is there already is not added twice, and nothing is changed.

    An entry gets all of its files or, when one of them is malformed or holds another state of an annotation that the
    entry has, nothing.

    Args:
        project: The project to write to.
        entries: The entries that the files may belong to.
        files: GeoJSON files, also compressed, and XML files of ASAP.
        options: The options of the command.
        tracker: Where progress is shown.

    Returns:
        One result per entry with what was added, and one for each file that belongs to no entry.

    Raises:
        ConfigError: a mapping of ASAP's groups that is none.
        ProjectError: no file belongs to an entry, or a file of the project cannot be written.
    """
    classes = _asap_classes(options.asap_class)
    drawings = {path for path in files if _is_xml(path)}
    if classes and not drawings:
        raise ConfigError("--asap-class is for ASAP's XML, but no file is one", hint="leave --asap-class out")
    sources = _sources(files, entries, options.image)
    unused = set(classes)

    def work(entry: Entry) -> Mapping[str, float] | Skipped:
        gathered, left_out = Contents(), Counter[str]()
        for path in sources.of_entry[entry.id]:
            contents = _load_asap(path, entry, classes, unused, tracker) if path in drawings else _load(path)
            gathered.annotations.extend(contents.annotations)
            gathered.rgb.update(contents.rgb)
            left_out += contents.left_out
        if left_out:
            words = ", ".join(f"{count} {what}" for what, count in left_out.items())
            tracker.say(f"{entry.name}: not imported: {words}")
        new = missing(gathered.annotations, project.annotations(entry.id), entry)
        counts = {
            "added": len(new),
            "already there": len(gathered.annotations) - len(new),
            "left out": left_out.total(),
        }
        if not options.dry_run:
            project.add(entry.id, new, path_classes=[PathClass(*pair) for pair in gathered.rgb.items()])
        return counts

    with start_run(project, "import", options=options, seed=0, dry_run=options.dry_run) as run:
        chosen = [entry for entry in entries if entry.id in sources.of_entry]
        for lost in sources.lost:
            tracker.say(lost.reason)
        results = each(chosen, work, tracker=tracker, name="import")
        if unused:
            tracker.say(f"warning: --asap-class: no file has the group {', '.join(sorted(unused))}")
        totals = {key: sum(one.counts.get(key, 0) for one in results) for key in ("added", "already there", "left out")}
        verb = "would be added" if options.dry_run else "added"
        tracker.say(f"{totals['added']:.0f} annotations {verb}, {totals['already there']:.0f} there already")
        return run.finish([*results, *sources.lost], details=totals | {"dry_run": options.dry_run})


def _sources(files: Sequence[Path], entries: Sequence[Entry], image: str | None) -> _Sources:
    """The files of each entry.

    Raises:
        ProjectError: none belongs to an entry; says why the first does not.
    """
    sources = _Sources()
    wrong: list[tuple[Path, ProjectError]] = []
    for path in files:
        try:
            if not path.is_file():
                raise ProjectError("no such file", hint="check the path")
            entry = find(stem(path.name) if image is None else image, entries)
            sources.of_entry.setdefault(entry.id, []).append(path)
        except ProjectError as error:
            wrong.append((path, ProjectError(f"{path}: {error.message}", hint=error.hint)))
    if wrong and not sources.of_entry:
        raise wrong[0][1]
    for path, problem in wrong:
        reason = f"{problem.message} ({problem.hint})" if problem.hint else problem.message
        sources.lost.append(EntryResult("", path.name, "failed", reason=reason))
    return sources


def _load(path: Path) -> Contents:
    try:
        return geojson.load(path)
    except ProjectError as error:
        raise _nothing_written(error) from error


def _load_asap(path: Path, entry: Entry, chosen: Mapping[str, str], unused: set[str], tracker: Tracker) -> Contents:
    """The annotations of an ASAP file in the entry's coordinates.

    Raises:
        SlideError: the file is malformed, or nothing says where the entry's origin lies in the file's coordinates.
    """
    try:
        drawing = asap.read(path)
    except ProjectError as error:
        raise _nothing_written(error) from error
    given = {group.casefold(): path_class for group, path_class in chosen.items()}
    classes = {}
    for group in drawing.groups:
        named = given.get(group.casefold(), asap.CLASSES.get(group.casefold(), group))
        classes[group] = named if named == asap.HOLE else class_name(named) or ""
        unused.difference_update([one for one in unused if one.casefold() == group.casefold()])
    meanings = {"": "left out", asap.HOLE: "cut out of the others"}
    words = [f"{group} -> {meanings.get(one, one)}" for group, one in classes.items() if group]
    tracker.say(f"{path.name}: groups: {', '.join(words) or 'none'}")
    place = _place(entry)
    made, dropped = asap.annotations(drawing, classes, transform=place)
    image = box(0, 0, entry.width_px0, entry.height_px0)
    inside = [one for one in made if not entry.width_px0 or one.shape.intersects(image)]
    if len(inside) < len(made) and not inside:
        raise SlideError(
            f"{path.name}: none of its annotations lies in {entry.name}; nothing of it was added",
            hint="check that the file belongs to this slide",
        )
    left_out = drawing.left_out + Counter(
        {"outlines of groups that are cut or left out": dropped, "outside the image": len(made) - len(inside)}
    )
    return Contents(inside, {}, left_out)


def _place(entry: Entry) -> asap.PointTransform:
    """How points of the uncropped slide, in which ASAP counts, become points of the entry's image.

    Raises:
        SlideError: that takes the slide, and it cannot be opened.
    """
    if not entry.crop_to_bounds and not entry.steps and not entry.problem:
        return lambda xy_px0: xy_px0
    if entry.problem or entry.slide_path is None:
        message, _, hint = (entry.problem or f"{entry.name}: slide not found").partition("; ")
        raise SlideError(f"{message}; only the slide says where the image begins in ASAP's coordinates", hint=hint)
    return slide_of(entry).from_file


def _asap_classes(pairs: Sequence[str]) -> dict[str, str]:
    """Group -> class of what ``--asap-class`` says."""
    classes = {}
    for pair in pairs:
        group, sign, path_class = pair.rpartition("=")
        if not sign or not group.strip():
            raise ConfigError(f"--asap-class must be GROUP=CLASS, not {pair!r}", hint="--asap-class _0=Tumor")
        classes[group.strip()] = path_class.strip()
    return classes


def _is_xml(path: Path) -> bool:
    """Whether a file begins as XML; what cannot be read is not for us to say here."""
    try:
        with path.open("rb") as stream:
            return stream.read(64).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<")
    except OSError:
        return False


def _nothing_written(error: ProjectError) -> SlideError:
    return SlideError(f"{error.message}; nothing of it was added", hint=error.hint)
