"""Entry names as file names, and back."""

import difflib
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence

from wsplf_cli.cohort.label_table import IMAGE_SUFFIX
from wsplf_cli.errors import ProjectError
from wsplf_cli.schema import Entry

#: What Windows, macOS or Linux do not allow in a file name; a leading dot would hide the file.
_UNSAFE = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f]|^\.|[. ]+$|^ +')
#: Names of devices on Windows, with any suffix.
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE)
#: Bytes of a name at most: file systems take 255, and suffixes follow.
_LONGEST = 180
_FILE_SUFFIX = re.compile(r"(\.geojson|\.json|\.xml)?(\.gz)?$", re.IGNORECASE)


def file_names(entries: Sequence[Entry]) -> dict[str, str]:
    """Entry id -> name of its file without suffix: the entry's name, made safe.

    Names that are one on Windows or macOS (in another case, say) get ``_id`` and the entry's id behind them. Give all
    entries of a project, so that an entry has the same name whichever are worked on.
    """
    safe = {entry.id: _safe(entry.name) for entry in entries}
    for _ in range(2):  # a second time where a name happens to be another's with its id
        counts = Counter(map(_plain, safe.values()))
        safe = {key: name if counts[_plain(name)] == 1 else f"{name}_id{key}" for key, name in safe.items()}
    return safe


def stem(file_name: str) -> str:
    """``slide.svs`` of ``slide.svs.geojson.gz``."""
    return _FILE_SUFFIX.sub("", file_name)


def find(name: str, entries: Sequence[Entry]) -> Entry:
    """The entry that a name means: its own name, that of its file (see ``file_names``) or of its slide.

    If none is equal, case does not matter; if still none, neither do the suffixes of image files.

    Raises:
        ProjectError: several entries could be meant, or none; tells which, or the closest.
    """
    files = file_names(entries)
    steps: list[tuple[Callable[[str], str], Callable[[Entry], list[str]]]] = [
        (str, lambda entry: [entry.name]),
        (str, lambda entry: [files[entry.id]]),
        (_plain, lambda entry: [entry.name, files[entry.id], _safe(entry.name)]),
        (_bare, lambda entry: [entry.name, files[entry.id], _safe(entry.name)]),
        (_bare, lambda entry: [entry.slide_path.name] if entry.slide_path else []),
    ]
    for form, names in steps:
        found = [entry for entry in entries if form(name) in map(form, names(entry))]
        if len(found) == 1:
            return found[0]
        if found:
            shown = ", ".join(files[entry.id] for entry in found[:5])
            hint = f"--image {files[found[0].id]}, or another of these"
            raise ProjectError(f"{name!r} could be any of {len(found)} entries: {shown}", hint=hint)
    close = [repr(one) for one in difflib.get_close_matches(name, [entry.name for entry in entries], n=3, cutoff=0.5)]
    raise ProjectError(f"no entry is called {name!r}", hint=f"--image {' or '.join(close) or 'NAME'}")


def _safe(name: str) -> str:
    """A name that every system takes; what it does not is ``_``."""
    safe = _UNSAFE.sub(lambda match: "_" * len(match[0]), unicodedata.normalize("NFC", name))
    if _RESERVED.fullmatch(safe):
        safe = f"_{safe}"
    while len(safe.encode("utf-8", "replace")) > _LONGEST:
        safe = safe[:-1]
    return safe or "_"


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).strip().casefold()


def _bare(name: str) -> str:
    return IMAGE_SUFFIX.sub("", _plain(name))
