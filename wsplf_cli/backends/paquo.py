"""Reads and writes annotations through a real QuPath, with paquo; the other files of a project are read directly.

QuPath never sees the user's files. It gets a copy of one entry in a temporary folder. What it saves there is checked,
then put in place as the embedded backend does it. So a QuPath that crashes, hangs, or cannot read a file leaves the old
files as they are.
"""

import base64
import importlib.util
import json
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import shapely
from shapely import Polygon
from shapely.geometry.base import BaseGeometry

from wsplf_cli.backends import embedded
from wsplf_cli.backends._paquo_link import Link
from wsplf_cli.backends._plan import plan
from wsplf_cli.errors import MissingDependency, ProjectError, SlideError
from wsplf_cli.options import ProjectOptions
from wsplf_cli.qupath import gson, project_file, qpdata, servers
from wsplf_cli.qupath.colours import pack_rgb
from wsplf_cli.qupath.data_folder import DATA, SUMMARY, entry_folder
from wsplf_cli.qupath.images import uri_path
from wsplf_cli.qupath.javaser.graph import JavaStreamError
from wsplf_cli.qupath.records import StoredObject, annotations, path_objects, rgb_of
from wsplf_cli.qupath.shapes import ellipse
from wsplf_cli.schema import Annotation, Entry, Origin, PathClass, PathObject, Plane, Replaced

INSTALL = "pip install paquo"


def open_project(path: Path, options: ProjectOptions) -> "PaquoProject":
    """The project at ``path``. QuPath is started when annotations are first asked for.

    Raises:
        MissingDependency: paquo is not installed.
        ProjectError: there is no project, or it cannot be read.
        ConfigError: the folder of slides that the options name is not there.
    """
    if importlib.util.find_spec("paquo") is None:
        raise MissingDependency("--backend paquo needs paquo, which is not installed", hint=INSTALL)
    return PaquoProject(embedded.open_project(path, options))


