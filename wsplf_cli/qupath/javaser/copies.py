"""Writes packed objects by copying their bytes, with the references in them renumbered."""

from typing import Any

import numpy as np

from wsplf_cli.qupath.javaser.table import Ints, Table
from wsplf_cli.qupath.javaser.tags import BASE_HANDLE


def copy(table: Table, writer: Any, rows: Ints) -> None:
    """Write rows (int64 [N]) in this order; a row that refers to what is not in the stream any more is written whole.

    Every reference lies in a row, its owner, and refers by its handle in the old stream to a row or to another node.
    """
    offsets, owner = _references(table, rows)
    old = table.read_handles(offsets)
    new_of_old = writer.renumbering(table)
    position_of = np.full(len(table), -1, np.int64)
    position_of[rows] = np.arange(len(rows))
    row_of = np.searchsorted(table.firsts, old, side="right") - 1
    inside = (row_of >= 0) & (old < table.firsts[row_of] + table.counts[row_of])
    written = inside & (position_of[row_of] >= 0) & (position_of[row_of] <= owner)
    missing = _resolve(table, writer, old[~written], new_of_old)
    first_user: set[int] = set()
    if len(missing):
        unknown = ~written & np.isin(old, missing)
        order = np.lexsort((owner[unknown], old[unknown]))
        _, firsts = np.unique(old[unknown][order], return_index=True)
        first_user = set(owner[unknown][order][firsts].tolist())
    begin = 0
    for position, row in enumerate(rows.tolist() if first_user else ()):
        # writing a row whole opens the rows that it refers into, which may come later in `rows`
        if position in first_user or row in table.graphs:
            _copy_run(table, writer, rows[begin:position])
            writer.put([table.open(row)])
            begin = position + 1
    _copy_run(table, writer, rows[begin:])


def _copy_run(table: Table, writer: Any, rows: Ints) -> None:
    """Copy rows whose references are all to something written before, or to themselves."""
    if not len(rows):
        return
    starts, ends, firsts, counts = table.starts[rows], table.ends[rows], table.firsts[rows], table.counts[rows]
    new_of_old = writer.renumbering(table)
    new_firsts = writer.next + np.cumsum(counts) - counts
    total = int(counts.sum())
    within = np.arange(total) - np.repeat(np.cumsum(counts) - counts, counts)
    new_of_old[np.repeat(firsts, counts) + within] = np.repeat(new_firsts, counts) + within
    offsets, owner = _references(table, rows)
    old = table.read_handles(offsets)
    new = new_of_old[old]
    if (new < 0).any():
        _resolve(table, writer, old[new < 0], new_of_old)
        new = new_of_old[old]
    assert (new >= 0).all(), "every reference of a copied object is to something written before it"
    breaks = np.flatnonzero(starts[1:] != ends[:-1]) + 1
    begins, stops = starts[np.r_[0, breaks]].tolist(), ends[np.r_[breaks - 1, len(rows) - 1]].tolist()
    copied = bytearray().join([table.stream[begin:stop] for begin, stop in zip(begins, stops, strict=True)])
    changed = new != old
    if changed.any():
        sizes = ends - starts
        moved = offsets[changed] + (np.cumsum(sizes) - sizes - starts)[owner[changed]]
        handles = (new[changed] + BASE_HANDLE).astype(">u4").view(np.uint8).reshape(-1, 4)
        target = np.frombuffer(copied, np.uint8)
        for byte in range(4):
            target[moved + byte] = handles[:, byte]
        del target
    writer.out += copied
    writer.next += total


def _references(table: Table, rows: Ints) -> tuple[Ints, Ints]:
    """The byte of every reference in the rows, those to classes too, and the index in ``rows`` of its owner."""
    layouts = table.layout_of[rows]
    offsets: list[Ints] = []
    owners: list[Ints] = []
    for index in np.unique(layouts).tolist():
        layout = table.layouts[index]
        chosen = np.flatnonzero(layouts == index)
        positions = np.array([*[reference[:2] for reference in layout.references], *layout.classes], np.int64)
        offsets.append((table.bases(layout, rows[chosen])[:, positions[:, 0]] + positions[:, 1]).ravel())
        owners.append(np.repeat(chosen, len(positions)))
    return np.concatenate(offsets), np.concatenate(owners)


def _resolve(table: Table, writer: Any, old: Ints, new_of_old: Ints) -> Ints:
    """Note the new handles of what is written already; returns the old handles of what is not written."""
    missing = []
    for handle in np.unique(old[new_of_old[old] < 0]).tolist():
        node = table.handles[handle]
        row = getattr(node, "row", None)
        if row is not None:
            nodes = table.graphs.get(row)
            node = None if nodes is None else nodes[handle - int(table.firsts[row])]
        new = None if node is None else writer.handles.get(id(node))
        if new is None:
            missing.append(handle)
        else:
            new_of_old[handle] = new
    return np.array(missing, np.int64)
