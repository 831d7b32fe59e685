"""Reads the values of the objects in a data.qpdata: strings, classes, metadata and lists of measurements.

Objects share by reference what they have in common, and a hostile file can share a huge list or string among very many
objects. So one Values reads one file: it reads shared values once, and refuses to read many times the size of the file.
"""

import struct
from collections.abc import Sequence
from typing import Any

from shapely.geometry.base import BaseGeometry

from wsplf_cli.qupath.javaser.graph import Array, Block, Instance, JavaStreamError, Text, content, get
from wsplf_cli.qupath.rois import read_roi

_SHORT = 64
_MAX_CLASS_NAME = 10_000
_MAX_CLASS_PARTS = 100


class Values:
    """Reads the values of one file of ``size`` bytes."""

    def __init__(self, size: int) -> None:
        self._left = 2 * size + (1 << 20)
        self._memo: dict[int, tuple[Any, Any]] = {}  # with the node, so that its id is not given to another

    def spend(self, size: int) -> None:
        """Count bytes of the file as read.

        Raises:
            JavaStreamError: the objects of the file share so much that together they are many times its size.
        """
        self._left -= size
        if self._left < 0:
            raise JavaStreamError("the objects of the file together are many times its size")

    def text(self, node: Any) -> str | None:
        """The string of a node, or None when it is something else."""
        if not isinstance(node, Text):
            return None
        if len(node.raw) <= _SHORT:
            return node.value
        memo = self._memo.get(id(node))
        if memo is None:
            memo = self._memo[id(node)] = node, node.value
        text: str = memo[1]
        return text

    def path_class(self, node: Any) -> str | None:
        """The full name of a PathClass ("Tumor: Positive"), or None for no class."""
        chain: list[Instance] = []
        while isinstance(node, Instance) and id(node) not in self._memo:
            if len(chain) >= _MAX_CLASS_PARTS:
                raise JavaStreamError(f"a class of over {_MAX_CLASS_PARTS} parts")
            chain.append(node)
            node = get(node, "parentClass")
        name: str = self._memo[id(node)][1] if isinstance(node, Instance) else ""
        for level in reversed(chain):
            part = self.text(get(level, "name"))
            if part:
                name = f"{name}: {part}" if name else part
            if len(name) > _MAX_CLASS_NAME:
                raise JavaStreamError(f"the name of a class has over {_MAX_CLASS_NAME} characters")
            self._memo[id(level)] = level, name
        return name or None

    def metadata(self, node: Instance | None) -> dict[str, str]:
        """The strings of a MetadataMap, in order."""
        if node is None:
            return {}
        arrays = [item for item in content(node) if isinstance(item, Array)]
        if len(arrays) != 2:
            raise JavaStreamError("the metadata of an object is not laid out as QuPath does")
        keys, values = (array.values or [] for array in arrays)
        self.spend(4 * min(len(keys), len(values)))
        pairs = ((self.text(key), self.text(value)) for key, value in zip(keys, values, strict=False))
        return {key: value for key, value in pairs if key is not None and value is not None}

    def measurements(self, node: Any) -> dict[str, float]:
        """Name -> value of any of QuPath's three kinds of list, in order."""
        if not isinstance(node, Instance):
            return {}
        if node.desc.name.endswith("DefaultMeasurementList"):
            items = self.items(get(node, "list"))
            self.spend(4 * len(items))
            pairs = ((self.text(get(item, "name")), get(item, "value")) for item in items if isinstance(item, Instance))
            return self._named(pairs)
        names, values = get(node, "names"), get(node, "values")
        if not isinstance(values, Array):
            return {}
        code = {"[F": "f", "[D": "d"}.get(values.desc.name)
        if code is None:
            raise JavaStreamError(f"measurements of the class {values.desc.name[:80]}")
        self.spend(len(values.raw))
        numbers = (value for (value,) in struct.iter_unpack(f">{code}", values.raw))
        return dict(zip(self.names(names), numbers, strict=False))

    def _named(self, pairs: Any) -> dict[str, float]:
        measurements: dict[str, float] = {}
        for name, value in pairs:
            if name is None or not isinstance(value, float | int):
                raise JavaStreamError("a measurement is not laid out as QuPath does")
            measurements[name] = float(value)
        return measurements

    def names(self, node: Any) -> list[str]:
        """The strings of a list of names."""
        memo = self._memo.get(id(node))
        if memo is None:
            texts: list[Any] = [self.text(item) for item in self.items(node)]
            if None in texts:
                raise JavaStreamError("the names of measurements are not laid out as QuPath does")
            memo = self._memo[id(node)] = node, texts
        names: list[str] = memo[1]
        return names

    def items(self, node: Any) -> Sequence[Any]:
        """The elements of a java.util list as QuPath's versions write them."""
        for _ in range(10):
            if not isinstance(node, Instance):
                return []
            kind = node.desc.name
            if kind in {"java.util.ArrayList", "java.util.CollSer"}:
                written = content(node)
                self.spend(len(written))
                return [item for item in written if not isinstance(item, Block)]
            if kind == "java.util.Arrays$ArrayList":
                array = get(node, "a")
                return (array.values or []) if isinstance(array, Array) else []
            node = get(node, "list")
        raise JavaStreamError("a list of lists of lists")

    def roi(self, node: Any) -> BaseGeometry:
        """The geometry of a ROI as it is stored."""
        return read_roi(node, self.spend)
