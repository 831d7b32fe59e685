"""Writes packed objects by copying their bytes, with the references in them renumbered."""

from typing import Any

import numpy as np

from wsplf_cli.qupath.javaser.pack import Ints, Packs
from wsplf_cli.qupath.javaser.read import BASE_HANDLE


def copy(packs: Packs, writer: Any, rows: Ints) -> None:
    """Write rows (int64 [N]) in this order; one that refers to what is not in the stream any more is written whole."""
    at, owner = _references(packs, rows)
    old = packs.read_handles(at)
    new_of_old = writer.renumbering(packs)
    place_of = np.full(len(packs), -1, np.int64)
    place_of[rows] = np.arange(len(rows))
    row_of = np.searchsorted(packs.firsts, old, side="right") - 1
    inside = (row_of >= 0) & (old < packs.firsts[row_of] + packs.counts[row_of])
    written = inside & (place_of[row_of] >= 0) & (place_of[row_of] <= owner)
    missing = _resolve(packs, writer, old[~written], new_of_old)
    first_user: set[int] = set()
    if len(missing):
        unknown = ~written & np.isin(old, missing)
        order = np.lexsort((owner[unknown], old[unknown]))
        _, firsts = np.unique(old[unknown][order], return_index=True)
        first_user = set(owner[unknown][order][firsts].tolist())
    begin = 0
    for place, row in enumerate(rows.tolist() if first_user else ()):
        # writing one whole opens those that it refers into, which may be among the rest
        if place in first_user or row in packs.graphs:
            _copy_run(packs, writer, rows[begin:place])
            writer.put([packs.open(row)])
            begin = place + 1
    _copy_run(packs, writer, rows[begin:])


def _copy_run(packs: Packs, writer: Any, rows: Ints) -> None:
    if not len(rows):
        return
    starts, ends, firsts, counts = packs.starts[rows], packs.ends[rows], packs.firsts[rows], packs.counts[rows]
    new_of_old = writer.renumbering(packs)
    new_firsts = writer.next + np.cumsum(counts) - counts
    total = int(counts.sum())
    within = np.arange(total) - np.repeat(np.cumsum(counts) - counts, counts)
    new_of_old[np.repeat(firsts, counts) + within] = np.repeat(new_firsts, counts) + within
    at, owner = _references(packs, rows)
    old = packs.read_handles(at)
    new = new_of_old[old]
    if (new < 0).any():
        _resolve(packs, writer, old[new < 0], new_of_old)
        new = new_of_old[old]
    assert (new >= 0).all(), "every reference of a copied object is to something written before it"
    breaks = np.flatnonzero(starts[1:] != ends[:-1]) + 1
    begins, stops = starts[np.r_[0, breaks]].tolist(), ends[np.r_[breaks - 1, len(rows) - 1]].tolist()
    copied = bytearray().join([packs.stream[one:other] for one, other in zip(begins, stops, strict=True)])
    changed = new != old
    if changed.any():
        sizes = ends - starts
        moved = at[changed] + (np.cumsum(sizes) - sizes - starts)[owner[changed]]
        handles = (new[changed] + BASE_HANDLE).astype(">u4").view(np.uint8).reshape(-1, 4)
        target = np.frombuffer(copied, np.uint8)
        for byte in range(4):
            target[moved + byte] = handles[:, byte]
        del target
    writer.out += copied
    writer.next += total


def _references(packs: Packs, rows: Ints) -> tuple[Ints, Ints]:
    """Where the references of rows stand, to classes too, and each one's place among the rows."""
    layouts = packs.layout_of[rows]
    found: list[Ints] = []
    owners: list[Ints] = []
    for number in np.unique(layouts).tolist():
        layout = packs.layouts[number]
        chosen = np.flatnonzero(layouts == number)
        places = np.array([*[link[:2] for link in layout.links], *layout.classes], np.int64)
        found.append((packs.bases(layout, rows[chosen])[:, places[:, 0]] + places[:, 1]).ravel())
        owners.append(np.repeat(chosen, len(places)))
    return np.concatenate(found), np.concatenate(owners)


def _resolve(packs: Packs, writer: Any, old: Ints, new_of_old: Ints) -> Ints:
    """Note the new handles of what is written already; the old ones of what is not come back."""
    missing = []
    for handle in np.unique(old[new_of_old[old] < 0]).tolist():
        node = packs.handles[handle]
        row = getattr(node, "row", None)
        if row is not None:
            nodes = packs.graphs.get(row)
            node = None if nodes is None else nodes[handle - int(packs.firsts[row])]
        new = None if node is None else writer.handles.get(id(node))
        if new is None:
            missing.append(handle)
        else:
            new_of_old[handle] = new
    return np.array(missing, np.int64)
