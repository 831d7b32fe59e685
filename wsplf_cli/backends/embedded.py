"""Reads and writes QuPath's files directly: no QuPath, no Java."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from wsplf_cli.backends._plan import plan
from wsplf_cli.errors import ConfigError, ProjectError, SlideError
from wsplf_cli.options import ProjectOptions
from wsplf_cli.qupath import gson, project_file, qpdata, servers
from wsplf_cli.qupath.atomic import SavedMeanwhile, write_files
from wsplf_cli.qupath.images import uri_path
from wsplf_cli.qupath.javaser.graph import JavaStreamError
from wsplf_cli.qupath.qpdata import QpData
from wsplf_cli.runs.journal import ChangedOnDisk, see
from wsplf_cli.schema import Annotation, Entry, Origin, PathClass, PathObject, Replaced
from wsplf_cli.slides.open import measure

DATA = "data.qpdata"
FALLBACK = "data.qpdata.bkp"
"""What QuPath leaves when it was stopped while saving, and reads when there is no data.qpdata."""

MERGES = 3
"""How often classes.json is read again when another program writes it in the same moment."""


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
class _Seen:
    """A data file as this project last saw it; ``digest`` is None until its content was read."""

    stat: tuple[int, int] | None
    digest: bytes | None = None


@dataclass(frozen=True, slots=True)
class Stored:
    """A data file: its bytes, what they hold, and the annotations in it."""

    raw: bytes
    data: QpData
    found: list[qpdata.Found]


class EmbeddedProject:
    """A QuPath project on disk. See ``backends.Project`` for what the methods promise."""

    def __init__(self, project: project_file.ProjectFile, options: ProjectOptions) -> None:
        self._project = project
        self._options = options
        self._entries: list[Entry] | None = None
        self.path = project.path.absolute()
        self.folder = self.path.parent
        self.version = project.version
        self._seen = {one: _Seen(_stat(self._data_path(one))) for one in map(project_file.entry_id, project.images)}

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
        stored = self.read(entry_id)
        return [] if stored is None else [one.annotation for one in stored.found]

    def objects(self, entry_id: str) -> list[PathObject]:
        """All objects of an entry, the root first, parents before children; an entry without data has none."""
        source = self._source(entry_id)
        if source is None:
            return []
        try:
            return qpdata.loads(source.read_bytes()).objects()
        except OSError as error:
            raise SlideError(f"{source}: cannot be read: {error.strerror}", hint="check the permissions") from error
        except JavaStreamError as error:
            raise self._unreadable(source, error) from error

    def replace(self, entry_id: str, *, origin: Origin, annotations: Sequence[Annotation]) -> Replaced:
        """Replace wsplf's own pending, unedited annotations of ``origin`` by ``annotations``.

        A shape that a person has decided on already (accepted, rejected or edited as wsplf wrote it) is not written
        a second time.
        """
        stored = self.read(entry_id)
        data, found = (self._fresh(entry_id), []) if stored is None else (stored.data, stored.found)
        change = plan([one.annotation for one in found], origin=origin, annotations=annotations)
        if change.remove or change.add:
            self._edit(entry_id, data, remove=[found[place] for place in change.remove], add=change.add)
        return Replaced(added=len(change.add), removed=len(change.remove), kept=change.kept)

    def add(self, entry_id: str, annotations: Sequence[Annotation], *, path_classes: Collection[PathClass] = ()) -> int:
        """Add annotations of any shape as they are, at the top of the hierarchy; returns how many."""
        if annotations:
            stored = self.read(entry_id)
            data = self._fresh(entry_id) if stored is None else stored.data
            self._edit(entry_id, data, remove=[], add=annotations, path_classes=path_classes)
        return len(annotations)

    def remove(self, entry_id: str, ids: Collection[UUID]) -> int:
        """Remove annotations by id, their children move up; returns how many were found."""
        stored = self.read(entry_id)
        found = [] if stored is None else [one for one in stored.found if one.annotation.id in set(ids)]
        if stored is not None and found:
            self._edit(entry_id, stored.data, remove=found, add=[])
        return len(found)

    def set_metadata(self, values: Mapping[str, Mapping[str, str]]) -> None:
        """Set entry metadata: entry id -> {key: value}. Other keys are kept."""
        project_file.set_metadata(self._project, values)
        self._entries = None

    def _data_path(self, entry_id: str) -> Path:
        return self.folder / "data" / entry_id / DATA

    def image(self, entry_id: str) -> Mapping[str, object]:
        """An entry's record in the project file."""
        for image in self._project.images:
            if project_file.entry_id(image) == entry_id:
                return image
        raise ProjectError(f"{self.path}: no entry has the id {entry_id}")

    def _source(self, entry_id: str) -> Path | None:
        """The entry's data file; None without data."""
        self.image(entry_id)
        path = self._data_path(entry_id)
        source = path if path.is_file() else path.with_name(FALLBACK)
        return source if source.is_file() else None

    def _unreadable(self, source: Path, error: JavaStreamError) -> SlideError:
        spare = source.with_name(FALLBACK)
        hint = f"QuPath left its previous state in {spare}" if spare.is_file() else "open it in QuPath to check it"
        return SlideError(f"{source}: cannot be read: {error.message}", hint=hint)

    def read(self, entry_id: str) -> Stored | None:
        """The entry's data and its annotations; None without data.

        Raises:
            SlideError: the data file cannot be read; the message names it.
        """
        source, path = self._source(entry_id), self._data_path(entry_id)
        if source is None:
            return None
        seen = self._seen[entry_id]
        try:
            stat = _stat(path)
            raw = source.read_bytes()
            data = qpdata.loads(raw)
            found = data.found()
        except OSError as error:
            raise SlideError(f"{source}: cannot be read: {error.strerror}", hint="check the permissions") from error
        except JavaStreamError as error:
            raise self._unreadable(source, error) from error
        if seen.digest is None and stat == seen.stat:
            seen.digest = _digest(raw)
        return Stored(raw, data, found)

    def _fresh(self, entry_id: str) -> QpData:
        image = self.image(entry_id)
        chain = servers.builders(image)
        uri = str(chain[-1].get("uri") or "") if chain else ""
        return qpdata.create(
            version=self.version,
            server=gson.dumps(image["serverBuilder"], indent=False) if chain else None,
            path=uri_path(uri) or uri,
            properties={"PROJECT_ENTRY_ID": f"{self.path}::{entry_id}"},
        )

    def _edit(
        self,
        entry_id: str,
        data: QpData,
        *,
        remove: Sequence[qpdata.Found],
        add: Sequence[Annotation],
        path_classes: Collection[PathClass] = (),
    ) -> None:
        """Change the hierarchy of an entry and write its files: classes first, the data itself last."""
        self.check_unchanged(entry_id)
        path = self._data_path(entry_id)
        known = {one.name: one.rgb for one in self.path_classes()}
        given = {one.name: one.rgb for one in path_classes}
        used = [PathClass(name, given.get(name)) for name in sorted({one.path_class for one in add if one.path_class})]
        records = [project_file.class_record(PathClass(one.name, known.get(one.name) or one.rgb)) for one in used]
        colours = {record["name"]: record["color"] for record in records if "color" in record}
        try:
            data.remove([one.node for one in remove])
            data.add(add, colours=colours)
            content = data.dumps()
            summary = self._summary(entry_id, data)
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
        path, seen = self._data_path(entry_id), self._seen[entry_id]
        if seen.stat is not None and seen.digest is None:  # it changed before it was read
            raise _changed(path)
        expected = {path: None if seen.stat is None or seen.digest is None else seen.digest.hex()}
        for attempt in range(MERGES):
            try:
                self._write(path, content=content, summary=summary, classes=classes, expected=expected)
                break
            except ChangedOnDisk as error:
                if error.path == path or attempt == MERGES - 1:
                    raise _changed(error.path) from error
            except SavedMeanwhile as error:
                raise SlideError(error.message, hint=error.hint) from error
        self._seen[entry_id] = _Seen(_stat(path), _digest(content))

    def _write(
        self,
        path: Path,
        *,
        content: bytes,
        summary: bytes,
        classes: Collection[PathClass],
        expected: Mapping[Path, str | None],
    ) -> None:
        """Write the files of an entry, the missing classes added to what classes.json holds now."""
        listed = project_file.classes_path(self.folder)
        there = see(listed).sha256
        merged = project_file.add_classes(self.folder, classes)
        first = {} if merged is None else {listed: merged}
        files = {**first, path.with_name("summary.json"): summary, path: content}
        write_files(files, expected={listed: there, **expected})

    def _check_single(self, entry_id: str) -> None:
        """Refuse to write what would show on another image too."""
        if entry_id in project_file.shared_ids(self._project):
            raise SlideError(
                f"{self.path}: several entries have the id {entry_id} and share its data; nothing was written",
                hint="remove all but one of them from the project in QuPath and add them again",
            )

    def check_unchanged(self, entry_id: str) -> None:
        """Refuse to write over what another program saved since this project was opened.

        Raises:
            SlideError: it did, or several entries share the data.
        """
        self._check_single(entry_id)
        path, seen = self._data_path(entry_id), self._seen[entry_id]
        now = _stat(path)
        if now == seen.stat:
            return
        if now is not None and seen.digest is not None and _digest(path.read_bytes()) == seen.digest:
            return
        raise _changed(path)

    def _summary(self, entry_id: str, data: QpData) -> bytes:
        """summary.json of an entry."""
        chain = servers.builders(self.image(entry_id))
        server = next((one["metadata"] for one in chain if isinstance(one.get("metadata"), dict)), None)
        document: dict[str, object] = {"timestamp": project_file.now_ms(), "imageType": data.image_type}
        if server is not None:
            document["server"] = {
                "width": server.get("width"),
                "height": server.get("height"),
                "sizeC": len(server.get("channels") or []),
                "sizeZ": server.get("sizeZ", 1),
                "sizeT": server.get("sizeT", 1),
            }
        document["hierarchy"] = data.counts()
        return gson.dumps(document, indent=False).encode("utf-8")


def _changed(path: Path) -> SlideError:
    return SlideError(
        f"{path} was changed by another program since wsplf opened the project; nothing was written",
        hint="close the image in QuPath (saving it), then run the command again",
    )


def _stat(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def _digest(raw: bytes) -> bytes:
    return hashlib.sha256(raw).digest()
