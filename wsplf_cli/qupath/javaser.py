"""Java's object serialization stream as a graph, and back; nothing of the stream is ever executed.

``dumps(loads(stream)) == stream`` for any stream of a plain ObjectOutputStream. A node that appears twice in the graph
is written once and referenced after that, as Java does; handles are given anew.

Reading and writing use a stack of their own, not Python's, and are bounded in depth and count. This module knows
nothing of QuPath.
"""

from collections.abc import Iterator
from itertools import repeat
from typing import Any

from wsplf_cli.qupath.javagraph import (
    CONTENT,
    MAX_SUPERCLASSES,
    SERIALIZABLE,
    SIZES,
    VALUE,
    Array,
    Block,
    ClassDesc,
    ClassObject,
    Enum,
    Field,
    Instance,
    JavaStreamError,
    Reset,
    Stream,
    Text,
    decode_text,
    encode_text,
)

MAX_DEPTH = 5_000
MAX_HANDLES = 50_000_000

_MAGIC = b"\xac\xed\x00\x05"
_BASE_HANDLE = 0x7E0000
_NULL, _REFERENCE, _CLASS_DESC, _OBJECT, _STRING, _ARRAY, _CLASS, _BLOCK, _END, _RESET = range(0x70, 0x7A)
_LONG_BLOCK, _EXCEPTION, _LONG_STRING, _PROXY_DESC, _ENUM = range(0x7A, 0x7F)

# Beside VALUE and CONTENT: one item of content, where block data and an end mark may come too; and nothing left.
_ITEM, _DONE = -2, -3


