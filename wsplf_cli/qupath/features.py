"""The features of a GeoJSON text one at a time, so that a large file is never in memory as a tree."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

#: A tuple, not a set: whatever stands in a file as a type can be looked for in it.
GEOMETRIES = ("Point", "MultiPoint", "LineString", "MultiLineString", "Polygon", "MultiPolygon", "GeometryCollection")
_BLANK = re.compile(r"[ \t\n\r]*")


class NotGeoJsonError(ValueError):
    """JSON, but nothing that holds features."""


def features(text: str) -> Iterator[Any]:
    """Every feature, in order: of a FeatureCollection, of a list (of features, geometries or such), or a single one.

    A bare geometry comes as a feature without properties. What is no feature comes as it is, for the caller to name it
    by its place. An object that stands twice under one key of an object is merged: QuPath 0.5 and later may write
    ``metadata`` twice.

    Raises:
        NotGeoJsonError: JSON of something else.
        ValueError: not JSON, or nested too deeply.
    """
    reader = _Reader(text)
    first = reader.peek()
    if first == "[":
        for value in reader.elements():
            yield from _flat(value)
    elif first == "{":
        yield from _of_object(reader)
    else:
        reader.value()
        raise NotGeoJsonError("it is a single value")
    if reader.peek():
        raise json.JSONDecodeError("Extra data", text, reader.place)


def _of_object(reader: "_Reader") -> Iterator[Any]:
    """The features of the object that begins here; its ``features`` are streamed, wherever its ``type`` stands."""
    rest: dict[str, Any] = {}
    streamed = False
    for key in reader.members():
        if key == "features" and reader.peek() == "[":
            streamed = True
            for value in reader.elements():
                yield from _flat(value)
        else:
            rest[key] = reader.value()
    if not streamed:
        if rest.get("type") != "Feature" and rest.get("type") not in GEOMETRIES:
            raise NotGeoJsonError(f"its type is {rest.get('type')!r}")
        yield from _flat(rest)


def _flat(value: Any) -> Iterator[Any]:
    """The features in one element of a list: QuPath takes lists and collections inside lists as well."""
    if isinstance(value, list):
        for one in value:
            yield from _flat(one)
    elif isinstance(value, dict) and value.get("type") == "FeatureCollection":
        yield from _flat(value.get("features"))
    elif isinstance(value, dict) and value.get("type") in GEOMETRIES:
        yield {"type": "Feature", "geometry": value, "properties": {}}
    else:
        yield value


class _Reader:
    """A place in a JSON text, and what can be read there."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.place = 0
        self._decode = json.JSONDecoder(object_pairs_hook=_merged).raw_decode

    def peek(self) -> str:
        """The next character that is not blank; empty at the end."""
        found = _BLANK.match(self.text, self.place)
        assert found is not None  # it matches the empty string
        self.place = found.end()
        return self.text[self.place : self.place + 1]

    def take(self, character: str) -> None:
        """Go past a character that must be here."""
        if self.peek() != character:
            raise json.JSONDecodeError(f"Expecting {character!r}", self.text, self.place)
        self.place += 1

    def value(self) -> Any:
        """The value that begins here."""
        self.peek()
        try:
            value, self.place = self._decode(self.text, self.place)
        except RecursionError as error:
            raise ValueError("nested too deeply") from error
        return value

    def elements(self) -> Iterator[Any]:
        """The elements of the list that begins here."""
        self.take("[")
        if self.peek() == "]":
            self.place += 1
            return
        while True:
            yield self.value()
            if self.peek() != ",":
                break
            self.place += 1
        self.take("]")

    def members(self) -> Iterator[str]:
        """The keys of the object that begins here; the caller reads the value of each."""
        self.take("{")
        if self.peek() == "}":
            self.place += 1
            return
        while True:
            if self.peek() != '"':
                raise json.JSONDecodeError("Expecting a key in double quotes", self.text, self.place)
            key = self.value()
            self.take(":")
            yield key
            if self.peek() != ",":
                break
            self.place += 1
        self.take("}")


def _merged(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; of a key that stands several times the last value counts, but objects are merged."""
    made = dict(pairs)
    if len(made) < len(pairs):
        times = Counter(key for key, _ in pairs)
        for key in (key for key, count in times.items() if count > 1):
            values = [value for one, value in pairs if one == key]
            if all(isinstance(value, dict) for value in values):
                made[key] = {name: one for value in values for name, one in value.items()}
    return made
