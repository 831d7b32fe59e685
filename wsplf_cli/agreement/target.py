"""The files of a merged project: the first reader's slides without annotations, put in place whole or not at all."""

import copy
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsplf_cli import files
from wsplf_cli.agreement.match import MatchedSlide, Reader
from wsplf_cli.errors import ProjectError
from wsplf_cli.qupath import gson, project_file, servers
from wsplf_cli.qupath.addresses import file_uri
from wsplf_cli.qupath.atomic import write_files
from wsplf_cli.qupath.images import uri_path
from wsplf_cli.qupath.project_file import ProjectFile
from wsplf_cli.qupath.relink import changed
from wsplf_cli.runs.history import past_runs, undone
from wsplf_cli.runs.layout import FOLDER
from wsplf_cli.schema import REVIEWED_KEY

STAGE = "agree"
#: Folders of a project that are copied with its classes, pixel classifiers and scripts.
COPIED_FOLDERS = ("classifiers", "scripts")


@dataclass(frozen=True, slots=True)
class Structure:
    """The document of the merged project, and for each slide (in its order) the id of the entry there."""

    document: Mapping[str, Any]
    entry_ids: Sequence[str]


def target_path(path: Path) -> Path:
    """The project file that ``--merge`` means: the file, or ``project.qpproj`` in a folder of that name."""
    return path if path.suffix == project_file.SUFFIX else path / f"project{project_file.SUFFIX}"


def refuse_target(path: Path, readers: Sequence[Reader]) -> None:
    """Check that the merged project can be written there: it is new, or an earlier merge that was undone.

    Raises:
        ProjectError: it is in a reader's project, or something is there already.
    """
    out = target_path(path)
    folder = out.absolute().parent.resolve()
    for reader in readers:
        if folder.is_relative_to(reader.project.folder.resolve()):
            raise ProjectError(f"--merge {path}: is in the project of {reader.name}", hint="choose another folder")
    if out.exists():
        if not _is_undone_merge(out):
            raise ProjectError(
                f"--merge {path}: {out} already exists", hint=f"choose another name, or first: wsplf undo {out}"
            )
        return
    names = ("data", FOLDER, *COPIED_FOLDERS)
    in_the_way = [*sorted(folder.glob(f"*{project_file.SUFFIX}")), *(folder / name for name in names)]
    for found_path in in_the_way:
        if found_path.exists():
            raise ProjectError(f"--merge {path}: {found_path} is there already", hint="choose a new folder for it")


def _is_undone_merge(out: Path) -> bool:
    """Whether nothing but merges wrote into a project, all of them undone, and no entry has data."""
    if not out.is_file():
        return False
    runs = past_runs(out.parent)
    writers = [run for run in runs if not run.undoes]
    merges_undone = all(run.stage == STAGE and undone(run, runs) for run in writers)
    return bool(writers) and merges_undone and not any(out.parent.glob("data/*/data.qpdata*"))


@contextmanager
def built_aside(out: Path) -> Iterator[Path]:
    """A temporary folder to build a project in; moved to its place when the block ends, the project file last.

    Raises:
        ProjectError: the folder cannot be written.
    """
    folder = out.absolute().parent
    part = files.part_of(folder / out.stem)
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        part.mkdir()
        yield part
        for path in sorted(part.iterdir(), key=lambda path: path.name == out.name):
            path.rename(folder / path.name)
        files.sync_folder(folder)
    except OSError as error:
        raise ProjectError(f"cannot write {out}: {error.strerror}", hint="choose another folder") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
        for path in made:  # fails, and stays, where something is in it
            with suppress(OSError):
                path.rmdir()


def structure_of(out: Path, readers: Sequence[Reader], slides: Sequence[MatchedSlide]) -> Structure:
    """The document of the merged project: the first project's with these slides, at their present addresses.

    A slide that the first project lacks is taken from the first one that has it, under a new id. No entry is marked as
    reviewed.
    """
    projects = [project_file.read(reader.project.path) for reader in readers]
    document = copy.deepcopy(projects[0].document)
    last_id = max([int(document.get("lastID") or 0), *(int(image.get("entryID", 0)) for image in projects[0].images)])
    images, entry_ids = [], []
    for slide in slides:
        source = slide.readers[0]
        image = copy.deepcopy(_image(projects[source], slide.entry.id))
        if source:
            last_id += 1
            image["entryID"] = last_id
        if isinstance(image.get("metadata"), dict):
            image["metadata"].pop(REVIEWED_KEY, None)
        images.append(image)
        entry_ids.append(project_file.entry_id(image))
    document |= {"uri": file_uri(out.absolute().as_posix()), "lastID": last_id, "images": images}
    return Structure(document, entry_ids)


def write_structure(
    structure: Structure, folder: Path, out: Path, readers: Sequence[Reader], slides: Sequence[MatchedSlide]
) -> None:
    """Write the project without annotations into a folder in which nothing is yet.

    Raises:
        ProjectError: a file cannot be copied or written.
    """
    try:
        for name in COPIED_FOLDERS:
            if (readers[0].project.folder / name).is_dir():
                shutil.copytree(readers[0].project.folder / name, folder / name)
        for slide, entry_id in zip(slides, structure.entry_ids, strict=True):
            source = readers[slide.readers[0]].project.folder / "data" / slide.entry.id
            target = folder / "data" / entry_id
            target.mkdir(parents=True)
            for name in ("server.json", "thumbnail.jpg"):
                if (source / name).is_file():
                    shutil.copyfile(source / name, target / name)
    except (OSError, shutil.Error) as error:
        raise ProjectError(f"cannot copy {readers[0].project.folder} to {out.parent}: {error}") from error
    project = ProjectFile(folder / out.name, dict(structure.document), b"")
    beside = changed(project, _new_addresses(project, slides))
    write_files({**beside, project.path: gson.dumps(project.document, indent=True).encode("utf-8")})


def require_same_structure(structure: Structure, out: Path) -> None:
    """Check that an undone merge was made of the same slides.

    Raises:
        ProjectError: it was not.
    """
    images = project_file.read(out).images

    def identity(image: Mapping[str, Any]) -> tuple[Any, ...]:
        server = servers.describe(servers.builders(image))
        return project_file.entry_id(image), image.get("imageName"), server.size_px0, server.steps

    if list(map(identity, images)) != list(map(identity, structure.document["images"])):
        raise ProjectError(f"{out} was made of other slides", hint="choose another folder, or remove that project")


def _image(project: ProjectFile, entry_id: str) -> dict[str, Any]:
    return next(image for image in project.images if project_file.entry_id(image) == entry_id)


def _new_addresses(project: ProjectFile, slides: Sequence[MatchedSlide]) -> dict[str, dict[str, str]]:
    """By entry id, the address of each slide that was found elsewhere than recorded, by the recorded one."""
    addresses: dict[str, dict[str, str]] = {}
    for image, slide in zip(project.images, slides, strict=True):
        uri = servers.describe(servers.builders(image)).uri
        path = slide.entry.slide_path
        if uri and path is not None and uri_path(uri) != path.absolute().as_posix():
            addresses[project_file.entry_id(image)] = {uri: file_uri(path.absolute().as_posix(), like=uri)}
    return addresses
