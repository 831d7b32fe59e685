"""The graph of a Java serialization stream: its nodes, its strings, and the fields of its objects.

Primitive fields and arrays stay raw big-endian bytes, strings stay modified UTF-8, block data keep their cuts, so
that a graph can be written back to the same bytes. Nodes are compared by identity, as Java's handles are.

A node may also be a Deferred one: an object whose bytes are known, and whose graph is made only when it is asked for.
"""

import struct
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

from wsplf_cli.errors import ProjectError

MAX_SUPERCLASSES = 100
JAVA_BLOCK = 1024
"""Java cuts the block data that it writes after so many bytes."""

#: Java's type character -> struct format of one value.
PRIMITIVES = {"B": ">b", "C": ">H", "D": ">d", "F": ">f", "I": ">i", "J": ">q", "S": ">h", "Z": ">?"}
#: Java's type character -> bytes of one value.
SIZES = {kind: struct.calcsize(code) for kind, code in PRIMITIVES.items()}

# Flags of a class descriptor.
WRITE_METHOD, SERIALIZABLE, EXTERNALIZABLE, BLOCK_DATA = 1, 2, 4, 8

# The steps by which the values of an object are laid out: a positive number is that many primitive bytes.
VALUE, CONTENT = 0, -1


class JavaStreamError(ProjectError):
    """A stream that is cut short, damaged, or beyond the bounds."""


@dataclass(slots=True, eq=False)
class Text:
    """A java.lang.String: ``raw`` is its modified UTF-8; ``wide`` when it was written in the form for long strings."""

    raw: bytes
    wide: bool = False

    @property
    def value(self) -> str:
        """The string; surrogates that Java left unpaired stay unpaired."""
        return decode_text(self.raw)


@dataclass(slots=True, eq=False)
class Block:
    """Primitive data written by a class's own code; ``wide`` when written in the form for over 255 bytes."""

    raw: bytes
    wide: bool = False


@dataclass(slots=True, eq=False)
class Reset:
    """The stream forgets all handles here."""


@dataclass(slots=True, eq=False)
class Failure:
    """Java gave up writing here: everything begun is left unfinished, and ``values`` holds the exception."""

    values: list[Any] = field(default_factory=list)


@dataclass(slots=True, frozen=True)
class Field:
    """One field of a class: Java's type character, its name and, for objects and arrays, the type's signature."""

    kind: str
    name: str
    signature: Text | None = None


@dataclass(eq=False)
class ClassDesc:
    """A class descriptor. ``annotation`` is what annotateClass wrote (normally nothing); ``parent`` the superclass."""

    name: str
    uid: int
    flags: int
    fields: tuple[Field, ...] = ()
    parent: "ClassDesc | None" = None
    annotation: tuple[Any, ...] = ()
    interfaces: tuple[str, ...] | None = None
    """Names of the interfaces when this describes a dynamic proxy; such a descriptor has no name and no fields."""
    complete: bool = True
    """False while its own annotation or superclass is still being read."""

    @cached_property
    def lineage(self) -> tuple["ClassDesc", ...]:
        """The classes from the topmost superclass down to this one."""
        chain: list[ClassDesc] = []
        desc: ClassDesc | None = self
        while desc is not None:
            if len(chain) >= MAX_SUPERCLASSES:
                raise JavaStreamError(f"class {self.name} has over {MAX_SUPERCLASSES} superclasses")
            chain.append(desc)
            desc = desc.parent
        return tuple(reversed(chain))

    @cached_property
    def steps(self) -> tuple[int, ...]:
        """How the values of an object are laid out: bytes of primitives, a value, or content up to its end mark."""
        if self.flags & EXTERNALIZABLE:
            if not self.flags & BLOCK_DATA:
                raise JavaStreamError(f"class {self.name} is written in a form that only the class itself can read")
            return (CONTENT,)
        steps: list[int] = []
        for desc in self.lineage:
            run = 0
            for declared in desc.fields:
                if declared.kind in SIZES:
                    run += SIZES[declared.kind]
                    continue
                if run:
                    steps.append(run)
                    run = 0
                steps.append(VALUE)
            if run:
                steps.append(run)
            if desc.flags & WRITE_METHOD:
                steps.append(CONTENT)
        return tuple(steps)

    @cached_property
    def slots(self) -> dict[str, tuple[int, int, str]]:
        """Field name -> (index into the object's values, byte offset, type character)."""
        slots: dict[str, tuple[int, int, str]] = {}
        index, offset = 0, 0
        for desc in self.lineage:
            for declared in desc.fields:
                if declared.kind in SIZES:
                    slots[declared.name] = (index, offset, declared.kind)
                    offset += SIZES[declared.kind]
                    continue
                index, offset = index + (offset > 0), 0
                slots[declared.name] = (index, 0, declared.kind)
                index += 1
            index, offset = index + (offset > 0) + (desc.flags & WRITE_METHOD), 0
        return slots

    @cached_property
    def packing(self) -> tuple[tuple[struct.Struct | None, tuple[str, ...]], ...]:
        """For each of an object's values the fields in it, and how primitives are packed."""
        kinds: dict[int, list[tuple[str, str]]] = {}
        for desc in self.lineage:
            for declared in desc.fields:
                kinds.setdefault(self.slots[declared.name][0], []).append((declared.kind, declared.name))
        return tuple(
            (
                struct.Struct(">" + "".join(PRIMITIVES[kind][1] for kind, _ in run)) if run[0][0] in SIZES else None,
                tuple(name for _, name in run),
            )
            for run in kinds.values()
        )


