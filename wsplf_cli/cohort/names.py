"""Which entry a name means, and what the file of an entry is called: the one rule for names of entries and files."""

import difflib
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from wsplf_cli.backends import Project
from wsplf_cli.errors import ConfigError, ProjectError
from wsplf_cli.options import ProjectOptions
from wsplf_cli.schema import Entry
from wsplf_cli.text import normalise_name

#: The suffix of an image file; other dots belong to the name.
IMAGE_SUFFIX = re.compile(
    r"\.(svs|svslide|ndpi|mrxs|scn|vms|vmu|bif|czi|dcm|qptiff|(ome\.)?tiff?|png|jpe?g|jp2|jpx|j2k)$"
)
#: What a name may lack besides: suffixes of images that QuPath reads and wsplf does not, and what is left of .ome.tif.
_OTHER_SUFFIX = re.compile(
    r"\.((ome\.)?(btf|tf[28]|zarr)|afi|bmp|gif|ims|i?syntax|i2syntax|lif|lsm|nd2|oir|vsi|zvi|ome)$"
)

#: What Windows, macOS or Linux do not allow in a file name; a leading dot would hide the file.
_UNSAFE = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f\ud800-\udfff]|^\.|[. ]+$|^ +')
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
    # again, where a name with its id happens to be another name
    while len(counts := Counter(map(normalise_name, names.values()))) < len(names):
        names = {key: name if counts[normalise_name(name)] == 1 else f"{name}_id{key}" for key, name in names.items()}
    return names


def stem(file_name: str) -> str:
    """``slide.svs`` of ``slide.svs.geojson.gz``."""
    return _FILE_SUFFIX.sub("", file_name)


class EntryNames:
    """Finds the entries that a name means: their own name, that of their file (see ``file_names``) or of their slide.

    Exact matches come first, then those that differ in case, blanks around them or Unicode form, then those that differ
    in the suffix of images. Last come slides with their folder in front, as in ``A/slide1.tif``.

    Args:
        entries: All entries of a project, so that what a name means does not depend on which entries are chosen.
    """

    def __init__(self, entries: Sequence[Entry]) -> None:
        self._entries = list(entries)
        self._files = file_names(entries)
        self._own = _index(entries, lambda entry: [entry.name], str)
        self._by_file = _index(entries, lambda entry: [self._files[entry.id]], str)
        self._names = [_index(entries, self._all_names, form) for form in _FORMS]
        self._slides = [_index(entries, _slide_names, form) for form in _FORMS]

    def candidates(self, name: str, *, in_slide: bool = False) -> list[Entry]:
        """The entries that a name may mean: one where it is clear, none where there is no such entry.

        Args:
            name: The name, without the suffix of annotation files (see ``stem``).
            in_slide: What has the name is in the coordinates of the slide's file, as ASAP draws. Else the name of a
                slide does not mean an image that was turned or cropped, whose coordinates are others.
        """
        keys = [form(name) for form in _FORMS]
        by_name = (index.get(key) for index, key in zip(self._names, keys, strict=True))
        by_slide = (index.get(key) for index, key in zip(self._slides, keys, strict=True))
        return (
            self._own.get(name)
            or self._by_file.get(name)
            or next(filter(None, by_name), [])
            or [
                entry
                for entry in next(filter(None, by_slide), []) or self._in_folder(name)
                if in_slide or not entry.steps
            ]
        )

    def find(self, name: str, *, in_slide: bool = False) -> Entry:
        """The entry that a name means, see ``candidates``.

        Raises:
            ProjectError: no entry matches, or several do; the message names them, or the closest.
        """
        matches = self.candidates(name, in_slide=in_slide)
        if len(matches) == 1:
            return matches[0]
        if matches:
            shown = self.shown(matches)
            hint = f"--image {self._files[matches[0].id]}, or another of these"
            raise ProjectError(f"{name!r} could be any of {len(matches)} entries: {shown}", hint=hint)
        closest = difflib.get_close_matches(name, [entry.name for entry in self._entries], n=3, cutoff=0.5)
        raise ProjectError(f"no entry is called {name!r}", hint=f"--image {' or '.join(map(repr, closest)) or 'NAME'}")

    def shown(self, entries: Sequence[Entry]) -> str:
        """The file names of entries, which tell them apart, as a message shows them."""
        more = f" and {len(entries) - 5} more" if len(entries) > 5 else ""
        return ", ".join(self._files[entry.id] for entry in entries[:5]) + more

    def of_slide(self, name: str) -> list[Entry]:
        """The entries of a slide, for what belongs to all of it, such as its label; ``name`` is an entry's or a file's.

        Exact matches come first, as in ``candidates``. A blank name means nothing.
        """
        if not name.strip():
            return []
        for form, names, slides in zip(_FORMS, self._names, self._slides, strict=True):
            ids = {entry.id for index in (names, slides) for entry in index.get(form(name), [])}
            if ids:
                return [entry for entry in self._entries if entry.id in ids]
        return self._in_folder(name)

    def _all_names(self, entry: Entry) -> list[str]:
        return [entry.name, self._files[entry.id], _safe(entry.name)]

    def _in_folder(self, name: str) -> list[Entry]:
        """The entries whose slide lies in the folder that stands in front of its name."""
        *folder, last = path_parts(name) or [""]
        if not folder:
            return []
        for form, names, slides in zip(_FORMS, self._names, self._slides, strict=True):
            matches = {entry.id: entry for index in (names, slides) for entry in index.get(form(last), [])}
            in_folder = [
                entry
                for entry in matches.values()
                if any(path_parts(path)[:-1][-len(folder) :] == folder for path in slide_paths(entry))
            ]
            if in_folder:
                return in_folder
        return []


