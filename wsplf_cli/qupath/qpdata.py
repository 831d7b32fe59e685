"""data.qpdata <-> annotations: the graph of the file is edited in place, so that all else in it stays as it is."""

import json
import re
import struct
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from wsplf_cli.class_names import class_name
from wsplf_cli.qupath import columns, gson, javaser
from wsplf_cli.qupath.compose import AnnotationWriter, NewAnnotation
from wsplf_cli.qupath.javaclasses import Maker
from wsplf_cli.qupath.javaser.graph import Block, ClassDesc, Enum, Instance, JavaStreamError, Stream, Text, content, get
from wsplf_cli.qupath.javaser.table import Packed
from wsplf_cli.qupath.pathobjects import (
    ID_KEY,
    Body,
    Node,
    body,
    kind_of,
    packable,
    set_children,
    tail,
    tree,
)
from wsplf_cli.qupath.records import FALLBACK_ID_KEY, StoredObject, annotations, path_objects, read_object
from wsplf_cli.qupath.shapes import part_id, shape_hashes, storable
from wsplf_cli.qupath.stains import default_stains
from wsplf_cli.qupath.values import Values
from wsplf_cli.schema import (
    CLASS_KEY,
    NAME_KEY,
    ORIGIN_KEY,
    REVIEW_KEY,
    RUN_KEY,
    SHAPE_KEY,
    Annotation,
    ObjectKind,
    Origin,
    PathObject,
)

#: The property of the image that names the project's file and the entry's id.
ENTRY_KEY = "PROJECT_ENTRY_ID"
_HIERARCHY = "qupath.lib.objects.hierarchy.PathObjectHierarchy"
_NO_IDS_BEFORE = (0, 4)
_COLOUR_ALL_PARTS_BEFORE = (0, 5)


@dataclass(frozen=True, slots=True)
class AnnotationNode:
    """An annotation of the file and the object that it was read from."""

    node: Node
    annotation: Annotation


