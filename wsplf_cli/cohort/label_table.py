"""A CSV table of slide labels: reading it, and matching its rows to the entries of a project."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from wsplf_cli.cohort.names import EntryNames, slide_paths
from wsplf_cli.errors import ConfigError
from wsplf_cli.schema import Entry

NAME_COLUMNS = ("slide", "image", "name")
#: The id of the entry, for slides that have one name.
ID_COLUMN = "id"
LABEL_COLUMN = "label"
OTHER_COLUMNS = ("patient", "split")
#: The first line by which Excel is told the separator, such as ``sep=;``; a tab is also written as ``\t``.
_SEPARATOR_LINE = re.compile(r'"?sep=(\\t|[^\r\n"])"?[,;\t ]*(\r\n|\r|\n|$)', re.IGNORECASE)


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file, keys in lower case: UTF-8 with or without a BOM, separated by ``,`` ``;`` or tabs.

    A first line ``sep=;`` names the separator, which may then be any character.

    Raises:
        ConfigError: the file cannot be read, or has no column for the slide or its id, or for the label.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8", hint='save it as "CSV UTF-8"') from error
    separator_line = _SEPARATOR_LINE.match(text)
    if separator_line is None:
        header = text.partition("\n")[0]
        separator = max(",;\t", key=header.count)
    else:
        separator = separator_line[1].replace("\\t", "\t")
        text = text[separator_line.end() :]
    try:
        table = list(csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True))
    except csv.Error as error:
        raise ConfigError(f"{path} is not a CSV table: {error}") from error
    keys = [key.strip().lower() for key in table[0]] if table else []
    if not any(key in keys for key in (*NAME_COLUMNS, ID_COLUMN)) or LABEL_COLUMN not in keys:
        raise ConfigError(
            f"{path}: needs a column slide (or image, name, id) and a column label",
            hint="columns found: " + (", ".join(keys) or "none"),
        )
    rows = []
    for line, cells in enumerate(table[1:], start=2 + (separator_line is not None)):
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) > len(keys):
            raise ConfigError(f"{path}: row {line} has {len(cells)} cells, the header has {len(keys)}")
        rows.append(dict(zip(keys, (cell.strip() for cell in cells), strict=False)))
    return rows


def match_table(
    rows: Sequence[Mapping[str, str]],
    entries: Sequence[Entry],
    *,
    label_key: str,
    all_entries: Sequence[Entry] | None = None,
) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Entry metadata from table rows: entry id -> {key: value}, and warnings for what did not match.

    A row belongs to all entries of the slide that it names (``EntryNames.of_slide``), also as ``FOLDER/NAME``. Where
    slides have one name, the column ``id`` may say which entry is meant.

    Args:
        rows: The rows, see ``read_table``.
        entries: The entries to label.
        label_key: The metadata key of the label.
        all_entries: The entries among which names are looked up: all of the project. By default ``entries``.

    Raises:
        ConfigError: two rows give one entry different labels, or a row may mean several slides.
    """
    metadata: dict[str, dict[str, str]] = {}
    warnings: list[str] = []
    rows_of_entries = _RowsOfEntries(rows, entries if all_entries is None else all_entries)
    chosen = {entry.id for entry in entries}
    for row in rows:
        name = rows_of_entries.title(row)
        matches = rows_of_entries.entries(row)
        if not matches:
            warnings.append(f"no entry is called {name!r}")
        elif len(matches) > 1:
            ids = ", ".join(entry.id for entry in matches)
            warnings.append(f"{len(matches)} entries show the slide {name!r} (ids {ids}); all get its label")
        if not row.get(LABEL_COLUMN):
            warnings.append(f"{name!r} has no label in the table")
            continue
        values = {label_key: row[LABEL_COLUMN], **{key: row[key] for key in OTHER_COLUMNS if row.get(key)}}
        for entry in (entry for entry in matches if entry.id in chosen):
            before = metadata.get(entry.id, values)
            if before != values:
                raise ConfigError(f"{entry.name} has two rows that differ: {before} and {values}")
            if entry.id in metadata:
                warnings.append(f"{name!r} is in the table twice")
            metadata[entry.id] = values
    missing = [entry.name for entry in entries if entry.id not in metadata]
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        warnings.append(f"not in the table: {', '.join(missing[:5])}{more}")
    return metadata, warnings


class _RowsOfEntries:
    """Finds the entries of a row, by the name of its slide and the id of its entry."""

    def __init__(self, rows: Sequence[Mapping[str, str]], entries: Sequence[Entry]) -> None:
        self._names = EntryNames(entries)
        self._by_id = {entry.id: entry for entry in entries}
        self._column = next((key for key in NAME_COLUMNS if any(key in row for row in rows)), "")
        # a column of this name may count the rows: it holds the ids of entries if it agrees with all names
        self._has_ids = not self._column or all(
            row.get(ID_COLUMN) in {entry.id for entry in matches}
            for row in rows
            if row.get(ID_COLUMN) and (matches := self._names.of_slide(row.get(self._column, "")))
        )

    def title(self, row: Mapping[str, str]) -> str:
        """What a row calls its slide."""
        return row.get(self._column, "") or row.get(ID_COLUMN, "")

    def entries(self, row: Mapping[str, str]) -> list[Entry]:
        """The entries of a row.

        Raises:
            ConfigError: they show different slides.
        """
        identifier = row.get(ID_COLUMN, "") if self._has_ids else ""
        name = row.get(self._column, "") if self._column else ""
        if not name:
            return [self._by_id[identifier]] if identifier in self._by_id else []
        matches = self._names.of_slide(name)
        if identifier:
            return [entry for entry in matches if entry.id == identifier]
        if len({_shown_slide(entry) for entry in matches}) > 1:
            raise _unclear(name, matches)
        return matches


def _shown_slide(entry: Entry) -> str:
    """What tells the slide of an entry from others of its name: its path, or the entry's id where it is not known."""
    return next(iter(slide_paths(entry)), entry.id)


def _unclear(name: str, entries: Sequence[Entry]) -> ConfigError:
    """The error for a row that may mean several slides."""
    shown = ", ".join(f"{_shown_slide(entry)} (id {entry.id})" for entry in entries[:5])
    return ConfigError(
        f"{name!r} could be any of {len(entries)} slides: {shown}",
        hint="write the folder in front of the name (FOLDER/NAME), or add a column id with the ids of the entries",
    )
