"""Where the truth comes from: a folder of GeoJSON files, or another project."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Generic, TypeVar

from shapely.geometry.base import BaseGeometry

from wsplf_cli import plugins
from wsplf_cli.backends import Project
from wsplf_cli.class_names import is_a
from wsplf_cli.cohort.labels import classes_of
from wsplf_cli.cohort.names import EntryNames, slide_paths, stem
from wsplf_cli.errors import ConfigError, ProjectError, SlideError
from wsplf_cli.geometry import union
from wsplf_cli.options import EvaluateOptions, ProjectOptions
from wsplf_cli.qupath import geojson, geometries
from wsplf_cli.review.on_image import require_on_image
from wsplf_cli.review.regions import review_regions
from wsplf_cli.review.roles import role_of
from wsplf_cli.schema import Annotation, Entry, Tracker, titles

#: Gives the truth of an entry in level-0 pixels (empty: nothing is there), or None where there is no truth for it.
TruthReader = Callable[[Entry], BaseGeometry | None]

SUFFIXES = (".geojson", ".geojson.gz")
HINT = "--truth takes a folder with NAME.geojson for each slide, as wsplf export writes it, or another project.qpproj"

Source = TypeVar("Source")


def truth_reader(
    options: EvaluateOptions, path_class: str, entries: Sequence[Entry], tracker: Tracker | None = None
) -> TruthReader:
    """A function that reads the truth of a class for an entry, from where ``--truth`` says.

    A file, or an entry of the project that holds the truth, belongs to the entry that its name means (see
    ``cohort.names``), as for ``wsplf import``. Only what a person drew or decided on is truth: rejected polygons and
    pending ones of wsplf are not, unless the image is marked as reviewed; then pending ones are. Truth on other planes
    than the first is left out, and the rest is clipped to the image.

    Args:
        options: Where the truth is, and how its project is reached.
        path_class: The class.
        entries: All entries of the project that is measured, so that the truth of one is not taken for another's.
        tracker: Is told how much truth is left out.

    Raises:
        ConfigError: there is neither a project nor a folder.
        ProjectError: the project that holds the truth, or the folder, cannot be read.
    """
    path, names = options.truth, EntryNames(entries)
    if path.suffix == ".qpproj" or (path / "project.qpproj").is_file():
        return _project_reader(path, options.project, path_class, names, tracker)
    if not path.is_dir():
        raise ConfigError(f"no truth at {path}", hint=HINT)
    return _folder_reader(path, path_class, classes_of(options.project), names, tracker)


def is_negative(entry: Entry, path_class: str) -> bool:
    """Whether the slide label says that the slide lacks the class."""
    return entry.label is not None and not entry.label.holds(path_class)


class _Assigned(Generic[Source]):
    """Which source of truth belongs to which entry; each comes with its title and the entries that it may be of."""

    def __init__(self, sources: Iterable[tuple[str, Source, Sequence[Entry]]], names: EntryNames) -> None:
        self._names = names
        self._of_entry: dict[str, list[tuple[str, Source]]] = {}
        self._unclear: dict[str, tuple[str, Sequence[Entry]]] = {}
        for title, source, matches in sources:
            for entry in matches:
                if len(matches) == 1:
                    self._of_entry.setdefault(entry.id, []).append((title, source))
                else:
                    self._unclear[entry.id] = title, matches

    def of(self, entry: Entry, where: Path) -> Source | None:
        """The source of an entry; None where there is none.

        Raises:
            SlideError: several sources could be the entry's, or its source could be another entry's as well.
        """
        sources = self._of_entry.get(entry.id, [])
        if len(sources) == 1:
            return sources[0][1]
        if sources:
            shown = ", ".join(title for title, _ in sources)
            raise SlideError(
                f"{entry.name}: {len(sources)} truths of it in {where}: {shown}", hint="leave one of them there"
            )
        if entry.id in self._unclear:
            title, matches = self._unclear[entry.id]
            raise SlideError(
                f"{entry.name}: the truth {title} in {where} could be of any of {len(matches)} entries:"
                f" {self._names.shown(matches)}",
                hint="name the truth of each as here",
            )
        return None


def _folder_reader(
    folder: Path, path_class: str, classes: Sequence[str], names: EntryNames, tracker: Tracker | None
) -> TruthReader:
    """Reads the GeoJSON file of an entry in a folder."""
    try:
        files = sorted(
            path
            for path in folder.iterdir()
            if path.name.casefold().endswith(SUFFIXES) and not path.name.startswith(".") and path.is_file()
        )
    except OSError as error:
        raise ProjectError(f"{folder}: cannot be read: {error.strerror}", hint="check the permissions") from error
    assigned = _Assigned([(path.name, path, names.candidates(stem(path.name))) for path in files], names)

    def read(entry: Entry) -> BaseGeometry | None:
        path = assigned.of(entry, folder)
        return None if path is None else _read_file(path, entry, path_class, classes, tracker)

    return read


def _read_file(
    path: Path, entry: Entry, path_class: str, classes: Sequence[str], tracker: Tracker | None
) -> BaseGeometry:
    """The regions of a class in a GeoJSON file; where no feature has a class, all are of the project's only one.

    Raises:
        SlideError: the file cannot be read; all of it lies outside the image; no feature has a class and the project
            has several; or all features are of classes that are not the project's, and the slide is not labelled
            negative.
    """
    try:
        contents = geojson.load(path)
    except ProjectError as error:
        raise SlideError(error.message, hint=error.hint) from error
    features = _on_image(contents.annotations, entry, str(path), tracker)
    names = sorted({feature.path_class for feature in features if feature.path_class})
    if features and not names:
        if len(classes) > 1:
            raise SlideError(f"{path}: a feature has no class, and the project has several", hint="give it a class")
        features = [replace(feature, path_class=path_class) for feature in features]
    elif names and not is_negative(entry, path_class) and not any(is_a(name, cls) for name in names for cls in classes):
        raise SlideError(
            f"{path}: no feature of class {' or '.join(classes)}; there are: {', '.join(names)}",
            hint="name it with --path-class",
        )
    return _decided(features, entry, path_class, reviewed=contents.reviewed, where=str(path))


def _project_reader(
    path: Path, options: ProjectOptions, path_class: str, names: EntryNames, tracker: Tracker | None
) -> TruthReader:
    """Reads the annotations of a class from the entry of the same name in another project."""
    project: Project = plugins.load("backends", options.backend).open_project(path, options)
    truths = project.entries()
    with_titles = zip(truths, titles(truths), strict=True)
    assigned = _Assigned([(title, truth, _namesakes(truth, names)) for truth, title in with_titles], names)

    def read(entry: Entry) -> BaseGeometry | None:
        truth = assigned.of(entry, path)
        if truth is None:
            return None
        if truth.steps != entry.steps:
            raise SlideError(
                f"{path}: {truth.name} is turned or cropped in another way than {entry.name}",
                hint="take the truth from an image with the same coordinates",
            )
        where = f"{path}: {truth.name}"
        annotations = _on_image(project.annotations(truth.id), entry, where, tracker)
        return _decided(annotations, entry, path_class, reviewed=truth.reviewed, where=where)

    return read


def _namesakes(truth: Entry, names: EntryNames) -> Sequence[Entry]:
    """The entries that an entry of another project may be: of several of its name, the one of the same slide."""
    matches = names.candidates(truth.name)
    paths = set(slide_paths(truth))
    of_slide = [entry for entry in matches if paths.intersection(slide_paths(entry))]
    return of_slide if len(of_slide) == 1 else matches


def _on_image(
    annotations: Sequence[Annotation], entry: Entry, source: str, tracker: Tracker | None
) -> Sequence[Annotation]:
    """What of the truth lies on the image, clipped to it (see ``require_on_image``)."""
    placed = require_on_image(annotations, entry, source)
    if placed.left_out and tracker is not None:
        tracker.say(f"{source}: truth left out: {placed.left_out}")
    return placed.annotations


def _decided(
    annotations: Sequence[Annotation], entry: Entry, path_class: str, *, reviewed: bool, where: str
) -> BaseGeometry:
    """What a person drew of a class, or decided to be of it.

    Raises:
        SlideError: there are only pending polygons of the class: nobody has said whether they are right.
    """
    positive = review_regions(annotations, path_class, reviewed=reviewed).positive
    pending = [annotation for annotation in annotations if role_of(annotation, path_class) == "pending"]
    if pending and not positive and not is_negative(entry, path_class):
        raise SlideError(
            f"{where}: no truth: the {len(pending)} polygons of {path_class} there are wsplf's and still pending",
            hint="accept them in QuPath, or mark the image as reviewed",
        )
    # on the grid of exported files, so that a project and its files give the same figures
    return union(geometries.on_grid(list(positive)))
