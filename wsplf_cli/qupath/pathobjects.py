"""The objects of the hierarchy in data.qpdata: where the parts of an object lie, and the tree that they form."""

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from wsplf_cli.qupath.javaser.graph import Block, ClassDesc, Deferred, Instance, JavaStreamError, content, get
from wsplf_cli.schema import ObjectKind

_PACKAGE = "qupath.lib.objects."
ANNOTATION = _PACKAGE + "PathAnnotationObject"
METADATA_MAP = _PACKAGE + "MetadataMap"
ID_KEY = "Object ID"

#: Class -> its name in summary.json and its kind in wsplf, in the order in which QuPath tests them.
KINDS: dict[str, tuple[str, ObjectKind]] = {
    _PACKAGE + "PathRootObject": ("Root objects", "root"),
    ANNOTATION: ("Annotations", "annotation"),
    _PACKAGE + "TMACoreObject": ("TMA cores", "tma_core"),
    _PACKAGE + "PathTileObject": ("Tiles", "tile"),
    _PACKAGE + "PathCellObject": ("Cells", "cell"),
    _PACKAGE + "PathDetectionObject": ("Detections", "detection"),
}
_PACKED = frozenset(name for name, (_, kind) in KINDS.items() if kind not in {"root", "tma_core"})

Node = Instance | Deferred


def packable(desc: ClassDesc) -> bool:
    """Whether objects of a class are left packed: those that come in large numbers."""
    return desc.name in _PACKED


def kind_of(node: Node) -> tuple[str, ObjectKind]:
    """The kind of an object, as summary.json and wsplf call it; an extension's class counts as its base class."""
    names = [desc.name for desc in reversed(node.desc.lineage)]
    return next((KINDS[name] for name in names if name in KINDS), ("Detections", "detection"))


@dataclass(slots=True)
class Body:
    """The parts of one object. ``content`` is the list that its class wrote; the others say what lies where in it."""

    content: list[Any]
    name: Any
    colour: Any
    metadata: Instance | None
    measurements: Any
    stored_id: UUID | None
    count_at: tuple[int, int]
    """Index of the block, and byte in it, where the number of children begins."""
    first: int
    """Index of the first child, or of what would follow it."""
    children: list[Any]

    @property
    def after(self) -> int:
        """Index of the first item after the children: locked, class, ROI, probability."""
        return self.first + len(self.children)


@dataclass(slots=True)
class Tail:
    """What an object with a ROI wrote after its children."""

    locked: Any
    path_class: Any
    roi: Any
    probability: float | None
    missing: bool = False
    nucleus: Any = None


class _Cursor:
    """Reads objects and primitives from the content that a class's own code wrote; blocks side by side are one."""

    def __init__(self, content: list[Any], index: int = 0) -> None:
        self.content = content
        self.index = index
        self.offset = 0

    def skip(self) -> Any:
        """The item here, blocks that are used up passed over; the cursor itself at the end."""
        while self.index < len(self.content):
            item = self.content[self.index]
            if not isinstance(item, Block) or self.offset < len(item.raw):
                return item
            self.index, self.offset = self.index + 1, 0
        return self

    def object(self) -> Any:
        """The next object; all primitives before it must have been read."""
        item = self.skip()
        if item is self or isinstance(item, Block):
            raise JavaStreamError("an object of the hierarchy is not laid out as QuPath does")
        self.index += 1
        return item

    def take(self, size: int) -> bytes:
        """The next bytes, across blocks."""
        raw = b""
        while len(raw) < size:
            item = self.skip()
            if not isinstance(item, Block):
                raise JavaStreamError("an object of the hierarchy is not laid out as QuPath does")
            part = item.raw[self.offset : self.offset + size - len(raw)]
            self.offset += len(part)
            raw += part
        return raw

    def integer(self) -> int:
        """The next four bytes."""
        return int.from_bytes(self.take(4), "big", signed=True)


