"""The packed objects of a stream as a table: where each lies, its handles, and its graph when it is asked for.

A row of the table is one packed object. Positions and handles are flat arrays, so that they can be read from all the
objects of a layout at once.
"""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsplf_cli.qupath.javaser.graph import ClassDesc, Instance
from wsplf_cli.qupath.javaser.layout import Layout
from wsplf_cli.qupath.javaser.read import Reader
from wsplf_cli.qupath.javaser.tags import BASE_HANDLE

BATCH = 20_000
"""Objects that are worked on at once: it bounds the memory needed."""

Ints = NDArray[np.int64]


@dataclass(slots=True, eq=False)
class Packed:
    """One packed object. See graph.Deferred."""

    group: "Table"
    row: int

    @property
    def desc(self) -> ClassDesc:
        """The object's class."""
        return self.group.layout(self.row).template.desc

    @property
    def opened(self) -> Instance | None:
        """The graph, if it was asked for."""
        nodes = self.group.graphs.get(self.row)
        return None if nodes is None else nodes[0]

    def open(self) -> Instance:
        """The graph, which from now on stands for the object."""
        return self.group.open(self.row)

    def peek(self) -> Instance:
        """The graph to look at; changes to it are lost."""
        return self.opened or self.group.parse(self.row)[0]


class Table:
    """The packed objects of one stream, in stream order.

    ``handles`` are the nodes of the stream by handle, a Packed one for each handle inside a packed object. ``graphs``
    are the nodes of each row that was opened, ``origins`` the handle in the stream of each of these nodes by identity.
    """

    def __init__(self, stream: bytes) -> None:
        self.stream = stream
        self.handles: list[Any] = []
        self.layouts: list[Layout] = []
        self.graphs: dict[int, list[Instance]] = {}
        self.origins: dict[int, int] = {}
        self._starts, self._ends, self._firsts = array("q"), array("q"), array("q")
        self._layout_of, self._index_in_layout = array("q"), array("q")

    def __len__(self) -> int:
        return len(self._starts)

    # --- positions, for rows of the table (int64 [N])

    @cached_property
    def raw(self) -> NDArray[np.uint8]:
        """The stream as uint8."""
        return np.frombuffer(self.stream, np.uint8)

    @cached_property
    def starts(self) -> Ints:
        """Byte at which each object begins."""
        return np.array(self._starts, np.int64)

    @cached_property
    def ends(self) -> Ints:
        """Byte after each object."""
        return np.array(self._ends, np.int64)

    @cached_property
    def firsts(self) -> Ints:
        """Each object's own handle; the handles of what is inside it follow."""
        return np.array(self._firsts, np.int64)

    @cached_property
    def layout_of(self) -> Ints:
        """Index of each object's layout."""
        return np.array(self._layout_of, np.int64)

    @cached_property
    def index_in_layout(self) -> Ints:
        """Each object's index among the objects of its layout."""
        return np.array(self._index_in_layout, np.int64)

    @cached_property
    def counts(self) -> Ints:
        """How many handles each object takes."""
        counts = np.array([layout.count for layout in self.layouts], np.int64)
        return counts[self.layout_of]

    def layout(self, row: int) -> Layout:
        """The layout of one object."""
        return self.layouts[self._layout_of[row]]

    def spans(self, layout: Layout, rows: Ints) -> tuple[Ints, Ints]:
        """Where the contents of the variable parts begin, and their bytes: two int64 [N, parts]."""
        indices = self.index_in_layout[rows]
        width = len(layout.parts)
        if not width:
            return np.zeros((len(rows), 0), np.int64), np.zeros((len(rows), 0), np.int64)
        offsets = np.frombuffer(layout.offsets, np.int64).reshape(-1, width)[indices]
        sizes = np.zeros_like(offsets)
        begins = offsets.copy()
        for part, (_, length_bytes, unit) in enumerate(layout.parts):
            for byte in range(length_bytes):
                sizes[:, part] = sizes[:, part] << 8 | self.raw[offsets[:, part] + byte]
            sizes[:, part] *= unit
            begins[:, part] += length_bytes
        return begins, sizes

    def bases(self, layout: Layout, rows: Ints) -> Ints:
        """Where the segments begin: int64 [N, segments]."""
        begins, sizes = self.spans(layout, rows)
        return np.column_stack([self.starts[rows], begins + sizes])

    def targets(self, layout: Layout, rows: Ints) -> Ints:
        """The handles that the references refer to: int64 [N, references]."""
        positions = np.array([reference[:2] for reference in layout.references], np.int64).reshape(-1, 2)
        return self.read_handles(self.bases(layout, rows)[:, positions[:, 0]] + positions[:, 1])

    def read_handles(self, offsets: Ints) -> Ints:
        """The handles that stand at these bytes of the stream."""
        handles = np.zeros_like(offsets)
        for byte in range(4):
            handles = handles << 8 | self.raw[offsets + byte]
        return handles - BASE_HANDLE

    # --- graphs

    def node(self, handle: int) -> Any:
        """The node with a handle; a packed object around it is opened."""
        node = self.handles[handle]
        if isinstance(node, Packed):
            self.open(node.row)
            return self.graphs[node.row][handle - self._firsts[node.row]]
        return node

    def inner_text(self, handle: int) -> bytes | None:
        """The bytes of a string inside a packed object; None when the handle is of something else."""
        node = self.handles[handle]
        if not isinstance(node, Packed) or node.row in self.graphs:
            return None
        layout = self.layout(node.row)
        part = layout.inner[handle - self._firsts[node.row]]
        if part < 0:
            return None
        at = layout.offsets[self._index_in_layout[node.row] * len(layout.parts) + part]
        return self.stream[at + 2 : at + 2 + int.from_bytes(self.stream[at : at + 2], "big")]

    def parse(self, row: int) -> list[Any]:
        """The nodes of an object, itself first, in order of their handles."""
        reader = Reader(self.stream, at=self._starts[row], first=self._firsts[row], earlier=self)
        reader.read_value()
        return reader.handles

    def open(self, row: int) -> Instance:
        """The graph of an object, made once; the objects that it refers into are opened first, without recursion."""
        stack = [row]
        while stack:
            top = stack[-1]
            if top not in self.graphs:
                earlier = [self.handles[handle] for handle in self._targets_of(top) if 0 <= handle < self._firsts[top]]
                needed = {node.row for node in earlier if isinstance(node, Packed) and node.row not in self.graphs}
                if needed:
                    stack.extend(needed)
                    continue
                self.graphs[top] = nodes = self.parse(top)
                self.origins.update((id(node), self._firsts[top] + index) for index, node in enumerate(nodes))
            stack.pop()
        return self.graphs[row][0]

    def _targets_of(self, row: int) -> list[int]:
        """The handles that the references of one object refer to: `targets` without the cost of arrays."""
        layout, stream = self.layout(row), self.stream
        bases = [self._starts[row]]
        first = self._index_in_layout[row] * len(layout.parts)
        offsets = layout.offsets[first : first + len(layout.parts)]
        for at, (_, length_bytes, unit) in zip(offsets, layout.parts, strict=True):
            bases.append(at + length_bytes + int.from_bytes(stream[at : at + length_bytes], "big") * unit)
        positions = (bases[segment] + offset for segment, offset, _ in layout.references)
        return [int.from_bytes(stream[at : at + 4], "big") - BASE_HANDLE for at in positions]


def batches(rows: Ints) -> Iterator[Ints]:
    """Rows in pieces of at most BATCH."""
    return (rows[at : at + BATCH] for at in range(0, len(rows), BATCH))
