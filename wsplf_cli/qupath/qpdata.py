"""data.qpdata <-> annotations: the parsed graph is edited in place, so that all else of the file stays as it was."""

import json
import math
import re
import struct
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, get_args
from uuid import NAMESPACE_URL, UUID, uuid5

import shapely
from shapely.geometry.base import BaseGeometry

from wsplf_cli.qupath import javaser
from wsplf_cli.qupath.javaclasses import Maker
from wsplf_cli.qupath.javagraph import Block, ClassDesc, Enum, Instance, JavaStreamError, Stream, Text, get
from wsplf_cli.qupath.pathobjects import (
    ANNOTATION,
    ID_KEY,
    KINDS,
    Body,
    read_class,
    read_measurements,
    read_metadata,
    set_children,
    tail,
    walk,
)
from wsplf_cli.qupath.project_file import pack_rgb, unpack_rgb
from wsplf_cli.qupath.rois import read_plane, read_roi, write_roi
from wsplf_cli.qupath.shapes import part_id, polygons, shape_hash, storable
from wsplf_cli.schema import (
    CLASS_KEY,
    ORIGIN_KEY,
    REVIEW_KEY,
    RUN_KEY,
    SHAPE_KEY,
    Annotation,
    Origin,
    Review,
)

#: The name as wsplf wrote it, so that a renamed annotation is known as one that a person decided on.
NAME_KEY = "wsplf.name"
#: The id where the file's version of QuPath has none of its own (before 0.4).
OWN_ID_KEY = "wsplf.id"
DESCRIPTION_KEY = "ANNOTATION_DESCRIPTION"

_HIERARCHY = "qupath.lib.objects.hierarchy.PathObjectHierarchy"
_NO_IDS_BEFORE = (0, 4)


@dataclass(frozen=True, slots=True)
class Found:
    """An annotation of the file and the object that it was read from."""

    node: Instance
    annotation: Annotation


class QpData:
    """One data.qpdata."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._maker = Maker(stream.descs)

    @property
    def image_type(self) -> str:
        """QuPath's image type, such as BRIGHTFIELD_H_E."""
        enums = (item for item in self._stream.contents if isinstance(item, Enum))
        return next((one.constant.value for one in enums if one.desc.name.endswith("ImageType")), "UNSET")

    @cached_property
    def has_ids(self) -> bool:
        """Whether the version of QuPath that wrote the file gives its objects ids."""
        return version_number(self._version()) >= _NO_IDS_BEFORE

    def found(self) -> list[Found]:
        """All annotations at any depth, in file order.

        Raises:
            JavaStreamError: the hierarchy is not laid out as any release of QuPath does.
        """
        times: Counter[str] = Counter()
        return [
            Found(node, _read(parts, times))
            for node, parts in self._objects()
            if any(desc.name == ANNOTATION for desc in node.desc.lineage)
        ]

    def remove(self, nodes: Collection[Instance]) -> None:
        """Take objects out of the hierarchy; their children take their place."""
        doomed = {id(node) for node in nodes}
        kept: dict[int, list[Instance]] = {}
        for node, parts in reversed(list(self._objects())):
            children = [one for child in parts.children for one in kept.get(id(child), [child])]
            if id(node) in doomed:
                kept[id(node)] = children
            elif any(id(child) in doomed for child in parts.children):
                set_children(parts, children)

    def add(self, annotations: Sequence[Annotation], *, colours: Mapping[str, int]) -> None:
        """Add annotations at the top of the hierarchy, as they are; ``colours`` packed ARGB by full class name."""
        nodes = [self._write(annotation, colours) for annotation in annotations]
        root = self._root()
        if root is None:
            root = _new_root(self._maker)
            self._put_root(root)
        _, parts = next(walk(root))
        set_children(parts, [*parts.children, *nodes])

    def counts(self) -> dict[str, Any]:
        """What summary.json says of the hierarchy."""
        kinds: Counter[str] = Counter()
        classes: dict[str, Counter[str]] = {"annotation": Counter(), "detection": Counter()}
        for node, parts in self._objects():
            names = [desc.name for desc in reversed(node.desc.lineage)]
            kind = next((KINDS[name] for name in names if name in KINDS), "Detections")
            kinds[kind] += 1
            if kind in {"Root objects", "TMA cores"}:
                continue
            group = "annotation" if kind == "Annotations" else "detection"
            classes[group][read_class(tail(parts)[1]) or "Unclassified"] += 1
        return {
            "nObjects": kinds.total(),
            "objectTypeCounts": dict(kinds),
            "annotationClassificationCounts": dict(classes["annotation"]),
            "detectionClassificationCounts": dict(classes["detection"]),
        }

    def dumps(self) -> bytes:
        """The bytes of the file."""
        return javaser.dumps(self._stream)

    def _version(self) -> str:
        """The QuPath version in the file's header; empty for files of 0.2 and where it does not say."""
        texts = (item.value for item in self._stream.contents[:3] if isinstance(item, Text))
        head = next(texts, "")
        if not head.startswith("{"):
            return "0.2"
        try:
            version = json.loads(head).get("qupathVersion")
        except (ValueError, RecursionError) as error:
            raise JavaStreamError("the header of the file is not JSON") from error
        return str(version or "")

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

    def _objects(self) -> Iterator[tuple[Instance, Body]]:
        root = self._root()
        return iter(()) if root is None else walk(root)

    def _write(self, annotation: Annotation, colours: Mapping[str, int]) -> Instance:
        maker = self._maker
        metadata = {ID_KEY if self.has_ids else OWN_ID_KEY: str(annotation.id), **annotation.metadata}
        name = annotation.path_class
        return maker.external(
            ANNOTATION,
            [
                maker.text(annotation.name) if annotation.name else None,
                _packed(maker, annotation.rgb),
                maker.metadata(metadata),
                maker.measurements(annotation.measurements),
                Block(struct.pack(">i", 0)),
                maker.boolean(annotation.locked),
                None if name is None else maker.path_class(name, colours.get(name)),
                write_roi(maker, annotation.shape, plane=annotation.plane),
                Block(struct.pack(">d", math.nan)),
            ],
        )


