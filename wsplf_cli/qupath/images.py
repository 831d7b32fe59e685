"""Finds the image of an entry: at its recorded address, beside the moved project, or by its name."""

import logging
import os
import re
import unicodedata
from collections.abc import Hashable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Protocol
from urllib.parse import unquote, urlsplit

from wsplf_cli.files import is_apple_double
from wsplf_cli.runs import layout
from wsplf_cli.text import normalise_name

log = logging.getLogger(__name__)

#: How deep the folders of the project and around it are searched, and for how many files and folders at most: enough
#: for a study's folder, not for a disk. The folder that the user names is searched whole, within sane limits.
NEAR_DEPTH = 3
NEAR_FILES = 20_000
MAX_FILES = 500_000


class Measure(Protocol):
    """Width and height of an image file in pixels, or None when it cannot be opened."""

    def __call__(self, path: Path, /, *, crop_to_bounds: bool) -> tuple[int, int] | None:
        """Measure the scanned part, or the whole image."""


def uri_path(uri: str) -> str | None:
    """The path of a file address with forward slashes ("/a b", "D:/a", "//server/share/a"); None if it is not a file.

    Addresses of Java ("file:/a"), of Python ("file:///a") and plain paths of Linux, macOS and Windows are understood.
    """
    if re.match(r"[A-Za-z]:[\\/]", uri) or uri.startswith(("/", "\\\\")):
        return uri.replace("\\", "/")
    try:
        parts = urlsplit(uri)
    except ValueError:
        return None
    if parts.scheme.lower() != "file":
        return None
    path = unquote(parts.path)
    if parts.netloc and parts.netloc.lower() != "localhost":
        path = f"//{unquote(parts.netloc)}{path}"
    elif path.startswith("//"):
        path = "//" + path.lstrip("/")
    return path[1:] if re.match(r"/[A-Za-z]:/", path) else path


def existing(path: Path) -> Path | None:
    """The path with each name in the form of Unicode in which it exists; None when it does not exist.

    macOS takes letters with accents apart (NFD), other systems keep them as they were typed; a copied folder can mix
    both in one path.
    """
    try:
        if path.exists():
            return path
        if str(path).isascii():
            return None
        names = path.parts[1:] if path.anchor else path.parts
        current = Path(path.anchor)
        for name in names:
            current = current / name if (current / name).exists() else _same_name(current, name)
    except (OSError, StopIteration):
        return None
    return current


def _same_name(folder: Path, name: str) -> Path:
    """The file in a folder whose name differs only in its form of Unicode."""
    composed = unicodedata.normalize("NFC", name)
    return next(path for path in folder.iterdir() if unicodedata.normalize("NFC", path.name) == composed)


class Finder:
    """Finds the images of one project. The folders are searched once, and only when an image has moved."""

    def __init__(self, project: Path, *, recorded_uri: str, slides: Path | None, measure: Measure) -> None:
        self._project = project
        recorded = uri_path(recorded_uri)
        self._recorded_folder = None if recorded is None else PurePosixPath(recorded).parent
        self._slides = slides
        self._measure = measure
        self._by_name: dict[str, list[Path]] | None = None

    def find(self, uri: str, *, size_px0: tuple[int, int], crop_to_bounds: bool = True) -> Path | None:
        """The image's file, or None.

        A file that is found by its name must have the size that the project records (0 for unknown), of the scanned
        part or of the whole slide. If its size cannot be read, it must be the only file of its name.
        """
        recorded = uri_path(uri)
        if recorded is None:
            return None
        for path in (Path(recorded), self._beside(recorded)):
            if path is not None and (image := existing(path)) is not None and image.is_file():
                return image
        same_name = self._named(PurePosixPath(recorded).name)
        sizes = [(path, self._measure(path, crop_to_bounds=crop_to_bounds)) for path in same_name]
        fitting = [path for path, size in sizes if size is not None and size == size_px0]
        if fitting:
            return fitting[0]
        unknown = [path for path, size in sizes if size is None or min(size_px0) <= 0]
        return unknown[0] if len(unknown) == 1 and len(same_name) == 1 else None

    def _beside(self, recorded: str) -> Path | None:
        """The recorded path moved as the project was moved; None where that is not known."""
        if self._recorded_folder is None:
            return None
        image_parts, project_parts = PurePosixPath(recorded).parts, self._recorded_folder.parts
        common = 0
        while common < min(len(image_parts), len(project_parts)) and image_parts[common] == project_parts[common]:
            common += 1
        if common == 0 or image_parts[:common] == ("/",):
            return None
        steps = [".."] * (len(project_parts) - common) + list(image_parts[common:])
        return Path(os.path.normpath(self._project.parent.joinpath(*steps)))

    def _named(self, name: str) -> list[Path]:
        if self._by_name is None:
            self._by_name = {}
            for path in self._candidates():
                self._by_name.setdefault(normalise_name(path.name), []).append(path)
        same_name = self._by_name.get(normalise_name(name), [])
        return distinct_files([path for path in same_name if path.name == name] or same_name)

    def _candidates(self) -> Iterator[Path]:
        folder = self._project.parent
        if self._slides is not None:
            yield from files_in(self._slides)
        yield from files_in(folder, depth=NEAR_DEPTH, most=NEAR_FILES)
        around = folder.absolute().parent
        if around not in {Path(around.anchor), Path.home(), Path.home().parent}:  # these are not one study's folder
            yield from files_in(around, depth=NEAR_DEPTH, most=NEAR_FILES)


