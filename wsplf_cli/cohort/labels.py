"""The classes of a project: which words of slide labels mean which, and what a label says of them.

``--positive WORD`` means the class of ``--path-class``, ``--positive WORD=CLASS`` one of its own.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import quote, unquote

from wsplf_cli.class_names import is_a
from wsplf_cli.errors import ConfigError, ProjectError
from wsplf_cli.options import ProjectOptions
from wsplf_cli.schema import Entry, Tracker

#: What parts the words of a label that names several.
_PARTS = re.compile(r"[;,+]")


@dataclass(frozen=True, slots=True)
class Words:
    """``positive``: the class of each word, ``negative``: the words of slides without any; as they were typed."""

    positive: Mapping[str, str]
    negative: tuple[str, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """The distinct classes, in the order given."""
        return tuple(dict.fromkeys(self.positive.values()))

    def read(self, value: str) -> list[frozenset[str]]:
        """The classes that each word of a value means, none of a negative one; an empty list where one is not known."""
        known = {plain(word): frozenset({name}) for word, name in self.positive.items()}
        known |= {plain(word): frozenset[str]() for word in self.negative}
        if plain(value) in known:
            return [known[plain(value)]]
        parts = [plain(part) for part in _PARTS.split(value) if part.strip()]
        return [known[part] for part in parts] if all(part in known for part in parts) else []


def words_of(options: ProjectOptions) -> Words:
    """The words of the labels.

    Raises:
        ConfigError: a word or a class is missing, a word has two meanings, or two classes cannot be told apart.
    """
    positive: dict[str, str] = {}
    for given in options.positive:
        word, sign, name = (part.strip() for part in given.partition("="))
        name = name if sign else options.path_class
        if not word or not name:
            raise ConfigError(
                f"--positive {given!r}: {'no word' if not word else 'no class'}",
                hint="--positive WORD, or --positive WORD=CLASS",
            )
        if any(plain(word) == plain(other) and name != positive[other] for other in positive):
            raise ConfigError(f"--positive {word!r} means two classes", hint="give each word one class")
        positive[word] = name
    if not positive:
        raise ConfigError("no word says that a slide is positive", hint="--positive WORD")
    both = {plain(word) for word in positive} & {plain(word) for word in options.negative}
    if both:
        raise ConfigError(f"{sorted(both)[0]!r} cannot be both a positive and a negative label")
    words = Words(positive, options.negative)
    _check_classes(words.classes, options)
    return words


def _check_classes(classes: Sequence[str], options: ProjectOptions) -> None:
    if options.path_class not in (ProjectOptions().path_class, *classes):
        raise ConfigError(
            f"--path-class {options.path_class} has no effect: every --positive names its own class",
            hint="leave it out, or give a --positive WORD without =CLASS",
        )
    for number, one in enumerate(classes):
        for other in classes[:number]:
            first, second = one.casefold(), other.casefold()
            if is_a(first, second) or is_a(second, first):
                raise ConfigError(
                    f"classes {other!r} and {one!r} are one to QuPath, or one is derived from the other",
                    hint="give them names of their own",
                )


def classes_of(options: ProjectOptions) -> tuple[str, ...]:
    """The classes of a project, in the order given.

    Raises:
        ConfigError: see ``words_of``.
    """
    return words_of(options).classes


def names_of(classes: Sequence[str]) -> tuple[str, ...]:
    """What to call each class before the user: nothing where there is only one."""
    return tuple(classes) if len(classes) > 1 else ("",) * len(classes)


def cam_file(entry_id: str, name: str) -> str:
    """The name of the picture of an entry's CAM; ``name`` is that of a class, empty for the only one."""
    return f"{entry_id}.{quote(name, safe='')}.png" if name else f"{entry_id}.png"


def cam_files(folder: Path, entry_id: str) -> dict[str, Path]:
    """The pictures of an entry's CAMs in a folder, by the name of the class, which is empty for the only one."""
    found = [path for path in (folder / f"{entry_id}.png", *sorted(folder.glob(f"{entry_id}.*.png"))) if path.is_file()]
    return {unquote(path.name[len(entry_id) + 1 : -len(".png")]): path for path in found}


def label_word(entry: Entry, options: ProjectOptions) -> str:
    """The slide label in words of the project, parted by ``;`` where it names several classes; empty without one."""
    if entry.label is None:
        return ""
    words = words_of(options)
    values = (entry.metadata.get(options.label_key, ""), *entry.tags)
    written = [part for value in values for part in (value, *(part.strip() for part in _PARTS.split(value)))]
    groups = [[word for word, name in words.positive.items() if name == one] for one in words.classes]
    held = [group for group, name in zip(groups, words.classes, strict=True) if name in entry.label.classes]
    return ";".join(
        next((word for word in written if word in group), group[0]) for group in held or [list(words.negative) or [""]]
    )


def plain(word: str) -> str:
    """A word as it is compared: without case and surrounding blanks."""
    return word.strip().casefold()


class Curves(Protocol):
    """Where curves are kept: a Run."""

    def curve(self, name: str, *, x: Sequence[float], y: Mapping[str, Sequence[float]]) -> None:
        """Keep a curve."""


@dataclass(frozen=True, slots=True)
class ClassTracker:
    """A Tracker and a keeper of curves that put the name of a class to what they are told; ``name`` may be empty."""

    tracker: Tracker
    curves: Curves
    name: str

    def start(self, name: str, total: int) -> None:
        """Begin a piece of work."""
        self.tracker.start(f"{name}, {self.name}" if self.name else name, total)

    def advance(self, steps: int = 1, message: str = "") -> None:
        """Go on."""
        self.tracker.advance(steps, message)

    def say(self, message: str) -> None:
        """Tell the user one line."""
        self.tracker.say(f"{self.name}: {message}" if self.name else message)

    def curve(self, name: str, *, x: Sequence[float], y: Mapping[str, Sequence[float]]) -> None:
        """Keep a curve."""
        self.curves.curve(f"{name}, {self.name}" if self.name else name, x=x, y=y)


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Put the name of a class, if it is not empty, before what is said of a project that cannot be learned from."""
    try:
        yield
    except ProjectError as error:
        if not name:
            raise
        raise ProjectError(f"class {name}: {error.message}", hint=error.hint) from error