def body(node: Instance) -> Body:
    """The parts of an object.

    Raises:
        JavaStreamError: it is not laid out as any release of QuPath does.
    """
    if not is_path_object(node):
        raise JavaStreamError(f"a {node.desc.name[:80]} stands where an object of the hierarchy should be")
    written = content(node)
    cursor = _Cursor(written)
    name, colour, third = cursor.object(), cursor.object(), cursor.object()
    metadata, measurements, stored_id = None, third, None
    if isinstance(third, Instance) and third.desc.name == METADATA_MAP:
        metadata, measurements = third, cursor.object()
    elif isinstance(third, Instance) and third.desc.name == "java.util.UUID":
        stored_id = UUID(int=_unsigned(third, "mostSigBits") << 64 | _unsigned(third, "leastSigBits"))
        parts = [cursor.object() for _ in range(cursor.integer())]
        metadata = next((part for part in parts if _is_metadata(part)), None)
        measurements = next((part for part in parts if part is not None and not _is_metadata(part)), None)
    cursor.skip()
    count_at = (cursor.index, cursor.offset)
    count = cursor.integer()
    if count <= 0:
        return Body(written, name, colour, metadata, measurements, stored_id, count_at, cursor.index + 1, [])
    if isinstance(cursor.skip(), Block):
        raise JavaStreamError("an object of the hierarchy is not laid out as QuPath does")
    children = written[cursor.index : cursor.index + count]
    if len(children) < count or not all(isinstance(part, Instance) or hasattr(part, "peek") for part in children):
        raise JavaStreamError("an object of the hierarchy lacks some of its children")
    return Body(written, name, colour, metadata, measurements, stored_id, count_at, cursor.index, children)


def tail(parts: Body, kind: ObjectKind) -> Tail:
    """What follows the children of an object with a ROI.

    Raises:
        JavaStreamError: it is not laid out as any release of QuPath does.
    """
    cursor = _Cursor(parts.content, parts.after)
    locked, path_class, roi = cursor.object(), cursor.object(), cursor.object()
    trailing = Tail(locked, path_class, roi, None)
    if isinstance(cursor.skip(), Block):
        probability: float = struct.unpack(">d", cursor.take(8))[0]
        trailing.probability = None if math.isnan(probability) else probability
    if kind == "tma_core" and isinstance(cursor.skip(), Block):
        trailing.missing = cursor.take(1) != b"\0"
    if kind == "cell" and isinstance(nucleus := cursor.skip(), Instance):
        trailing.nucleus = nucleus
    return trailing


def _is_metadata(node: Any) -> bool:
    return isinstance(node, Instance) and node.desc.name == METADATA_MAP


def _unsigned(node: Instance, name: str) -> int:
    value: int = get(node, name)
    return value & 0xFFFFFFFFFFFFFFFF


def is_path_object(node: Instance) -> bool:
    """Whether an object is one of the hierarchy, also of a kind that an extension defines."""
    return any(desc.name == _PACKAGE + "PathObject" for desc in node.desc.lineage)


def set_children(parent: Body, children: list[Any]) -> None:
    """Replace the children of an object."""
    index, offset = parent.count_at
    blocks = parent.content[index : parent.first]
    raw = b"".join(block.raw for block in blocks)
    if offset + 4 != len(raw):
        raise JavaStreamError("an object of the hierarchy is not laid out as QuPath does")
    raw = raw[:offset] + struct.pack(">i", len(children))
    if len(blocks) == 1:
        blocks[0].raw = raw
    else:
        blocks = [Block(raw)]
    parent.content[index : parent.after] = [*blocks, *children]
    parent.first = index + 1
    parent.children = children


def tree(root: Node) -> Iterator[tuple[Node, Body | None, Node | None]]:
    """Every object from the root on, parents before children, in file order, with the object above it.

    An object that is still packed has no children and comes without its parts.

    Raises:
        JavaStreamError: an object is not laid out as QuPath does, or is its own descendant.
    """
    visited: set[int] = set()
    stack: list[tuple[Any, Node | None]] = [(root, None)]
    while stack:
        node, above = stack.pop()
        if not isinstance(node, Instance):
            node = node.opened or node
        if id(node) in visited:
            raise JavaStreamError("an object of the hierarchy appears twice")
        visited.add(id(node))
        if not isinstance(node, Instance):
            yield node, None, above
            continue
        parts = body(node)
        yield node, parts, above
        stack.extend((child, node) for child in reversed(parts.children))
