import struct
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streams import any_stream, damaged, exercise, small_project_file

from wsplf_cli.errors import ProjectError
from wsplf_cli.qupath import javaser
from wsplf_cli.qupath.javaser.graph import (
    Array,
    Block,
    ClassDesc,
    ClassObject,
    Enum,
    Failure,
    Field,
    Instance,
    JavaStreamError,
    Reset,
    Stream,
    Text,
    build,
    decode_text,
    encode_text,
    get,
)

HEAD = b"\xac\xed\x00\x05"

TEXTS = st.builds(lambda text: Text(encode_text(text)), st.text(max_size=12))
BLOCKS = st.binary(max_size=300).map(Block)
BASE = ClassDesc("a.Base", 7, 2, (Field("I", "number", None), Field("Z", "flag", None)))
OWN = ClassDesc("a.Own", -1, 3, (Field("J", "long", None), Field("L", "next", Text(b"Ljava/lang/Object;"))), BASE)
OUTER = ClassDesc("a.Outer", 1, 12, (), OWN)
KIND = ClassDesc("a.Kind", 0, 18, (), ClassDesc("java.lang.Enum", 0, 18))


def _containers(values: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    content = st.lists(values | BLOCKS, max_size=4)
    return st.one_of(
        content.map(lambda inner: Instance(OUTER, [inner])),
        st.tuples(values, content).map(lambda pair: Instance(OWN, [b"\0" * 5, b"\1" * 8, pair[0], pair[1]])),
        st.lists(values, max_size=4).map(lambda inner: Array(ClassDesc("[Ljava.lang.Object;", 3, 2), values=inner)),
    )


LEAVES = st.one_of(
    st.none(),
    TEXTS,
    st.binary(max_size=6).map(lambda raw: Array(ClassDesc("[B", 1, 2), raw)),
    st.lists(st.floats(width=32), max_size=3).map(
        lambda values: Array(ClassDesc("[F", 2, 2), struct.pack(f">{len(values)}f", *values))
    ),
    TEXTS.map(lambda text: Enum(KIND, text)),
    st.just(ClassObject(OUTER)),
)
GRAPHS = st.lists(st.recursive(LEAVES, _containers, max_leaves=25) | BLOCKS | st.builds(Reset), max_size=6)


@settings(max_examples=80, deadline=None)
@given(GRAPHS)
def test_stream_written_and_read_is_written_to_the_same_bytes(contents: list[object]) -> None:
    stream = javaser.dumps(Stream(contents, {}))
    assert javaser.dumps(javaser.loads(stream)) == stream


def _reason(stream: bytes) -> str:
    """Why a stream is refused; empty when it is not."""
    try:
        javaser.dumps(javaser.loads(stream))
    except ProjectError as error:
        return error.message
    return ""


@settings(max_examples=80, deadline=None)
@given(GRAPHS, st.data())
def test_damaged_stream_gives_a_graph_or_one_clear_error(contents: list[object], data: st.DataObject) -> None:
    stream = bytearray(javaser.dumps(Stream(contents, {})))
    for _ in range(data.draw(st.integers(1, 3))):
        stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(stream)))
    for one in (bytes(stream), bytes(stream[:cut])):
        reason = _reason(one)
        assert "\n" not in reason


@given(st.text())
def test_text_survives_javas_utf8(text: str) -> None:
    assert decode_text(encode_text(text)) == text


def test_javas_utf8_writes_nul_and_emoji_as_java_does() -> None:
    assert encode_text("\0") == b"\xc0\x80"
    assert encode_text("😀") == b"\xed\xa0\xbd\xed\xb8\x80"


def test_repeated_node_is_written_once_and_comes_back_as_one_object() -> None:
    text = Text(b"once")
    stream = javaser.dumps(Stream([text, text], {}))
    assert stream.count(b"once") == 1
    first, second = javaser.loads(stream).contents
    assert first is second


def test_object_that_refers_to_itself_survives() -> None:
    node = build(OWN, number=1, flag=True, long=-2, next=None)
    node.values.append([])
    node.values[OWN.slots["next"][0]] = node
    (read,) = javaser.loads(javaser.dumps(Stream([node], {}))).contents
    assert get(read, "next") is read
    assert (get(read, "number"), get(read, "flag"), get(read, "long")) == (1, True, -2)


def test_fields_are_found_by_name_across_superclasses() -> None:
    node = build(OWN, number=5, flag=False, long=2**40, next=Text(b"x"))
    assert get(node, "number") == 5
    assert get(node, "long") == 2**40
    with pytest.raises(JavaStreamError, match="no field 'nothing'"):
        get(node, "nothing")


def test_nan_payload_of_a_double_is_kept() -> None:
    raw = b"\x7f\xf0\x00\x00\x00\x00\x00\x01"
    desc = ClassDesc("a.D", 1, 2, (Field("D", "value", None),))
    stream = javaser.dumps(Stream([Instance(desc, [raw])], {}))
    assert raw in javaser.dumps(javaser.loads(stream))


def test_deep_nesting_is_refused_without_recursion_error() -> None:
    desc = javaser.dumps(Stream([Instance(OUTER, [[]])], {}))[len(HEAD) :]
    inner = b"\x73\x71\x00\x7e\x00\x00"
    with pytest.raises(JavaStreamError, match="nested over"):
        javaser.loads(HEAD + desc[:-1] + inner * 20_000)


