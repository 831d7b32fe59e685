"""Java's object serialization stream as a graph, and back; nothing of the stream is ever executed.

``dumps(loads(stream)) == stream`` for any stream of a plain ObjectOutputStream. A node that appears twice in the graph
is written once and referenced after that, as Java does; handles are given anew. Reading and writing use a stack of
their own, not Python's, and are bounded in depth and count.

The package knows nothing of QuPath. In the order in which one reads it, each module importing only those before it:

- ``tags``: the marks of the stream, and the bounds.
- ``graph``: the nodes of the graph, and how to read a field of an object or build a new one.
- ``read``, ``write``: one pass over the bytes, one pass over the graph.
- ``layout``, ``table``, ``copies``, ``pack``: for streams of very many objects of one form. Such objects stay bytes
  with a known layout, rows of a table; they are written by copying, and get a graph only when it is asked for.

Why not a library: javaobj-py3 is the only one on PyPI that is maintained (0.6.1 of August 2026). It was tried on 40
QuPath files: its first reader (v1) wrote none back to the same bytes, its second (v2) has no writer, and its third (v3)
needs Python 3.12 and refuses Externalizable classes, of which QuPath's hierarchy is made.

Not readable: an Externalizable class written without block data (protocol version 1, before Java 1.2); only the class
itself can tell its bytes apart.
"""

from collections.abc import Callable

from wsplf_cli.qupath.javaser.graph import ClassDesc, Stream
from wsplf_cli.qupath.javaser.pack import Packs
from wsplf_cli.qupath.javaser.read import NotPackable, Reader
from wsplf_cli.qupath.javaser.write import Writer


def loads(stream: bytes, *, packed: Callable[[ClassDesc], bool] | None = None) -> Stream:
    """The graph of a stream; objects of the classes that ``packed`` accepts may be left packed (table.Packed).

    Raises:
        JavaStreamError: cut short, damaged, or beyond the bounds of this module.
    """
    if packed is not None:
        packs = Packs(stream, packed)
        try:
            graph = Reader(stream, packs=packs).read()
        except NotPackable:
            return loads(stream)
        packs.check()
        return graph
    return Reader(stream).read()


def dumps(stream: Stream) -> bytes:
    """The bytes of a graph; handles are numbered in order of appearance."""
    writer = Writer()
    writer.put(stream.contents)
    return bytes(writer.out)
