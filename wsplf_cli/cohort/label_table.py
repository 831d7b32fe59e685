"""``wsplf labels``: which slide label each entry has and where it came from, and labels from a table."""

import csv
import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wsplf_cli.backends import Project
from wsplf_cli.cohort.labels import Words, classes_of, plain, words_of
from wsplf_cli.errors import ConfigError, ProjectError
from wsplf_cli.options import LabelsOptions, ProjectOptions
from wsplf_cli.runs.record import start_run
from wsplf_cli.schema import Entry, SlideLabel, Tracker

NAME_COLUMNS = ("slide", "image", "name")
LABEL_COLUMN = "label"
OTHER_COLUMNS = ("patient", "split")
IMAGE_SUFFIX = re.compile(r"\.(svs|ndpi|mrxs|scn|vms|vmu|bif|czi|dcm|(ome\.)?tiff?|png|jpe?g)$")


@dataclass(frozen=True, slots=True)
class LabelRow:
    """The resolved label of one entry: ``entry`` has it; ``word`` is as written, ``source`` says where.

    ``unknown`` is true when the word is neither positive nor negative, or word or tags say both.
    """

    entry: Entry
    word: str = ""
    source: str = ""
    unknown: bool = False

    @property
    def meaning(self) -> str:
        """positive, negative, unlabelled or unknown."""
        if self.unknown:
            return "unknown"
        if self.entry.label is None:
            return "unlabelled"
        return "positive" if self.entry.label.classes else "negative"

    def classes(self, order: Sequence[str]) -> list[str]:
        """The classes that the label names, in that order."""
        return [name for name in order if self.entry.label is not None and name in self.entry.label.classes]


@dataclass(frozen=True, slots=True)
class LabelReport:
    """What ``wsplf labels`` found: the rows, what prevents MIL, and what a CSV did."""

    rows: tuple[LabelRow, ...]
    problems: tuple[ProjectError, ...] = ()
    written: int = 0
    warnings: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """Entries by meaning."""
        found = Counter(row.meaning for row in self.rows)
        return {meaning: found[meaning] for meaning in ("positive", "negative", "unlabelled", "unknown")}

    @property
    def document(self) -> dict[str, Any]:
        """What ``wsplf labels --json`` prints."""
        entries = [
            {
                "name": row.entry.name,
                "label": row.meaning,
                "classes": row.classes(self.classes),
                "word": row.word,
                "source": row.source,
                "patient": row.entry.metadata.get("patient", ""),
                "split": row.entry.split or "",
            }
            for row in self.rows
        ]
        problems = [{"error": problem.message, "hint": problem.hint} for problem in self.problems]
        return {
            "entries": entries,
            "counts": self.counts,
            "classes": count_classes([row.entry for row in self.rows], self.classes),
            "written": self.written,
            "problems": problems,
            "warnings": self.warnings,
        }


def select(entries: Sequence[Entry], options: ProjectOptions) -> list[Entry]:
    """The entries whose name ``--images`` finds.

    Raises:
        ConfigError: there are entries, but the expression finds none.
    """
    if options.images is None:
        return list(entries)
    chosen = [entry for entry in entries if re.search(options.images, entry.name)]
    if entries and not chosen:
        names = ", ".join(entry.name for entry in entries[:3])
        raise ConfigError(f"--images {options.images!r} finds none of {len(entries)} entries", hint=f"such as: {names}")
    return chosen


def label_rows(entries: Sequence[Entry], options: ProjectOptions) -> list[LabelRow]:
    """One row per entry: entry metadata first, then tags that equal a positive or negative word."""
    words = words_of(options)
    return [_row(entry, options.label_key, words) for entry in entries]


def count_classes(entries: Sequence[Entry], classes: Sequence[str]) -> dict[str, int]:
    """How many entries are labelled with each class."""
    return {name: sum(one.label is not None and name in one.label.classes for one in entries) for name in classes}


