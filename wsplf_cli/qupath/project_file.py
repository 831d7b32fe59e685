"""Reads and writes project.qpproj and classes.json: the entries and the classes of a project."""

import json
import time
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsplf_cli.errors import ProjectError
from wsplf_cli.files import is_apple_double
from wsplf_cli.qupath import colours, gson, servers
from wsplf_cli.qupath.atomic import write_files
from wsplf_cli.qupath.images import Finder, Measure, uri_path
from wsplf_cli.runs.journal import sha256
from wsplf_cli.schema import Entry, PathClass
from wsplf_cli.slides.transforms import view_of

SUFFIX = ".qpproj"


@dataclass(slots=True)
class ProjectFile:
    """A project.qpproj as it was read: ``document`` is its JSON, ``stored`` its bytes."""

    path: Path
    document: dict[str, Any]
    stored: bytes

    @property
    def folder(self) -> Path:
        """The folder that holds it."""
        return self.path.parent

    @property
    def version(self) -> str:
        """QuPath's version as recorded; empty when it is not."""
        return str(self.document.get("version") or "")

    @property
    def images(self) -> list[dict[str, Any]]:
        """The entries' records, in order."""
        images: list[dict[str, Any]] = self.document["images"]
        return images


def locate(path: Path) -> Path:
    """The project file of a path that a user gave: the file, or a folder with one project file in it.

    Raises:
        ProjectError: there is none, or the folder holds several.
    """
    if path.is_dir():
        project_files = sorted(
            file
            for file in path.iterdir()
            if file.suffix == SUFFIX and file.is_file() and not is_apple_double(file.name)
        )
        if len(project_files) == 1:
            return project_files[0]
        count = "no" if not project_files else f"{len(project_files)}"
        names = ", ".join(file.name for file in project_files)
        raise ProjectError(
            f"{path}: the folder holds {count} QuPath projects{f' ({names})' if names else ''}",
            hint="give the path of one project.qpproj",
        )
    if not path.is_file():
        raise ProjectError(f"{path}: no such project", hint="give the path of a project.qpproj or of its folder")
    return path


def read(path: Path) -> ProjectFile:
    """Read a project file, or the one in a folder.

    Raises:
        ProjectError: there is none, or it is not a QuPath project.
    """
    path = locate(path)
    try:
        stored = path.read_bytes()
    except OSError as error:
        raise ProjectError(f"{path}: cannot be read: {error.strerror}", hint="check the permissions") from error
    hint = "give the path of a project.qpproj that QuPath wrote"
    backup = path.with_name(path.name + ".backup")
    if backup.is_file():
        hint += f"; QuPath's previous copy is {backup.name}"
    try:
        document = gson.loads(stored.decode("utf-8"))
    except ValueError as error:
        raise ProjectError(f"{path}: not a QuPath project (not JSON: {_short(error)})", hint=hint) from error
    if not isinstance(document, dict):
        raise ProjectError(f"{path}: not a QuPath project (JSON, but not an object)", hint=hint)
    if "images" not in document and "version" not in document:
        raise ProjectError(f"{path}: not a QuPath project (it has neither 'version' nor 'images')", hint=hint)
    if document.get("images") is None:
        document["images"] = []
    images = document["images"]
    if not isinstance(images, list) or not all(isinstance(image, dict) for image in images):
        raise ProjectError(f"{path}: its 'images' are not a list of entries", hint=hint)
    for image in images:
        if not isinstance(image.get("entryID", 0), int):
            raise ProjectError(f"{path}: an entry has the id {image['entryID']!r}, which is not a number", hint=hint)
    return ProjectFile(path, document, stored)


def entry_id(image: Mapping[str, Any]) -> str:
    """The id of an entry's record, which is also the name of its data folder."""
    return str(image.get("entryID", 0))


def entries(project: ProjectFile, *, slides: Path | None, measure: Measure) -> list[Entry]:
    """The entries of a project, slides looked up; ``label`` and ``split`` are left out.

    Args:
        project: the project.
        slides: a folder to search for slides that were moved.
        measure: width and height of an image file, to distinguish slides of the same name.
    """
    recorded = str(project.document.get("uri") or "")
    finder = Finder(project.path, recorded_uri=recorded, slides=slides, measure=measure)
    shared = shared_ids(project)
    return [_entry(image, finder, measure, shared=shared) for image in project.images]


def shared_ids(project: ProjectFile) -> set[str]:
    """The ids that several entries share; QuPath opens such a project, and the entries share one data folder."""
    counts = Counter(map(entry_id, project.images))
    return {identifier for identifier, count in counts.items() if count > 1}


