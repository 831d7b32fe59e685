"""The Java classes that wsplf writes: their descriptors, and new objects of them for a stream.

A descriptor that is in the stream is used as it is, so that the new objects refer to it as Java's would. The others
come from the table below (the same in QuPath 0.2 to 0.7).
"""

import struct
from collections.abc import Mapping, Sequence
from typing import Any

from wsplf_cli.class_names import class_parts
from wsplf_cli.qupath.javaser.graph import (
    Array,
    Block,
    ClassDesc,
    Enum,
    Field,
    Instance,
    JavaStreamError,
    Text,
    build,
    encode_text,
)

_STRING, _OBJECT = "Ljava/lang/String;", "Ljava/lang/Object;"
_PLANE = (("I", "c", ""), ("I", "t", ""), ("I", "z", ""))
_CORNERS = (("D", "x", ""), ("D", "x2", ""), ("D", "y", ""), ("D", "y2", ""))
_POINTS = (("[", "x", "[F"), ("[", "y", "[F"))

# name -> serialVersionUID, flags, fields (kind, name, signature), superclass
_TABLE: dict[str, tuple[int, int, tuple[tuple[str, str, str], ...], str]] = {
    "[B": (-5984413125824719648, 2, (), ""),
    "[F": (836686056779680834, 2, (), ""),
    "[Ljava.lang.Object;": (-8012369246846506644, 2, (), ""),
    "java.lang.Number": (-8742448824652078965, 2, (), ""),
    "java.lang.Integer": (1360826667806852920, 2, (("I", "value", ""),), "java.lang.Number"),
    "java.lang.Boolean": (-3665804199014368530, 2, (("Z", "value", ""),), ""),
    "java.lang.Enum": (0, 18, (), ""),
    "java.util.ArrayList": (8683452581122892189, 3, (("I", "size", ""),), ""),
    "java.util.HashMap": (362498820763181265, 3, (("F", "loadFactor", ""), ("I", "threshold", "")), ""),
    "java.util.Locale": (
        9149081749638150636,
        3,
        (
            ("I", "hashcode", ""),
            *(("L", name, _STRING) for name in ("country", "extensions", "language", "script", "variant")),
        ),
        "",
    ),
    "qupath.lib.color.ColorDeconvolutionStains": (1, 12, (), ""),
    "qupath.lib.images.ImageData$ImageType": (0, 18, (), "java.lang.Enum"),
    "qupath.lib.plugins.workflow.Workflow": (1, 12, (), ""),
    "qupath.lib.measurements.DefaultMeasurementList": (1, 2, (("L", "list", "Ljava/util/ArrayList;"),), ""),
    "qupath.lib.measurements.DoubleMeasurement": (1, 2, (("D", "value", ""), ("L", "name", _STRING)), ""),
    "qupath.lib.objects.MetadataMap": (1, 12, (), ""),
    "qupath.lib.objects.PathObject": (1, 12, (), ""),
    "qupath.lib.objects.PathRootObject": (1, 12, (), "qupath.lib.objects.PathObject"),
    "qupath.lib.objects.PathROIObject": (1, 12, (), "qupath.lib.objects.PathObject"),
    "qupath.lib.objects.PathAnnotationObject": (1, 12, (), "qupath.lib.objects.PathROIObject"),
    "qupath.lib.objects.classes.PathClass": (
        1,
        2,
        (
            ("L", "colorRGB", "Ljava/lang/Integer;"),
            ("L", "name", _STRING),
            ("L", "parentClass", "Lqupath/lib/objects/classes/PathClass;"),
        ),
        "",
    ),
    "qupath.lib.objects.hierarchy.PathObjectHierarchy": (
        1,
        2,
        (
            ("L", "rootObject", "Lqupath/lib/objects/PathObject;"),
            ("L", "tmaGrid", "Lqupath/lib/objects/hierarchy/TMAGrid;"),
        ),
        "",
    ),
    "qupath.lib.roi.PolygonROI$SerializationProxy": (
        1,
        2,
        (
            *_PLANE,
            ("L", "name", _STRING),
            ("L", "stats", "Lqupath/lib/roi/ClosedShapeStatistics;"),
            ("[", "x", "[F"),
            ("[", "y", "[F"),
        ),
        "",
    ),
    **{
        f"qupath.lib.roi.{kind}$SerializationProxy": (
            1,
            2,
            (*_PLANE[:2], *_CORNERS, _PLANE[2], ("L", "name", _STRING)),
            "",
        )
        for kind in ("LineROI", "EllipseROI", "RectangleROI")
    },
    "qupath.lib.roi.PointsROI$SerializationProxy": (1, 2, (*_PLANE, ("L", "name", _STRING), *_POINTS), ""),
    "qupath.lib.roi.PolylineROI$SerializationProxy": (1, 2, (*_PLANE, *_POINTS), ""),
    "qupath.lib.roi.GeometryROI$WKBSerializationProxy": (
        1,
        2,
        (*_PLANE, ("L", "stats", "Lqupath/lib/roi/GeometryROI$GeometryStats;"), ("[", "wkb", "[B")),
        "",
    ),
}


