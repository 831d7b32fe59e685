"""Leaves objects of a stream packed: bytes with a known layout, for files of very many objects.

Most objects of a class are laid out alike: the same tags and classes, other numbers, references and lengths. Such a
layout is learned from an object that was just read (see layout). An object that matches a layout is passed over: its
position, its handles and its parts of variable length are noted in the table. Columns of values can then be read from
all objects of a layout at once, and runs of objects can be written by copying their bytes (see copies). An object that
fits no layout is read as a graph straight away.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from wsplf_cli.qupath.javaser.copies import copy
from wsplf_cli.qupath.javaser.graph import ClassDesc, JavaStreamError
from wsplf_cli.qupath.javaser.layout import Layout, LayoutLearner
from wsplf_cli.qupath.javaser.table import BATCH, Packed, Table, batches
from wsplf_cli.qupath.javaser.tags import BASE_HANDLE, REFERENCE

MAX_LAYOUTS = 64
"""Layouts of one class."""
MAX_ALL_LAYOUTS = 1_000
MAX_TRIES = 256
"""Objects of one class from which a layout is learned at most."""
_MAX_LEARNED_BYTES = 1 << 24


class Packs(Table):
    """The packed objects of a stream, filled while it is read. ``wanted`` says of which classes they are."""

    def __init__(self, stream: bytes, wanted: Callable[[ClassDesc], bool]) -> None:
        super().__init__(stream)
        self.wanted = wanted
        self.learning: list[tuple[int, int]] = []
        self._by_key: dict[bytes, list[Layout]] = {}
        self._tries: dict[bytes, int] = {}

    def skip(self, start: int, values: list[Any]) -> int:
        """Pass over the objects of known layouts from a byte on; returns the byte after them."""
        stream, at = self.stream, start
        key = stream[at : at + 6]
        layouts = self._by_key.get(key)
        if not layouts:
            return at
        while stream[at : at + 6] == key:
            match = None
            for index, layout in enumerate(layouts):  # noqa: B007 (both are used after the loop)
                match = layout.match(stream, at)
                if match is not None:
                    break
            if match is None:
                break
            if index:
                layouts.insert(0, layouts.pop(index))
            end, offsets = match
            node = Packed(self, len(self._starts))
            self._layout_of.append(layout.index)
            self._index_in_layout.append(len(layout.rows))
            layout.rows.append(node.row)
            layout.offsets.extend(offsets)
            self._starts.append(at)
            self._ends.append(end)
            self._firsts.append(len(self.handles))
            self.handles += [node] * layout.count
            values.append(node)
            at = end
        return at

    def begin(self, start: int, depth: int) -> None:
        """Note that the object that begins at a byte is read as a graph: perhaps to learn from."""
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
        """Note that an object was read to its end: its layout is added if it is one to learn from."""
        if self.learning[-1][0] != depth:
            return
        _, start = self.learning.pop()
        layouts = self._by_key[self.stream[start : start + 6]]
        if len(layouts) < MAX_LAYOUTS and len(self.layouts) < MAX_ALL_LAYOUTS and end - start < _MAX_LEARNED_BYTES:
            layout = LayoutLearner(self.stream, self.handles, self.wanted).learn(start, end, len(self.layouts))
            if layout is not None:
                layouts.append(layout)
                self.layouts.append(layout)

    def check(self) -> None:
        """Check that every reference of a packed object is to something before it.

        Raises:
            JavaStreamError: one is not.
        """
        for layout in self.layouts:
            if not layout.rows or not layout.references:
                continue
            before = np.array([count for _, _, count in layout.references])
            for rows in batches(np.asarray(layout.rows, np.int64)):
                handles = self.targets(layout, rows)
                if (handles < 0).any() or (handles >= self.firsts[rows][:, None] + before).any():
                    raise JavaStreamError("a reference to an object that is not there")

    def write(self, writer: Any, nodes: list[Packed]) -> None:
        """Write objects that nobody opened, one after another."""
        for at in range(0, len(nodes), BATCH):
            batch = nodes[at : at + BATCH]
            if any(node.row in self.graphs for node in batch):  # opened by what was written just before
                writer.put([node if node.opened is None else node.opened for node in batch])
            else:
                copy(self, writer, np.array([node.row for node in batch], np.int64))
