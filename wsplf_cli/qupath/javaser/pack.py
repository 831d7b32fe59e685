"""Objects of a stream that are left packed: bytes with a known layout, for files of very many objects.

Most objects of a class are laid out alike: the same tags and classes, other numbers, references and lengths. Such a
layout is learned from an object that was just read, as a few regular expressions with the parts of variable length
(strings and arrays of primitives) between them. An object that matches is passed over: its place, its handles and its
variable parts are noted in flat arrays. Columns of values can then be taken from all objects of a layout at once, and
runs of objects can be written by copying their bytes with the references renumbered. ``Packs.open`` gives the graph of
one object; an object that fits no layout is read as a graph straight away.
"""

from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsplf_cli.qupath.javaser.graph import ClassDesc, Instance, JavaStreamError
from wsplf_cli.qupath.javaser.layout import Layout, Learner
from wsplf_cli.qupath.javaser.read import BASE_HANDLE, REFERENCE, Reader

MAX_LAYOUTS = 64
"""Layouts of one class."""
MAX_ALL_LAYOUTS = 1_000
MAX_TRIES = 256
"""Objects of one class of which a layout is learned at most."""

_BATCH = 20_000

Ints = NDArray[np.int64]


@dataclass(slots=True, eq=False)
class Packed:
    """One object left packed. See javagraph.Deferred."""

    group: "Packs"
    row: int

    @property
    def desc(self) -> ClassDesc:
        """The object's class."""
        return self.group.layout(self.row).tree.desc

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


