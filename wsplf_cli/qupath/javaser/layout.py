"""How the objects of one form lie in a stream: learned from one object, matched against the others.

A layout is a few regular expressions, with the parts of variable length (strings, arrays of primitives) between them.
The bytes of an expression, up to the next part of variable length, are a segment.
"""

import re
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any

from wsplf_cli.qupath.javaser import tags
from wsplf_cli.qupath.javaser.graph import CONTENT, SIZES, VALUE, Array, ClassDesc, Instance

MAX_TAGS = 1_000
"""A layout of more tags than this is not learned."""

_ITEM, _DONE = -2, -3


@dataclass(frozen=True, slots=True)
class FixedBytes:
    """Primitive bytes of a fixed size: fields, or block data (``block``)."""

    segment: int
    offset: int
    size: int
    block: bool = False


@dataclass(frozen=True, slots=True)
class VariableBytes:
    """A part of variable length: a string, or an array of primitives of class ``desc``."""

    index: int
    desc: ClassDesc | None = None


@dataclass(frozen=True, slots=True)
class Reference:
    """A reference to an object that was written before."""

    index: int


@dataclass(slots=True, eq=False)
class Layout:
    """How the objects of one form lie in the stream, and where each of them does."""

    index: int
    template: Instance
    """The object with FixedBytes, VariableBytes and Reference where its values differ."""
    parts: list[tuple[Callable[[bytes, int], Any], int, int]]
    """What to match, then the bytes of the length that follows, then the bytes of one element."""
    last: Callable[[bytes, int], Any]
    references: list[tuple[int, int, int]]
    """Segment, offset and number of handles given before, of each reference; Reference.index counts in these."""
    classes: list[tuple[int, int]]
    """Segment and offset of the references to classes."""
    count: int
    """How many handles an object takes."""
    inner: list[int]
    """For each handle in the object: the part that is the string, or -1."""
    offsets: "array[int]" = field(default_factory=lambda: array("q"))
    """For each object of the layout: where the length of each of its parts of variable length stands."""
    rows: "array[int]" = field(default_factory=lambda: array("q"))

    def match(self, stream: bytes, start: int) -> tuple[int, list[int]] | None:
        """Where an object that begins at a byte ends, and its parts; None if it is laid out differently."""
        offsets = []
        at = start
        for match, width, unit in self.parts:
            matched = match(stream, at)
            if matched is None:
                return None
            at = matched.end()
            offsets.append(at)
            at += width + int.from_bytes(stream[at : at + width], "big") * unit
        matched = self.last(stream, at)
        if matched is None or at > len(stream):
            return None
        return matched.end(), offsets


class LayoutLearner:
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
        self.references: list[tuple[int, int, int]] = []
        self.classes: list[tuple[int, int]] = []
        self.inner: list[int] = []

    def learn(self, start: int, end: int, index: int) -> Layout | None:
        """The layout of the object between two bytes, or None where it has none that others could share."""
        self.at = start
        values: list[Any] = []
        steps: Iterator[int] = repeat(VALUE, 1)
        stack: list[tuple[Iterator[int], list[Any]]] = []
        while (step := next(steps, _DONE)) != _DONE or stack:
            inner: tuple[Iterator[int], list[Any]] | None = None
            self.tags += 1
            if self.tags > MAX_TAGS:
                return None
            if step == _DONE:
                steps, values = stack.pop()
            elif step > 0:
                values.append(self.varying(step))
            elif step == CONTENT:
                inner = (repeat(_ITEM), [])
                values.append(inner[1])
            elif step == _ITEM and self.stream[self.at] == tags.END:
                self.constant(1)
                steps, values = stack.pop()
            else:
                learned = self.value(step, top=not stack)
                if learned is None:
                    return None
                values.append(learned[0])
                inner = learned[1]
            if inner is not None:
                stack.append((steps, values))
                steps, values = inner
        if self.at != end:
            return None
        return Layout(
            index, values[0], self.parts, self.pattern(), self.references, self.classes, len(self.inner), self.inner
        )

    def value(  # noqa: PLR0911 (one return for each kind of value)
        self, step: int, *, top: bool
    ) -> tuple[Any, tuple[Iterator[int], list[Any]] | None] | None:
        """One value and what of it is still to come; None where a layout cannot be learned."""
        tag = self.stream[self.at]
        if tag == tags.NULL:
            self.constant(1)
            return None, None
        if tag == tags.REFERENCE:
            self.references.append((len(self.parts), self.offset + 1, len(self.inner)))
            self.constant(1)
            self.varying(4)
            return Reference(len(self.references) - 1), None
        if tag == tags.STRING:
            self.constant(1)
            self.inner.append(len(self.parts))
            return self.variable(2, 1, None), None
        if tag == tags.BLOCK and step == _ITEM:
            self.constant(2)
            return self.varying(self.stream[self.at - 1], block=True), None
        desc = self.desc() if tag in {tags.OBJECT, tags.ARRAY} else None
        if desc is None:
            return None
        self.classes.append((len(self.parts), self.offset + 2))
        self.constant(6)
        self.inner.append(-1)
        if tag == tags.OBJECT:
            if not top and self.wanted(desc):
                return None
            node = Instance(desc)
            return node, (iter(desc.steps), node.values)
        unit = SIZES.get(desc.name[1:2])
        if unit is not None:
            return self.variable(4, unit, desc), None
        count = int.from_bytes(self.stream[self.at : self.at + 4], "big")
        self.constant(4)
        elements: list[Any] = []
        return Array(desc, values=elements), (repeat(VALUE, count), elements)

    def desc(self) -> ClassDesc | None:
        """The class that an object refers to, where it does."""
        stream, at = self.stream, self.at
        if stream[at + 1] != tags.REFERENCE:
            return None
        node = self.handles[int.from_bytes(stream[at + 2 : at + 6], "big") - tags.BASE_HANDLE]
        return node if isinstance(node, ClassDesc) else None

    def constant(self, size: int) -> None:
        """Bytes that are the same in every object of the layout."""
        self.pieces.append(re.escape(self.stream[self.at : self.at + size]))
        self.at += size
        self.offset += size

    def varying(self, size: int, *, block: bool = False) -> FixedBytes:
        """Bytes of a fixed size that may differ."""
        fixed = FixedBytes(len(self.parts), self.offset, size, block)
        self.pieces.append(b".{%d}" % size)
        self.at += size
        self.offset += size
        return fixed

    def variable(self, length_bytes: int, unit: int, desc: ClassDesc | None) -> VariableBytes:
        """A part of variable length, its length before it."""
        self.parts.append((self.pattern(), length_bytes, unit))
        self.at += length_bytes + int.from_bytes(self.stream[self.at : self.at + length_bytes], "big") * unit
        self.pieces = []
        self.offset = 0
        return VariableBytes(len(self.parts) - 1, desc)

    def pattern(self) -> Callable[[bytes, int], Any]:
        """What matches the bytes since the last part of variable length."""
        return re.compile(b"".join(self.pieces), re.DOTALL).match
