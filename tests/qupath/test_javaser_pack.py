"""Objects left packed are written and read as their graphs would be."""

import struct
from random import Random

import numpy as np
import pytest

from wsplf_cli.qupath import javaser
from wsplf_cli.qupath.javaser.graph import (
    Array,
    Block,
    ClassDesc,
    Field,
    Instance,
    JavaStreamError,
    Reset,
    Stream,
    Text,
)

ITEM = ClassDesc("a.Item", 1, 12)
PAIR = ClassDesc("a.Pair", 1, 2, (Field("D", "n", None), Field("L", "x", Text(b"Ljava/lang/Object;"))))
FLOATS = ClassDesc("[F", 1, 2)
HOLDER = ClassDesc("a.Holder", 1, 12)
SHARED = Text(b"shared")


def _item(place: int, *extra: object) -> Instance:
    numbers = Array(FLOATS, np.arange(place % 5, dtype=">f4").tobytes())
    pair = Instance(PAIR, [struct.pack(">d", place), SHARED])
    return Instance(ITEM, [[Text(b"t" * (place % 7)), None, pair, Block(struct.pack(">i", place)), numbers, *extra]])


def _stream(items: list[Instance], *after: object) -> bytes:
    return javaser.dumps(Stream([Instance(HOLDER, [[SHARED, *items, Block(b"end")]]), *after], {}))


def _packed(raw: bytes) -> Stream:
    return javaser.loads(raw, packed=lambda desc: desc.name == "a.Item")


def test_objects_of_one_form_are_left_packed_and_written_to_the_same_bytes() -> None:
    raw = _stream([_item(place) for place in range(50)], Text(b"last"))
    read = _packed(raw)
    assert len(read.packs) == 48  # the first brings the classes, the second is learned from
    assert javaser.dumps(read) == raw


def test_any_of_them_can_be_opened_first() -> None:
    raw = _stream([_item(place) for place in range(50)])
    for seed in range(10):
        read = _packed(raw)
        for row in Random(seed).sample(range(48), 12):
            assert read.packs.open(row) is read.packs.open(row)
        assert javaser.dumps(read) == raw


def test_removing_some_gives_what_removing_their_graphs_gives() -> None:
    texts = [Text(f"text {place}".encode()) for place in range(40)]
    # each item holds a string of its own, to which the next two refer
    items = [_item(place, *texts[max(0, place - 2) : place + 1]) for place in range(40)]
    raw = _stream(items)
    for seed in range(20):
        random = Random(seed)
        gone = set(random.sample(range(1, 41), random.randrange(1, 30)))
        packed, plain = _packed(raw), javaser.loads(raw)
        for one in (packed, plain):
            held = one.contents[0].values[0]
            held[:] = [item for place, item in enumerate(held) if place not in gone]
        if seed % 2:
            random.shuffle(packed.contents[0].values[0])
            order = Random(seed)
            order.sample(range(1, 41), order.randrange(1, 30))
            order.shuffle(plain.contents[0].values[0])
        assert len(packed.packs) > 30
        assert javaser.dumps(packed) == javaser.dumps(plain)


def test_later_reference_into_a_packed_object_opens_it() -> None:
    items = [_item(place) for place in range(9)]
    raw = _stream(items, items[5].values[0][0], items[6])
    read = _packed(raw)
    opened = [node.opened for node in read.contents[0].values[0] if hasattr(node, "peek")]
    assert read.contents[1] is opened[3].values[0][0]
    assert read.contents[2] is opened[4]
    assert javaser.dumps(read) == raw


def test_change_to_an_opened_object_is_written_and_to_a_peeked_one_is_not() -> None:
    raw = _stream([_item(place) for place in range(9)])
    read = _packed(raw)
    node = read.contents[0].values[0][-2]
    node.peek().values[0][1] = Text(b"changed")
    assert javaser.dumps(read) == raw
    node.open().values[0][1] = Text(b"changed")
    assert b"changed" in javaser.dumps(read)


def test_stream_that_forgets_its_handles_is_read_without_packing() -> None:
    raw = _stream([_item(place) for place in range(9)], Reset(), Text(b"x"))
    read = _packed(raw)
    assert read.packs is None
    assert javaser.dumps(read) == raw


def test_reference_to_nothing_in_a_packed_object_is_refused() -> None:
    raw = _stream([_item(place) for place in range(9)])
    at = raw.rindex(b"\x71\0\x7e\0")
    with pytest.raises(JavaStreamError, match="not there"):
        _packed(raw[:at] + b"\x71\0\x7f\0\0" + raw[at + 5 :])


def test_long_chain_of_references_is_opened_without_recursion() -> None:
    texts = [Text(f"{place}".encode()) for place in range(3_001)]
    raw = _stream([_item(0, texts[place], texts[place - 1]) for place in range(1, 3_001)])
    read = _packed(raw)
    assert len(read.packs) > 2_900
    read.packs.open(len(read.packs) - 1)
    assert javaser.dumps(read) == raw