class QpData:
    """One data.qpdata."""

    def __init__(self, stream: Stream, *, size: int = 0) -> None:
        self._stream = stream
        self._size = size
        self._maker = Maker(stream.descs)

    @property
    def image_type(self) -> str:
        """QuPath's image type, such as BRIGHTFIELD_H_E."""
        enums = (item for item in self._stream.contents if isinstance(item, Enum))
        return next((enum.constant.value for enum in enums if enum.desc.name.endswith("ImageType")), "UNSET")

    @cached_property
    def has_ids(self) -> bool:
        """Whether the version of QuPath that wrote the file gives its objects ids."""
        return self._written_by >= _NO_IDS_BEFORE

    def annotation_nodes(self) -> list[AnnotationNode]:
        """All annotations at any depth, in file order.

        Raises:
            JavaStreamError: the hierarchy is not laid out as any release of QuPath does.
        """
        nodes = [(node, parts) for node, parts, _ in self._objects() if kind_of(node)[1] == "annotation"]
        records = annotations(self._stored_objects(nodes, Values(self._size)))
        return [AnnotationNode(node, annotation) for (node, _), annotation in zip(nodes, records, strict=True)]

    def objects(self) -> list[PathObject]:
        """All objects, the root first, parents before children, in file order.

        Raises:
            JavaStreamError: the hierarchy is not laid out as any release of QuPath does.
        """
        nodes: list[tuple[Node, Body | None]] = []
        parents: list[int] = []
        index_of: dict[int, int] = {}
        for node, parts, above in self._objects():
            index_of[id(node)] = len(nodes)
            nodes.append((node, parts))
            parents.append(-1 if above is None else index_of[id(above)])
        values = Values(self._size)
        return path_objects(self._stored_objects(nodes, values), parents, self._grid(index_of, values))

    def remove(self, nodes: Collection[Node]) -> None:
        """Take objects out of the hierarchy; their children move up to their parent."""
        removed = {_identity(node) for node in nodes}
        kept: dict[int, list[Any]] = {identity: [] for identity in removed}
        for parent, parts, _ in reversed(list(self._objects())):
            if parts is None or not (
                id(parent) in removed or any(_identity(child) in removed for child in parts.children)
            ):
                continue
            children = [node for child in parts.children for node in kept.get(_identity(child), (child,))]
            if id(parent) in removed:
                kept[id(parent)] = children
            else:
                set_children(parts, children)

    def add(self, annotations: Sequence[Annotation], *, colours: Mapping[str, int]) -> None:
        """Add annotations as they are at the top of the hierarchy; ``colours``: packed ARGB by full class name."""
        writer = AnnotationWriter(
            self._maker,
            id_key=ID_KEY if self.has_ids else FALLBACK_ID_KEY,
            colours=colours,
            colour_all_parts=self._written_by < _COLOUR_ALL_PARTS_BEFORE,
        )
        nodes = [NewAnnotation(writer, annotation) for annotation in annotations]
        root = self._root()
        if root is None:
            root = _new_root(self._maker)
            self._put_root(root)
        parts = body(root)
        set_children(parts, [*parts.children, *nodes])

    def set_location(self, *, project: Path, entry_id: str, moved_from: Path) -> None:
        """Record that the file is the data of an entry of ``project``, where it was saved in the folder ``moved_from``.

        QuPath records the project and the entry's id among the image's properties, and from 0.6 on its own path in the
        header.
        """
        contents = self._stream.contents
        head = contents[1] if len(contents) > 1 else None
        if isinstance(head, Text) and head.value.startswith("{"):
            fields = gson.loads(head.value)
            if moved_from.name in Path(str(fields.get("id") or "")).parts:
                fields["id"] = str(project.parent / "data" / entry_id / "data.qpdata")
                contents[1] = self._maker.text(gson.dumps(fields, indent=False))
        for item in contents:
            if isinstance(item, Instance) and item.desc.name == "java.util.HashMap":
                pairs = content(item)  # behind a block with the size: key, value, key, value, ...
                for index in range(1, len(pairs) - 1, 2):
                    if isinstance(pairs[index], Text) and pairs[index].value == ENTRY_KEY:
                        pairs[index + 1] = self._maker.text(f"{project}::{entry_id}")

    def counts(self) -> dict[str, Any]:
        """The counts of the hierarchy that summary.json holds."""
        kinds: Counter[str] = Counter()
        classes: dict[str, Counter[str]] = {"annotation": Counter(), "detection": Counter()}
        values = Values(self._size)
        packed = []
        kind_names: dict[int, tuple[str, ObjectKind]] = {}
        for node, parts, _ in self._objects():
            title, kind = kind_names.get(id(node.desc)) or kind_names.setdefault(id(node.desc), kind_of(node))
            kinds[title] += 1
            if kind in {"root", "tma_core"}:
                continue
            group = classes["annotation" if kind == "annotation" else "detection"]
            if isinstance(node, NewAnnotation):
                group[node.annotation.path_class or "Unclassified"] += 1
            elif parts is not None:
                group[values.path_class(tail(parts, kind).path_class) or "Unclassified"] += 1
            else:
                packed.append((node, group))
        names = self._packed_classes([node for node, _ in packed], values)
        for (_, group), name in zip(packed, names, strict=True):
            group[name or "Unclassified"] += 1
        return {
            "nObjects": kinds.total(),
            "objectTypeCounts": dict(kinds),
            "annotationClassificationCounts": dict(classes["annotation"]),
            "detectionClassificationCounts": dict(classes["detection"]),
        }

    def dumps(self) -> bytes:
        """The bytes of the file."""
        return javaser.dumps(self._stream)

    @cached_property
    def _written_by(self) -> tuple[int, int]:
        """The QuPath version in the file's header; (0, 2) for files of 0.2, the newest where it does not say."""
        texts = (item.value for item in self._stream.contents[:3] if isinstance(item, Text))
        head = next(texts, "")
        if not head.startswith("{"):
            return 0, 2
        try:
            version = json.loads(head).get("qupathVersion")
        except (ValueError, RecursionError) as error:
            raise JavaStreamError("the header of the file is not JSON") from error
        return version_number(str(version or ""))

    def _hierarchy(self) -> Instance | None:
        for item in self._stream.contents:
            if isinstance(item, Instance) and item.desc.name == _HIERARCHY:
                return item
        return None

    def _root(self) -> Instance | None:
        hierarchy = self._hierarchy()
        root = None if hierarchy is None else get(hierarchy, "rootObject")
        return root if isinstance(root, Instance) else None

    def _put_root(self, root: Instance) -> None:
        hierarchy = self._hierarchy()
        if hierarchy is not None:
            hierarchy.values[hierarchy.desc.slots["rootObject"][0]] = root
            return
        contents = self._stream.contents
        ends = isinstance(contents[-1], Text) if contents else False
        contents.insert(len(contents) - ends, self._maker.object(_HIERARCHY, rootObject=root, tmaGrid=None))

    def _objects(self) -> Iterator[tuple[Node, Body | None, Node | None]]:
        root = self._root()
        return iter(()) if root is None else tree(root)

    def _stored_objects(self, nodes: Sequence[tuple[Node, Body | None]], values: Values) -> list[StoredObject]:
        """The objects: packed ones are read by columns, all others from their graphs."""
        packs = self._stream.packs
        packed_indices = [
            index for index, (node, parts) in enumerate(nodes) if parts is None and isinstance(node, Packed)
        ]
        rows = np.array([nodes[index][0].row for index in packed_indices], np.int64)  # type: ignore[union-attr]
        from_columns: dict[int, StoredObject | None] = {}
        if packed_indices:
            from_columns = dict(zip(packed_indices, columns.read(packs, rows, values), strict=True))
        objects = []
        for index, (node, parts) in enumerate(nodes):
            stored = from_columns.get(index)
            if stored is None:
                graph = node if isinstance(node, Instance) else node.peek()
                stored = read_object(graph, parts or body(graph), values)
            objects.append(stored)
        return objects

    def _packed_classes(self, nodes: Sequence[Any], values: Values) -> list[str | None]:
        """The class of each packed object."""
        if not nodes:
            return []
        rows = np.array([node.row for node in nodes], np.int64)
        names = columns.classes(self._stream.packs, rows, values)
        return [
            values.path_class(tail(body(node.peek()), "detection").path_class) if name is columns.UNKNOWN else name
            for node, name in zip(nodes, names, strict=True)
        ]

    def _grid(self, index_of: Mapping[int, int], values: Values) -> dict[int, tuple[int, int]]:
        """Row and column of the TMA cores in the image's grid, by their index among the objects."""
        hierarchy = self._hierarchy()
        grid = None if hierarchy is None else get(hierarchy, "tmaGrid")
        if not isinstance(grid, Instance):
            return {}
        width = int(get(grid, "gridWidth"))
        cores = values.items(get(grid, "cores"))
        cells = ((index_of.get(_identity(core)), cell) for cell, core in enumerate(cores) if width > 0)
        return {index: divmod(cell, width) for index, cell in cells if index is not None}


