"""The objects of a hierarchy inside data.qpdata: where the parts of an object lie, and the tree they form."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from wsplf_cli.qupath.javagraph import Array, Block, Instance, JavaStreamError, Text, content, get, text_of

_PACKAGE = "qupath.lib.objects."
ANNOTATION = _PACKAGE + "PathAnnotationObject"
METADATA_MAP = _PACKAGE + "MetadataMap"
ID_KEY = "Object ID"

#: Class -> what summary.json calls it, in QuPath's order of looking.
KINDS = {
    _PACKAGE + "PathRootObject": "Root objects",
    ANNOTATION: "Annotations",
    _PACKAGE + "TMACoreObject": "TMA cores",
    _PACKAGE + "PathTileObject": "Tiles",
    _PACKAGE + "PathCellObject": "Cells",
    _PACKAGE + "PathDetectionObject": "Detections",
}


@dataclass(slots=True)
class Body:
    """What an object wrote of itself. ``content`` is the object's own list; the rest says where things are in it."""

    content: list[Any]
    name: Any
    colour: Any
    metadata: Instance | None
    measurements: Any
    own_id: UUID | None
    count_at: tuple[int, int]
    """Index of the block, and byte in it, of the number of children; the children follow that block."""
    children: list[Instance]

    @property
    def after(self) -> int:
        """Index of the first item after the children: locked, class, ROI, probability."""
        return self.count_at[0] + 1 + len(self.children)


class _Cursor:
    """Reads objects and primitives from the content that a class's own code wrote."""

    def __init__(self, content: list[Any]) -> None:
        self.content = content
        self.index = 0
        self.offset = 0

    def object(self) -> Any:
        """The next object, where all primitives before it were read."""
        while self.index < len(self.content):
            item = self.content[self.index]
            if not isinstance(item, Block):
                self.index += 1
                return item
            if self.offset < len(item.raw):
                break
            self.index, self.offset = self.index + 1, 0
        raise JavaStreamError("an object of the hierarchy is not laid out as QuPath does")

    def integer(self) -> int:
        """The next four bytes, which must lie in one block."""
        item = self.content[self.index] if self.index < len(self.content) else None
        if not isinstance(item, Block) or self.offset + 4 > len(item.raw):
            raise JavaStreamError("an object of the hierarchy is not laid out as QuPath does")
        number: int = struct.unpack_from(">i", item.raw, self.offset)[0]
        self.offset += 4
        return number


def body(node: Instance) -> Body:
    """The parts of an object.

    Raises:
        JavaStreamError: it is not laid out as any release of QuPath does.
    """
    if not is_path_object(node):
        raise JavaStreamError(f"a {node.desc.name} stands where an object of the hierarchy should be")
    written = content(node)
    cursor = _Cursor(written)
    name, colour, third = cursor.object(), cursor.object(), cursor.object()
    metadata, measurements, own_id = None, third, None
    if isinstance(third, Instance) and third.desc.name == METADATA_MAP:
        metadata, measurements = third, cursor.object()
    elif isinstance(third, Instance) and third.desc.name == "java.util.UUID":
        own_id = UUID(int=_unsigned(third, "mostSigBits") << 64 | _unsigned(third, "leastSigBits"))
        parts = [cursor.object() for _ in range(cursor.integer())]
        metadata = next((one for one in parts if _is_metadata(one)), None)
        measurements = next((one for one in parts if one is not None and not _is_metadata(one)), None)
    count = cursor.integer()
    count_at = (cursor.index, cursor.offset - 4)
    children = written[cursor.index + 1 : cursor.index + 1 + count] if count > 0 else []
    if len(children) < count or not all(isinstance(child, Instance) for child in children):
        raise JavaStreamError("an object of the hierarchy lacks some of its children")
    if count > 0 and cursor.offset != len(written[cursor.index].raw):
        raise JavaStreamError("an object of the hierarchy is not laid out as QuPath does")
    return Body(written, name, colour, metadata, measurements, own_id, count_at, children)


