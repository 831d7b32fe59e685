"""Where the truth comes from: a folder of GeoJSON files, or another project."""

from collections.abc import Callable, Sequence
from pathlib import Path

from shapely.geometry.base import BaseGeometry

from wsplf_cli import plugins
from wsplf_cli.backends import Project
from wsplf_cli.class_names import is_a
from wsplf_cli.cohort.labels import classes_of
from wsplf_cli.errors import ConfigError, ProjectError, SlideError
from wsplf_cli.geometry import union
from wsplf_cli.options import EvaluateOptions, ProjectOptions
from wsplf_cli.qupath import geojson
from wsplf_cli.review.on_image import require_on_image
from wsplf_cli.review.regions import review_regions
from wsplf_cli.schema import Annotation, Entry, Tracker

#: Gives the truth of an entry in level-0 pixels (empty: nothing is there), or None where there is no truth for it.
TruthReader = Callable[[Entry], BaseGeometry | None]

SUFFIXES = (".geojson", ".geojson.gz")
HINT = "--truth takes a folder with SLIDE-STEM.geojson for each slide, or another project.qpproj"


def truth_reader(options: EvaluateOptions, path_class: str, tracker: Tracker | None = None) -> TruthReader:
    """A function that reads the truth of a class for an entry, from where ``--truth`` says.

    Truth on other planes than the first is left out, and the rest is clipped to the image. ``tracker`` is told how much
    is left out.

    Raises:
        ConfigError: there is neither a project nor a folder.
        ProjectError: the project that holds the truth cannot be read.
    """
    path = options.truth
    if path.suffix == ".qpproj" or (path / "project.qpproj").is_file():
        return _project_reader(path, options.project, path_class, tracker)
    if not path.is_dir():
        raise ConfigError(f"no truth at {path}", hint=HINT)
    classes = classes_of(options.project)
    return lambda entry: _read_from_folder(path, entry, path_class, classes, tracker)


def is_negative(entry: Entry, path_class: str) -> bool:
    """Whether the slide label says that the slide lacks the class."""
    return entry.label is not None and path_class not in entry.label.classes


def _read_from_folder(
    folder: Path, entry: Entry, path_class: str, classes: Sequence[str], tracker: Tracker | None
) -> BaseGeometry | None:
    """The regions of a class in the entry's GeoJSON file; a feature without a class is of the project's only one.

    Raises:
        SlideError: the file cannot be read; all of it lies outside the image; a feature has no class and the project
            has several; or all features are of classes that are not the project's, and the slide is not labelled
            negative.
    """
    # an image that was turned or cropped has other coordinates than its slide
    slide_stems = [entry.slide_path.stem] if entry.slide_path and not entry.steps else []
    stems = dict.fromkeys([*slide_stems, Path(entry.name).stem, entry.name])
    candidates = [folder / (stem + suffix) for stem in stems for suffix in SUFFIXES]
    path = next((candidate for candidate in candidates if candidate.is_file()), None)
    if path is None:
        return None
    try:
        features = _on_image(geojson.read(path), entry, str(path), tracker)
    except ProjectError as error:
        raise SlideError(error.message, hint=error.hint) from error
    unclassified = [feature for feature in features if not feature.path_class]
    if len(classes) > 1 and unclassified:
        raise SlideError(f"{path}: a feature has no class, and the project has several", hint="give it a class")
    if features and not is_negative(entry, path_class) and not unclassified:
        names = {feature.path_class for feature in features if feature.path_class}
        if not any(_is_of_class(name, known) for name in names for known in classes):
            raise SlideError(
                f"{path}: no feature of class {' or '.join(classes)}; there are: {', '.join(sorted(names))}",
                hint="name it with --path-class",
            )
    return union(
        feature.shape for feature in features if not feature.path_class or _is_of_class(feature.path_class, path_class)
    )


def _on_image(
    annotations: Sequence[Annotation], entry: Entry, source: str, tracker: Tracker | None
) -> Sequence[Annotation]:
    """What of the truth lies on the image, clipped to it (see ``require_on_image``)."""
    placed = require_on_image(annotations, entry, source)
    if placed.left_out and tracker is not None:
        tracker.say(f"{source}: truth left out: {placed.left_out}")
    return placed.annotations


def _is_of_class(name: str, path_class: str) -> bool:
    """Whether a class of a truth file is the class or derived from it; other programs write them in any case."""
    return is_a(name.casefold(), path_class.casefold())


def _project_reader(path: Path, options: ProjectOptions, path_class: str, tracker: Tracker | None) -> TruthReader:
    """Reads the annotations of a class from the entry of the same name in another project.

    Pending polygons that wsplf made there are no truth, unless the image is marked as reviewed.
    """
    project: Project = plugins.load("backends", options.backend).open_project(path, options)
    entries_by_name: dict[str, list[Entry]] = {}
    for entry in project.entries():
        entries_by_name.setdefault(entry.name, []).append(entry)

    def read(entry: Entry) -> BaseGeometry | None:
        namesakes = entries_by_name.get(entry.name, [])
        if len(namesakes) > 1:
            ids = ", ".join(namesake.id for namesake in namesakes)
            raise SlideError(
                f"{path}: {len(namesakes)} entries are named {entry.name} (ids {ids})", hint="rename them in QuPath"
            )
        if not namesakes:
            return None
        stored = project.annotations(namesakes[0].id)
        annotations = _on_image(stored, entry, f"{path}: {entry.name}", tracker)
        return union(review_regions(annotations, path_class, reviewed=namesakes[0].reviewed).positive)

    return read
