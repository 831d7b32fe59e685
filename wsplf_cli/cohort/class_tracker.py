"""Progress, curves and errors of work on one class, which name the class where a project has several."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from wsplf_cli.errors import ProjectError
from wsplf_cli.schema import Tracker


class Curves(Protocol):
    """What keeps training curves: a Run."""

    def curve(self, name: str, *, x: Sequence[float], y: Mapping[str, Sequence[float]]) -> None:
        """Keep the series ``y`` over ``x`` under a name."""


@dataclass(frozen=True, slots=True)
class ClassTracker:
    """A Tracker and a keeper of curves that add the name of a class; an empty name adds nothing."""

    tracker: Tracker
    curves: Curves
    name: str

    def start(self, name: str, total: int) -> None:
        """Begin a piece of work of ``total`` steps."""
        self.tracker.start(f"{name}, {self.name}" if self.name else name, total)

    def advance(self, steps: int = 1, message: str = "") -> None:
        """Go on by ``steps``."""
        self.tracker.advance(steps, message)

    def say(self, message: str) -> None:
        """Tell the user one line."""
        self.tracker.say(f"{self.name}: {message}" if self.name else message)

    def curve(self, name: str, *, x: Sequence[float], y: Mapping[str, Sequence[float]]) -> None:
        """Keep the series ``y`` over ``x`` under a name."""
        self.curves.curve(f"{name}, {self.name}" if self.name else name, x=x, y=y)


@contextmanager
def class_in_errors(name: str) -> Iterator[None]:
    """Put "class NAME: " before the message of a ProjectError raised in the block; an empty name adds nothing."""
    try:
        yield
    except ProjectError as error:
        if not name:
            raise
        raise ProjectError(f"class {name}: {error.message}", hint=error.hint) from error