def resolve_labels(project: Project, entries: Sequence[Entry], options: ProjectOptions) -> list[Entry]:
    """The entries with ``label`` (and ``split``, from the metadata) filled in; unlabelled ones keep None.

    Raises:
        ProjectError: a label is neither positive nor negative; lists such words and the options to use.
    """
    rows = label_rows(entries, options)
    _check_known(rows)
    return [row.entry for row in rows]


def unknown_words(rows: Sequence[LabelRow]) -> str:
    """The words that are neither positive nor negative, with their counts; empty when there are none."""
    words = Counter(row.word for row in rows if row.unknown)
    return ", ".join(f"{word!r} ({count})" for word, count in words.most_common(8))


def _check_known(rows: Sequence[LabelRow]) -> None:
    unknown = unknown_words(rows)
    if unknown:
        first = next(row.word for row in rows if row.unknown)
        raise ProjectError(
            f"slide label neither positive nor negative: {unknown}",
            hint=f"--positive {first!r} or --negative {first!r} (each may be repeated), or correct it in QuPath",
        )


def require_both(entries: Sequence[Entry], classes: Sequence[str] = ()) -> None:
    """Check that there is a positive and a negative slide to learn from, and of several classes for each of them.

    Raises:
        ProjectError: no labels, or one kind only; the hint is what to type next.
    """
    labelled = [entry.label for entry in entries if entry.label is not None]
    if not entries:
        raise ProjectError("the project has no entries", hint="add images to it in QuPath")
    if not labelled:
        keys = sorted({key for entry in entries for key in entry.metadata})
        tags = sorted({tag for entry in entries for tag in entry.tags})
        seen = (f"; metadata keys there are: {', '.join(keys[:10])}" if keys else "") + (
            f"; tags there are: {', '.join(tags[:10])}" if tags else ""
        )
        raise ProjectError(
            f"none of {len(entries)} entries has a slide label{seen}",
            hint="wsplf labels PROJECT --csv labels.csv, or --label-key KEY, --positive WORD, --negative WORD",
        )
    if len(classes) < 2:
        _require_kinds(sum(bool(label.classes) for label in labelled), len(labelled), word="WORD")
        return
    for name in classes:
        positive = sum(name in label.classes for label in labelled)
        _require_kinds(positive, len(labelled), word=f"WORD={name}", of=f"class {name}: ")


def _require_kinds(positive: int, labelled: int, *, word: str, of: str = "") -> None:
    negative = labelled - positive
    if positive and negative:
        return
    has, lacks = ("positive", "negative") if positive else ("negative", "positive")
    raise ProjectError(
        f"{of}only {has} slides: {labelled} {has}, 0 {lacks}; learning from slide labels needs both",
        hint=f"label {lacks} slides, or name their label with --{lacks} {word if lacks == 'positive' else 'WORD'}",
    )


def labels(project: Project, entries: Sequence[Entry], options: LabelsOptions, tracker: Tracker) -> LabelReport:
    """Resolve the labels; with ``options.csv``, write that table into the entries' metadata first.

    Raises:
        ConfigError: the table cannot be read or has no usable columns.
        ProjectError: the metadata cannot be written.
    """
    warnings: list[str] = []
    written = 0
    if options.csv is not None:
        values, warnings = match_table(read_table(options.csv), entries, label_key=options.project.label_key)
        entries = [replace(entry, metadata={**entry.metadata, **values.get(entry.id, {})}) for entry in entries]
        if not values:
            raise ConfigError(f"{options.csv}: no row belongs to an entry", hint=warnings[0] if warnings else "")
        if not options.dry_run:
            with start_run(project, "labels", options=options, seed=0) as run:
                project.set_metadata(values)
                written = len(values)
                run.finish([], details={"written": written})
        tracker.say(f"{options.csv}: {len(values)} of {len(entries)} entries matched, {written} written")
    rows = label_rows(entries, options.project)
    classes = classes_of(options.project)
    problems = []
    try:
        _check_known(rows)
        require_both([row.entry for row in rows], classes)
    except ProjectError as error:
        problems.append(error)
    return LabelReport(tuple(rows), tuple(problems), written=written, warnings=tuple(warnings), classes=classes)


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file, keys in lower case: UTF-8 with or without a BOM, separated by ``,`` ``;`` or tabs.

    Raises:
        ConfigError: unreadable, or without a column for the slide or for the label.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8", hint='save it as "CSV UTF-8"') from error
    header = text.partition("\n")[0]
    separator = max(",;\t", key=header.count)
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
    for number, cells in enumerate(table[1:], start=2):
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) > len(keys):
            raise ConfigError(f"{path}: row {number} has {len(cells)} cells, the header has {len(keys)}")
        rows.append(dict(zip(keys, (cell.strip() for cell in cells), strict=False)))
    return rows


