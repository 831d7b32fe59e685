"""Writes the graph of a Java serialization stream, handles numbered in order of appearance."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsplf_cli.qupath.javaser.graph import (
    JAVA_BLOCK,
    SIZES,
    Array,
    Block,
    ClassDesc,
    ClassObject,
    Enum,
    Failure,
    Instance,
    JavaStreamError,
    Reset,
    Text,
    encode_text,
)
from wsplf_cli.qupath.javaser.tags import (
    ARRAY,
    BASE_HANDLE,
    BLOCK,
    CLASS,
    CLASS_DESC,
    END,
    ENUM,
    EXCEPTION,
    LONG_BLOCK,
    LONG_STRING,
    MAGIC,
    MAX_CLASS_DEPTH,
    NULL,
    OBJECT,
    PROXY_DESC,
    RESET,
    STRING,
)

_FORGET = object()
_NOTHING = object()


class Writer:
    """One pass over a graph. ``next`` is the next handle, ``handles`` those given, by the identity of the node."""

    def __init__(self) -> None:
        self.out = bytearray(MAGIC)
        self.handles: dict[int, int] = {}
        self.next = 0
        self.class_depth = 0
        self._packs: dict[int, tuple[Any, NDArray[np.int64]]] = {}

    def renumbering(self, packs: Any) -> NDArray[np.int64]:
        """New handle by old handle of the objects of a packed stream, -1 where there is none yet."""
        if id(packs) not in self._packs:
            self._packs[id(packs)] = packs, np.full(len(packs.handles), -1, np.int64)
        return self._packs[id(packs)][1]

    def handle(self, node: Any) -> int | None:
        """The handle that a node has in the stream so far."""
        handle = self.handles.get(id(node))
        if handle is None:
            # the node may have been opened after its bytes were copied
            for packs, new_of_old in self._packs.values():
                old = packs.origins.get(id(node))
                if old is not None and new_of_old[old] >= 0:
                    handle = self.handles[id(node)] = int(new_of_old[old])
        return handle

    def forget(self) -> None:
        """Forget all handles."""
        self.handles.clear()
        self._packs.clear()
        self.next = 0

    def refer(self, node: Any) -> bool:
        """Write a reference if the node is already in the stream; returns whether it is."""
        handle = self.handles.get(id(node))
        if handle is None:
            handle = self.handle(node) if self._packs else None
            if handle is None:
                return False
        self.out += b"\x71" + (handle + BASE_HANDLE).to_bytes(4, "big")
        return True

    def add(self, node: Any) -> None:
        """Give a node the next handle."""
        self.handles[id(node)] = self.next
        self.next += 1

    def name(self, text: str) -> None:
        """Write a name: two bytes of length, then its text."""
        raw = encode_text(text)
        self.out += len(raw).to_bytes(2, "big") + raw

    def text(self, node: Text) -> None:
        """Write a string."""
        if self.refer(node):
            return
        self.add(node)
        wide = node.wide or len(node.raw) > 0xFFFF
        self.out.append(LONG_STRING if wide else STRING)
        self.out += len(node.raw).to_bytes(8 if wide else 2, "big") + node.raw

    def block(self, node: Block) -> None:
        """Write a block as it was read; a longer one of our own in pieces, as Java cuts it."""
        if node.wide:
            self.out.append(LONG_BLOCK)
            self.out += len(node.raw).to_bytes(4, "big") + node.raw
            return
        for at in range(0, len(node.raw) or 1, JAVA_BLOCK if len(node.raw) > 0xFF else 0xFF):
            part = node.raw[at : at + JAVA_BLOCK]
            wide = len(part) > 0xFF
            self.out.append(LONG_BLOCK if wide else BLOCK)
            self.out += len(part).to_bytes(4 if wide else 1, "big") + part

    def desc(self, node: ClassDesc | None) -> None:
        """Write a class and its superclasses."""
        while node is not None:
            if self.refer(node):
                return
            if node.interfaces is not None:
                self.out.append(PROXY_DESC)
                self.add(node)
                self.out += len(node.interfaces).to_bytes(4, "big")
                for name in node.interfaces:
                    self.name(name)
            else:
                self.out.append(CLASS_DESC)
                self.name(node.name)
                self.out += node.uid.to_bytes(8, "big", signed=True)
                self.add(node)
                self.out.append(node.flags)
                self.out += len(node.fields).to_bytes(2, "big")
                for field in node.fields:
                    self.out.append(ord(field.kind))
                    self.name(field.name)
                    if field.signature is not None:
                        self.text(field.signature)
            if node.annotation:
                self.annotation(node.annotation)
            self.out.append(END)
            node = node.parent
        self.out.append(NULL)

    def annotation(self, values: tuple[Any, ...]) -> None:
        """Write what annotateClass wrote."""
        if self.class_depth >= MAX_CLASS_DEPTH:
            raise JavaStreamError(f"classes lie over {MAX_CLASS_DEPTH} deep in the annotations of classes")
        self.class_depth += 1
        self.put(list(values))
        self.class_depth -= 1

    def put(self, contents: list[Any]) -> None:
        """Write values and all that is inside them, with a stack of its own."""
        values: Iterator[Any] = iter(contents)
        closing = b""
        stack: list[tuple[Iterator[Any], bytes]] = []
        upcoming: Any = _NOTHING
        while True:
            value = next(values, _NOTHING) if upcoming is _NOTHING else upcoming
            upcoming = _NOTHING
            if value is _NOTHING:
                self.out += closing
                if not stack:
                    return
                values, closing = stack.pop()
            elif value is None:
                self.out.append(NULL)
            elif isinstance(value, bytes):
                self.out += value
            elif isinstance(value, Text):
                self.text(value)
            elif isinstance(value, Block):
                self.block(value)
            elif hasattr(value, "peek"):
                upcoming = self.run(value, values)
            elif isinstance(value, Failure):
                # what was begun stays unfinished; then it goes on at the top
                values = stack[0][0] if stack else values
                closing = b""
                stack = [(values, closing)]
                self.out.append(EXCEPTION)
                self.forget()
                values = iter([*value.values, _FORGET])
            elif value is _FORGET:
                self.forget()
            elif (inner := self.begin(value)) is not None:
                stack.append((values, closing))
                values, closing = inner

    def run(self, first: Any, rest: Iterator[Any]) -> Any:
        """Write a deferred object and those of its group after it; returns the value that comes after them."""
        run: list[Any] = []
        value, group = first, first.group
        while hasattr(value, "peek") and value.group is group and value.opened is None:
            run.append(value)
            value = next(rest, _NOTHING)
        if run:
            group.write(self, run)
            return value
        return first.opened

    def begin(self, value: Any) -> tuple[Iterator[Any], bytes] | None:
        """Write the start of a value; what of it is still to be written, and the bytes that close it."""
        if isinstance(value, list):
            return iter(value), bytes([END])
        if isinstance(value, ClassDesc):
            self.desc(value)
        elif isinstance(value, Reset):
            self.out.append(RESET)
            self.forget()
        elif self.refer(value):
            return None
        elif isinstance(value, Instance):
            self.out.append(OBJECT)
            self.desc(value.desc)
            self.add(value)
            return iter(value.values), b""
        elif isinstance(value, Array):
            return self.array(value)
        else:
            self.rare(value)
        return None

    def array(self, node: Array) -> tuple[Iterator[Any], bytes] | None:
        """Write an array, or its start where it holds objects."""
        self.out.append(ARRAY)
        self.desc(node.desc)
        self.add(node)
        if node.values is not None:
            self.out += (len(node.values) + node.missing).to_bytes(4, "big")
            return iter(node.values), b""
        self.out += (len(node.raw) // SIZES[node.desc.name[1]]).to_bytes(4, "big") + node.raw
        return None

    def rare(self, node: Enum | ClassObject) -> None:
        """Write an enum constant or a class as a value."""
        self.out.append(ENUM if isinstance(node, Enum) else CLASS)
        self.desc(node.desc)
        self.add(node)
        if isinstance(node, Enum):
            self.text(node.constant)
