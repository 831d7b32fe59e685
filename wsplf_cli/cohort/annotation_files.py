"""Files of annotations (GeoJSON, ASAP's XML): which entry each belongs to, and its annotations for that entry."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsplf_cli.class_names import class_key, class_name
from wsplf_cli.cohort.names import EntryNames, stem
from wsplf_cli.errors import ConfigError, ProjectError, SlideError
from wsplf_cli.geometry import place_on_image
from wsplf_cli.qupath import asap, geojson
from wsplf_cli.qupath.geojson import Contents
from wsplf_cli.schema import Annotation, Entry, EntryResult, Tracker
from wsplf_cli.slides.entry import slide_of

#: How the names of the files end that ``list_files`` finds in a folder, also with .gz behind it.
SUFFIXES = (".geojson", ".json", ".xml")


@dataclass(slots=True)
class FilesOfEntries:
    """Which files belong to which entry, by entry id, and a failed result for each file that belongs to none."""

    by_entry: dict[str, list[Path]] = field(default_factory=dict)
    unmatched: list[EntryResult] = field(default_factory=list)


def list_files(paths: Sequence[Path], image: str | None) -> list[Path]:
    """The files to import: those that are named, and the GeoJSON and XML files in each named folder, sorted by name.

    Subfolders are not searched. Hidden files are passed over: macOS keeps one beside each file on some drives.

    Raises:
        ConfigError: a folder cannot be read, holds no such file, or holds several although ``image`` names one entry.
    """
    files: list[Path] = []
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        try:
            names = sorted(child.name for child in path.iterdir() if child.is_file())
        except OSError as error:
            raise ConfigError(f"{path}: the folder cannot be read: {error.strerror}") from error
        in_folder = [
            path / name
            for name in names
            if not name.startswith(".") and name.lower().removesuffix(".gz").endswith(SUFFIXES)
        ]
        if not in_folder:
            message = f"{path}: there is no GeoJSON or XML file in this folder"
            raise ConfigError(message, hint="give the folder that holds the files; subfolders are not searched")
        if image is not None and len(in_folder) > 1:
            message = f"--image is one image, but {path} holds {len(in_folder)} files"
            raise ConfigError(message, hint="leave --image out, or give the file of that image")
        files += in_folder
    return files


def match_files(files: Sequence[Path], entries: Sequence[Entry], image: str | None) -> FilesOfEntries:
    """The files of each entry: of the entry called ``image``, else of the entry that the name of the file means.

    Raises:
        ProjectError: no file belongs to an entry; says why the first does not.
    """
    matched, names = FilesOfEntries(), EntryNames(entries)
    problems: list[tuple[Path, ProjectError]] = []
    for path in files:
        try:
            if not path.is_file():
                raise ProjectError("no such file", hint="check the path")
            name = stem(path.name) if image is None else image
            entry = names.find(name, in_slide=image is not None or is_xml(path))
            matched.by_entry.setdefault(entry.id, []).append(path)
        except ProjectError as error:
            problems.append((path, ProjectError(f"{path}: {error.message}", hint=error.hint)))
    if problems and not matched.by_entry:
        raise problems[0][1]
    for path, problem in problems:
        reason = f"{problem.message} ({problem.hint})" if problem.hint else problem.message
        matched.unmatched.append(EntryResult("", path.name, "failed", reason=reason))
    return matched


def is_xml(path: Path) -> bool:
    """Whether a file begins as XML; false for a file that cannot be read."""
    try:
        with path.open("rb") as stream:
            return stream.read(64).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<")
    except OSError:
        return False


def load_geojson(path: Path, entry: Entry, tracker: Tracker) -> Contents:
    """The annotations of a GeoJSON file that lie in an entry, each with its whole shape and its plane.

    Raises:
        SlideError: the file cannot be read, a feature is malformed, or all annotations lie outside the entry.
    """
    try:
        contents = geojson.load(path)
    except ProjectError as error:
        raise _nothing_added(error) from error
    return _without_outside(path, contents, entry, tracker)


class AsapGroups:
    """The QuPath class of each group of ASAP files: as ``--asap-class`` says, else as Camelyon names its groups.

    Args:
        pairs: "GROUP=CLASS" each; no class leaves the group out, ``-`` cuts it out of the others.

    Raises:
        ConfigError: a pair is not of that form.
    """

    def __init__(self, pairs: Sequence[str]) -> None:
        self._typed: dict[str, str] = {}
        for pair in pairs:
            group, sign, path_class = pair.rpartition("=")
            if not sign or not group.strip():
                raise ConfigError(f"--asap-class must be GROUP=CLASS, not {pair!r}", hint="--asap-class _0=Tumor")
            self._typed[group.strip()] = path_class.strip()
        #: The typed groups that no file has had so far.
        self.unused = set(self._typed)

    def __bool__(self) -> bool:
        """Whether any class was typed."""
        return bool(self._typed)

    def classes(self, groups: Sequence[str]) -> dict[str, str]:
        """The class of each of these groups: empty to leave it out, ``asap.HOLE`` to cut it out of the others."""
        by_key = {class_key(group): path_class for group, path_class in self._typed.items()}
        classes = {}
        for group in groups:
            key = class_key(group)
            path_class = by_key.get(key, asap.CLASSES.get(":".join(key), group))
            classes[group] = path_class if path_class == asap.HOLE else class_name(path_class) or ""
            self.unused -= {typed for typed in self.unused if class_key(typed) == key}
        return classes


def load_asap(path: Path, entry: Entry, groups: AsapGroups, tracker: Tracker) -> Contents:
    """The annotations of an ASAP file in the coordinates of an entry.

    Raises:
        SlideError: the file is malformed, nothing says how its coordinates relate to the entry's, or all of its
            annotations lie outside the entry.
    """
    try:
        drawing = asap.read(path)
    except ProjectError as error:
        raise _nothing_added(error) from error
    classes = groups.classes(drawing.groups)
    _say_classes(path, classes, tracker)
    annotations, dropped = asap.annotations(drawing, classes, transform=_slide_to_entry(entry))
    left_out = drawing.left_out + Counter({"outlines of groups that are cut or left out": dropped})
    return _without_outside(path, Contents(list(annotations), {}, left_out), entry, tracker)


def _without_outside(path: Path, contents: Contents, entry: Entry, tracker: Tracker) -> Contents:
    """The contents of a file without the annotations outside the entry, which are counted as left out.

    Raises:
        SlideError: all annotations lie outside the entry.
    """
    places = [place_on_image(annotation.shape, entry.size_px0) for annotation in contents.annotations]
    count = Counter(places)
    if places and count["outside"] == len(places):
        raise SlideError(
            f"{path.name}: none of its annotations lies in {entry.name}; nothing of it was added",
            hint="check that the file belongs to this slide, at its full resolution",
        )
    if count["partly outside"]:
        tracker.say(
            f"{path.name}: {count['partly outside']} of {len(places)} annotations lie partly outside {entry.name};"
            " check that the file belongs to this slide"
        )
    annotations = [
        annotation for annotation, place in zip(contents.annotations, places, strict=True) if place != "outside"
    ]
    other_planes = sum(not annotation.plane.analysed for annotation in annotations)
    if other_planes:
        tracker.say(
            f"{path.name}: {other_planes} of {len(places)} annotations lie on another plane than the first z-slice and"
            " time point: they are added, but nothing is learned from them, and they are not measured"
        )
    return Contents(annotations, contents.rgb, contents.left_out + Counter({"outside the image": count["outside"]}))


def require_planes(annotations: Sequence[Annotation], entry: Entry) -> None:
    """Refuse annotations on planes that an entry does not have.

    Raises:
        SlideError: names the first such plane.
    """
    planes = [annotation.plane for annotation in annotations if not entry.has_plane(annotation.plane)]
    if planes:
        first = planes[0]
        channel = f"channel {first.c}, " if not -1 <= first.c < entry.channels else ""
        raise SlideError(
            f"{len(planes)} of {len(annotations)} new annotations lie on a plane that {entry.name} does not have, the"
            f" first on {channel}z-slice {first.z}, time point {first.t} (counted from 0; z-slices: {entry.z_slices},"
            f" time points: {entry.time_points}); nothing was added",
            hint="check that the file belongs to this slide",
        )


def _say_classes(path: Path, classes: Mapping[str, str], tracker: Tracker) -> None:
    meanings = {"": "left out", asap.HOLE: "cut out of the others"}
    words = [f"{group} -> {meanings.get(path_class, path_class)}" for group, path_class in classes.items() if group]
    tracker.say(f"{path.name}: groups: {', '.join(words) or 'none'}")


def _slide_to_entry(entry: Entry) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """Takes points [N, 2] of the uncropped slide, whose coordinates ASAP uses, to points of the entry's image.

    Raises:
        SlideError: the slide is needed for that, and cannot be opened.
    """
    if not entry.crop_to_bounds and not entry.steps and not entry.problem:
        return lambda xy_px0: xy_px0
    if entry.problem or entry.slide_path is None:
        message, _, hint = (entry.problem or f"{entry.name}: slide not found").partition("; ")
        raise SlideError(f"{message}; only the slide says where the image begins in ASAP's coordinates", hint=hint)
    return slide_of(entry).from_file


def _nothing_added(error: ProjectError) -> SlideError:
    return SlideError(f"{error.message}; nothing of it was added", hint=error.hint)