def _identity(node: Any) -> int:
    """The identity of an object; of an opened one, the identity of its graph."""
    return id(node if isinstance(node, Instance) else getattr(node, "opened", None) or node)


def loads(data: bytes) -> QpData:
    """The contents of a data.qpdata.

    Raises:
        JavaStreamError: the bytes are cut short or damaged.
    """
    stream = javaser.loads(data, packed=packable)
    if stream.failed:
        raise JavaStreamError("Java recorded that writing this file failed")
    first = stream.contents[0] if stream.contents else None
    if not isinstance(first, Block) or not re.match(rb"..Data file version \d", first.raw, re.DOTALL):
        raise JavaStreamError("not a QuPath data file: its header is missing")
    if not any(isinstance(item, Text) and item.raw == b"EOF" for item in stream.contents[-3:]):
        raise JavaStreamError("the file ends early: its end mark is missing")
    return QpData(stream, size=len(data))


def create(
    *, version: str, server: str | None, path: str, properties: Mapping[str, str], image_type: str = "UNSET"
) -> QpData:
    """A new data file without objects, in the form of a QuPath version.

    ``image_type`` is one that a person chose; a brightfield type gets QuPath's default stains. With UNSET QuPath asks
    or estimates, as it does for any image that is opened the first time: a guess of ours would look like a choice.

    ``server`` is the entry's server builder as compact JSON (None if it has none), ``path`` the image's path, which
    versions before 0.3 have instead.
    """
    descs: dict[str, ClassDesc] = {}
    maker = Maker(descs)
    old = version_number(version) < (0, 3)
    title = f"Data file version {2 if old else 3}".encode()
    fields = {"dataVersion": 3, "qupathVersion": version}
    head = json.dumps(fields, separators=(",", ":"), ensure_ascii=False)
    if server is not None:
        head = f'{head[:-1]},"server":{server}}}'
    locale_fields = {"country": "", "extensions": "", "language": "en", "script": "", "variant": ""}
    locale_texts = {key: maker.text(value) for key, value in locale_fields.items()}
    locale = maker.object("java.util.Locale", hashcode=-1, **locale_texts)
    locale.values.append([])
    contents = [
        Block(struct.pack(">H", len(title)) + title),
        maker.text(f"Image path: {path}" if old else head),
        locale,
        maker.constant("qupath.lib.images.ImageData$ImageType", image_type),
        default_stains(maker, image_type),
        maker.external("qupath.lib.plugins.workflow.Workflow", [Block(struct.pack(">ii", 1, 0))]),
        maker.object(_HIERARCHY, rootObject=_new_root(maker), tmaGrid=None),
        maker.map({key: maker.text(value) for key, value in properties.items()}),
        maker.text("EOF"),
    ]
    return QpData(Stream(contents, descs))


