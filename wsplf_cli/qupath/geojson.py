"""Annotations <-> GeoJSON files as QuPath 0.2 to 0.7 exports and imports them."""

import gzip
import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, cast, get_args
from uuid import NAMESPACE_URL, UUID, uuid5

import shapely
from shapely.errors import GEOSException

from wsplf_cli.class_names import class_name
from wsplf_cli.errors import ProjectError
from wsplf_cli.files import replacing
from wsplf_cli.qupath import features, geometries
from wsplf_cli.qupath.colours import Rgb, class_rgb, read_rgb
from wsplf_cli.qupath.geometries import Outline
from wsplf_cli.qupath.records import is_edited
from wsplf_cli.qupath.shapes import shape_hashes
from wsplf_cli.schema import (
    ORIGIN_KEY,
    REVIEW_KEY,
    REVIEWED_KEY,
    RUN_KEY,
    Annotation,
    PathClass,
    Plane,
    Review,
    marks_reviewed,
)

MAX_BYTES = 1 << 31
#: Features that are built or written at once: a compromise between calls and memory.
BLOCK = 4096
#: Objects that are left out and counted: their type in lower case without underscores -> in words.
_LEFT_OUT = {"detection": "detections", "cell": "cells", "tile": "tiles", "tmacore": "TMA cores", "root": ""}
_EMPTY = "annotations without area"
#: Measurements of this prefix are wsplf's.
_OURS = "wsplf: "
_JAVA_CLASS = re.compile(r"Path(\w+)Object|(TMACore)Object")
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


@dataclass(frozen=True, slots=True)
class Contents:
    """The annotations of a file.

    ``rgb`` are the colours of the classes by full name, as far as the file has them; ``left_out`` counts the objects
    that are no annotations, by what they are in words. ``reviewed``: the image was marked as reviewed when wsplf wrote
    the file.
    """

    annotations: list[Annotation] = field(default_factory=list)
    rgb: dict[str, Rgb] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)
    reviewed: bool = False


def read(path: Path) -> list[Annotation]:
    """The annotations of a GeoJSON file; see ``load``."""
    return load(path).annotations


def load(path: Path) -> Contents:
    """The annotations of a GeoJSON file (also compressed, whatever its name), in order, objects inside objects too.

    The file is a FeatureCollection, a list of features, one feature or a bare geometry, in the forms of QuPath 0.2 to
    0.7. Detections, cells, tiles, TMA cores and features without a shape are left out and counted. A MultiPolygon is
    one annotation of several parts. Shapes that cross themselves are repaired. A feature without an id gets an id that
    depends on its content, so that the same feature always has the same id.

    Raises:
        ProjectError: not GeoJSON, or a feature is malformed; the message names the feature by its index from 0.
    """
    text = _text(path)
    reader = _Reader(path)
    beside: dict[str, Any] = {}
    try:
        for index, feature in enumerate(features.features(text, beside)):
            reader.take(feature, f"feature {index}")
    except features.NotGeoJsonError as error:
        hint = "export the annotations in QuPath as a FeatureCollection"
        raise ProjectError(f"{path}: not GeoJSON of features: {error}", hint=hint) from error
    except ValueError as error:
        raise ProjectError(f"{path}: not JSON: {_short(error)}", hint="export it from QuPath again") from error
    reader.flush()
    return replace(reader.contents, reviewed=marks_reviewed(_plain(beside.get(REVIEWED_KEY))))


