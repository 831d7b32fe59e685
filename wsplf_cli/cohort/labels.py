"""Slide labels: the words that people write, the classes that they mean, and the label of each entry.

``--positive WORD`` means the class of ``--path-class``, ``--positive WORD=CLASS`` a class of its own. A label is read
from the entry's metadata, else from its tags.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from wsplf_cli.class_names import class_key, is_a
from wsplf_cli.errors import ConfigError, ProjectError
from wsplf_cli.options import ProjectOptions
from wsplf_cli.schema import Entry, SlideLabel
from wsplf_cli.text import normalise_name

#: Separates the words of a label that names several classes.
_SEPARATORS = re.compile(r"[;,+]")


@dataclass(frozen=True, slots=True)
class LabelWords:
    """The words of slide labels as they were typed: ``positive`` with the class of each, and ``negative``."""

    positive: Mapping[str, str]
    negative: tuple[str, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """The distinct classes, in the order given."""
        return tuple(dict.fromkeys(self.positive.values()))

    def read(self, value: str) -> list[frozenset[str]]:
        """The classes that each word of a value means; an empty list where a word is not known.

        A negative word means an empty set. A value that is a known word as a whole is not split.
        """
        meanings = {normalise_name(word): frozenset({path_class}) for word, path_class in self.positive.items()}
        meanings |= {normalise_name(word): frozenset[str]() for word in self.negative}
        if normalise_name(value) in meanings:
            return [meanings[normalise_name(value)]]
        words = [normalise_name(word) for word in _SEPARATORS.split(value) if word.strip()]
        return [meanings[word] for word in words] if all(word in meanings for word in words) else []


@dataclass(frozen=True, slots=True)
class LabelRow:
    """The resolved label of one entry: ``entry`` holds it, ``word`` is as written, ``source`` says where.

    ``unknown`` is true when the word is neither positive nor negative, or when word or tags say both.
    """

    entry: Entry
    word: str = ""
    source: str = ""
    unknown: bool = False

    @property
    def meaning(self) -> str:
        """One of positive, negative, unlabelled and unknown."""
        if self.unknown:
            return "unknown"
        if self.entry.label is None:
            return "unlabelled"
        return "positive" if self.entry.label.classes else "negative"

    def classes(self, order: Sequence[str]) -> list[str]:
        """The classes that the label names, in the given order."""
        return [name for name in order if self.entry.label is not None and self.entry.label.holds(name)]


def label_words(options: ProjectOptions) -> LabelWords:
    """The words of the labels.

    Raises:
        ConfigError: a word or a class is missing, a word has two meanings, or two classes are one (``class_names``).
    """
    positive: dict[str, str] = {}
    for typed in options.positive:
        word, sign, path_class = (part.strip() for part in typed.partition("="))
        path_class = path_class if sign else options.path_class
        if not word or not path_class:
            raise ConfigError(
                f"--positive {typed!r}: {'no word' if not word else 'no class'}",
                hint="--positive WORD, or --positive WORD=CLASS",
            )
        if any(normalise_name(word) == normalise_name(other) and path_class != positive[other] for other in positive):
            raise ConfigError(f"--positive {word!r} means two classes", hint="give each word one class")
        positive[word] = path_class
    if not positive:
        raise ConfigError("no word says that a slide is positive", hint="--positive WORD")
    both = {normalise_name(word) for word in positive} & {normalise_name(word) for word in options.negative}
    if both:
        raise ConfigError(f"{sorted(both)[0]!r} cannot be both a positive and a negative label")
    words = LabelWords(positive, options.negative)
    _check_classes(words.classes, options)
    return words


def _check_classes(classes: Sequence[str], options: ProjectOptions) -> None:
    if class_key(options.path_class) not in map(class_key, (ProjectOptions().path_class, *classes)):
        raise ConfigError(
            f"--path-class {options.path_class} has no effect: every --positive names its own class",
            hint="leave it out, or give a --positive WORD without =CLASS",
        )
    for index, path_class in enumerate(classes):
        for other in classes[:index]:
            if is_a(path_class, other) or is_a(other, path_class):
                raise ConfigError(
                    f"the classes {other!r} and {path_class!r} are one to wsplf, or one is derived from the other",
                    hint="give each class a name of its own",
                )


def classes_of(options: ProjectOptions) -> tuple[str, ...]:
    """The classes of a project, in the order given.

    Raises:
        ConfigError: see ``label_words``.
    """
    return label_words(options).classes


def display_names(classes: Sequence[str]) -> tuple[str, ...]:
    """The name of each class for messages and files; empty where there is only one class."""
    return tuple(classes) if len(classes) > 1 else ("",) * len(classes)


def label_word(entry: Entry, options: ProjectOptions) -> str:
    """The slide label in words of the project, joined by ``;`` for several classes; empty for an unlabelled slide."""
    if entry.label is None:
        return ""
    words = label_words(options)
    values = (entry.metadata.get(options.label_key, ""), *entry.tags)
    written = [part for value in values for part in (value, *(part.strip() for part in _SEPARATORS.split(value)))]
    synonyms = [
        [word for word, path_class in words.positive.items() if path_class == name]
        for name in words.classes
        if entry.label.holds(name)
    ] or [list(words.negative) or [""]]
    return ";".join(next((word for word in written if word in group), group[0]) for group in synonyms)


def label_rows(entries: Sequence[Entry], options: ProjectOptions) -> list[LabelRow]:
    """One row per entry, from its metadata, else from those of its tags that are positive or negative words."""
    words = label_words(options)
    return [_label_row(entry, options.label_key, words) for entry in entries]


def _label_row(entry: Entry, label_key: str, words: LabelWords) -> LabelRow:
    entry = replace(entry, split=entry.split or entry.metadata.get("split") or None)
    word, source = entry.metadata.get(label_key, "").strip(), f"metadata {label_key}"
    meanings = words.read(word)
    if not word:
        tags = {tag: words.read(tag) for tag in entry.tags}
        word, source = ", ".join(tag for tag, classes in tags.items() if classes), "tag"
        meanings = [meaning for classes in tags.values() for meaning in classes]
    if not word:
        return LabelRow(entry)
    if len({bool(meaning) for meaning in meanings}) != 1:  # not known, or positive and negative at once
        return LabelRow(entry, word, source, unknown=True)
    return LabelRow(replace(entry, label=SlideLabel(frozenset[str]().union(*meanings))), word, source)


def resolve_labels(entries: Sequence[Entry], options: ProjectOptions) -> list[Entry]:
    """The entries with ``label`` (and ``split``, from the metadata) filled in; unlabelled ones keep None.

    Raises:
        ProjectError: a label is neither positive nor negative; the message lists such words.
    """
    rows = label_rows(entries, options)
    require_known(rows)
    return [row.entry for row in rows]


def unknown_words(rows: Sequence[LabelRow]) -> str:
    """The words that are neither positive nor negative, with their counts; empty when there are none."""
    words = Counter(row.word for row in rows if row.unknown)
    return ", ".join(f"{word!r} ({count})" for word, count in words.most_common(8))


def require_known(rows: Sequence[LabelRow]) -> None:
    """Check that each label is positive or negative.

    Raises:
        ProjectError: a label is neither; the message lists such words, the hint the options to use.
    """
    unknown = unknown_words(rows)
    if unknown:
        word = next(row.word for row in rows if row.unknown)
        raise ProjectError(
            f"slide label neither positive nor negative: {unknown}",
            hint=f"--positive {word!r} or --negative {word!r} (each may be repeated), or correct it in QuPath",
        )


def count_classes(entries: Sequence[Entry], classes: Sequence[str]) -> dict[str, int]:
    """How many entries are labelled with each class."""
    labels = [entry.label for entry in entries if entry.label is not None]
    return {name: sum(label.holds(name) for label in labels) for name in classes}


def require_both(entries: Sequence[Entry], classes: Sequence[str] = ()) -> None:
    """Check that there are a positive and a negative slide to learn from; of several classes, for each of them.

    Raises:
        ProjectError: there are no labels, or only one kind; the hint is what to type next.
    """
    labels = [entry.label for entry in entries if entry.label is not None]
    if not entries:
        raise ProjectError("the project has no entries", hint="add images to it in QuPath")
    if not labels:
        keys = sorted({key for entry in entries for key in entry.metadata})
        tags = sorted({tag for entry in entries for tag in entry.tags})
        known_keys = f"; the metadata has the keys: {', '.join(keys[:10])}" if keys else ""
        known_tags = f"; the tags are: {', '.join(tags[:10])}" if tags else ""
        raise ProjectError(
            f"none of {len(entries)} entries has a slide label{known_keys}{known_tags}",
            hint="wsplf labels PROJECT --csv labels.csv, or --label-key KEY, --positive WORD, --negative WORD",
        )
    if len(classes) < 2:
        _require_kinds(sum(bool(label.classes) for label in labels), len(labels), word="WORD")
        return
    for name in classes:
        positive = sum(label.holds(name) for label in labels)
        _require_kinds(positive, len(labels), word=f"WORD={name}", prefix=f"class {name}: ")


def _require_kinds(positive: int, labelled: int, *, word: str, prefix: str = "") -> None:
    negative = labelled - positive
    if positive and negative:
        return
    has, lacks = ("positive", "negative") if positive else ("negative", "positive")
    raise ProjectError(
        f"{prefix}only {has} slides: {labelled} {has}, 0 {lacks}; learning from slide labels needs both",
        hint=f"label {lacks} slides, or name their label with --{lacks} {word if lacks == 'positive' else 'WORD'}",
    )