class _Reader:
    """One pass over the bytes."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0
        self.handles: list[Any] = []
        self.descs: dict[str, ClassDesc] = {}

    def take(self, size: int) -> bytes:
        end = self.at + size
        if end > len(self.data):
            raise JavaStreamError(f"the stream ends at byte {len(self.data)}, in the middle of a value")
        part = self.data[self.at : end]
        self.at = end
        return part

    def number(self, size: int) -> int:
        end = self.at + size
        if end > len(self.data):
            self.take(size)
        number = int.from_bytes(self.data[self.at : end], "big")
        self.at = end
        return number

    def name(self) -> str:
        return decode_text(self.take(self.number(2)))

    def add(self, node: Any) -> Any:
        if len(self.handles) >= MAX_HANDLES:
            raise JavaStreamError(f"the stream holds over {MAX_HANDLES} objects")
        self.handles.append(node)
        return node

    def reference(self) -> Any:
        handle = self.number(4) - _BASE_HANDLE
        if not 0 <= handle < len(self.handles):
            raise JavaStreamError(f"byte {self.at - 4}: a reference to an object that is not there")
        return self.handles[handle]

    def text(self) -> Text:
        """A string where only a string can be."""
        tag = self.number(1)
        if tag in {_STRING, _LONG_STRING}:
            wide = tag == _LONG_STRING
            node: Any = self.add(Text(self.take(self.number(8 if wide else 2)), wide))
        else:
            node = self.reference() if tag == _REFERENCE else None
        if not isinstance(node, Text):
            raise JavaStreamError(f"byte {self.at}: a string was expected")
        return node

    def desc(self) -> ClassDesc | None:
        """A class descriptor and its superclasses, or None."""
        first: ClassDesc | None = None
        below: ClassDesc | None = None
        for _ in range(MAX_SUPERCLASSES + 1):
            tag = self.number(1)
            known = tag in {_NULL, _REFERENCE}
            if tag == _NULL:
                desc = None
            elif tag == _REFERENCE:
                desc = self.reference()
                if not isinstance(desc, ClassDesc):
                    raise JavaStreamError(f"byte {self.at - 4}: a class was expected")
            elif tag == _CLASS_DESC:
                desc = self.new_desc()
            elif tag == _PROXY_DESC:
                desc = self.new_proxy()
            else:
                raise JavaStreamError(f"byte {self.at - 1}: a class was expected, found {tag:#x}")
            if below is None:
                first = desc
            else:
                below.parent = desc
            if known:
                return first
            below = desc
        raise JavaStreamError(f"a class has over {MAX_SUPERCLASSES} superclasses")

    def new_desc(self) -> ClassDesc:
        desc: ClassDesc = ClassDesc(self.name(), int.from_bytes(self.take(8), "big", signed=True), 0)
        self.add(desc)
        self.descs.setdefault(desc.name, desc)
        desc.flags = self.number(1)
        fields = []
        for _ in range(self.number(2)):
            kind, name = chr(self.number(1)), self.name()
            if kind not in SIZES and kind not in "L[":
                raise JavaStreamError(f"class {desc.name}: field {name} has no Java type")
            fields.append(Field(kind, name, None if kind in SIZES else self.text()))
        desc.fields = tuple(fields)
        desc.annotation = self.blocks(desc.name)
        return desc

    def new_proxy(self) -> ClassDesc:
        desc: ClassDesc = self.add(ClassDesc("", 0, SERIALIZABLE))
        desc.interfaces = tuple(self.name() for _ in range(self.number(4)))
        desc.annotation = self.blocks("of a dynamic proxy")
        return desc

    def blocks(self, name: str) -> tuple[Block, ...]:
        """The annotation of a class, which may hold block data only."""
        found = []
        while (tag := self.number(1)) != _END:
            if tag not in {_BLOCK, _LONG_BLOCK}:
                raise JavaStreamError(f"class {name} carries an annotation of objects, which is not supported")
            found.append(self.block(tag))
        return tuple(found)

    def block(self, tag: int) -> Block:
        wide = tag == _LONG_BLOCK
        return Block(self.take(self.number(4 if wide else 1)), wide)

    def array(self) -> tuple[Array, int]:
        desc = self.class_of("an array")
        node: Array = self.add(Array(desc))
        count = self.number(4)
        kind = desc.name[1:2]
        if kind in SIZES:
            node.raw = self.take(count * SIZES[kind])
        elif kind not in {"L", "["}:
            raise JavaStreamError(f"byte {self.at}: an array of class {desc.name!r}")
        else:
            if count > len(self.data) - self.at:
                raise JavaStreamError(f"byte {self.at}: an array of {count} objects in a stream too short for it")
            node.values = []
        return node, count

    def class_of(self, what: str) -> ClassDesc:
        desc = self.desc()
        if desc is None:
            raise JavaStreamError(f"byte {self.at}: {what} without a class")
        return desc

    def read(self) -> Stream:
        """The contents up to the end of the bytes."""
        if self.take(4) != _MAGIC:
            raise JavaStreamError("not a Java serialization stream")
        contents: list[Any] = []
        values: list[Any] = contents
        steps: Iterator[int] = repeat(_ITEM)
        stack: list[tuple[Iterator[int], list[Any]]] = []
        while True:
            step = next(steps, _DONE)
            inner: tuple[Iterator[int], list[Any]] | None = None
            if step > 0:
                values.append(self.take(step))
            elif step == CONTENT:
                inner = (repeat(_ITEM), [])
                values.append(inner[1])
            elif step == _DONE:
                steps, values = stack.pop()
            elif self.at < len(self.data):
                tag = self.data[self.at]
                self.at += 1
                if tag == _END and step == _ITEM and stack:
                    steps, values = stack.pop()
                else:
                    value, inner = self.value(tag, step)
                    values.append(value)
            elif stack:
                raise JavaStreamError(f"the stream ends at byte {self.at}, inside an object")
            else:
                return Stream(contents, self.descs)
            if inner is not None:
                if len(stack) >= MAX_DEPTH:
                    raise JavaStreamError(f"objects are nested over {MAX_DEPTH} deep")
                stack.append((steps, values))
                steps, values = inner

    def value(  # noqa: PLR0911 (one return for each kind of value)
        self, tag: int, step: int
    ) -> tuple[Any, tuple[Iterator[int], list[Any]] | None]:
        """The value that begins with a tag, and what of it is still to be read into which list."""
        if tag == _REFERENCE:
            return self.reference(), None
        if tag == _NULL:
            return None, None
        if tag == _OBJECT:
            instance = Instance(self.class_of("an object"))
            self.add(instance)
            return instance, (iter(instance.desc.steps), instance.values)
        if tag in {_STRING, _LONG_STRING}:
            self.at -= 1
            return self.text(), None
        if tag == _ARRAY:
            array, count = self.array()
            return array, None if array.values is None else (repeat(VALUE, count), array.values)
        if step == _ITEM and tag in {_BLOCK, _LONG_BLOCK}:
            return self.block(tag), None
        if step == _ITEM and tag == _RESET:
            self.handles.clear()
            return Reset(), None
        return self.rare(tag), None

    def rare(self, tag: int) -> Any:
        """An enum constant, a class as a value, or a descriptor as a value."""
        if tag == _ENUM:
            # the constant's name comes after the handle of the enum itself
            node = Enum(self.class_of("an enum"), Text(b""))
            self.add(node)
            node.constant = self.text()
            return node
        if tag == _CLASS:
            return self.add(ClassObject(self.class_of("a class object")))
        if tag in {_CLASS_DESC, _PROXY_DESC}:
            self.at -= 1
            return self.desc()
        if tag == _EXCEPTION:
            raise JavaStreamError(f"byte {self.at - 1}: Java recorded that writing this file failed")
        raise JavaStreamError(f"byte {self.at - 1}: {tag:#x} is not the start of a value")


def loads(data: bytes) -> Stream:
    """The graph of a stream.

    Raises:
        JavaStreamError: cut short, damaged, or beyond the bounds of this module.
    """
    return _Reader(data).read()


class _Writer:
    """One pass over the graph."""

    def __init__(self) -> None:
        self.out = bytearray(_MAGIC)
        self.handles: dict[int, int] = {}

    def refer(self, node: Any) -> bool:
        """Write a reference if the node is already in the stream; else give it the next handle on `add`."""
        handle = self.handles.get(id(node))
        if handle is None:
            return False
        self.out += b"\x71" + handle.to_bytes(4, "big")
        return True

    def add(self, node: Any) -> None:
        self.handles[id(node)] = _BASE_HANDLE + len(self.handles)

    def name(self, text: str) -> None:
        raw = encode_text(text)
        self.out += len(raw).to_bytes(2, "big") + raw

    def text(self, node: Text) -> None:
        if self.refer(node):
            return
        self.add(node)
        wide = node.wide or len(node.raw) > 0xFFFF
        self.out.append(_LONG_STRING if wide else _STRING)
        self.out += len(node.raw).to_bytes(8 if wide else 2, "big") + node.raw

    def block(self, node: Block) -> None:
        wide = node.wide or len(node.raw) > 0xFF
        self.out.append(_LONG_BLOCK if wide else _BLOCK)
        self.out += len(node.raw).to_bytes(4 if wide else 1, "big") + node.raw

    def desc(self, node: ClassDesc | None) -> None:
        while node is not None:
            if self.refer(node):
                return
            if node.interfaces is not None:
                self.out.append(_PROXY_DESC)
                self.add(node)
                self.out += len(node.interfaces).to_bytes(4, "big")
                for name in node.interfaces:
                    self.name(name)
            else:
                self.out.append(_CLASS_DESC)
                self.name(node.name)
                self.out += node.uid.to_bytes(8, "big", signed=True)
                self.add(node)
                self.out.append(node.flags)
                self.out += len(node.fields).to_bytes(2, "big")
                for one in node.fields:
                    self.out.append(ord(one.kind))
                    self.name(one.name)
                    if one.signature is not None:
                        self.text(one.signature)
            for block in node.annotation:
                self.block(block)
            self.out.append(_END)
            node = node.parent
        self.out.append(_NULL)

    def write(self, contents: list[Any]) -> bytes:
        values: Iterator[Any] = iter(contents)
        closing = b""
        stack: list[tuple[Iterator[Any], bytes]] = []
        done = object()
        while True:
            value = next(values, done)
            if value is done:
                self.out += closing
                if not stack:
                    return bytes(self.out)
                values, closing = stack.pop()
            elif value is None:
                self.out.append(_NULL)
            elif isinstance(value, bytes):
                self.out += value
            elif isinstance(value, Text):
                self.text(value)
            elif isinstance(value, Block):
                self.block(value)
            elif (inner := self.begin(value)) is not None:
                stack.append((values, closing))
                values, closing = inner

    def begin(self, value: Any) -> tuple[Iterator[Any], bytes] | None:
        """Write the start of a value; what of it is still to be written, and the bytes that close it."""
        if isinstance(value, list):
            return iter(value), bytes([_END])
        if isinstance(value, ClassDesc):
            self.desc(value)
        elif isinstance(value, Reset):
            self.out.append(_RESET)
            self.handles.clear()
        elif self.refer(value):
            return None
        elif isinstance(value, Instance):
            self.out.append(_OBJECT)
            self.desc(value.desc)
            self.add(value)
            return iter(value.values), b""
        elif isinstance(value, Array):
            return self.array(value)
        else:
            self.rare(value)
        return None

    def array(self, node: Array) -> tuple[Iterator[Any], bytes] | None:
        self.out.append(_ARRAY)
        self.desc(node.desc)
        self.add(node)
        if node.values is not None:
            self.out += len(node.values).to_bytes(4, "big")
            return iter(node.values), b""
        self.out += (len(node.raw) // SIZES[node.desc.name[1]]).to_bytes(4, "big") + node.raw
        return None

    def rare(self, node: Enum | ClassObject) -> None:
        self.out.append(_ENUM if isinstance(node, Enum) else _CLASS)
        self.desc(node.desc)
        self.add(node)
        if isinstance(node, Enum):
            self.text(node.constant)


def dumps(stream: Stream) -> bytes:
    """The bytes of a graph, handles numbered in order of appearance."""
    return _Writer().write(stream.contents)