def write(
    path: Path, annotations: Sequence[Annotation], *, path_classes: Iterable[PathClass] = (), reviewed: str = ""
) -> int:
    """Write a FeatureCollection as QuPath 0.4 to 0.7 import it; compressed when the name ends in .gz.

    Equal annotations give equal bytes. Shapes are rounded to the 0.01-pixel grid; those that are empty on it are left
    out.

    Args:
        path: the file; replaced if it is there.
        annotations: the annotations, in this order.
        path_classes: the classes of the project, for their colours; other classes get QuPath's standard colours.
        reviewed: when and by whom the image was marked as reviewed, to be written beside the features; else blank.

    Returns:
        How many annotations were written.

    Raises:
        ProjectError: the file cannot be written; an old one is in place.
    """
    rgb = {path_class.name: path_class.rgb for path_class in path_classes if path_class.rgb is not None}
    try:
        with replacing(path) as part, part.open("wb") as stream:
            if path.suffix == ".gz":  # without a name and a time in it, equal contents give equal bytes
                with gzip.GzipFile(filename="", mode="wb", fileobj=stream, mtime=0) as packed:
                    written = _write_collection(cast(IO[bytes], packed), annotations, rgb, reviewed)
            else:
                written = _write_collection(stream, annotations, rgb, reviewed)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise ProjectError(f"cannot write {path}: {error.strerror}", hint="free disk space, then try again") from error
    return written


def _write_collection(
    stream: IO[bytes], annotations: Sequence[Annotation], rgb: Mapping[str, Rgb], reviewed: str
) -> int:
    """Write the whole text, one feature on a line; returns how many features."""
    written = 0
    mark = f"{json.dumps(REVIEWED_KEY)}:{json.dumps(reviewed)}," if reviewed.strip() else ""
    stream.write(f'{{"type":"FeatureCollection",{mark}"features":['.encode())
    for start in range(0, len(annotations), BLOCK):
        lines = _features(annotations[start : start + BLOCK], rgb)
        if lines:
            lead = ",\n" if written else "\n"
            stream.write((lead + ",\n".join(lines)).encode("utf-8", "backslashreplace"))
        written += len(lines)
    stream.write(b"\n]}\n")
    return written


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else path.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise ProjectError(f"{path}: over 2 GiB of GeoJSON", hint="split the file")
        return raw.decode(json.detect_encoding(raw)).removeprefix("\ufeff")
    except FileNotFoundError as error:
        raise ProjectError(f"{path}: no such file", hint="check the path") from error
    except (OSError, EOFError) as error:
        raise ProjectError(f"{path}: cannot be read: {_short(error)}", hint="check the file") from error
    except UnicodeDecodeError as error:
        raise ProjectError(f"{path}: not JSON: {_short(error)}", hint="export it from QuPath again") from error


@dataclass(slots=True)
class _Draft:
    """A feature whose shape is not built yet; ``id`` is None where the file has none."""

    id: UUID | None
    outline: Outline
    fields: dict[str, Any]


