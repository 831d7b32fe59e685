"""How the objects of one form lie in a stream: learned from one of them, matched against the others."""

import re
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any

from wsplf_cli.qupath.javaser.graph import CONTENT, SIZES, VALUE, Array, ClassDesc, Instance
from wsplf_cli.qupath.javaser.read import ARRAY, BASE_HANDLE, BLOCK, END, NULL, OBJECT, REFERENCE, STRING

MAX_PIECES = 1_000
"""A layout of more tags than this is not learned."""

_ITEM, _DONE = -2, -3


@dataclass(frozen=True, slots=True)
class Place:
    """Primitive bytes of a fixed size: fields, or block data (``block``)."""

    segment: int
    offset: int
    size: int
    block: bool = False


@dataclass(frozen=True, slots=True)
class Spot:
    """A part of variable length: a string, or an array of primitives of class ``desc``."""

    index: int
    desc: ClassDesc | None = None


@dataclass(frozen=True, slots=True)
class Link:
    """A reference to an object that was written before."""

    index: int


@dataclass(slots=True, eq=False)
class Layout:
    """How the objects of one form lie in the stream, and where each of them does."""

    number: int
    tree: Instance
    """The object with Place, Spot and Link where its values differ."""
    parts: list[tuple[Callable[[bytes, int], Any], int, int]]
    """What to match, then the bytes of the length that follows and of one element."""
    last: Callable[[bytes, int], Any]
    links: list[tuple[int, int, int]]
    """Segment, offset and number of handles given before, of each reference; Link counts in these."""
    classes: list[tuple[int, int]]
    """Segment and offset of the references to classes."""
    count: int
    inner: list[int]
    """For each handle that the object gives: the spot that holds the string, or -1."""
    spots: "array[int]" = field(default_factory=lambda: array("q"))
    rows: "array[int]" = field(default_factory=lambda: array("q"))

    def match(self, stream: bytes, at: int) -> tuple[int, list[int]] | None:
        """Where an object that begins at a byte ends, and its variable parts; None if it is laid out differently."""
        spots = []
        for match, width, unit in self.parts:
            found = match(stream, at)
            if found is None:
                return None
            at = found.end()
            spots.append(at)
            at += width + int.from_bytes(stream[at : at + width], "big") * unit
        found = self.last(stream, at)
        if found is None or at > len(stream):
            return None
        return found.end(), spots


class Learner:
    """Goes through the bytes of one object that is known to be sound."""

    def __init__(self, stream: bytes, handles: list[Any], wanted: Callable[[ClassDesc], bool]) -> None:
        self.stream = stream
        self.handles = handles
        self.wanted = wanted
        self.at = 0
        self.pieces: list[bytes] = []
        self.offset = 0
        self.tags = 0
        self.parts: list[tuple[Callable[[bytes, int], Any], int, int]] = []
        self.links: list[tuple[int, int, int]] = []
        self.classes: list[tuple[int, int]] = []
        self.inner: list[int] = []

    def learn(self, start: int, end: int, number: int) -> Layout | None:
        """The layout of the object between two bytes, or None where it has none that others could share."""
        self.at = start
        values: list[Any] = []
        steps: Iterator[int] = repeat(VALUE, 1)
        stack: list[tuple[Iterator[int], list[Any]]] = []
        while (step := next(steps, _DONE)) != _DONE or stack:
            inner: tuple[Iterator[int], list[Any]] | None = None
            self.tags += 1
            if self.tags > MAX_PIECES:
                return None
            if step == _DONE:
                steps, values = stack.pop()
            elif step > 0:
                values.append(self.any(step))
            elif step == CONTENT:
                inner = (repeat(_ITEM), [])
                values.append(inner[1])
            elif step == _ITEM and self.stream[self.at] == END:
                self.same(1)
                steps, values = stack.pop()
            else:
                found = self.value(step, top=not stack)
                if found is None:
                    return None
                values.append(found[0])
                inner = found[1]
            if inner is not None:
                stack.append((steps, values))
                steps, values = inner
        if self.at != end:
            return None
        return Layout(
            number, values[0], self.parts, self.pattern(), self.links, self.classes, len(self.inner), self.inner
        )

    def value(  # noqa: PLR0911 (one return for each kind of value)
        self, step: int, *, top: bool
    ) -> tuple[Any, tuple[Iterator[int], list[Any]] | None] | None:
        """One value and what of it is still to come; None where a layout cannot be learned."""
        tag = self.stream[self.at]
        if tag == NULL:
            self.same(1)
            return None, None
        if tag == REFERENCE:
            self.links.append((len(self.parts), self.offset + 1, len(self.inner)))
            self.same(1)
            self.any(4)
            return Link(len(self.links) - 1), None
        if tag == STRING:
            self.same(1)
            self.inner.append(len(self.parts))
            return self.spot(2, 1, None), None
        if tag == BLOCK and step == _ITEM:
            self.same(2)
            return self.any(self.stream[self.at - 1], block=True), None
        desc = self.desc() if tag in {OBJECT, ARRAY} else None
        if desc is None:
            return None
        self.classes.append((len(self.parts), self.offset + 2))
        self.same(6)
        self.inner.append(-1)
        if tag == OBJECT:
            if not top and self.wanted(desc):
                return None
            node = Instance(desc)
            return node, (iter(desc.steps), node.values)
        unit = SIZES.get(desc.name[1:2])
        if unit is not None:
            return self.spot(4, unit, desc), None
        count = int.from_bytes(self.stream[self.at : self.at + 4], "big")
        self.same(4)
        held: list[Any] = []
        return Array(desc, values=held), (repeat(VALUE, count), held)

    def desc(self) -> ClassDesc | None:
        """The class that an object refers to, where it does."""
        stream, at = self.stream, self.at
        if stream[at + 1] != REFERENCE:
            return None
        node = self.handles[int.from_bytes(stream[at + 2 : at + 6], "big") - BASE_HANDLE]
        return node if isinstance(node, ClassDesc) else None

    def same(self, size: int) -> None:
        """Bytes that are the same in every object of the layout."""
        self.pieces.append(re.escape(self.stream[self.at : self.at + size]))
        self.at += size
        self.offset += size

    def any(self, size: int, *, block: bool = False) -> Place:
        """Bytes that may differ."""
        place = Place(len(self.parts), self.offset, size, block)
        self.pieces.append(b".{%d}" % size)
        self.at += size
        self.offset += size
        return place

    def spot(self, width: int, unit: int, desc: ClassDesc | None) -> Spot:
        """A part of variable length, its length before it."""
        self.parts.append((self.pattern(), width, unit))
        self.at += width + int.from_bytes(self.stream[self.at : self.at + width], "big") * unit
        self.pieces = []
        self.offset = 0
        return Spot(len(self.parts) - 1, desc)

    def pattern(self) -> Callable[[bytes, int], Any]:
        """What matches the bytes since the last part of variable length."""
        return re.compile(b"".join(self.pieces), re.DOTALL).match
