"""Annotations <-> GeoJSON as QuPath exports and imports it."""

import gzip
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args
from uuid import NAMESPACE_URL, UUID, uuid5

import geojson
import shapely
from shapely import MultiPolygon
from shapely.errors import GEOSException
from shapely.geometry import shape as to_shape
from shapely.geometry.base import BaseGeometry

from wsplf_cli.errors import ProjectError
from wsplf_cli.files import write_bytes
from wsplf_cli.qupath.qpdata import class_name
from wsplf_cli.schema import ORIGIN_KEY, REVIEW_KEY, RUN_KEY, Annotation, Origin, Review

MAX_BYTES = 1 << 31
_GEOMETRIES = {"Point", "MultiPoint", "LineString", "MultiLineString", "Polygon", "MultiPolygon", "GeometryCollection"}
_NOT_ANNOTATIONS = {"detection", "cell", "tile", "root", "tma_core", "tmacore"}


def read(path: Path) -> list[Annotation]:
    """The annotations of a GeoJSON file (.geojson, .json, .gz), in order; detections, cells and tiles are left out.

    A FeatureCollection, a list of features, one feature or a bare geometry are taken, in the forms of QuPath 0.2 to
    0.7. A MultiPolygon is one annotation of several parts. Shapes that cross themselves are repaired.

    Raises:
        ProjectError: not GeoJSON, or a feature is malformed; the message names the feature by its index from 0.
    """
    document = _load(path)
    features: Any = None
    if isinstance(document, list):
        features = document
    elif isinstance(document, dict) and document.get("type") == "FeatureCollection":
        features = document.get("features")
    elif isinstance(document, dict) and document.get("type") == "Feature":
        features = [document]
    elif isinstance(document, dict) and document.get("type") in _GEOMETRIES:
        features = [{"type": "Feature", "geometry": document, "properties": {}}]
    if not isinstance(features, list):
        raise ProjectError(
            f"{path}: not GeoJSON of features", hint="export the annotations in QuPath as a FeatureCollection"
        )
    found = []
    for index, feature in enumerate(features):
        try:
            annotation = _annotation(feature, seed=f"{path.name}:{index}")
        except (ValueError, TypeError, AttributeError, KeyError, IndexError, GEOSException) as error:
            raise ProjectError(
                f"{path}: feature {index} is malformed: {_short(error)}", hint="correct or remove that feature"
            ) from error
        if annotation is not None:
            found.append(annotation)
    return found


