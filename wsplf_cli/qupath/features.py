"""The features of a GeoJSON text: a small text is loaded whole, a large one is read one feature at a time.

Both give the same features. Files of QuPath have what RFC 7946 and JSON do not: NaN as a number, and ``metadata`` twice
in one object (0.5 and later). Both are kept: the objects of a repeated key are merged.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import geojson

#: A tuple, not a set: a value of any type that stands in a file as a type can be searched in it.
GEOMETRIES = ("Point", "MultiPoint", "LineString", "MultiLineString", "Polygon", "MultiPolygon", "GeometryCollection")
SMALL_CHARACTERS = 5_000_000
"""The longest text that is loaded whole; a longer one would take several times its size in memory."""
_BLANK = re.compile(r"[ \t\n\r]*")


class NotGeoJsonError(ValueError):
    """JSON, but without features."""


def features(text: str, beside: dict[str, Any] | None = None) -> Iterator[Any]:
    """Every feature, in order: of a FeatureCollection, of a list (of features, geometries or such), or a single one.

    A bare geometry comes as a feature without properties. A value that is not a feature comes as it is, so that the
    caller can name it by its index.

    Args:
        text: The text.
        beside: Gets what stands beside the features in a FeatureCollection, once all features were read.

    Raises:
        NotGeoJsonError: JSON of something else.
        ValueError: not JSON, or nested too deeply.
    """
    return _loaded(text, beside) if len(text) <= SMALL_CHARACTERS else _streamed(text, beside)


def malformation(geometry: Mapping[str, Any]) -> str:
    """What is wrong with a geometry by RFC 7946, as the geojson library says it; empty where it finds nothing."""
    try:
        errors = geojson.GeoJSON.to_instance(geometry, strict=True).errors()
    except (ValueError, TypeError, AttributeError, KeyError, OverflowError, RecursionError):
        return ""  # the library cannot even take it in
    while isinstance(errors, list) and errors:
        errors = errors[0]
    return str(errors)[:1].lower() + str(errors)[1:] if errors else ""


def _loaded(text: str, beside: dict[str, Any] | None = None) -> Iterator[Any]:
    """The features of a text that is loaded whole."""
    try:
        document = geojson.loads(text, object_pairs_hook=_merged, parse_constant=float)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if isinstance(document, dict) and isinstance(document.get("features"), list):
        if beside is not None:
            beside |= {key: value for key, value in document.items() if key != "features"}
        document = document["features"]
    elif isinstance(document, dict):
        _check_type(document)
    elif not isinstance(document, list):
        raise NotGeoJsonError("it is a single value")
    return _flat(document)


def _streamed(text: str, beside: dict[str, Any] | None = None) -> Iterator[Any]:
    """The features of a text that is read one feature at a time."""
    reader = _Reader(text)
    first = reader.peek()
    if first == "[":
        for value in reader.elements():
            yield from _flat(value)
    elif first == "{":
        yield from _of_object(reader, {} if beside is None else beside)
    else:
        reader.value()
        raise NotGeoJsonError("it is a single value")
    if reader.peek():
        raise json.JSONDecodeError("Extra data", text, reader.at)


def _of_object(reader: "_Reader", beside: dict[str, Any]) -> Iterator[Any]:
    """The features of the object that begins here; its ``features`` are streamed, wherever its ``type`` stands."""
    members: dict[str, Any] = {}
    streamed = False
    for key in reader.members():
        if key == "features" and reader.peek() == "[":
            streamed = True
            for value in reader.elements():
                yield from _flat(value)
        else:
            members[key] = reader.value()
    if streamed:
        beside |= members
    else:
        _check_type(members)
        yield from _flat(members)


def _check_type(members: Mapping[str, Any]) -> None:
    """Refuse an object that is neither a feature nor a geometry."""
    if members.get("type") != "Feature" and members.get("type") not in GEOMETRIES:
        raise NotGeoJsonError(f"its type is {members.get('type')!r}")


def _flat(value: Any) -> Iterator[Any]:
    """The features in one element of a list: QuPath takes lists and collections inside lists as well."""
    if isinstance(value, list):
        for element in value:
            yield from _flat(element)
    elif isinstance(value, dict) and value.get("type") == "FeatureCollection":
        yield from _flat(value.get("features"))
    elif isinstance(value, dict) and value.get("type") in GEOMETRIES:
        yield {"type": "Feature", "geometry": value, "properties": {}}
    else:
        yield value


class _Reader:
    """A position in a JSON text, and what can be read there."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self._decode = json.JSONDecoder(object_pairs_hook=_merged).raw_decode

    def peek(self) -> str:
        """The next character that is not blank; empty at the end."""
        blank = _BLANK.match(self.text, self.at)
        assert blank is not None  # it matches the empty string
        self.at = blank.end()
        return self.text[self.at : self.at + 1]

    def take(self, character: str) -> None:
        """Go past a character that must be here."""
        if self.peek() != character:
            raise json.JSONDecodeError(f"Expecting {character!r}", self.text, self.at)
        self.at += 1

    def value(self) -> Any:
        """The value that begins here."""
        self.peek()
        try:
            value, self.at = self._decode(self.text, self.at)
        except RecursionError as error:
            raise ValueError("nested too deeply") from error
        return value

    def elements(self) -> Iterator[Any]:
        """The elements of the list that begins here."""
        self.take("[")
        if self.peek() == "]":
            self.at += 1
            return
        while True:
            yield self.value()
            if self.peek() != ",":
                break
            self.at += 1
        self.take("]")

    def members(self) -> Iterator[str]:
        """The keys of the object that begins here; the caller reads the value of each."""
        self.take("{")
        if self.peek() == "}":
            self.at += 1
            return
        while True:
            if self.peek() != '"':
                raise json.JSONDecodeError("Expecting a key in double quotes", self.text, self.at)
            key = self.value()
            self.take(":")
            yield key
            if self.peek() != ",":
                break
            self.at += 1
        self.take("}")


def _merged(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; of a key that stands several times the last value counts, but objects are merged."""
    members = dict(pairs)
    if len(members) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        for repeated in (key for key, count in counts.items() if count > 1):
            values = [value for key, value in pairs if key == repeated]
            if all(isinstance(value, dict) for value in values):
                members[repeated] = {key: item for value in values for key, item in value.items()}
    return members