def match_table(
    rows: Sequence[Mapping[str, str]], entries: Sequence[Entry], *, label_key: str
) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Entry metadata from table rows: entry id -> {key: value}, and a warning for all that did not match.

    A row belongs to the entries whose name or slide file name is the row's, else to those for which that is so
    without the suffixes of image files. Matching ignores case.

    Raises:
        ConfigError: two rows give one entry different labels.
    """
    values: dict[str, dict[str, str]] = {}
    warnings: list[str] = []
    column = next((key for key in NAME_COLUMNS if any(key in row for row in rows)), NAME_COLUMNS[0])
    for row in rows:
        name = row.get(column, "")
        found = _entries_named(name, entries)
        if not found:
            warnings.append(f"no entry is called {name!r}")
        elif len(found) > 1:
            ids = ", ".join(entry.id for entry in found)
            warnings.append(f"{len(found)} entries are called {name!r} (ids {ids}); all get its label")
        if not row.get(LABEL_COLUMN):
            warnings.append(f"{name!r} has no label in the table")
            continue
        new = {label_key: row[LABEL_COLUMN], **{key: row[key] for key in OTHER_COLUMNS if row.get(key)}}
        for entry in found:
            before = values.get(entry.id, new)
            if before != new:
                raise ConfigError(f"{entry.name} has two rows that differ: {before} and {new}")
            if entry.id in values:
                warnings.append(f"{name!r} stands twice in the table")
            values[entry.id] = new
    missing = [entry.name for entry in entries if entry.id not in values]
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        warnings.append(f"not in the table: {', '.join(missing[:5])}{more}")
    return values, warnings


def _entries_named(name: str, entries: Sequence[Entry]) -> list[Entry]:
    exact = [entry for entry in entries if name and plain(name) in _names(entry)]
    if exact or not name:
        return exact
    stem = _without_suffix(plain(name))
    return [entry for entry in entries if stem in {_without_suffix(known) for known in _names(entry)}]


def _names(entry: Entry) -> set[str]:
    return {plain(entry.name)} | ({plain(entry.slide_path.name)} if entry.slide_path else set())


def _without_suffix(name: str) -> str:
    """``a.b`` of ``a.b.svs``: only what is known to be a suffix of images is one."""
    return IMAGE_SUFFIX.sub("", name)


def _row(entry: Entry, label_key: str, words: Words) -> LabelRow:
    entry = replace(entry, split=entry.split or entry.metadata.get("split") or None)
    word, source = entry.metadata.get(label_key, "").strip(), f"metadata {label_key}"
    meant = words.read(word)
    if not word:
        tags = {tag: words.read(tag) for tag in entry.tags}
        word, source = ", ".join(tag for tag, said in tags.items() if said), "tag"
        meant = [one for said in tags.values() for one in said]
    if not word:
        return LabelRow(entry)
    if len({bool(one) for one in meant}) != 1:  # not known, or positive and negative at once
        return LabelRow(entry, word, source, unknown=True)
    return LabelRow(replace(entry, label=SlideLabel(frozenset[str]().union(*meant))), word, source)
