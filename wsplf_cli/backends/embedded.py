"""Reads and writes QuPath's files directly: no QuPath, no Java."""

import hashlib
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wsplf_cli.backends._plan import plan
from wsplf_cli.class_names import spelling_of
from wsplf_cli.errors import ConfigError, ProjectError, SlideError
from wsplf_cli.options import ProjectOptions
from wsplf_cli.qupath import project_file, qpdata
from wsplf_cli.qupath.atomic import SavedMeanwhile, write_files
from wsplf_cli.qupath.data_folder import (
    BACKUP,
    DATA,
    SUMMARY,
    entry_folder,
    file_bytes,
    find_data,
    how_to_restore,
    lost_objects,
    parse_summary,
    read_summary,
)
from wsplf_cli.qupath.entry_data import new_data, summary_file
from wsplf_cli.qupath.javaser.graph import JavaStreamError
from wsplf_cli.qupath.qpdata import QpData
from wsplf_cli.runs.journal import ChangedOnDisk, read_state
from wsplf_cli.schema import Annotation, Entry, Origin, PathClass, PathObject, Replaced
from wsplf_cli.slides.open import measure

log = logging.getLogger(__name__)

MAX_MERGES = 3
"""How often classes.json is merged when another program writes it at the same time."""


def open_project(path: Path, options: ProjectOptions) -> "EmbeddedProject":
    """The project at ``path``, a project.qpproj or a folder that holds one.

    Raises:
        ProjectError: there is none, or it cannot be read.
        ConfigError: the folder of slides that the options name is not there.
    """
    if options.slides is not None and not options.slides.is_dir():
        raise ConfigError(f"--slides {options.slides}: no such folder", hint="give the folder that holds the slides")
    return EmbeddedProject(project_file.read(path), options)


@dataclass(slots=True)
class _FileState:
    """A data file as this project last read or wrote it; ``digest`` is None until its content was read."""

    stat: tuple[int, int] | None
    digest: bytes | None = None


@dataclass(frozen=True, slots=True)
class EntryData:
    """The data file of an entry: its bytes, its contents, and the annotations in it."""

    raw: bytes
    data: QpData
    nodes: list[qpdata.AnnotationNode]