class _Reader:
    """Collects the annotations of one file; shapes are built a block at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.contents = Contents()
        self._drafts: list[_Draft] = []
        self._times: Counter[str] = Counter()

    def take(self, feature: Any, where: str) -> None:
        """Take one feature and the features inside it; ``where`` names it in messages."""
        try:
            properties, kind = _properties(feature)
            if kind in _LEFT_OUT:
                self.contents.left_out[_LEFT_OUT[kind]] += bool(_LEFT_OUT[kind])
            elif geometries.is_null(feature.get("geometry")):
                self.contents.left_out["annotations without a shape"] += 1
            else:
                self._drafts.append(self._draft(feature, properties))
            children = properties.get("childObjects", properties.get("children"))
        except (ValueError, TypeError, AttributeError, KeyError, OverflowError, RecursionError) as error:
            raise ProjectError(
                f"{self.path.name}: {where}: {_short(error)}", hint=f"correct or remove that feature of {self.path}"
            ) from error
        for index, child in enumerate(children if isinstance(children, list) else []):
            self.take(child, f"{where}, child {index}")
        if len(self._drafts) >= BLOCK:
            self.flush()

    def flush(self) -> None:
        """Build the shapes of the features taken so far."""
        try:
            shapes = geometries.build([draft.outline for draft in self._drafts])
        except GEOSException as error:
            raise ProjectError(f"{self.path}: a shape cannot be built: {_short(error)}") from error
        rois = geometries.bounds_rois([draft.outline for draft in self._drafts], shapes)
        by_wsplf = [draft.fields["origin"] != "human" for draft in self._drafts]
        hashes = iter(shape_hashes([shape for shape, ours in zip(shapes, by_wsplf, strict=True) if ours]))
        for draft, shape, roi, ours in zip(self._drafts, shapes, rois, by_wsplf, strict=True):
            fields = draft.fields
            edited = ours and is_edited(fields["metadata"], fields["path_class"], next(hashes))
            if shape.is_empty:
                self.contents.left_out[_EMPTY] += 1
            else:
                identity = draft.id or self._derived_id(shapely.to_wkb(shape, hex=True), fields)
                self.contents.annotations.append(
                    Annotation(id=identity, shape=shape, roi=roi, has_id=draft.id is not None, edited=edited, **fields)
                )
        self._drafts.clear()

    def _draft(self, feature: Mapping[str, Any], properties: Mapping[str, Any]) -> _Draft:
        geometry = feature.get("geometry")
        outline = _outline(geometry if isinstance(geometry, dict) else {})
        path_class, rgb = _class(properties.get("classification"))
        if path_class is not None and rgb is not None:
            self.contents.rgb.setdefault(path_class, rgb)
        metadata = _metadata(properties.get("metadata"))
        origin, review = metadata.get(ORIGIN_KEY), metadata.get(REVIEW_KEY)
        fields = {
            "path_class": path_class,
            "origin": "human" if origin not in ("pseudolabel", "prediction") else origin,
            "review": review if review in get_args(Review) else "pending",
            "run_id": metadata.get(RUN_KEY, ""),
            "name": _plain(properties.get("name")),
            "measurements": _measurements(properties.get("measurements")),
            "metadata": metadata,
            "locked": _plain(properties.get("isLocked", properties.get("locked"))).lower() == "true",
            "plane": _plane(geometry.get("plane") if isinstance(geometry, dict) else None),
            "rgb": read_rgb(properties.get("color")),
        }
        return _Draft(_id(feature, properties), outline, fields)

    def _derived_id(self, wkb: str, fields: Mapping[str, Any]) -> UUID:
        seed = f"{wkb} {fields['path_class']!a} {fields['name']!a} {fields['plane']}"
        self._times[seed] += 1
        return uuid5(NAMESPACE_URL, f"geojson:{self._times[seed]}:{seed}")


def _properties(feature: Any) -> tuple[Mapping[str, Any], str]:
    """The properties of a feature and its object type in lower case without underscores: annotation, detection, ..."""
    if not isinstance(feature, dict):
        raise ValueError(f"it is {json.dumps(feature)[:40]}, not an object")
    if feature.get("type") != "Feature":
        raise ValueError(f"its type is {feature.get('type')!r}, not 'Feature'")
    properties = feature.get("properties") or {}
    if not isinstance(properties, dict):
        raise ValueError("its properties are not an object")
    # 0.4+ says objectType, 0.3 object_type, and 0.2 the Java class of the object as the id
    kind = next((properties[key] for key in ("objectType", "object_type", "type") if properties.get(key)), None)
    candidates = [kind] if kind else [feature.get("id"), properties.get("id")]
    java = next((match for text in candidates if (match := _JAVA_CLASS.fullmatch(str(text)))), None)
    name = (java[1] or java[2]) if java else kind
    return properties, str(name or "annotation").lower().replace("_", "")


def _outline(geometry: Mapping[str, Any]) -> Outline:
    """The outline of a geometry; the geojson library names what is wrong with a malformed one, where it can."""
    try:
        return geometries.parse(geometry)
    except (ValueError, TypeError, OverflowError) as error:
        reason = features.malformation(geometry)
        raise ValueError(f"its geometry is malformed: {reason}" if reason else _short(error)) from error


def _id(feature: Mapping[str, Any], properties: Mapping[str, Any]) -> UUID | None:
    for text in (feature.get("id"), properties.get("id")):
        if isinstance(text, str) and _UUID.fullmatch(text):
            return UUID(text)
    return None


def _class(value: Any) -> tuple[str | None, Rgb | None]:
    """Full name and colour of a class: a name, an object with a name or a list of names, or 0.2's with its parent."""
    if value is None:
        return None, None
    if isinstance(value, str) and not value.lstrip().startswith(("{", "[")):
        return class_name(value), None
    if not isinstance(value, dict):
        raise ValueError(f"its classification is {json.dumps(value)[:60]}, not an object with a name")
    names = [name for name in _class_names(value) if name is not None]
    wrong = next((name for name in names if not isinstance(name, str)), None)
    if wrong is not None:
        raise ValueError(f"the name of its class is {wrong!r}, not a text")
    return class_name(": ".join(names)), read_rgb(value.get("color", value.get("colorRGB")))