def write(path: Path, annotations: Sequence[Annotation]) -> None:
    """Write a FeatureCollection as QuPath 0.4 to 0.7 import it; compressed when the name ends in .gz.

    Raises:
        ProjectError: the file cannot be written; an old one is in place.
    """
    collection = geojson.FeatureCollection([_feature(one) for one in annotations])
    content = json.dumps(collection, ensure_ascii=False).encode("utf-8")
    try:
        write_bytes(path, gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
    except OSError as error:
        raise ProjectError(f"cannot write {path}: {error.strerror}", hint="free disk space, then try again") from error


def _load(path: Path) -> Any:
    try:
        raw = path.read_bytes()
        if raw[:2] == b"\x1f\x8b":
            with gzip.open(path) as stream:
                raw = stream.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise ProjectError(f"{path}: over 2 GiB of GeoJSON", hint="split the file")
        return json.loads(raw.decode("utf-8-sig"))
    except FileNotFoundError as error:
        raise ProjectError(f"{path}: no such file", hint="check the path") from error
    except (OSError, EOFError) as error:
        raise ProjectError(f"{path}: cannot be read: {_short(error)}", hint="check the file") from error
    except (ValueError, RecursionError) as error:
        raise ProjectError(f"{path}: not JSON: {_short(error)}", hint="export it from QuPath again") from error


def _annotation(feature: Any, *, seed: str) -> Annotation | None:
    """The annotation of a feature; None for an object of another kind. Raises ValueError with the reason."""
    if not isinstance(feature, dict):
        raise ValueError(f"it is {type(feature).__name__}, not an object")
    if feature.get("type") != "Feature":
        raise ValueError(f"its type is {feature.get('type')!r}, not 'Feature'")
    properties = feature.get("properties") or {}
    if not isinstance(properties, dict):
        raise ValueError("its properties are not an object")
    if _object_kind(feature, properties) in _NOT_ANNOTATIONS:
        return None
    metadata = _texts(properties.get("metadata"))
    origin, review = metadata.get(ORIGIN_KEY), metadata.get(REVIEW_KEY)
    own: Origin = origin if origin in get_args(Origin) else "human"  # type: ignore[assignment]
    decided: Review = review if review in get_args(Review) else "pending"  # type: ignore[assignment]
    return Annotation(
        id=_id(feature, properties, seed),
        shape=_shape(feature.get("geometry")),
        path_class=_class(properties.get("classification")),
        origin=own,
        review=decided,
        run_id=metadata.get(RUN_KEY, ""),
        name=str(properties.get("name") or ""),
        measurements=_measurements(properties.get("measurements")),
        metadata=metadata,
        locked=bool(properties.get("isLocked", properties.get("locked", False))),
    )


def _object_kind(feature: Mapping[str, Any], properties: Mapping[str, Any]) -> str:
    """annotation, detection, ...: 0.4+ says objectType, 0.3 object_type, 0.2 the class of the object as the id."""
    kind = properties.get("objectType") or properties.get("object_type")
    if kind is None:
        for text in (feature.get("id"), properties.get("id")):
            match = re.fullmatch(r"Path(\w+)Object|(TMACore)Object", str(text))
            kind = kind or (match and (match[1] or match[2]))
    return str(kind or "annotation").lower()


def _id(feature: Mapping[str, Any], properties: Mapping[str, Any], seed: str) -> UUID:
    for text in (feature.get("id"), properties.get("id")):
        if isinstance(text, str) and re.fullmatch(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", text):
            return UUID(text)
    return uuid5(NAMESPACE_URL, f"geojson:{seed}")


def _shape(geometry: Any) -> BaseGeometry:
    if not isinstance(geometry, dict) or geometry.get("type") not in _GEOMETRIES:
        kind = geometry.get("type") if isinstance(geometry, dict) else None
        raise ValueError("it has no geometry" if kind is None else f"there is no geometry {kind!r}")
    problems = getattr(geojson, geometry["type"])(
        **{key: value for key, value in geometry.items() if key in {"coordinates", "geometries"}}
    ).errors()
    if problems:
        raise ValueError(f"its geometry is wrong: {problems}")
    shape = shapely.force_2d(to_shape(geometry))
    if shape.is_empty:
        raise ValueError("its geometry is empty")
    if not all(math.isfinite(bound) for bound in shape.bounds):
        raise ValueError("a coordinate is not a number")
    return shape if shape.is_valid else shapely.make_valid(shape)


def _class(value: Any) -> str | None:
    """The class of a feature: an object with a name, or with the list of its components' names."""
    if value is None:
        return None
    if not isinstance(value, dict):
        raise ValueError(f"its classification is {value!r}, not an object with a name")
    names = value.get("names")
    name = ": ".join(map(str, names)) if isinstance(names, list) else value.get("name")
    if name is not None and not isinstance(name, str):
        raise ValueError(f"the name of its class is {name!r}, not a text")
    return class_name(name)


def _texts(value: Any) -> dict[str, str]:
    return {str(key): str(one) for key, one in value.items()} if isinstance(value, dict) else {}


def _measurements(value: Any) -> dict[str, float]:
    """0.2 and 0.3 write a list of names with values, later versions an object; NaN may be the text "NaN"."""
    if isinstance(value, list):
        value = {one["name"]: one["value"] for one in value}
    return {str(key): float(one) for key, one in (value or {}).items() if one is not None}


def _feature(annotation: Annotation) -> Any:
    properties: dict[str, Any] = {"objectType": "annotation"}
    if annotation.name:
        properties["name"] = annotation.name
    if annotation.path_class:
        names = annotation.path_class.split(": ")
        properties["classification"] = {"name": names[0]} if len(names) == 1 else {"names": names}
    if annotation.locked:
        properties["isLocked"] = True
    if annotation.measurements:
        finite = {key: value if math.isfinite(value) else str(value) for key, value in annotation.measurements.items()}
        properties["measurements"] = finite
    if annotation.metadata:
        properties["metadata"] = dict(annotation.metadata)
    shape = annotation.shape
    if isinstance(shape, MultiPolygon) and len(shape.geoms) == 1:  # QuPath before 0.6 cannot import these
        shape = shape.geoms[0]
    geometry = json.loads(shapely.to_geojson(shape))
    return geojson.Feature(id=str(annotation.id), geometry=geometry, properties=properties)


def _short(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
