"""JSON as QuPath writes it (Gson): what was read and not changed is written back to the same bytes."""

import json
import math
import re
from typing import Any

# Gson escapes these so that its output can stand in HTML; other characters stay as they are.
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\t": "\\t", "\b": "\\b", "\n": "\\n", "\r": "\\r", "\f": "\\f"}
_SPECIAL = re.compile("[\\x00-\\x1f\"\\\\<>&='\\u2028\\u2029\\ud800-\\udfff]")


class Number(float):
    """A number with a fraction or exponent that remembers how it was written, since Java writes some otherwise."""

    text: str

    def __new__(cls, text: str) -> "Number":
        """The number that a text stands for."""
        number = super().__new__(cls, text)
        number.text = text
        return number


def loads(text: str) -> Any:
    """The value of a JSON text; bare NaN and Infinity are allowed.

    Raises:
        ValueError: not JSON, or nested too deeply.
    """
    try:
        return json.loads(text.removeprefix("\ufeff"), parse_float=Number)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


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
        items = [(_string(str(key)) + colon, item) for key, item in value.items()]
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
    for place, (prefix, item) in enumerate(items):
        pieces += ["," if place else "", inner or "", prefix, *_pieces(item, inner)]
    return [*pieces, newline or "", closing]
