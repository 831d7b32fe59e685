"""How options are read: what a record of config.py holds, filled from the command line, wsplf.toml and a recipe."""

import dataclasses
import difflib
import re
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from wsplf_cli.errors import ConfigError
from wsplf_cli.options import COMMANDS, ProjectOptions, RunOptions, TileOptions
from wsplf_cli.recipes import RECIPES

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Option:
    """One option: ``name`` of the field, its type without None, default, and the metadata given above."""

    name: str
    kind: Any
    default: Any
    metadata: Mapping[str, Any]

    @property
    def flag(self) -> str:
        """As on the command line: ``--label-key``."""
        return "--" + self.key

    @property
    def key(self) -> str:
        """As in wsplf.toml: ``label-key``."""
        return self.name.replace("_", "-")


def options(record: type) -> dict[str, Option]:
    """The options of a record and of the records inside it, flat, by field name."""
    found: dict[str, Option] = {}
    hints = typing.get_type_hints(record)
    for part in dataclasses.fields(record):
        kind = hints[part.name]
        if dataclasses.is_dataclass(kind):
            found |= options(cast(type, kind))
        else:
            found[part.name] = Option(part.name, _without_none(kind), part.default, part.metadata)
    return found


def build(record: type[T], values: Mapping[str, Any]) -> T:
    """Fill a record, and the records inside it, from flat values by field name; what is missing keeps its default.

    Where the record has a recipe, its options stand before the defaults and behind the values.

    Raises:
        ConfigError: a value is outside its limits.
    """
    hints = typing.get_type_hints(record)
    if "recipe" in hints and values.get("recipe") in RECIPES:
        values = {**RECIPES[values["recipe"]].options, **values}
    arguments: dict[str, Any] = {}
    for part in dataclasses.fields(cast(Any, record)):
        if dataclasses.is_dataclass(hints[part.name]):
            arguments[part.name] = build(hints[part.name], values)
        elif part.name in values:
            option = Option(part.name, _without_none(hints[part.name]), part.default, part.metadata)
            arguments[part.name] = _checked(option, values[part.name])
    return record(**arguments)


def read_settings(path: Path, command: str) -> dict[str, Any]:
    """The values that a wsplf.toml has for a command, flat by field name. The whole file is checked, not only these.

    Paths are relative to the file's folder.

    Raises:
        ConfigError: not TOML, an unknown key, or a value of the wrong type; names the file and the key.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    shared = _by_key(options(ProjectOptions) | options(TileOptions) | options(RunOptions))
    tables = {name: _by_key(options(record)) for name, record in COMMANDS.items()}
    values: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, dict):
            if key not in tables:
                raise ConfigError(f"{path}: unknown table [{key}]", hint=_closest(key, tables))
            for inner, inner_value in value.items():
                option = _known(path, inner, tables[key], table=f"[{key}] ")
                converted = _from_toml(path, option, inner_value)
                if key == command:
                    values[option.name] = converted
        else:
            owners = [f"[{name}]" for name, known in tables.items() if key in known]
            if key not in shared and owners:
                raise ConfigError(f"{path}: {key} cannot stand at the top", hint="move it into " + " or ".join(owners))
            option = _known(path, key, shared, table="")
            converted = _from_toml(path, option, value)
            if key in tables[command]:
                values.setdefault(option.name, converted)
    return values


def _by_key(found: Mapping[str, Option]) -> dict[str, Option]:
    return {option.key: option for option in found.values()}


def _known(path: Path, key: str, known: Mapping[str, Option], *, table: str) -> Option:
    if key not in known:
        raise ConfigError(f"{path}: unknown key {table}{key}", hint=_closest(key, known))
    return known[key]


def _closest(word: str, known: Mapping[str, object]) -> str:
    near = difflib.get_close_matches(word.replace("_", "-"), known, n=1)
    return f"did you mean {near[0]}?" if near else "known: " + ", ".join(sorted(known))


def _from_toml(path: Path, option: Option, value: Any) -> Any:
    """``value`` as the option's type, or a ConfigError: TOML's types are taken at their word."""
    kind = option.kind
    if kind is Path and isinstance(value, str):
        return path.parent / Path(value).expanduser()
    if kind is float and type(value) in (int, float):
        return float(value)
    if typing.get_origin(kind) is tuple and isinstance(value, list) and all(isinstance(word, str) for word in value):
        return tuple(value)
    if type(value) is kind:
        return value
    wanted = {Path: "a path", float: "a number", int: "a whole number", str: "text", bool: "true or false"}
    raise ConfigError(
        f"{path}: {option.key} must be {wanted.get(kind, 'a list of texts')}, not {value!r}",
        hint=f"the default is {option.default!r}",
    )


def _checked(option: Option, value: Any) -> Any:
    """``value`` within the limits of its option; a list becomes a tuple."""
    limits = option.metadata
    if value is None:
        return None
    wrong = ""
    if "above" in limits and not value > limits["above"]:
        wrong = f"above {limits['above']}"
    elif "least" in limits and not value >= limits["least"]:
        wrong = f"at least {limits['least']}"
    elif "most" in limits and not value <= limits["most"]:
        wrong = f"at most {limits['most']}"
    elif "choices" in limits and value not in limits["choices"]:
        wrong = "one of: " + ", ".join(limits["choices"])
    if wrong:
        raise ConfigError(f"{option.flag} must be {wrong}, not {value}")
    if option.name == "images":
        try:
            re.compile(value)
        except re.error as error:
            raise ConfigError(f"--images is not a regular expression: {error}") from error
    return tuple(value) if isinstance(value, list) else value


def _without_none(kind: Any) -> Any:
    """``Path`` of ``Path | None``; other types as they are."""
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        return next(part for part in typing.get_args(kind) if part is not type(None))
    return kind