@dataclass(slots=True, eq=False)
class Instance:
    """An object. ``values`` follow ``desc.steps``: bytes, a value, or a list of content."""

    desc: ClassDesc
    values: list[Any] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Array:
    """An array: ``raw`` big-endian bytes of primitives, or ``values`` when its elements are objects."""

    desc: ClassDesc
    raw: bytes = b""
    values: list[Any] | None = None
    missing: int = 0
    """Elements that were announced and not written, where Java gave up writing (see Failure)."""


@dataclass(slots=True, eq=False)
class Enum:
    """A constant of an enum class."""

    desc: ClassDesc
    constant: Text


@dataclass(slots=True, eq=False)
class ClassObject:
    """A java.lang.Class as a value."""

    desc: ClassDesc


class Deferred(Protocol):
    """An object whose graph is made only when it is asked for."""

    @property
    def group(self) -> Any:
        """What writes runs of such objects: ``group.write(writer, nodes)``."""

    @property
    def desc(self) -> ClassDesc:
        """The object's class."""

    @property
    def opened(self) -> "Instance | None":
        """The graph, if it was asked for; it is then what is written."""

    def open(self) -> "Instance":
        """The graph, which from now on stands for the object."""

    def peek(self) -> "Instance":
        """The graph to look at; changes to it are lost."""


class NodeTable(Protocol):
    """The nodes of a stream by handle (see table)."""

    handles: list[Any]

    def node(self, handle: int) -> Any:
        """The node with a handle."""


class PackTable(NodeTable, Protocol):
    """The same, where objects are left packed while the stream is read (see pack)."""

    learning: list[tuple[int, int]]

    def skip(self, start: int, values: list[Any]) -> int:
        """Pass over the packed objects from a byte on; returns the byte after them."""

    def begin(self, start: int, depth: int) -> None:
        """Note that an object is read as a graph."""

    def learn(self, end: int, depth: int) -> None:
        """Note that an object was read to its end."""


@dataclass(slots=True)
class Stream:
    """A whole stream: its top-level ``contents`` and its class descriptors by name (the first of each name)."""

    contents: list[Any]
    descs: dict[str, ClassDesc]
    failed: bool = False
    """Whether Java recorded in it that writing failed."""
    packs: Any = None
    """The table of the objects left packed (pack.Packs), or None."""


def blocks(raw: bytes) -> list[Block]:
    """Block data cut as Java does when a class writes that many bytes in a row."""
    return [Block(raw[at : at + JAVA_BLOCK]) for at in range(0, len(raw), JAVA_BLOCK)]


def decode_text(raw: bytes) -> str:
    """The string of modified UTF-8 bytes.

    Raises:
        JavaStreamError: the bytes are not modified UTF-8.
    """
    try:
        text = raw.replace(b"\xc0\x80", b"\0").decode("utf-8", "surrogatepass")
        if raw.isascii():
            return text
        # Java writes a character beyond 16 bits as two surrogates; UTF-16 puts the pair together
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
    except UnicodeDecodeError as error:
        raise JavaStreamError(f"a string is not Java's UTF-8: {error.reason}") from error


def encode_text(text: str) -> bytes:
    """Modified UTF-8 of a string."""
    if text.isascii() and "\0" not in text:
        return text.encode("ascii")
    units = text.encode("utf-16-be", "surrogatepass")
    halves = "".join(chr(unit) for (unit,) in struct.iter_unpack(">H", units))
    return halves.encode("utf-8", "surrogatepass").replace(b"\0", b"\xc0\x80")


def get(instance: Instance, name: str) -> Any:
    """The value of a field: a Python number or bool for primitives, else a node or None.

    Raises:
        JavaStreamError: the class has no such field.
    """
    try:
        index, offset, kind = instance.desc.slots[name]
        value = instance.values[index]
        return struct.unpack_from(PRIMITIVES[kind], value, offset)[0] if kind in PRIMITIVES else value
    except (KeyError, IndexError, struct.error, TypeError) as error:
        raise JavaStreamError(f"class {instance.desc.name} has no field {name!r}") from error


def content(node: Any) -> list[Any]:
    """What the code of an object's own class wrote: objects and blocks, in order.

    Raises:
        JavaStreamError: the object's class writes nothing of its own.
    """
    if isinstance(node, Instance) and node.values and isinstance(node.values[-1], list):
        items: list[Any] = node.values[-1]
        return items
    raise JavaStreamError("an object has no content of its own class where some is expected")


def build(desc: ClassDesc, /, **values: Any) -> Instance:
    """A new object of a class without own writing code, from the values of all its fields."""
    return Instance(
        desc,
        [
            values[names[0]] if packing is None else packing.pack(*[values[name] for name in names])
            for packing, names in desc.packing
        ],
    )
