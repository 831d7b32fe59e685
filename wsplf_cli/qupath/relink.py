"""Finds the images of a project that was moved, and changes their addresses in it."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from wsplf_cli.qupath import gson, servers
from wsplf_cli.qupath.addresses import Move, file_uri, moved
from wsplf_cli.qupath.images import Measure, distinct_files, existing, files_in, uri_path
from wsplf_cli.qupath.project_file import ProjectFile, entry_id
from wsplf_cli.text import normalise_name

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Link:
    """The result for one address of an entry: the new address, or None and the reason in words.

    ``missing`` is true when the image is neither at its address nor anywhere else that was searched.
    """

    old: str
    new: str | None = None
    note: str = ""
    missing: bool = False


class Search:
    """The files below a folder, by name. The folder is searched once, at the first call of ``find``."""

    def __init__(self, folder: Path, measure: Measure) -> None:
        self._folder = folder
        self._measure = measure
        self._by_name: dict[str, list[Path]] | None = None

    def find(self, name: str, size_px0: tuple[int, int], *, crop_to_bounds: bool) -> list[Path]:
        """The files of this name and size; where none fits, the files whose size cannot be read."""
        if self._by_name is None:
            self._by_name = {}
            for path in files_in(self._folder):
                self._by_name.setdefault(normalise_name(path.name), []).append(path)
        same_name = distinct_files(self._by_name.get(normalise_name(name), []))
        sizes = {path: self._measure(path, crop_to_bounds=crop_to_bounds) for path in same_name}
        if min(size_px0) <= 0:
            return list(sizes)
        fitting = [path for path, size in sizes.items() if size == size_px0]
        return fitting or [path for path, size in sizes.items() if size is None]

    def __str__(self) -> str:
        """The folder."""
        return str(self._folder)


def links(image: Mapping[str, Any], moves: Sequence[Move], search: Search | None) -> list[Link]:
    """The result for each address of an entry, in the order of its builders."""
    return [_link(builder, moves, search) for builder in servers.files(image.get("serverBuilder"))]


def _link(builder: Mapping[str, Any], moves: Sequence[Move], search: Search | None) -> Link:
    uri = str(builder["uri"])
    recorded = uri_path(uri)
    if recorded is None:
        return Link(uri, note="not a file")
    target = moved(uri, moves)
    image = existing(target) if target is not None else None
    if image is not None:
        return _to(uri, image)
    if Path(recorded).is_absolute() and (image := existing(Path(recorded))) is not None:
        return _to(uri, image)
    return _missing(builder, uri, recorded, target, search)


def _missing(builder: Mapping[str, Any], uri: str, recorded: str, target: Path | None, search: Search | None) -> Link:
    """The result of the search for an image that is neither at its address nor where a move leads."""
    reason = f"not at {recorded}" + (f" and not at {target}" if target is not None else "")
    if search is None:
        return Link(uri, note=reason + ("" if target else ", and no --map fits"), missing=True)
    server = servers.describe([builder])
    candidates = search.find(PurePosixPath(recorded).name, server.file_size_px0, crop_to_bounds=server.crop_to_bounds)
    if len(candidates) == 1:
        return _to(uri, candidates[0])
    if candidates:
        several = ", ".join(map(str, candidates))
        return Link(uri, note=f"{reason}; {len(candidates)} files fit: {several}", missing=True)
    return Link(uri, note=f"{reason}; no file of this name and size below {search}", missing=True)


def _to(uri: str, path: Path) -> Link:
    new = file_uri(path.absolute().as_posix(), like=uri)
    if uri_path(new) == uri_path(uri):
        return Link(uri, note="is where the project says")
    return Link(uri, new)


def changed(project: ProjectFile, new: Mapping[str, Mapping[str, str]]) -> dict[Path, bytes]:
    """Change the addresses of entries (entry id -> old -> new) in the project's document, without writing it.

    Returns:
        The new contents of the files beside the entries' data that hold the same addresses.
    """
    beside: dict[Path, bytes] = {}
    for image in project.images:
        addresses = new.get(entry_id(image), {})
        if not _replace(image.get("serverBuilder"), addresses):
            continue
        path = project.path.parent / "data" / entry_id(image) / "server.json"
        content = _server_file(path, addresses)
        if content is not None:
            beside[path] = content
    return beside


def _replace(builder: Any, addresses: Mapping[str, str]) -> bool:
    """Change the addresses in a server builder; returns whether there was one to change."""
    named = [file_builder for file_builder in servers.files(builder) if file_builder["uri"] in addresses]
    for file_builder in named:
        file_builder["uri"] = addresses[file_builder["uri"]]
    return bool(named)


def _server_file(path: Path, addresses: Mapping[str, str]) -> bytes | None:
    """server.json of an entry with its addresses changed, in its own style; None where it holds none of them."""
    try:
        text = path.read_text(encoding="utf-8")
        document = gson.loads(text)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:  # QuPath does not read it: the project file counts
        log.warning("%s is left as it is: %s", path, error)
        return None
    if not _replace(document, addresses):
        return None
    return gson.dumps(document, indent="\n" in text.strip()).encode("utf-8")