class EmbeddedProject:
    """A QuPath project on disk. See ``backends.Project`` for what the methods promise."""

    def __init__(self, project: project_file.ProjectFile, options: ProjectOptions) -> None:
        self._project = project
        self._options = options
        self._entries: list[Entry] | None = None
        self._warned: set[str] = set()
        self.path = project.path.absolute()
        self.folder = self.path.parent
        self.version = project.version
        entry_ids = map(project_file.entry_id, project.images)
        self._states = {entry_id: _FileState(_file_stamp(self._data_path(entry_id))) for entry_id in entry_ids}

    def entries(self) -> list[Entry]:
        """The entries in project order, slides looked up."""
        if self._entries is None:
            slides = self._options.slides
            self._entries = project_file.entries(self._project, slides=slides, measure=measure)
        return list(self._entries)

    def path_classes(self) -> list[PathClass]:
        """The classes of the project, in order."""
        return project_file.read_classes(self.folder)

    def annotations(self, entry_id: str) -> list[Annotation]:
        """All annotations of an entry, in file order, at any depth; an entry without data has none."""
        data = self.read(entry_id)
        return [] if data is None else [node.annotation for node in data.nodes]

    def objects(self, entry_id: str) -> list[PathObject]:
        """All objects of an entry, the root first, parents before children; an entry without data has none."""
        source = self._source(entry_id)
        if source is None:
            return []
        try:
            objects = qpdata.loads(source.read_bytes()).objects()
        except OSError as error:
            raise SlideError(f"{source}: cannot be read: {error.strerror}", hint="check the permissions") from error
        except JavaStreamError as error:
            raise self._unreadable(source, error) from error
        self._check_complete(source, sum(item.kind == "annotation" for item in objects))
        return objects

    def replace(self, entry_id: str, *, origin: Origin, annotations: Sequence[Annotation]) -> Replaced:
        """Replace wsplf's own pending, unedited annotations of ``origin`` by ``annotations``.

        A shape that a person has decided on already (accepted, rejected or edited) is not written a second time.
        """
        stored = self.read(entry_id)
        data, nodes = (self._new_data(entry_id), []) if stored is None else (stored.data, stored.nodes)
        existing = [node.annotation for node in nodes]
        change = plan(existing, origin=origin, annotations=annotations, path_classes=self.path_classes())
        if change.remove or change.add or self.accepts_loss(entry_id, annotations=len(nodes)):
            self.edit(entry_id, data, remove=[nodes[index] for index in change.remove], add=change.add)
        return Replaced(added=len(change.add), removed=len(change.remove), kept=change.kept)

    def add(self, entry_id: str, annotations: Sequence[Annotation], *, path_classes: Collection[PathClass] = ()) -> int:
        """Add annotations of any shape as they are, at the top of the hierarchy; returns how many."""
        if annotations:
            stored = self.read(entry_id)
            data = self._new_data(entry_id) if stored is None else stored.data
            self.edit(entry_id, data, remove=[], add=annotations, path_classes=path_classes)
        return len(annotations)

    def set_metadata(self, values: Mapping[str, Mapping[str, str]]) -> None:
        """Set entry metadata: entry id -> {key: value}. Other keys are kept."""
        project_file.set_metadata(self._project, values)
        self._entries = None

    def accepts_loss(self, entry_id: str, *, annotations: int) -> bool:
        """Whether the entry lost data, which the options accept: its files are written anew, so that they agree.

        ``annotations`` is the number that was read.
        """
        folder = entry_folder(self.folder, entry_id)
        if not self._options.accept_missing_data:
            return False
        summary = read_summary(folder)
        return bool(lost_objects(folder)) or (summary is not None and annotations < summary.annotations)

    def _data_path(self, entry_id: str) -> Path:
        return entry_folder(self.folder, entry_id) / DATA

    def image(self, entry_id: str) -> Mapping[str, object]:
        """An entry's record in the project file."""
        for image in self._project.images:
            if project_file.entry_id(image) == entry_id:
                return image
        raise ProjectError(f"{self.path}: no entry has the id {entry_id}")

    def _source(self, entry_id: str) -> Path | None:
        """The entry's data file; None where it never had one, or lost it and the options accept that.

        Raises:
            SlideError: it lost its data file, or the folder cannot be read.
        """
        self.image(entry_id)
        folder = entry_folder(self.folder, entry_id)
        if loss := lost_objects(folder):
            if not self._options.accept_missing_data or file_bytes(folder / BACKUP):
                raise SlideError(loss, hint=how_to_restore(folder))
            return None
        source = find_data(folder)
        if source is not None and source.name == BACKUP and entry_id not in self._warned:
            self._warned.add(entry_id)
            log.warning("%s is missing: %s is read, QuPath's copy of the state before", folder / DATA, source.name)
        return source

    def _unreadable(self, source: Path, error: JavaStreamError) -> SlideError:
        summary = read_summary(source.parent)
        counted = f"; {SUMMARY} counts {summary}" if summary is not None and summary.total else ""
        hint = how_to_restore(source.parent, otherwise="restore it from a backup, or open it in QuPath to check it")
        return SlideError(f"{source}: cannot be read: {error.message}{counted}", hint=hint)

    def _check_complete(self, source: Path, annotations: int) -> None:
        """Check that a data file holds as many annotations as QuPath counted when it saved the entry.

        Raises:
            SlideError: it holds fewer; an older copy may have taken its place.
        """
        summary = read_summary(source.parent)
        if summary is not None and annotations < summary.annotations and not self._options.accept_missing_data:
            raise SlideError(
                f"{source}: {annotations} of the {summary.annotations} annotations that {SUMMARY} counts are there",
                hint=how_to_restore(source.parent),
            )

    def read(self, entry_id: str) -> EntryData | None:
        """The entry's data and its annotations; None without data.

        Raises:
            SlideError: the data file cannot be read; the message names it.
        """
        source, path, state = self._source(entry_id), self._data_path(entry_id), self._states[entry_id]
        if source is None:
            if state.stat is not None and state.stat == _file_stamp(path):
                state.digest = _digest(b"")
            return None
        try:
            stamp = _file_stamp(path)
            raw = source.read_bytes()
            data = qpdata.loads(raw)
            nodes = data.annotation_nodes()
        except OSError as error:
            raise SlideError(f"{source}: cannot be read: {error.strerror}", hint="check the permissions") from error
        except JavaStreamError as error:
            raise self._unreadable(source, error) from error
        self._check_complete(source, len(nodes))
        if state.digest is None and stamp == state.stat:
            state.digest = _digest(raw)
        return EntryData(raw, data, nodes)

    def _new_data(self, entry_id: str) -> QpData:
        """The data of an entry that has none yet."""
        return new_data(self.image(entry_id), entry_id, project=self.path, version=self.version)

    def edit(
        self,
        entry_id: str,
        data: QpData,
        *,
        remove: Sequence[qpdata.AnnotationNode],
        add: Sequence[Annotation],
        path_classes: Collection[PathClass] = (),
    ) -> None:
        """Write ``data`` as the data of an entry, some annotations removed and others added as they are.

        The data may come from another project. The classes are written first.

        Raises:
            SlideError, ProjectError: as ``replace``.
        """
        self.check_unchanged(entry_id)
        path = self._data_path(entry_id)
        used = used_classes(add, path_classes)
        project_rgb = {path_class.name: path_class.rgb for path_class in self.path_classes()}
        records = [
            project_file.class_record(PathClass(name, project_rgb.get(spelling_of(name, project_rgb)) or rgb))
            for name, rgb in ((used_class.name, used_class.rgb) for used_class in used)
        ]
        colours = {record["name"]: record["color"] for record in records if "color" in record}
        try:
            data.remove([node.node for node in remove])
            data.add(add, colours=colours)
            content = data.dumps()
            summary = summary_file(self.image(entry_id), data)
        except JavaStreamError as error:
            raise SlideError(
                f"{path}: cannot be changed: {error.message}", hint="open it in QuPath to check it"
            ) from error
        self.install(entry_id, content=content, summary=summary, classes=used)

    def install(self, entry_id: str, *, content: bytes, summary: bytes, classes: Collection[PathClass]) -> None:
        """Write an entry's data and summary, and the path classes that the project lacks.

        Raises:
            SlideError: another program changed the data since it was read, or saves it in this moment.
            ProjectError: the files cannot be written; the old ones are in place.
        """
        path, state = self._data_path(entry_id), self._states[entry_id]
        if state.stat is not None and state.digest is None:  # it changed before it was read
            raise _changed(path)
        expected = {path: None if state.stat is None or state.digest is None else state.digest.hex()}
        for attempt in range(MAX_MERGES):
            try:
                self._write(path, content=content, summary=summary, classes=classes, expected=expected)
                break
            except ChangedOnDisk as error:
                if error.path == path or attempt == MAX_MERGES - 1:
                    raise _changed(error.path) from error
            except SavedMeanwhile as error:
                raise SlideError(error.message, hint=error.hint) from error
        self._states[entry_id] = _FileState(_file_stamp(path), _digest(content))

    def _write(
        self,
        path: Path,
        *,
        content: bytes,
        summary: bytes,
        classes: Collection[PathClass],
        expected: Mapping[Path, str | None],
    ) -> None:
        """Write the files of an entry; classes that are missing in the present classes.json are added to it."""
        classes_file = project_file.classes_path(self.folder)
        listed_hash = read_state(classes_file).sha256
        merged = project_file.add_classes(self.folder, classes)
        first = {} if merged is None else {classes_file: merged}
        pair = {path.with_name(SUMMARY): summary, path: content}
        counted = read_summary(path.parent)
        if counted is None or counted.annotations < parse_summary(summary).annotations:
            pair = dict(reversed(pair.items()))  # at no moment may the summary count more than the file holds
        write_files({**first, **pair}, expected={classes_file: listed_hash, **expected})

    def _check_single(self, entry_id: str) -> None:
        """Refuse to write data that several entries share."""
        if entry_id in project_file.shared_ids(self._project):
            raise SlideError(
                f"{self.path}: several entries have the id {entry_id} and share its data; nothing was written",
                hint="remove all but one of them from the project in QuPath and add them again",
            )

    def check_unchanged(self, entry_id: str) -> None:
        """Refuse to write over data that another program saved since this project was opened.

        Raises:
            SlideError: another program did, or several entries share the data.
        """
        self._check_single(entry_id)
        path, state = self._data_path(entry_id), self._states[entry_id]
        stamp = _file_stamp(path)
        if stamp == state.stat:
            return
        if stamp is not None and state.digest is not None and _digest(path.read_bytes()) == state.digest:
            return
        raise _changed(path)


def used_classes(annotations: Collection[Annotation], path_classes: Collection[PathClass]) -> list[PathClass]:
    """The classes of annotations, sorted by name, each in the colour that ``path_classes`` gives it."""
    rgb = {path_class.name: path_class.rgb for path_class in path_classes}
    names = {annotation.path_class for annotation in annotations if annotation.path_class}
    return [PathClass(name, rgb.get(name)) for name in sorted(names)]


def _changed(path: Path) -> SlideError:
    return SlideError(
        f"{path} was changed by another program since wsplf opened the project; nothing was written",
        hint="close the image in QuPath (saving it), then run the command again",
    )


def _file_stamp(path: Path) -> tuple[int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size


def _digest(raw: bytes) -> bytes:
    return hashlib.sha256(raw).digest()