def mark(annotations: Sequence[Annotation], *, origin: Origin) -> list[Annotation]:
    """The annotations to write: one for each polygon of each shape, repaired, with wsplf's marks in the metadata.

    A person's annotations (``origin`` human) get no marks.
    """
    parts = storable([annotation.shape for annotation in annotations])
    hashes = iter(shape_hashes([shape for shapes in parts for shape in shapes]) if origin != "human" else ())
    names = {annotation.path_class: class_name(annotation.path_class) for annotation in annotations}
    marked = []
    for annotation, shapes in zip(annotations, parts, strict=True):
        path_class = names[annotation.path_class]
        for index, shape in enumerate(shapes):
            metadata = dict(annotation.metadata)
            if origin != "human":
                metadata |= {
                    ORIGIN_KEY: origin,
                    RUN_KEY: annotation.run_id,
                    REVIEW_KEY: annotation.review,
                    SHAPE_KEY: next(hashes),
                    CLASS_KEY: path_class or "",
                    NAME_KEY: annotation.name,
                }
            marked.append(
                Annotation(
                    id=part_id(annotation.id, index),
                    shape=shape,
                    path_class=path_class,
                    origin=origin,
                    review=annotation.review,
                    run_id=annotation.run_id,
                    name=annotation.name,
                    measurements=dict(annotation.measurements),
                    metadata=metadata,
                    locked=annotation.locked,
                    plane=annotation.plane,
                    rgb=annotation.rgb,
                )
            )
    return marked


def version_number(version: str) -> tuple[int, int]:
    """(0, 6) of "0.6.0-rc3"; a version that cannot be read counts as the newest."""
    match = re.match(r"v?(\d+)\.(\d+)", version)
    return (int(match[1]), int(match[2])) if match else (99, 0)


def _new_root(maker: Maker) -> Instance:
    return maker.external("qupath.lib.objects.PathRootObject", [None, None, None, Block(struct.pack(">i", 0))])
