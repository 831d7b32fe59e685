"""Finds the image of an entry: at its recorded address, beside the moved project, or by its name."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Protocol
from urllib.parse import unquote, urlsplit

from wsplf_cli.runs import layout

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
            if path is not None and path.is_file():
                return path
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
            for path in _unique(self._candidates()):
                self._by_name.setdefault(path.name.casefold(), []).append(path)
        same_name = self._by_name.get(name.casefold(), [])
        return [path for path in same_name if path.name == name] or same_name

    def _candidates(self) -> Iterator[Path]:
        folder = self._project.parent
        if self._slides is not None:
            yield from files_in(self._slides)
        yield from files_in(folder, depth=NEAR_DEPTH, most=NEAR_FILES)
        around = folder.absolute().parent
        if around not in {Path(around.anchor), Path.home(), Path.home().parent}:  # these are not one study's folder
            yield from files_in(around, depth=NEAR_DEPTH, most=NEAR_FILES)


def files_in(folder: Path, *, depth: int | None = None, most: int = MAX_FILES) -> Iterator[Path]:
    """The files in a folder, nearest first, without hidden folders and QuPath's; at most ``most`` files and folders."""
    level: Sequence[Path] = [folder]
    count, level_depth = 0, 0
    while level and (depth is None or level_depth <= depth):
        below: list[Path] = []
        for current in level:
            try:
                items = sorted(os.scandir(current), key=lambda item: item.name)
            except OSError:  # a folder without permission
                continue
            count += len(items)
            for item in items:
                if item.is_file():
                    yield Path(item.path)
                elif item.is_dir(follow_symlinks=False) and not _skipped(current, item.name):
                    below.append(Path(item.path))
            if count >= most:
                return
        level, level_depth = below, level_depth + 1


def _skipped(parent: Path, name: str) -> bool:
    return name.startswith(".") or (name in {"data", "classifiers", layout.FOLDER} and any(parent.glob("*.qpproj")))


def _unique(paths: Iterator[Path]) -> list[Path]:
    return list({path.resolve(): path for path in paths}.values())