def all_entries(project: Project, chosen: Sequence[Entry]) -> list[Entry]:
    """All entries of a project, among which names are looked up; the chosen ones as they are here, labels resolved."""
    return list({entry.id: entry for entry in (*project.entries(), *chosen)}.values())


def comparable_name(name: str) -> str:
    """A name of an entry or an image file in the form in which names are compared: without case and image suffix."""
    return _without_suffix(name)


def select_entries(entries: Sequence[Entry], options: ProjectOptions) -> list[Entry]:
    """The entries whose name ``--images`` finds, in any Unicode form.

    Raises:
        ConfigError: there are entries, but the expression finds none.
    """
    if options.images is None:
        return list(entries)
    pattern = unicodedata.normalize("NFC", options.images)
    selected = [entry for entry in entries if re.search(pattern, unicodedata.normalize("NFC", entry.name))]
    if entries and not selected:
        names = ", ".join(entry.name for entry in entries[:3])
        raise ConfigError(f"--images {options.images!r} finds none of {len(entries)} entries", hint=f"such as: {names}")
    return selected


def slide_paths(entry: Entry) -> list[str]:
    """Where the slide of an entry is, and where its project says that it is, with forward slashes."""
    paths = [entry.slide_path.as_posix()] if entry.slide_path else []
    return [path for path in dict.fromkeys([*paths, entry.recorded_path]) if path]


def path_parts(path: str) -> list[str]:
    """The folders and the name of a path of Windows, macOS or Linux, in the form in which they are compared."""
    return [normalise_name(part) for part in re.split(r"[\\/]", path) if part not in {"", "."}]


def _index(
    entries: Sequence[Entry], names: Callable[[Entry], Iterable[str]], form: Callable[[str], str]
) -> dict[str, list[Entry]]:
    """The entries by each of their names, in a form."""
    index: dict[str, list[Entry]] = {}
    for entry in entries:
        for key in dict.fromkeys(map(form, names(entry))):
            index.setdefault(key, []).append(entry)
    return index


def _slide_names(entry: Entry) -> list[str]:
    return [re.split(r"[\\/]", path)[-1] for path in slide_paths(entry)]


def _safe(name: str) -> str:
    """A name that every system takes, with ``_`` for what it does not."""
    safe = _UNSAFE.sub(lambda match: "_" * len(match[0]), unicodedata.normalize("NFC", name))
    if _RESERVED.fullmatch(safe):
        safe = f"_{safe}"
    while len(safe.encode("utf-8", "replace")) > _MOST_BYTES:
        safe = safe[:-1]
    return safe or "_"


def _without_suffix(name: str) -> str:
    """``a.b`` of ``A.b.SVS``: only the known suffixes of images are removed."""
    normalised = normalise_name(name)
    shorter = IMAGE_SUFFIX.sub("", normalised)
    return shorter if shorter != normalised else _OTHER_SUFFIX.sub("", normalised)


#: The forms in which names are compared, the strictest first.
_FORMS: tuple[Callable[[str], str], ...] = (str, normalise_name, _without_suffix)
