"""Which entry a name means, and what the file of an entry is called: the one rule for names of entries and files."""

import difflib
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence

from wsplf_cli.errors import ConfigError, ProjectError
from wsplf_cli.options import ProjectOptions
from wsplf_cli.schema import Entry

#: The suffix of an image file; other dots belong to the name.
IMAGE_SUFFIX = re.compile(
    r"\.(svs|svslide|ndpi|mrxs|scn|vms|vmu|bif|czi|dcm|qptiff|(ome\.)?tiff?|png|jpe?g|jp2|jpx|j2k)$"
)

#: What Windows, macOS or Linux do not allow in a file name; a leading dot would hide the file.
_UNSAFE = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f]|^\.|[. ]+$|^ +')
#: Names of devices on Windows, with any suffix.
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE)
#: Most bytes of a name: file systems take 255, and suffixes follow.
_MOST_BYTES = 180
_FILE_SUFFIX = re.compile(r"(\.geojson|\.json|\.xml)?(\.gz)?$", re.IGNORECASE)


def file_names(entries: Sequence[Entry]) -> dict[str, str]:
    """Entry id -> name of its file without suffix: the entry's name, made safe.

    Names that Windows or macOS cannot tell apart (such as by case) get ``_id`` and the entry's id behind them. Pass
    all entries of a project, so that the file name of an entry does not depend on which entries are chosen.
    """
    names = {entry.id: _safe(entry.name) for entry in entries}
    for _ in range(2):  # a second time, where a name happens to be another name with its id
        counts = Counter(map(_normalise, names.values()))
        names = {key: name if counts[_normalise(name)] == 1 else f"{name}_id{key}" for key, name in names.items()}
    return names


def stem(file_name: str) -> str:
    """``slide.svs`` of ``slide.svs.geojson.gz``."""
    return _FILE_SUFFIX.sub("", file_name)


def find_entry(name: str, entries: Sequence[Entry]) -> Entry:
    """The entry that a name means: its own name, that of its file (see ``file_names``) or of its slide.

    Exact matches come first, then those that differ in case, then those that differ in the suffix of image files.

    Raises:
        ProjectError: no entry matches, or several do; the message names them, or the closest.
    """
    files = file_names(entries)
    rules: list[tuple[Callable[[str], str], Callable[[Entry], list[str]]]] = [
        (str, lambda entry: [entry.name]),
        (str, lambda entry: [files[entry.id]]),
        (_normalise, lambda entry: [entry.name, files[entry.id], _safe(entry.name)]),
        (_without_suffix, lambda entry: [entry.name, files[entry.id], _safe(entry.name)]),
        (_without_suffix, lambda entry: [entry.slide_path.name] if entry.slide_path else []),
    ]
    for form, names in rules:
        matches = [entry for entry in entries if form(name) in map(form, names(entry))]
        if len(matches) == 1:
            return matches[0]
        if matches:
            shown = ", ".join(files[entry.id] for entry in matches[:5])
            hint = f"--image {files[matches[0].id]}, or another of these"
            raise ProjectError(f"{name!r} could be any of {len(matches)} entries: {shown}", hint=hint)
    closest = difflib.get_close_matches(name, [entry.name for entry in entries], n=3, cutoff=0.5)
    raise ProjectError(f"no entry is called {name!r}", hint=f"--image {' or '.join(map(repr, closest)) or 'NAME'}")


def entries_named(name: str, entries: Sequence[Entry]) -> list[Entry]:
    """All entries whose name or slide file has this name; if none, those that match without the image suffix.

    Case and the Unicode form do not matter. An empty name matches nothing.
    """
    if not name:
        return []
    exact = [entry for entry in entries if _normalise(name) in map(_normalise, _entry_names(entry))]
    return exact or [entry for entry in entries if _without_suffix(name) in map(_without_suffix, _entry_names(entry))]


def select_entries(entries: Sequence[Entry], options: ProjectOptions) -> list[Entry]:
    """The entries whose name ``--images`` finds.

    Raises:
        ConfigError: there are entries, but the expression finds none.
    """
    if options.images is None:
        return list(entries)
    selected = [entry for entry in entries if re.search(options.images, entry.name)]
    if entries and not selected:
        names = ", ".join(entry.name for entry in entries[:3])
        raise ConfigError(f"--images {options.images!r} finds none of {len(entries)} entries", hint=f"such as: {names}")
    return selected


def _entry_names(entry: Entry) -> list[str]:
    return [entry.name] + ([entry.slide_path.name] if entry.slide_path else [])


def _safe(name: str) -> str:
    """A name that every system takes, with ``_`` for what it does not."""
    safe = _UNSAFE.sub(lambda match: "_" * len(match[0]), unicodedata.normalize("NFC", name))
    if _RESERVED.fullmatch(safe):
        safe = f"_{safe}"
    while len(safe.encode("utf-8", "replace")) > _MOST_BYTES:
        safe = safe[:-1]
    return safe or "_"


def _normalise(name: str) -> str:
    """A name without case, surrounding blanks and differences in Unicode form."""
    return unicodedata.normalize("NFC", name).strip().casefold()


def _without_suffix(name: str) -> str:
    """``a.b`` of ``A.b.SVS``: only the known suffixes of images are removed."""
    return IMAGE_SUFFIX.sub("", _normalise(name))