class Packs:
    """All packed objects of a stream. ``wanted`` says of which classes they are."""

    def __init__(self, stream: bytes, wanted: Callable[[ClassDesc], bool]) -> None:
        self.stream = stream
        self.wanted = wanted
        self.handles: list[Any] = []
        self.layouts: list[Layout] = []
        self.graphs: dict[int, list[Instance]] = {}
        self.origins: dict[int, int] = {}
        self.learning: list[tuple[int, int]] = []
        self._by_key: dict[bytes, list[Layout]] = {}
        self._tries: dict[bytes, int] = {}
        self._starts, self._label_extremes, self._firsts = array("q"), array("q"), array("q")
        self._layout_of, self._place_of = array("q"), array("q")

    def __len__(self) -> int:
        return len(self._starts)

    # --- while the stream is read

    def take(self, at: int, values: list[Any]) -> int:
        """Pass over the objects of known layouts from a byte on; returns the byte after them."""
        stream = self.stream
        key = stream[at : at + 6]
        layouts = self._by_key.get(key)
        if not layouts:
            return at
        while stream[at : at + 6] == key:
            found = None
            for place, layout in enumerate(layouts):  # noqa: B007 (both are used after the loop)
                found = layout.match(stream, at)
                if found is not None:
                    break
            if found is None:
                break
            if place:
                layouts.insert(0, layouts.pop(place))
            end, spots = found
            node = Packed(self, len(self._starts))
            self._layout_of.append(layout.number)
            self._place_of.append(len(layout.rows))
            layout.rows.append(node.row)
            layout.spots.extend(spots)
            self._starts.append(at)
            self._label_extremes.append(end)
            self._firsts.append(len(self.handles))
            self.handles += [node] * layout.count
            values.append(node)
            at = end
        return at

    def begin(self, start: int, depth: int) -> None:
        """An object that begins at a byte is now read as a graph: perhaps to learn from."""
        key = self.stream[start : start + 6]
        if key[1] != REFERENCE:
            return
        tries = self._tries.get(key)
        if tries is None:
            desc = self.handles[int.from_bytes(key[2:], "big") - BASE_HANDLE]
            tries = self._tries[key] = 0 if self.wanted(desc) else MAX_TRIES
            self._by_key[key] = []
        if tries < MAX_TRIES:
            self._tries[key] = tries + 1
            self.learning.append((depth, start))

    def learn(self, end: int, depth: int) -> None:
        """An object was read to its end: if it is one to learn from, its layout is added."""
        if self.learning[-1][0] != depth:
            return
        _, start = self.learning.pop()
        known = self._by_key[self.stream[start : start + 6]]
        if len(known) < MAX_LAYOUTS and len(self.layouts) < MAX_ALL_LAYOUTS and end - start < 1 << 24:
            layout = Learner(self.stream, self.handles, self.wanted).learn(start, end, len(self.layouts))
            if layout is not None:
                known.append(layout)
                self.layouts.append(layout)

    def check(self) -> None:
        """That every reference of a packed object is to something before it.

        Raises:
            JavaStreamError: one is not.
        """
        for layout in self.layouts:
            if not layout.rows or not layout.links:
                continue
            before = np.array([count for _, _, count in layout.links])
            for rows in batches(np.asarray(layout.rows, np.int64)):
                old = self.targets(layout, rows)
                if (old < 0).any() or (old >= self.firsts[rows][:, None] + before).any():
                    raise JavaStreamError("a reference to an object that is not there")

    # --- places, for rows of the table (int64 [N])

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
        return np.array(self._label_extremes, np.int64)

    @cached_property
    def firsts(self) -> Ints:
        """Each object's own handle; those of what it holds follow."""
        return np.array(self._firsts, np.int64)

    @cached_property
    def layout_of(self) -> Ints:
        """Number of each object's layout."""
        return np.array(self._layout_of, np.int64)

    @cached_property
    def place_of(self) -> Ints:
        """Each object's place among those of its layout."""
        return np.array(self._place_of, np.int64)

    @cached_property
    def counts(self) -> Ints:
        """How many handles each object gives."""
        counts = np.array([layout.count for layout in self.layouts], np.int64)
        return counts[self.layout_of]

    def layout(self, row: int) -> Layout:
        """The layout of one object."""
        return self.layouts[self._layout_of[row]]

    def spans(self, layout: Layout, rows: Ints) -> tuple[Ints, Ints]:
        """Where the contents of the variable parts begin, and their bytes: two int64 [N, spots]."""
        places = self.place_of[rows]
        width = len(layout.parts)
        if not width:
            return np.zeros((len(rows), 0), np.int64), np.zeros((len(rows), 0), np.int64)
        at = np.frombuffer(layout.spots, np.int64).reshape(-1, width)[places]
        sizes = np.zeros_like(at)
        begins = at.copy()
        for place, (_, wide, unit) in enumerate(layout.parts):
            for byte in range(wide):
                sizes[:, place] = sizes[:, place] << 8 | self.raw[at[:, place] + byte]
            sizes[:, place] *= unit
            begins[:, place] += wide
        return begins, sizes

    def bases(self, layout: Layout, rows: Ints) -> Ints:
        """Where the segments begin: int64 [N, segments]."""
        begins, sizes = self.spans(layout, rows)
        return np.column_stack([self.starts[rows], begins + sizes])

    def targets(self, layout: Layout, rows: Ints) -> Ints:
        """The handles that the references refer to: int64 [N, links]."""
        places = np.array([link[:2] for link in layout.links], np.int64).reshape(-1, 2)
        return self.read_handles(self.bases(layout, rows)[:, places[:, 0]] + places[:, 1])

    def read_handles(self, at: Ints) -> Ints:
        """The handles that stand at some bytes."""
        found = np.zeros_like(at)
        for byte in range(4):
            found = found << 8 | self.raw[at + byte]
        return found - BASE_HANDLE

    # --- graphs

    def node(self, handle: int) -> Any:
        """The node with a handle; a packed object that holds it is opened."""
        node = self.handles[handle]
        if isinstance(node, Packed):
            self.open(node.row)
            return self.graphs[node.row][handle - self._firsts[node.row]]
        return node

    def inner_text(self, handle: int) -> bytes | None:
        """The bytes of a string that a packed object holds; None when there is something else."""
        node = self.handles[handle]
        if not isinstance(node, Packed) or node.row in self.graphs:
            return None
        layout = self.layout(node.row)
        spot = layout.inner[handle - self._firsts[node.row]]
        if spot < 0:
            return None
        at = layout.spots[self._place_of[node.row] * len(layout.parts) + spot]
        return self.stream[at + 2 : at + 2 + int.from_bytes(self.stream[at : at + 2], "big")]

    def parse(self, row: int) -> list[Any]:
        """The nodes of an object, itself first, in order of their handles."""
        reader = Reader(self.stream, at=self._starts[row], first=self._firsts[row], packs=self)
        reader.one()
        return reader.handles

    def open(self, row: int) -> Instance:
        """The graph of an object, made once; those that it refers into are opened first, without recursion."""
        rest = [row]
        while rest:
            top = rest[-1]
            if top not in self.graphs:
                inside = [self.handles[one] for one in self._targets_of(top) if 0 <= one < self._firsts[top]]
                needed = {one.row for one in inside if isinstance(one, Packed) and one.row not in self.graphs}
                if needed:
                    rest.extend(needed)
                    continue
                self.graphs[top] = nodes = self.parse(top)
                self.origins.update((id(node), self._firsts[top] + place) for place, node in enumerate(nodes))
            rest.pop()
        return self.graphs[row][0]

    def _targets_of(self, row: int) -> list[int]:
        """The handles that the references of one object refer to: `targets` without the cost of arrays."""
        layout, stream = self.layout(row), self.stream
        bases = [self._starts[row]]
        first = self._place_of[row] * len(layout.parts)
        for at, (_, width, unit) in zip(layout.spots[first : first + len(layout.parts)], layout.parts, strict=True):
            bases.append(at + width + int.from_bytes(stream[at : at + width], "big") * unit)
        places = (bases[segment] + offset for segment, offset, _ in layout.links)
        return [int.from_bytes(stream[place : place + 4], "big") - BASE_HANDLE for place in places]

    # --- writing

    def write(self, writer: Any, nodes: list[Packed]) -> None:
        """Write objects that nobody opened, one after another."""
        from wsplf_cli.qupath.javaser.copies import copy

        for at in range(0, len(nodes), _BATCH):
            batch = nodes[at : at + _BATCH]
            opened = [node for node in batch if node.row in self.graphs]
            if opened:  # by what was written just before
                writer.put([node if node.opened is None else node.opened for node in batch])
            else:
                copy(self, writer, np.array([node.row for node in batch], np.int64))


def batches(rows: Ints) -> Iterator[Ints]:
    """Rows in pieces that bound the memory needed at once."""
    return (rows[at : at + _BATCH] for at in range(0, len(rows), _BATCH))
