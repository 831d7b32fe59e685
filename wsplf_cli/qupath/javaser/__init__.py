"""Java's object serialization stream as a graph, and back; nothing of the stream is ever executed.

``dumps(loads(stream)) == stream`` for any stream of a plain ObjectOutputStream. A node that appears twice in the graph
is written once and referenced after that, as Java does; handles are given anew. Reading and writing use a stack of
their own, not Python's, and are bounded in depth and count. These modules know nothing of QuPath:
``javagraph`` has the nodes, ``javaread`` and ``javawrite`` go over the bytes; ``javalayout``, ``javapack`` and
``javacopy`` spare the graph where a stream holds very many objects of one form.

Why not a library: javaobj-py3 is the only one on PyPI that is maintained (0.6.1 of August 2026). Of the 40 QuPath files
that it was tried on, its first reader (v1) wrote none back to the same bytes; its second (v2) has no writer; its third
(v3) needs Python 3.12 and refuses Externalizable classes, of which QuPath's hierarchy is made.

Not readable: an Externalizable class written without block data (protocol version 1, before Java 1.2), whose bytes only
the class itself can tell apart.
"""

from collections.abc import Callable

from wsplf_cli.qupath.javaser.graph import ClassDesc, Stream
from wsplf_cli.qupath.javaser.pack import Packs
from wsplf_cli.qupath.javaser.read import NotPackable, Reader
from wsplf_cli.qupath.javaser.write import Writer


def loads(stream: bytes, *, packed: Callable[[ClassDesc], bool] | None = None) -> Stream:
    """The graph of a stream; objects of the classes that ``packed`` names may be left packed (javapack.Packed).

    Raises:
        JavaStreamError: cut short, damaged, or beyond the bounds of this module.
    """
    if packed is not None:
        packs = Packs(stream, packed)
        try:
            read = Reader(stream, packs=packs).read()
        except NotPackable:
            return loads(stream)
        packs.check()
        return read
    return Reader(stream).read()


def dumps(stream: Stream) -> bytes:
    """The bytes of a graph, handles numbered in order of appearance."""
    writer = Writer()
    writer.put(stream.contents)
    return bytes(writer.out)
