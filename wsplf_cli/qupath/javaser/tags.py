"""The marks of a Java serialization stream, and the bounds within which it is read and written."""

MAGIC = b"\xac\xed\x00\x05"
BASE_HANDLE = 0x7E0000
"""The first handle; the handles in this package count from 0."""

NULL, REFERENCE, CLASS_DESC, OBJECT, STRING, ARRAY, CLASS, BLOCK, END, RESET = range(0x70, 0x7A)
LONG_BLOCK, EXCEPTION, LONG_STRING, PROXY_DESC, ENUM = range(0x7A, 0x7F)

MAX_DEPTH = 5_000
MAX_CLASS_DEPTH = 8
"""How deep objects may lie in the annotations of the classes of objects in annotations ... Java itself writes none."""
MAX_NODES = 10_000_000
"""Objects, strings, blocks and fields in one graph: about a gigabyte. Packed objects do not count."""