def loads(data: bytes) -> QpData:
    """The contents of a data.qpdata.

    Raises:
        JavaStreamError: the bytes are cut short or damaged.
    """
    stream = javaser.loads(data)
    first = stream.contents[0] if stream.contents else None
    if not isinstance(first, Block) or not re.match(rb"..Data file version \d", first.raw, re.DOTALL):
        raise JavaStreamError("not a QuPath data file: its header is missing")
    if not any(isinstance(item, Text) and item.raw == b"EOF" for item in stream.contents[-3:]):
        raise JavaStreamError("the file ends early: its end mark is missing")
    return QpData(stream)


def create(*, version: str, server: str | None, path: str, properties: Mapping[str, str]) -> QpData:
    """A new data file without objects, in the form of a QuPath version.

    The image type is UNSET: QuPath then asks or estimates, as it does for any image that is opened the first time,
    while a type or stains that we guessed would be taken for a person's choice.

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
    locale = {"country": "", "extensions": "", "language": "en", "script": "", "variant": ""}
    place = maker.object("java.util.Locale", hashcode=-1, **{key: maker.text(one) for key, one in locale.items()})
    place.values.append([])
    contents = [
        Block(struct.pack(">H", len(title)) + title),
        maker.text(f"Image path: {path}" if old else head),
        place,
        maker.constant("qupath.lib.images.ImageData$ImageType", "UNSET"),
        None,
        maker.external("qupath.lib.plugins.workflow.Workflow", [Block(struct.pack(">ii", 1, 0))]),
        maker.object(_HIERARCHY, rootObject=_new_root(maker), tmaGrid=None),
        maker.map({key: maker.text(value) for key, value in properties.items()}),
        maker.text("EOF"),
    ]
    return QpData(Stream(contents, descs))


def mark(annotation: Annotation, *, origin: Origin) -> list[Annotation]:
    """The annotations to write for one: a polygon for each part, repaired, with wsplf's marks in the metadata.

    A person's annotation (``origin`` human) gets no marks.
    """
    written = []
    path_class = class_name(annotation.path_class)
    for place, shape in enumerate(storable(annotation.shape)):
        metadata = dict(annotation.metadata)
        if origin != "human":
            metadata |= {
                ORIGIN_KEY: origin,
                RUN_KEY: annotation.run_id,
                REVIEW_KEY: annotation.review,
                SHAPE_KEY: shape_hash(shape),
                CLASS_KEY: path_class or "",
                NAME_KEY: annotation.name,
            }
        written.append(
            Annotation(
                id=part_id(annotation.id, place),
                shape=shape,
                path_class=path_class,
                origin=origin,
                review=annotation.review,
                run_id=annotation.run_id,
                name=annotation.name,
                measurements=dict(annotation.measurements),
                metadata=metadata,
                locked=annotation.locked,
            )
        )
    return written


def undecided(annotation: Annotation) -> bool:
    """Whether wsplf made the annotation and no person has accepted, rejected, locked, renamed, noted or edited it."""
    return (
        annotation.origin != "human"
        and annotation.review == "pending"
        and not annotation.edited
        and not annotation.locked
        and annotation.name == annotation.metadata.get(NAME_KEY, annotation.name)
        and DESCRIPTION_KEY not in annotation.metadata
    )


def class_name(text: str | None) -> str | None:
    """A full class name as QuPath writes it ("Tumor: Positive"), or None for a blank one."""
    return ": ".join(part.strip() for part in (text or "").split(":") if part.strip()) or None


def version_number(version: str) -> tuple[int, int]:
    """(0, 6) of "0.6.0-rc3"; a version that cannot be read counts as the newest."""
    match = re.match(r"v?(\d+)\.(\d+)", version)
    return (int(match[1]), int(match[2])) if match else (99, 0)


def _packed(maker: Maker, rgb: tuple[int, int, int] | None) -> Instance | None:
    packed = pack_rgb(rgb)
    return None if packed is None else maker.integer(packed)


def _new_root(maker: Maker) -> Instance:
    return maker.external("qupath.lib.objects.PathRootObject", [None, None, None, Block(struct.pack(">i", 0))])


def _read(parts: Body, times: Counter[str]) -> Annotation:
    """The annotation of an object; ``times`` counts equal ones without ids, which are told apart by their order."""
    locked, path_class, roi = tail(parts)
    metadata = read_metadata(parts.metadata)
    stored = read_roi(roi)
    name = parts.name.value if isinstance(parts.name, Text) else ""
    class_name = read_class(path_class)
    origin = metadata.get(ORIGIN_KEY)
    review = metadata.get(REVIEW_KEY)
    own: Origin = origin if origin in get_args(Origin) else "human"  # type: ignore[assignment]
    decided: Review = review if review in get_args(Review) else "pending"  # type: ignore[assignment]
    edited = own != "human" and (
        metadata.get(SHAPE_KEY) != shape_hash(stored) or metadata.get(CLASS_KEY, "") != (class_name or "")
    )
    return Annotation(
        id=_identity(parts, metadata, (stored, name, class_name), times),
        shape=_usable(stored),
        path_class=class_name,
        origin=own,
        review=decided,
        run_id=metadata.get(RUN_KEY, ""),
        name=name,
        measurements=read_measurements(parts.measurements),
        metadata={key: value for key, value in metadata.items() if key not in {ID_KEY, OWN_ID_KEY}},
        locked=isinstance(locked, Instance) and bool(get(locked, "value")),
        edited=edited,
        plane=read_plane(roi),
        rgb=unpack_rgb(get(parts.colour, "value")) if isinstance(parts.colour, Instance) else None,
    )


def _identity(
    parts: Body, metadata: Mapping[str, str], looks: tuple[BaseGeometry, str, str | None], times: Counter[str]
) -> UUID:
    """The object's id; where it has none, one that stays the same as long as the object does."""
    for text in (metadata.get(ID_KEY, ""), metadata.get(OWN_ID_KEY, "")):
        if parts.own_id is not None:
            return parts.own_id
        if re.fullmatch(r"[0-9a-fA-F-]{32,36}", text) and len(text.replace("-", "")) == 32:
            return UUID(text)
    shape, name, class_name = looks
    seed = f"{shapely.to_wkb(shape, hex=True)} {name} {class_name}"
    times[seed] += 1
    return uuid5(NAMESPACE_URL, f"wsplf:{times[seed]}:{seed}")


def _usable(shape: BaseGeometry) -> BaseGeometry:
    """A polygon that crosses itself as the area that it covers; anything else as it is."""
    if shape.is_valid or not polygons(shape):
        return shape
    return shapely.union_all(polygons(shapely.make_valid(shape)))