def test_depth_within_the_bound_survives() -> None:
    node = Instance(OUTER, [[]])
    for _ in range(2_000):
        node = Instance(OUTER, [[node]])
    stream = javaser.dumps(Stream([node], {}))
    assert javaser.dumps(javaser.loads(stream)) == stream


@pytest.mark.parametrize("seed", range(300))
def test_stream_of_any_tags_is_written_to_the_same_bytes(seed: int) -> None:
    raw = any_stream(Random(seed))
    assert javaser.dumps(javaser.loads(raw)) == raw


def test_objects_in_the_annotation_of_a_class_survive() -> None:
    inner = Instance(BASE, [b"\0" * 5])
    desc = ClassDesc("a.Marked", 1, 2, annotation=(Text(b"http://where"), None, inner, Block(b"xy")), parent=BASE)
    raw = javaser.dumps(Stream([Instance(desc, [b"\0" * 5]), inner], {}))
    read = javaser.loads(raw)
    assert read.contents[0].desc.annotation[0].value == "http://where"
    assert read.contents[0].desc.annotation[2] is read.contents[1]
    assert javaser.dumps(read) == raw


def test_annotations_in_annotations_without_end_are_refused() -> None:
    begin = b"\x73\x72\x00\x01A" + b"\0" * 8 + b"\x02\x00\x00"
    with pytest.raises(JavaStreamError, match="deep in the annotations"):
        javaser.loads(HEAD + begin * 100)


def test_recorded_failure_in_the_middle_of_objects_survives() -> None:
    array = Array(ClassDesc("[Ljava.lang.Object;", 3, 2), values=[Text(b"one")], missing=3)
    failure = Failure([Instance(BASE, [b"\0" * 5])])
    assert array.values is not None
    array.values.append(Instance(OUTER, [[Text(b"two"), failure]]))
    raw = javaser.dumps(Stream([array, Text(b"after")], {}))
    read = javaser.loads(raw)
    assert read.failed
    assert read.contents[0].missing == 3
    assert read.contents[1].value == "after"
    assert javaser.dumps(read) == raw


def test_long_block_of_our_own_is_cut_as_java_does_and_a_foreign_one_is_kept() -> None:
    raw = bytes(range(256)) * 9
    read = javaser.loads(javaser.dumps(Stream([Block(raw[:2100])], {})))
    assert [(len(block.raw), block.wide) for block in read.contents] == [(1024, True), (1024, True), (52, False)]
    assert javaser.dumps(read)[4:9] == b"\x7a\0\0\x04\0"
    foreign = HEAD + b"\x7a" + struct.pack(">I", len(raw)) + raw + b"\x7a\0\0\0\x01x"
    assert javaser.dumps(javaser.loads(foreign)) == foreign


def test_externalizable_class_without_block_data_is_refused_by_name() -> None:
    with pytest.raises(JavaStreamError, match=r"class a\.Old is written in a form that only the class itself can read"):
        javaser.loads(HEAD + b"\x73\x72\x00\x05a.Old" + b"\0" * 8 + b"\x04\x00\x00\x78\x70")


def test_damaged_streams_end_soon_in_a_value_or_a_clear_error() -> None:
    random = Random(1)
    sound = [small_project_file(random) for _ in range(5)] + [any_stream(random) for _ in range(5)]
    results = {exercise(damaged(random.choice(sound), random.choice(sound), random)) for _ in range(300)}
    assert results >= {"same", "refused"}


def test_class_that_is_its_own_superclass_is_refused() -> None:
    loop = b"\x73\x72\x00\x01A" + b"\0" * 8 + b"\x02\x00\x00\x78" + b"\x71\x00\x7e\x00\x00"
    with pytest.raises(JavaStreamError, match="its own description"):
        javaser.loads(HEAD + loop)


@pytest.mark.parametrize(
    ("stream", "reason"),
    [
        (b"", "ends at byte 0"),
        (b"PK\x03\x04", "not a Java serialization stream"),
        (HEAD + b"\x74\x00\x05ab", "ends at byte 9"),
        (HEAD + b"\x71\x00\x7e\x00\x05", "reference"),
        (HEAD + b"\x7b", "ends at byte 5"),
        (HEAD + b"\x05", "not the start of a value"),
        (HEAD + b"\x72\0\2A\0" + b"\0" * 8 + b"\2\0\0\x78\x70", "byte 7: a name is not in Java's UTF-8"),
        (HEAD + b"\x7c\x7f\xff\xff\xff\xff\xff\xff\xff", "ends at byte"),
        (HEAD + b"\x75\x72\x00\x02[B" + b"\0" * 8 + b"\x02\x00\x00\x78\x70\x7f\xff\xff\xff", "ends at byte"),
        (HEAD + b"\x75\x72\x00\x13[Ljava.lang.Object;" + b"\0" * 8 + b"\x02\0\0\x78\x70\x7f\xff\xff\xff", "too short"),
    ],
)
def test_hostile_stream_is_refused_in_one_line(stream: bytes, reason: str) -> None:
    with pytest.raises(JavaStreamError, match=reason):
        javaser.loads(stream)
