"""JSON as QuPath writes it (Gson): values that were read and not changed are written back to the same bytes."""

import json
import math
import re
from typing import Any

# Gson escapes these so that its output can stand in HTML; other characters stay as they are.
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\t": "\\t", "\b": "\\b", "\n": "\\n", "\r": "\\r", "\f": "\\f"}
_SPECIAL = re.compile("[\\x00-\\x1f\"\\\\<>&='\\u2028\\u2029\\ud800-\\udfff]")


class Number(float):
    """A number with a fraction or exponent that keeps its text: Java writes some numbers differently from Python."""

    text: str

    def __new__(cls, text: str) -> "Number":
        """The number that a text stands for."""
        number = super().__new__(cls, text)
        number.text = text
        return number


class Repeated(dict[str, Any]):
    """An object with repeated keys: the last value of a key counts, the others are written back too."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self._pairs = pairs

    def written(self) -> list[tuple[str, Any]]:
        """All pairs in the order read, the last of each key with its present value; then the added ones."""
        last = {key: index for index, (key, _) in enumerate(self._pairs)}
        kept = [
            (key, self[key] if last[key] == index else value)
            for index, (key, value) in enumerate(self._pairs)
            if key in self
        ]
        return kept + [(key, value) for key, value in self.items() if key not in last]


def loads(text: str) -> Any:
    """The value of a JSON text; bare NaN and Infinity are allowed.

    Raises:
        ValueError: not JSON, or nested too deeply.
    """
    try:
        return json.loads(text.removeprefix("\ufeff"), parse_float=Number, parse_int=_whole, object_pairs_hook=_object)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _whole(text: str) -> int | Number:
    return Number(text) if text == "-0" else int(text)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    plain = dict(pairs)
    return plain if len(plain) == len(pairs) else Repeated(pairs)


def as_object(value: Any) -> dict[str, Any]:
    """A JSON value where an object is expected; an empty one in place of anything else."""
    return value if isinstance(value, dict) else {}


def as_list(value: Any) -> list[Any]:
    """A JSON value where a list is expected; an empty one in place of anything else."""
    return value if isinstance(value, list) else []


def dumps(value: Any, *, indent: bool) -> str:
    """JSON text of a value, pretty-printed by two spaces or compact."""
    return "".join(_pieces(value, "\n" if indent else None))


def _string(text: str) -> str:
    escaped = _SPECIAL.sub(lambda match: _ESCAPES.get(match[0], f"\\u{ord(match[0]):04x}"), text)
    return f'"{escaped}"'


def _scalar(value: Any) -> str:
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, Number):
        return value.text
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return json.dumps(value)


def _pieces(value: Any, newline: str | None) -> list[str]:
    """``newline`` is the line break with the indentation of this value, or None for compact output."""
    if isinstance(value, dict):
        colon = ":" if newline is None else ": "
        pairs = value.written() if isinstance(value, Repeated) else value.items()
        items = [(_string(str(key)) + colon, item) for key, item in pairs]
        opening, closing = "{", "}"
    elif isinstance(value, list | tuple):
        items = [("", item) for item in value]
        opening, closing = "[", "]"
    else:
        return [_scalar(value)]
    if not items:
        return [opening + closing]
    inner = None if newline is None else newline + "  "
    pieces = [opening]
    for index, (prefix, item) in enumerate(items):
        pieces += ["," if index else "", inner or "", prefix, *_pieces(item, inner)]
    return [*pieces, newline or "", closing]
