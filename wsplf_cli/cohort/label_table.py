"""A CSV table of slide labels: reading it, and matching its rows to the entries of a project."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from wsplf_cli.cohort.names import entries_named
from wsplf_cli.errors import ConfigError
from wsplf_cli.schema import Entry

NAME_COLUMNS = ("slide", "image", "name")
LABEL_COLUMN = "label"
OTHER_COLUMNS = ("patient", "split")
#: The first line by which Excel is told the separator, such as ``sep=;``; a tab is also written as ``\t``.
_SEPARATOR_LINE = re.compile(r'"?sep=(\\t|[^\r\n"])"?[,;\t ]*(\r\n|\r|\n|$)', re.IGNORECASE)


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file, keys in lower case: UTF-8 with or without a BOM, separated by ``,`` ``;`` or tabs.

    A first line ``sep=;`` names the separator, which may then be any character.

    Raises:
        ConfigError: the file cannot be read, or has no column for the slide or for the label.
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
    if not any(key in keys for key in NAME_COLUMNS) or LABEL_COLUMN not in keys:
        raise ConfigError(
            f"{path}: needs a column slide (or image, name) and a column label",
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
    rows: Sequence[Mapping[str, str]], entries: Sequence[Entry], *, label_key: str
) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Entry metadata from table rows: entry id -> {key: value}, and warnings for what did not match.

    A row belongs to all entries that ``names.entries_named`` finds for its name.

    Raises:
        ConfigError: two rows give one entry different labels.
    """
    metadata: dict[str, dict[str, str]] = {}
    warnings: list[str] = []
    column = next((key for key in NAME_COLUMNS if any(key in row for row in rows)), NAME_COLUMNS[0])
    for row in rows:
        name = row.get(column, "")
        matches = entries_named(name, entries)
        if not matches:
            warnings.append(f"no entry is called {name!r}")
        elif len(matches) > 1:
            ids = ", ".join(entry.id for entry in matches)
            warnings.append(f"{len(matches)} entries are called {name!r} (ids {ids}); all get its label")
        if not row.get(LABEL_COLUMN):
            warnings.append(f"{name!r} has no label in the table")
            continue
        values = {label_key: row[LABEL_COLUMN], **{key: row[key] for key in OTHER_COLUMNS if row.get(key)}}
        for entry in matches:
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