class Maker:
    """Makes new objects for one stream; ``descs`` are the stream's own descriptors by name and are added to."""

    def __init__(self, descs: dict[str, ClassDesc]) -> None:
        self._descs = descs
        self._shared: dict[Any, Any] = {}

    def desc(self, name: str) -> ClassDesc:
        """The descriptor of a class in the stream, or a new one."""
        if name not in self._descs:
            uid, flags, fields, parent = _TABLE[name]
            self._descs[name] = ClassDesc(
                name,
                uid,
                flags,
                tuple(Field(kind, field, self.shared(sign) if sign else None) for kind, field, sign in fields),
                self.desc(parent) if parent else None,
            )
        return self._descs[name]

    def text(self, text: str) -> Text:
        """A new string."""
        return Text(encode_text(text))

    def shared(self, text: str) -> Text:
        """A string that is written once, as Java writes its constants."""
        if text not in self._shared:
            self._shared[text] = self.text(text)
        text_node: Text = self._shared[text]
        return text_node

    def object(self, kind: str, /, **fields: Any) -> Instance:
        """An object from all its fields.

        Raises:
            JavaStreamError: the stream has another form of this class.
        """
        try:
            return build(self.desc(kind), **fields)
        except (KeyError, IndexError, struct.error) as error:
            raise JavaStreamError(f"the file has an unknown form of the class {kind}") from error

    def integer(self, value: int) -> Instance:
        """A java.lang.Integer, one for each value."""
        key = ("I", value)
        if key not in self._shared:
            self._shared[key] = self.object("java.lang.Integer", value=value)
        number: Instance = self._shared[key]
        return number

    def boolean(self, value: bool) -> Instance:
        """A java.lang.Boolean, one for each value."""
        key = ("Z", value)
        if key not in self._shared:
            self._shared[key] = self.object("java.lang.Boolean", value=value)
        boolean: Instance = self._shared[key]
        return boolean

    def list(self, values: Sequence[Any]) -> Instance:
        """A java.util.ArrayList."""
        node = self.object("java.util.ArrayList", size=len(values))
        node.values.append([Block(struct.pack(">i", len(values))), *values])
        return node

    def map(self, pairs: Mapping[str, Any]) -> Instance:
        """A java.util.HashMap from strings to objects."""
        node = self.object("java.util.HashMap", loadFactor=0.75, threshold=12)
        content: list[Any] = [Block(struct.pack(">ii", 16, len(pairs)))]
        for key, value in pairs.items():
            content += [self.shared(key), value]
        node.values.append(content)
        return node

    def external(self, name: str, content: Sequence[Any]) -> Instance:
        """An object of a class that writes itself."""
        return Instance(self.desc(name), [list(content)])

    def objects(self, values: Sequence[Any]) -> Array:
        """An Object[]."""
        return Array(self.desc("[Ljava.lang.Object;"), values=list(values))

    def raw(self, name: str, raw: bytes) -> Array:
        """An array of primitives, such as ``[F``, from its big-endian bytes."""
        return Array(self.desc(name), raw)

    def constant(self, name: str, constant: str) -> Enum:
        """A constant of an enum class."""
        return Enum(self.desc(name), self.text(constant))

    def metadata(self, pairs: Mapping[str, str]) -> Instance:
        """QuPath's MetadataMap."""
        keys = self.objects([self.shared(key) for key in pairs])
        values = self.objects([self.text(value) for value in pairs.values()])
        return self.external("qupath.lib.objects.MetadataMap", [self.integer(1), keys, values])

    def measurements(self, values: Mapping[str, float]) -> Instance | None:
        """QuPath's list of measurements as annotations have it, or None for no measurements."""
        if not values:
            return None
        name = "qupath.lib.measurements.DoubleMeasurement"
        items = [self.object(name, value=float(value), name=self.shared(key)) for key, value in values.items()]
        return self.object("qupath.lib.measurements.DefaultMeasurementList", list=self.list(items))

    def path_class(self, name: str, colour: int | None, *, all_parts: bool = False) -> Instance:
        """The class of a full name such as "Tumor: Positive".

        ``colour`` is packed ARGB, of the last component; until 0.4 QuPath gave it to ``all_parts``.
        """
        key = ("class", name)
        if key not in self._shared:
            node: Instance | None = None
            parts = class_parts(name)
            if not parts:
                raise JavaStreamError("the name of a class is empty")
            for index, part in enumerate(parts):
                last = index == len(parts) - 1
                packed = None if colour is None or not (last or all_parts) else self.integer(colour)
                node = self.object(
                    "qupath.lib.objects.classes.PathClass",
                    colorRGB=packed,
                    name=self.text(part),
                    parentClass=node,
                )
            self._shared[key] = node
        path_class: Instance = self._shared[key]
        return path_class
