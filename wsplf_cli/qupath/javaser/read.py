"""Reads a Java serialization stream into its graph, in one pass and with a stack of its own."""

from collections.abc import Iterator
from itertools import repeat
from operator import length_hint
from typing import Any

from wsplf_cli.qupath.javaser.graph import (
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
    Failure,
    Field,
    Instance,
    JavaStreamError,
    NodeTable,
    PackTable,
    Reset,
    Stream,
    Text,
    decode_text,
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
    MAX_DEPTH,
    MAX_NODES,
    NULL,
    OBJECT,
    PROXY_DESC,
    REFERENCE,
    RESET,
    STRING,
)

# Beside VALUE and CONTENT: one item of content, where block data and an end mark may come too; nothing left; and the
# end of a recorded failure, where all handles are forgotten.
_ITEM, _DONE, _FORGET = -2, -3, -4

_Frame = tuple[Iterator[int], list[Any], Any]


class NotPackable(Exception):  # noqa: N818 (it is no error: the stream is then read without packing)
    """The stream forgets its handles, by which packed objects are known."""


class Reader:
    """One pass over the bytes of a stream, or of one packed object in it.

    Args:
        stream: the bytes.
        packs: takes the objects that are left packed; None to read all as graphs.
        at: where the one object begins.
        first: the handle of the one object, 0 for a whole stream.
        earlier: the nodes before the one object.
    """

    def __init__(
        self,
        stream: bytes,
        *,
        packs: PackTable | None = None,
        at: int = 4,
        first: int = 0,
        earlier: NodeTable | None = None,
    ) -> None:
        self.stream = stream
        self.at = at
        self.first = first
        self.packs = packs
        self.earlier = earlier
        self.handles: list[Any] = [] if packs is None else packs.handles
        self.descs: dict[str, ClassDesc] = {}
        self.failed = False
        self.nodes = 0
        self.class_depth = 0
        self.contents: list[Any] = []

    def read(self) -> Stream:
        """The contents up to the end of the bytes."""
        if self.stream[:4] != MAGIC:
            if len(self.stream) < 4:
                raise JavaStreamError(f"the stream ends at byte {len(self.stream)}, in the middle of a value")
            raise JavaStreamError("not a Java serialization stream")
        self.run(repeat(_ITEM), self.contents)
        return Stream(self.contents, self.descs, self.failed, self.packs)

    def read_value(self) -> Any:
        """The value that begins here."""
        values: list[Any] = []
        self.run(repeat(VALUE, 1), values)
        return values[0]

    def take(self, size: int) -> bytes:
        """The next bytes."""
        end = self.at + size
        if end > len(self.stream):
            raise JavaStreamError(f"the stream ends at byte {len(self.stream)}, in the middle of a value")
        part = self.stream[self.at : end]
        self.at = end
        return part

    def unsigned(self, size: int) -> int:
        """The next bytes as an unsigned number."""
        end = self.at + size
        if end > len(self.stream):
            self.take(size)
        value = int.from_bytes(self.stream[self.at : end], "big")
        self.at = end
        return value

    def name(self) -> str:
        """A name: two bytes of length, then its text."""
        raw = self.take(self.unsigned(2))
        name = decode_text(raw)
        if (not raw.isascii() or b"\0" in raw) and encode_text(name) != raw:
            raise JavaStreamError(f"byte {self.at - len(raw)}: a name is not in Java's UTF-8")
        return name

    def count(self, more: int = 1) -> None:
        """Count nodes of the graph."""
        self.nodes += more
        if self.nodes > MAX_NODES:
            raise JavaStreamError(f"the stream holds over {MAX_NODES} objects")

    def add(self, node: Any) -> Any:
        """Give a node the next handle."""
        self.count()
        self.handles.append(node)
        return node

    def reference(self) -> Any:
        """The node that a handle stands for."""
        at, handle = self.at, self.unsigned(4) - BASE_HANDLE
        index = handle - self.first
        if 0 <= index < len(self.handles):
            node = self.handles[index]
            return node if self.packs is None else self.packs.node(handle)
        if 0 <= handle < self.first and self.earlier is not None:
            return self.earlier.node(handle)
        raise JavaStreamError(f"byte {at}: a reference to an object that is not there")

    def text(self) -> Text:
        """A string where only a string can be."""
        tag = self.unsigned(1)
        if tag in {STRING, LONG_STRING}:
            wide = tag == LONG_STRING
            node: Any = self.add(Text(self.take(self.unsigned(8 if wide else 2)), wide))
        else:
            node = self.reference() if tag == REFERENCE else None
        if not isinstance(node, Text):
            raise JavaStreamError(f"byte {self.at}: a string was expected")
        return node

    def desc(self) -> ClassDesc | None:
        """A class descriptor and its superclasses, or None."""
        chain: list[ClassDesc] = []
        while len(chain) <= MAX_SUPERCLASSES:
            tag = self.unsigned(1)
            above: Any = None
            if tag == REFERENCE:
                above = self.reference()
                if not isinstance(above, ClassDesc):
                    raise JavaStreamError(f"byte {self.at - 4}: a class was expected")
                if not above.complete:
                    raise JavaStreamError(f"byte {self.at - 4}: class {above.name} is used in its own description")
            elif tag == CLASS_DESC:
                above = self.new_desc()
            elif tag == PROXY_DESC:
                above = self.new_proxy()
            elif tag != NULL:
                raise JavaStreamError(f"byte {self.at - 1}: a class was expected, found {tag:#x}")
            if chain:
                chain[-1].parent = above
            if tag in {NULL, REFERENCE}:
                for desc in chain:
                    desc.complete = True
                return chain[0] if chain else above
            chain.append(above)
        raise JavaStreamError(f"a class has over {MAX_SUPERCLASSES} superclasses")

    def new_desc(self) -> ClassDesc:
        """A class that is described here, but for its superclass."""
        desc = ClassDesc(self.name(), int.from_bytes(self.take(8), "big", signed=True), 0, complete=False)
        self.add(desc)
        self.descs.setdefault(desc.name, desc)
        desc.flags = self.unsigned(1)
        fields = []
        for _ in range(self.unsigned(2)):
            self.count()
            kind, name = chr(self.unsigned(1)), self.name()
            if kind not in SIZES and kind not in {"L", "["}:
                raise JavaStreamError(f"class {desc.name[:80]}: field {name[:80]} has no Java type")
            fields.append(Field(kind, name, None if kind in SIZES else self.text()))
        desc.fields = tuple(fields)
        desc.annotation = self.annotation()
        return desc

    def new_proxy(self) -> ClassDesc:
        """The class of a dynamic proxy, but for its superclass."""
        desc: ClassDesc = self.add(ClassDesc("", 0, SERIALIZABLE, complete=False))
        names = self.unsigned(4)
        self.count(min(names, len(self.stream) - self.at))
        desc.interfaces = tuple(self.name() for _ in range(names))
        desc.annotation = self.annotation()
        return desc

    def annotation(self) -> tuple[Any, ...]:
        """What annotateClass wrote, up to its end mark."""
        if self.at < len(self.stream) and self.stream[self.at] == END:
            self.at += 1
            return ()
        if self.class_depth >= MAX_CLASS_DEPTH:
            raise JavaStreamError(f"classes lie over {MAX_CLASS_DEPTH} deep in the annotations of classes")
        self.class_depth += 1
        values: list[Any] = []
        self.run(repeat(_ITEM), values)
        self.class_depth -= 1
        return tuple(values)

    def block(self, tag: int) -> Block:
        """Block data."""
        self.count()
        wide = tag == LONG_BLOCK
        return Block(self.take(self.unsigned(4 if wide else 1)), wide)

    def array(self) -> tuple[Array, int]:
        """An array, and how many elements it has; objects are still to be read."""
        desc = self.class_of("an array")
        node: Array = self.add(Array(desc))
        count = self.unsigned(4)
        kind = desc.name[1:2]
        if kind in SIZES:
            node.raw = self.take(count * SIZES[kind])
        elif kind not in {"L", "["}:
            raise JavaStreamError(f"byte {self.at}: an array of class {desc.name[:80]!r}")
        elif count > len(self.stream) - self.at:
            raise JavaStreamError(f"byte {self.at}: an array of {count} objects in a stream too short for it")
        else:
            node.values = []
        return node, count

    def class_of(self, what: str) -> ClassDesc:
        """A class where there must be one."""
        desc = self.desc()
        if desc is None:
            raise JavaStreamError(f"byte {self.at}: {what} without a class")
        return desc

    def run(self, steps: Iterator[int], values: list[Any]) -> None:  # noqa: PLR0912 (the loop over all bytes)
        """Read ``steps`` into ``values``, and all that is inside them; ends also where a class's annotation does."""
        stream, packs = self.stream, self.packs
        top = values is self.contents
        stack: list[_Frame] = []
        node: Any = None
        while True:
            step = next(steps, _DONE)
            inner: _Frame | None = None
            if step > 0:
                values.append(self.take(step))
            elif step == CONTENT:
                self.count()
                inner = (repeat(_ITEM), [], None)
                values.append(inner[1])
            elif step == _DONE:
                if not stack:
                    return
                steps, values, node = stack.pop()
                if packs is not None and packs.learning:
                    packs.learn(self.at, len(stack))
            elif step == _FORGET:
                self.forget()
            elif self.at < len(stream):
                start = self.at
                tag = stream[start]
                if tag == OBJECT and packs is not None and step == _ITEM and stack:
                    self.at = packs.skip(start, values)
                    if self.at != start:
                        continue
                self.at += 1
                if tag == END and step == _ITEM and (stack or not top):
                    if not stack:
                        return
                    steps, values, node = stack.pop()
                elif tag == EXCEPTION:
                    inner = self.failure([*stack, (steps, values, node)])
                    steps, values, node = repeat(_ITEM), self.contents, None
                    stack.clear()
                else:
                    value, inner = self.value(tag, step)
                    values.append(value)
                    if tag == OBJECT and packs is not None:
                        packs.begin(start, len(stack))
            elif stack or not top:
                raise JavaStreamError(f"the stream ends at byte {self.at}, inside an object")
            else:
                return
            if inner is not None:
                if len(stack) >= MAX_DEPTH:
                    raise JavaStreamError(f"objects are nested over {MAX_DEPTH} deep")
                stack.append((steps, values, node))
                steps, values, node = inner

    def failure(self, frames: list[_Frame]) -> _Frame:
        """Java gave up writing: what was begun stays unfinished, and its exception follows."""
        if self.class_depth or self.first:
            raise JavaStreamError(f"byte {self.at - 1}: Java gave up writing in the middle of a class")
        failure = Failure()
        frames[-1][1].append(failure)
        for steps, _, owner in frames:
            if owner is not None:
                owner.missing = length_hint(steps)
        self.failed = True
        self.forget()
        return iter((VALUE, _FORGET)), failure.values, None

    def forget(self) -> None:
        """Handles are counted from the beginning again."""
        if self.packs is not None or self.earlier is not None:
            raise NotPackable
        self.handles.clear()

    def value(  # noqa: PLR0911 (one return for each kind of value)
        self, tag: int, step: int
    ) -> tuple[Any, _Frame | None]:
        """The value that begins with a tag, and what of it is still to be read into which list."""
        if tag == REFERENCE:
            return self.reference(), None
        if tag == NULL:
            return None, None
        if tag == OBJECT:
            instance = Instance(self.class_of("an object"))
            self.add(instance)
            return instance, (iter(instance.desc.steps), instance.values, None)
        if tag in {STRING, LONG_STRING}:
            self.at -= 1
            return self.text(), None
        if tag == ARRAY:
            array, count = self.array()
            return array, None if array.values is None else (repeat(VALUE, count), array.values, array)
        if step == _ITEM and tag in {BLOCK, LONG_BLOCK}:
            return self.block(tag), None
        if step == _ITEM and tag == RESET:
            self.forget()
            return Reset(), None
        return self.rare(tag), None

    def rare(self, tag: int) -> Any:
        """An enum constant, a class as a value, or a descriptor as a value."""
        if tag == ENUM:
            # the constant's name comes after the handle of the enum itself
            node = Enum(self.class_of("an enum"), Text(b""))
            self.add(node)
            node.constant = self.text()
            return node
        if tag == CLASS:
            return self.add(ClassObject(self.class_of("a class object")))
        if tag in {CLASS_DESC, PROXY_DESC}:
            self.at -= 1
            return self.desc()
        raise JavaStreamError(f"byte {self.at - 1}: {tag:#x} is not the start of a value")