class PaquoProject:
    """A QuPath project whose annotations go through QuPath. See ``backends.Project`` for what the methods promise."""

    def __init__(self, files: embedded.EmbeddedProject) -> None:
        self._files = files
        self._link: Link | None = None
        self.path = files.path
        self.folder = files.folder
        self.version = files.version

    def entries(self) -> list[Entry]:
        """The entries in project order, slides looked up."""
        return self._files.entries()

    def path_classes(self) -> list[PathClass]:
        """The classes of the project, in order."""
        return self._files.path_classes()

    def set_metadata(self, values: Mapping[str, Mapping[str, str]]) -> None:
        """Set entry metadata: entry id -> {key: value}. Other keys are kept."""
        self._files.set_metadata(values)

    def annotations(self, entry_id: str) -> list[Annotation]:
        """All annotations of an entry, in QuPath's order, at any depth; an entry without data has none."""
        stored = self._files.read(entry_id)
        if stored is None:
            return []
        objects = _stored_objects(self._records(entry_id, stored), stored)
        return annotations([item for item in objects if item.kind == "annotation"])

    def objects(self, entry_id: str) -> list[PathObject]:
        """All objects of an entry, the root first, parents before children; an entry without data has none."""
        stored = self._files.read(entry_id)
        if stored is None:
            return []
        records = self._records(entry_id, stored)
        cells = {index: record["grid"] for index, record in enumerate(records) if record["grid"] is not None}
        grid = {index: (row, column) for index, (row, column) in cells.items()}
        return path_objects(_stored_objects(records, stored), [record["parent"] for record in records], grid)

    def replace(self, entry_id: str, *, origin: Origin, annotations: Sequence[Annotation]) -> Replaced:
        """Replace wsplf's own pending, unedited annotations of ``origin`` by ``annotations``.

        A shape that a person has decided on already (accepted, rejected or edited) is not written a second time.
        """
        stored = self._files.read(entry_id)
        accepts_loss = self._files.accepts_loss(entry_id, annotations=0 if stored is None else len(stored.nodes))
        if stored is None and not accepts_loss and not plan([], origin=origin, annotations=annotations).add:
            return Replaced(added=0, removed=0, kept=0)
        with self._loaded(entry_id, stored) as (staged, existing, indices):
            change = plan(existing, origin=origin, annotations=annotations, path_classes=self.path_classes())
            if change.remove or change.add or accepts_loss:
                remove = [indices[index] for index in change.remove]
                self._save(entry_id, staged, stored, remove=remove, add=change.add)
        return Replaced(added=len(change.add), removed=len(change.remove), kept=change.kept)

    def add(self, entry_id: str, annotations: Sequence[Annotation], *, path_classes: Collection[PathClass] = ()) -> int:
        """Add annotations of any shape as they are, at the top of the hierarchy; returns how many."""
        if annotations:
            stored = self._files.read(entry_id)
            with self._loaded(entry_id, stored) as (staged, _, _):
                self._save(entry_id, staged, stored, remove=[], add=annotations, path_classes=path_classes)
        return len(annotations)

    def close(self) -> None:
        """End QuPath, if it runs."""
        if self._link is not None:
            self._link.close()

    def _qupath(self) -> Link:
        if self._link is None or not self._link.alive:
            self._link = Link()
        return self._link

    def _records(self, entry_id: str, stored: embedded.EntryData) -> list[dict[str, Any]]:
        """The objects that QuPath reads of an entry with data, as the child's records."""
        link = self._qupath()
        with self._staged(entry_id, stored) as staged:
            records: list[dict[str, Any]] = self._ask(link, entry_id, {"do": "read", **staged})["objects"]
        self._check_all_read(entry_id, stored, records)
        return records

    @contextmanager
    def _loaded(
        self, entry_id: str, stored: embedded.EntryData | None
    ) -> Iterator[tuple[dict[str, str], list[Annotation], list[int]]]:
        """The entry opened in QuPath to be changed: where, its annotations, and their indices among all objects."""
        link = self._qupath()
        with self._staged(entry_id, stored) as staged:
            records = self._ask(link, entry_id, {"do": "load", **staged})["objects"]
            self._check_all_read(entry_id, stored, records)
            indices = [index for index, record in enumerate(records) if record["kind"] == "annotation"]
            objects = _stored_objects(records, stored)
            existing = annotations([objects[index] for index in indices])
            yield staged, existing, indices

    def _ask(self, link: Link, entry_id: str, request: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return link.ask(request)
        except SlideError as error:
            raise SlideError(f"{self._data(entry_id)}: {error.message}", hint=error.hint) from error

    def _data(self, entry_id: str) -> Path:
        return entry_folder(self.folder, entry_id) / DATA

    def _check_all_read(
        self, entry_id: str, stored: embedded.EntryData | None, records: Sequence[Mapping[str, Any]]
    ) -> None:
        """Check that QuPath read all objects: a file that it cannot read looks empty to it, and it would save that."""
        count = 1 if stored is None else int(stored.data.counts()["nObjects"])
        if len(records) != max(count, 1):
            raise SlideError(
                f"{self._data(entry_id)}: QuPath {self._qupath().qupath} reads {len(records)} of its {count} objects; "
                "nothing was written",
                hint="its image may be missing, or the file may be of a newer QuPath; use --backend embedded",
            )

    @contextmanager
    def _staged(self, entry_id: str, stored: embedded.EntryData | None) -> Iterator[dict[str, str]]:
        """A project with this one entry in a temporary folder, for QuPath to work on."""
        try:
            folder = tempfile.TemporaryDirectory(prefix="wsplf-", ignore_cleanup_errors=True)
        except OSError as error:
            raise ProjectError(f"no folder for temporary files: {error}", hint="set TMPDIR to one") from error
        with folder:
            try:
                self._stage(Path(folder.name), entry_id, stored)
            except OSError as error:
                raise ProjectError(
                    f"cannot make a copy for QuPath in {folder.name}: {error.strerror}", hint="free disk space there"
                ) from error
            yield {"project": str(Path(folder.name) / "project.qpproj"), "entry": entry_id}

    def _stage(self, folder: Path, entry_id: str, stored: embedded.EntryData | None) -> None:
        image = json.loads(json.dumps(self._files.image(entry_id)))
        source = (servers.builders(image) or [{}])[-1]
        recorded = uri_path(str(source.get("uri") or ""))
        slide = next((entry.slide_path for entry in self.entries() if entry.id == entry_id), None)
        if slide is not None and recorded is not None and not Path(recorded).is_file():
            source["uri"] = slide.absolute().as_uri()
        now = project_file.now_ms()
        document = {
            "version": self.version or "0.2.3",
            "createTimestamp": now,
            "modifyTimestamp": now,
            "lastID": int(entry_id),
            "images": [image],
        }
        (folder / "project.qpproj").write_text(gson.dumps(document, indent=True), encoding="utf-8")
        classes = project_file.classes_path(self.folder)
        project_file.classes_path(folder).parent.mkdir()
        if classes.is_file():
            project_file.classes_path(folder).write_bytes(classes.read_bytes())
        data = entry_folder(folder, entry_id)
        data.mkdir(parents=True)
        if stored is not None:
            (data / DATA).write_bytes(stored.raw)

    def _save(
        self,
        entry_id: str,
        staged: Mapping[str, str],
        stored: embedded.EntryData | None,
        *,
        remove: Sequence[int],
        add: Sequence[Annotation],
        path_classes: Collection[PathClass] = (),
    ) -> None:
        """Change the loaded entry, let QuPath save its copy, check what it saved, and put that in place."""
        self._files.check_unchanged(entry_id)
        new_records = [_annotation_record(item) for item in add]
        self._ask(self._qupath(), entry_id, {"do": "save", "remove": list(remove), "add": new_records})
        staged_folder = Path(staged["project"]).parent
        folder = entry_folder(staged_folder, entry_id)
        try:
            saved = qpdata.loads((folder / DATA).read_bytes())
            summary = (folder / SUMMARY).read_bytes()
            count = int(saved.counts()["nObjects"])
            saved.set_location(project=self.path, entry_id=entry_id, moved_from=staged_folder)
            content = saved.dumps()
        except (OSError, ValueError, JavaStreamError) as error:
            raise SlideError(
                f"{self._data(entry_id)}: what QuPath saved cannot be read ({error}); the old file is in place",
                hint="use --backend embedded",
            ) from error
        before = 1 if stored is None else max(int(stored.data.counts()["nObjects"]), 1)
        if count != before - len(remove) + len(add):
            raise SlideError(
                f"{self._data(entry_id)}: QuPath saved {count} objects where {before - len(remove) + len(add)} were "
                "expected; the old file is in place",
                hint="use --backend embedded",
            )
        self._files.check_unchanged(entry_id)
        classes = embedded.used_classes(add, path_classes)
        self._files.install(entry_id, content=content, summary=summary, classes=classes)


def _stored_objects(records: Sequence[Mapping[str, Any]], stored: embedded.EntryData | None) -> list[StoredObject]:
    """The child's records as stored objects.

    QuPath 0.4 and later invents an id for an object without one, a new one at each reading: only ids that are in the
    file count. An object without an id gets the one that the embedded backend gives it, by its index.
    """
    in_file = [] if stored is None else stored.data.objects()
    stored_ids = {item.id for item in in_file}
    nodes = [] if stored is None else stored.nodes
    wsplf_ids = {node.annotation.id for node in nodes if not node.annotation.has_id}
    in_order = [item.kind for item in in_file] == [record["kind"] for record in records]
    objects = []
    for index, record in enumerate(records):
        identity = None if record["id"] is None else UUID(record["id"])
        if identity not in stored_ids:
            identity = in_file[index].id if in_order else None
        objects.append(
            StoredObject(
                kind=record["kind"],
                shape=_shape(record.get("wkb"), record.get("roi", "")),
                name=record["name"],
                path_class=record["class"],
                locked=record["locked"],
                metadata=dict(record["metadata"]),
                measurements=dict(record["measurements"]),
                plane=Plane(*record.get("plane", ())),
                rgb=None if record["color"] is None else rgb_of(record["color"]),
                probability=record["probability"],
                roi=record.get("roi", ""),
                id=identity,
                has_id=identity not in wsplf_ids,
                missing=record["missing"],
                nucleus=_shape(record["nucleus"]) if record.get("nucleus") else None,
            )
        )
    return objects


def _shape(text: str | None, roi: str = "") -> BaseGeometry:
    """The shape of WKB in base64; QuPath gives an ellipse fewer vertices than the embedded backend does."""
    shape = Polygon() if text is None else shapely.from_wkb(base64.b64decode(text))
    return ellipse(shape.bounds) if roi == "EllipseROI" and shape.area else shape


def _annotation_record(annotation: Annotation) -> dict[str, Any]:
    """An annotation as a record for the child."""
    plane = annotation.plane
    return {
        "id": str(annotation.id),
        "wkb": base64.b64encode(shapely.to_wkb(annotation.shape, byte_order=0)).decode("ascii"),
        "roi": annotation.roi,
        "plane": [plane.c, plane.z, plane.t],
        "class": annotation.path_class,
        "color": pack_rgb(annotation.rgb),
        "name": annotation.name,
        "locked": annotation.locked,
        "metadata": dict(annotation.metadata),
        "measurements": {key: float(value) for key, value in annotation.measurements.items()},
    }