def _entry(image: Mapping[str, Any], finder: Finder, measure: Measure, *, shared: Collection[str]) -> Entry:
    server = servers.describe(servers.builders(image))
    path_text = uri_path(server.uri) or server.uri
    name = str(image.get("imageName") or server.name or path_text.rpartition("/")[2] or "unnamed")
    size, slide_path = server.size_px0, None
    problem, slide_missing = f"{name}: {server.trouble}" if server.trouble else "", False
    if entry_id(image) in shared:
        problem = f"{name}: other entries have its id {entry_id(image)} too, and share its data; "
        problem += "remove all but one of them from the project in QuPath and add them again"
    if not problem:
        slide_path = finder.find(server.uri, size_px0=server.file_size_px0, crop_to_bounds=server.crop_to_bounds)
        if slide_path is None:
            slide_missing = True
            problem = (
                f"{name}: the slide is not at {path_text}, nor near the project; give its folder with --slides DIR"
            )
        elif min(size) <= 0 and (measured := measure(slide_path, crop_to_bounds=server.crop_to_bounds)):
            view = view_of(server.steps, measured)
            size = view.width_px0, view.height_px0
    return Entry(
        id=entry_id(image),
        name=name,
        slide_path=slide_path,
        width_px0=size[0],
        height_px0=size[1],
        mpp=server.mpp,
        mpp_source="" if server.mpp is None else "QuPath calibration",
        metadata=_strings(image.get("metadata")),
        tags=tuple(str(tag) for tag in gson.as_list(image.get("tags"))),
        crop_to_bounds=server.crop_to_bounds,
        problem=problem,
        steps=server.steps,
        recorded_path=path_text,
        slide_missing=slide_missing,
        mpp_xy=server.mpp_xy,
        channels=server.channels,
        z_slices=server.z_slices,
        time_points=server.time_points,
    )


def set_metadata(project: ProjectFile, values: Mapping[str, Mapping[str, str]]) -> None:
    """Set keys of the entries' metadata and write the project file, the previous one kept as ``.backup``.

    The file is read again first, so that changes of another program since ``project`` was read stay.

    Raises:
        ProjectError: there is no such entry; another program writes the file now, or it cannot be written.
    """
    now = read(project.path)
    unknown = set(values) - {entry_id(image) for image in now.images}
    if unknown:
        raise ProjectError(f"{project.path}: no entry has the id {', '.join(sorted(unknown))}")
    if unclear := shared_ids(now).intersection(values):
        raise ProjectError(
            f"{project.path}: several entries have the id {', '.join(sorted(unclear))}; nothing was written",
            hint="remove all but one of them from the project in QuPath and add them again",
        )
    changed = False
    for image in now.images:
        wanted = values.get(entry_id(image), {})
        stored = image.get("metadata")
        if any(_strings(stored).get(key) != value for key, value in wanted.items()):
            image["metadata"] = {**(stored if isinstance(stored, dict) else {}), **wanted}
            changed = True
    if changed:
        write(now)
        project.document, project.stored = now.document, now.stored


def write(project: ProjectFile, *, beside: Mapping[Path, bytes] | None = None) -> None:
    """Write the files ``beside`` the project file, then the file itself; the previous one is kept as ``.backup``.

    Raises:
        ProjectError: the file changed since it was read, or cannot be written; the old one is in place.
    """
    project.document["modifyTimestamp"] = now_ms()
    content = gson.dumps(project.document, indent=True).encode("utf-8")
    backup = project.path.with_name(project.path.name + ".backup")
    write_files(
        {backup: project.stored, **(beside or {}), project.path: content},
        expected={project.path: sha256(project.stored)},
    )
    project.stored = content


def now_ms() -> int:
    """Now, in milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def classes_path(folder: Path) -> Path:
    """The path of classes.json."""
    return folder / "classifiers" / "classes.json"


def read_classes(folder: Path) -> list[PathClass]:
    """The classes of a project, in order; none when it has no classes.json.

    Raises:
        ProjectError: the file is not as QuPath writes it.
    """
    return [
        PathClass(str(record["name"]), colours.unpack_rgb(record.get("color"))) for record in _class_records(folder)[1]
    ]


def add_classes(folder: Path, wanted: Collection[PathClass]) -> bytes | None:
    """The bytes of classes.json with the missing ones of ``wanted`` added; None when all are there."""
    document, records = _class_records(folder)
    known = {str(path_class["name"]) for path_class in records}
    missing = [path_class for path_class in wanted if path_class.name not in known]
    if not missing:
        return None
    document["pathClasses"] = [*(document.get("pathClasses") or []), *map(class_record, missing)]
    return gson.dumps(document, indent=True).encode("utf-8")


def class_record(path_class: PathClass) -> dict[str, Any]:
    """A class as a record of classes.json; QuPath chooses the colour where there is none."""
    packed = colours.pack_rgb(path_class.rgb or colours.STANDARD.get(path_class.name))
    return {"name": path_class.name} if packed is None else {"name": path_class.name, "color": packed}


def _class_records(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    path = classes_path(folder)
    if not path.is_file():
        return {"pathClasses": []}, []
    try:
        document = gson.loads(path.read_text(encoding="utf-8"))
        records = document.get("pathClasses") or []
        return document, [record for record in records if str(record.get("name") or "").strip()]
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ProjectError(f"{path}: not a QuPath class list ({_short(error)})") from error


def _strings(value: Any) -> dict[str, str]:
    """Entry metadata as strings, as QuPath reads it; null values are left out."""
    pairs = gson.as_object(value).items()
    return {key: item if isinstance(item, str) else json.dumps(item) for key, item in pairs if item is not None}


def _short(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