def tail(parts: Body) -> tuple[Any, Any, Any]:
    """Locked, class and ROI of an object that has a place in the image."""
    found = parts.content[parts.after : parts.after + 3]
    if len(found) < 3:
        raise JavaStreamError("an object of the hierarchy is not laid out as QuPath does")
    return found[0], found[1], found[2]


def _is_metadata(node: Any) -> bool:
    return isinstance(node, Instance) and node.desc.name == METADATA_MAP


def _unsigned(node: Instance, name: str) -> int:
    number: int = get(node, name)
    return number & 0xFFFFFFFFFFFFFFFF


def is_path_object(node: Instance) -> bool:
    """Whether an object is of the hierarchy, an extension's own kinds too."""
    return any(desc.name == _PACKAGE + "PathObject" for desc in node.desc.lineage)


def set_children(parent: Body, children: list[Instance]) -> None:
    """Write other children into an object."""
    index, offset = parent.count_at
    block = parent.content[index]
    if offset + 4 != len(block.raw):
        raise JavaStreamError("an object of the hierarchy is not laid out as QuPath does")
    block.raw = block.raw[:offset] + struct.pack(">i", len(children))
    parent.content[index + 1 : parent.after] = children
    parent.children = children


def walk(root: Instance) -> Iterator[tuple[Instance, Body]]:
    """Every object from the root on, parents before children, in file order.

    Raises:
        JavaStreamError: an object is not laid out as QuPath does, or is its own descendant.
    """
    seen: set[int] = set()
    rest = [root]
    while rest:
        node = rest.pop()
        if id(node) in seen:
            raise JavaStreamError("an object of the hierarchy appears twice")
        seen.add(id(node))
        parts = body(node)
        yield node, parts
        rest.extend(reversed(parts.children))


def read_metadata(node: Instance | None) -> dict[str, str]:
    """The strings of a MetadataMap, in order."""
    if node is None:
        return {}
    arrays = [item for item in content(node) if isinstance(item, Array)]
    if len(arrays) != 2:
        raise JavaStreamError("the metadata of an object is not laid out as QuPath does")
    keys, values = (array.values or [] for array in arrays)
    pairs = zip(keys, values, strict=False)
    return {key.value: value.value for key, value in pairs if isinstance(key, Text) and isinstance(value, Text)}


def read_class(node: Any) -> str | None:
    """The full name of a PathClass ("Tumor: Positive"), or None for no class."""
    parts: list[str] = []
    while isinstance(node, Instance) and len(parts) < 100:
        name = get(node, "name")
        if isinstance(name, Text):
            parts.append(name.value)
        node = get(node, "parentClass")
    return ": ".join(reversed(parts)) or None


def read_measurements(node: Any) -> dict[str, float]:
    """Name -> value of any of QuPath's three kinds of list, in order."""
    if not isinstance(node, Instance):
        return {}
    if node.desc.name.endswith("DefaultMeasurementList"):
        items = read_list(get(node, "list"))
        return {text_of(get(item, "name")): float(get(item, "value")) for item in items if isinstance(item, Instance)}
    names, values = read_list(get(node, "names")), get(node, "values")
    if not isinstance(values, Array):
        return {}
    code = {"[F": "f", "[D": "d"}.get(values.desc.name)
    if code is None:
        raise JavaStreamError(f"measurements of the class {values.desc.name}")
    numbers = [number for (number,) in struct.iter_unpack(f">{code}", values.raw)]
    return {name.value: number for name, number in zip(names, numbers, strict=False) if isinstance(name, Text)}


def read_list(node: Any) -> list[Any]:
    """The elements of a java.util list as QuPath's versions write them."""
    for _ in range(10):
        if not isinstance(node, Instance):
            return []
        kind = node.desc.name
        if kind in {"java.util.ArrayList", "java.util.CollSer"}:
            return [item for item in content(node) if not isinstance(item, Block)]
        if kind == "java.util.Arrays$ArrayList":
            array = get(node, "a")
            return (array.values or []) if isinstance(array, Array) else []
        node = get(node, "list")
    raise JavaStreamError("a list of lists of lists")
