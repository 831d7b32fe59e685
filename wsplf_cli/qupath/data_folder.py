"""The files in the data folder of an entry: which one holds its objects, and whether objects that it held are lost.

QuPath writes data.qpdata when an image is saved, and beside it summary.json, which counts the objects. So a summary
that counts objects where no data file holds them says that the data file was lost: it was removed, a copy left it out,
or a synchronisation failed.
"""

import stat
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wsplf_cli.errors import SlideError
from wsplf_cli.qupath import gson

FOLDER = "data"
DATA = "data.qpdata"
BACKUP = "data.qpdata.bkp"
"""What QuPath leaves when it is stopped while saving; QuPath reads it when there is no data.qpdata."""
SUMMARY = "summary.json"

ACCEPT = "pseudolabel, segment and import go on without what is lost with --accept-missing-data"

_ROOT = "Root objects"
_BY_CLASS = {"Annotations": "annotationClassificationCounts", "Detections": "detectionClassificationCounts"}


@dataclass(frozen=True, slots=True)
class Summary:
    """The number of objects that a summary.json counts, by QuPath's title ("Annotations"), without the root.

    ``known`` is false where the file cannot be read or counts nothing, not even zero.
    """

    counts: Mapping[str, int] = field(default_factory=dict)
    known: bool = True

    @property
    def annotations(self) -> int:
        """The number of annotations."""
        return sum(count for title, count in self.counts.items() if title.casefold().startswith("annotation"))

    @property
    def total(self) -> int:
        """The number of objects of all kinds."""
        return sum(self.counts.values())

    def __str__(self) -> str:
        """The counts in words: ``36 annotations, 121 cells``."""
        words = [(title if title.startswith("TMA") else title.lower(), count) for title, count in self.counts.items()]
        return ", ".join(f"{count} {word if count > 1 else word.removesuffix('s')}" for word, count in words if count)


def entry_folder(project_folder: Path, entry_id: str) -> Path:
    """The data folder of an entry."""
    return project_folder / FOLDER / entry_id


def find_data(folder: Path) -> Path | None:
    """The file that holds the objects of an entry: data.qpdata, else QuPath's backup of it, else None.

    Raises:
        SlideError: the folder cannot be read.
    """
    return next((folder / name for name in (DATA, BACKUP) if file_bytes(folder / name) is not None), None)


def lost_objects(folder: Path) -> str:
    """What an entry has lost with its data file, as a sentence; empty where nothing says that it held an object.

    Raises:
        SlideError: the folder cannot be read.
    """
    source = find_data(folder)
    if source is not None and file_bytes(source):
        return ""
    summary = read_summary(folder)
    says = ""
    if summary is not None:
        says = f"{SUMMARY} counts {summary}" if summary.total else ""
        says = says if summary.known else f"its {SUMMARY} does not say how many objects it held"
    if source is not None:
        return f"{source}: the file is empty (0 bytes)" + (f"; {says}" if says else "")
    return f"{folder / DATA}: the file is missing, but {says}" if says else ""


def how_to_restore(folder: Path, *, otherwise: str = f"restore it from a backup; {ACCEPT}") -> str:
    """What to do about an entry whose data file is missing or damaged; ``otherwise``: where QuPath left no backup."""
    if file_bytes(folder / BACKUP):
        return f"QuPath left its previous state in {folder / BACKUP}: rename it to {DATA}"
    return otherwise


def read_summary(folder: Path) -> Summary | None:
    """The counts of an entry's summary.json; None without one.

    Raises:
        SlideError: the folder cannot be read.
    """
    path = folder / SUMMARY
    if file_bytes(path) is None:
        return None
    try:
        return parse_summary(path.read_bytes())
    except OSError as error:
        raise SlideError(f"{path}: cannot be read: {error.strerror}", hint="check the permissions") from error


def parse_summary(content: bytes) -> Summary:
    """The counts in the bytes of a summary.json, by any version of QuPath."""
    try:
        document = gson.loads(content.decode("utf-8-sig"))
    except ValueError:
        return Summary(known=False)
    hierarchy = gson.as_object(gson.as_object(document).get("hierarchy"))
    by_title = {title: _count(value) for title, value in gson.as_object(hierarchy.get("objectTypeCounts")).items()}
    counts = {title: count for title, count in by_title.items() if title != _ROOT}
    if not any(counts.values()):  # a form that counts by class only
        by_class = {title: gson.as_object(hierarchy.get(key)).values() for title, key in _BY_CLASS.items()}
        counts = {title: sum(map(_count, of_classes)) for title, of_classes in by_class.items()}
    others = _count(hierarchy.get("nObjects")) - 1 - sum(counts.values())  # one is the root
    return Summary(counts | ({"Objects of other kinds": others} if others > 0 else {}), known=bool(hierarchy))


def unused_folders(project_folder: Path, entry_ids: Collection[str]) -> list[Path]:
    """The data folders that belong to no entry, by number; QuPath keeps them when an image is removed."""
    try:
        folders = [path for path in (project_folder / FOLDER).iterdir() if path.is_dir()]
    except OSError:  # no data folder, or none that can be read
        return []
    return sorted(
        (path for path in folders if path.name.isdecimal() and path.name not in entry_ids),
        key=lambda path: int(path.name),
    )


def file_bytes(path: Path) -> int | None:
    """The size of a file; None where there is none.

    Raises:
        SlideError: the folder cannot be read, so that nobody knows whether the file is there.
    """
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise SlideError(f"{path}: cannot be read: {error.strerror}", hint="check the permissions") from error
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _count(value: Any) -> int:
    """A count; 0 for what is no number above 0."""
    try:
        return max(int(value), 0)
    except (TypeError, ValueError, OverflowError):
        return 0