def files_in(folder: Path, *, depth: int | None = None, most: int = MAX_FILES) -> Iterator[Path]:
    """The files in a folder, nearest first, without hidden folders and QuPath's; at most ``most`` files and folders.

    Links are followed. A folder that several paths lead to is searched once, so a link to a folder above is no loop.
    Where the folder is searched whole (no ``depth``), what cannot be read, and what is left out, is logged.
    """
    level: Sequence[Path] = [folder]
    searched: set[Hashable] = set()
    count, level_depth = 0, 0
    while level and (depth is None or level_depth <= depth):
        below: list[Path] = []
        for current in level:
            try:
                identity = file_identity(current)
                items = [] if identity in searched else sorted(os.scandir(current), key=lambda item: item.name)
                searched.add(identity)
            except OSError as error:  # a folder without permission, or a drive that is gone
                if depth is None:
                    log.warning("%s is not searched: %s", current, error.strerror)
                continue
            count += len(items)
            for item in items:
                path = Path(item.path)
                kind = _kind(item)
                if kind == "file" and not is_apple_double(item.name):
                    yield path
                elif kind == "folder" and not _skipped(path):
                    below.append(path)
                elif kind == "broken link" and depth is None:
                    log.warning("%s is a link to something that is not there", path)
            if count >= most:
                if depth is None:
                    log.warning("%s holds more than %s files: the rest of it is not searched", folder, most)
                return
        level, level_depth = below, level_depth + 1


def distinct_files(paths: Iterable[Path]) -> list[Path]:
    """The paths without those that lead to the same file as one before, by a link or through a linked folder."""
    distinct: dict[Hashable, Path] = {}
    for path in paths:
        try:
            distinct.setdefault(file_identity(path), path)
        except OSError:  # removed since it was found
            continue
    return list(distinct.values())


def file_identity(path: Path) -> Hashable:
    """What all paths to one file or folder share: device, number of the file on it, and size.

    Raises:
        OSError: there is no such file.
    """
    status = path.stat()
    if status.st_ino == 0:  # a drive that does not number its files
        return path.resolve()
    return status.st_dev, status.st_ino, status.st_size


def _kind(item: os.DirEntry[str]) -> str:
    """What an item of a folder is, or what the link leads to: "file", "folder", "broken link" or ""."""
    try:
        if item.is_file():
            return "file"
        if item.is_dir():
            return "folder"
        return "broken link" if item.is_symlink() else ""
    except OSError:  # links that lead to each other
        return "broken link"


def _skipped(folder: Path) -> bool:
    """Whether a folder is hidden, or one of QuPath's and wsplf's own in a project, also where a link leads to it."""
    return folder.name.startswith(".") or any(
        path.name in {"data", "classifiers", layout.FOLDER} and any(path.parent.glob("*.qpproj"))
        for path in ({folder, folder.resolve()} if folder.is_symlink() else {folder})
    )
