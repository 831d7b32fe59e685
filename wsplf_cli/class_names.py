"""The rules by which names of QuPath classes are compared and split.

Two names are one class to wsplf when they differ only in case, in blanks around a name or a colon, or in Unicode form,
although QuPath keeps them apart. The spelling in the project is never changed.
"""

from collections.abc import Iterable
from functools import lru_cache

from wsplf_cli.text import normalise_name


def is_a(name: str | None, path_class: str | None) -> bool:
    """Whether ``name`` is the class ``path_class`` or one derived from it ("tumor: Necrotic" is a "Tumor").

    A blank name is no class, and nothing is of a blank class.
    """
    parts, parts_of_base = class_key(name), class_key(path_class)
    return bool(parts_of_base) and parts[: len(parts_of_base)] == parts_of_base


@lru_cache(maxsize=4096)
def class_key(name: str | None) -> tuple[str, ...]:
    """The components of a class name in the form in which they are compared; none for a blank name."""
    return tuple(map(normalise_name, class_parts(name)))


def same_class(name: str | None, other: str | None) -> bool:
    """Whether two names mean one class; two blank names do, as both mean no class."""
    return class_key(name) == class_key(other)


def spelling_of(path_class: str, known: Iterable[str]) -> str:
    """How a class is spelled among the ``known`` names: as it is itself if it is there, else as the first of it is.

    A class of which no name is known keeps its own spelling.
    """
    spellings = [name for name in known if same_class(name, path_class)]
    return path_class if path_class in spellings or not spellings else spellings[0]


def class_name(text: str | None) -> str | None:
    """A full class name as QuPath writes it ("Tumor: Positive"), or None for a blank one."""
    return ": ".join(class_parts(text)) or None


def class_parts(text: str | None) -> list[str]:
    """The components of a class name, the most general first ("Tumor: Positive" -> ["Tumor", "Positive"])."""
    return [part.strip() for part in (text or "").split(":") if part.strip()]