def _class_names(value: Mapping[str, Any]) -> list[Any]:
    names = value.get("names")
    if isinstance(names, list):
        return names
    parent = value.get("parentClass")
    return [*(_class_names(parent) if isinstance(parent, dict) else []), value.get("name")]


def _plane(value: Any) -> Plane:
    if not isinstance(value, dict):
        return Plane()
    return Plane(**{key: int(value[key]) for key in ("c", "z", "t") if key in value})


def _plain(value: Any) -> str:
    """A text as it is, any other value as JSON; empty for None."""
    return value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)


def _metadata(value: Any) -> dict[str, str]:
    pairs = value.items() if isinstance(value, dict) else ()
    return {key: _plain(item) for key, item in pairs if item is not None}


def _measurements(value: Any) -> dict[str, float]:
    """0.2 and 0.3 write a list of names with values, later versions an object; NaN may be the text "NaN"."""
    if isinstance(value, list):
        value = {pair["name"]: pair["value"] for pair in value}
    measurements = {}
    for key, item in (value or {}).items():
        if isinstance(item, list | dict):
            raise ValueError(f"its measurement {key!r} is {json.dumps(item)[:40]}, not a number")
        if item is not None:
            measurements[str(key)] = float(item)
    return measurements


def _features(annotations: Sequence[Annotation], rgb: Mapping[str, Rgb]) -> list[str]:
    """The JSON text of a feature for each annotation whose shape is not empty on the grid."""
    shapes = geometries.on_grid([annotation.shape for annotation in annotations])
    return [
        _feature(annotation, text, rgb)
        for annotation, shape, text in zip(annotations, shapes, geometries.texts(shapes), strict=True)
        if not shape.is_empty
    ]


def _feature(annotation: Annotation, geometry: str, rgb: Mapping[str, Rgb]) -> str:
    """The JSON text of one feature, its keys in QuPath's order."""
    properties: dict[str, Any] = {"objectType": "annotation"}
    if annotation.name:
        properties["name"] = annotation.name
    if annotation.rgb is not None:
        properties["color"] = annotation.rgb
    if annotation.path_class:
        names = annotation.path_class.split(": ")
        named: dict[str, Any] = {"name": names[0]} if len(names) == 1 else {"names": names}
        # QuPath refuses a class without a colour
        properties["classification"] = named | {"color": class_rgb(annotation.path_class, known=rgb)}
    if annotation.locked:
        properties["isLocked"] = True
    if measurements := _written_measurements(annotation.measurements):
        properties["measurements"] = measurements
    if annotation.metadata:
        properties["metadata"] = dict(annotation.metadata)
    if annotation.plane != Plane():
        plane = annotation.plane
        geometry = f'{geometry[:-1]},"plane":{{"c":{plane.c},"z":{plane.z},"t":{plane.t}}}}}'
    if annotation.roi == "EllipseROI":
        geometry = f'{geometry[:-1]},"isEllipse":true}}'
    text = json.dumps(properties, ensure_ascii=False, separators=(",", ":"))
    return f'{{"type":"Feature","id":"{annotation.id}","geometry":{geometry},"properties":{text}}}'


def _written_measurements(measurements: Mapping[str, float]) -> Any:
    """An object. QuPath may have stored NaN or infinity: these make it a list, in which all of 0.4 to 0.7 read them.

    A measurement of ours that is NaN, as older versions wrote it, is left out.
    """
    known = {name: value for name, value in measurements.items() if not (name.startswith(_OURS) and math.isnan(value))}
    if all(math.isfinite(value) for value in known.values()):
        return known
    return [
        {"name": name, "value": value if math.isfinite(value) else _JAVA_NAMES[str(value)]}
        for name, value in known.items()
    ]


_JAVA_NAMES = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}


def _short(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
