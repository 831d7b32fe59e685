"""How the records of options.py are filled: from the command line, wsplf.toml and a recipe.

Order of strength: what is typed, then wsplf.toml, then the recipe, then the default in options.py.
"""

import dataclasses
import difflib
import re
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar, cast

from wsplf_cli import plugins
from wsplf_cli.command_options import COMMANDS
from wsplf_cli.errors import ConfigError
from wsplf_cli.moved_options import MOVED_OPTIONS, MOVED_RECIPES
from wsplf_cli.options import SHARED
from wsplf_cli.recipes import RECIPES, UPPER_BOUND, Recipe
from wsplf_cli.worker_options import ClusterOptions

T = TypeVar("T")

#: The table that says which workers are started for a command.
CLUSTER = "cluster"
#: A recipe's name is part of file names, and stands in lists with commas.
RECIPE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class Option:
    """One option: the field's name, its type without None, its default and its metadata (see recipes.option)."""

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
        return self.name.rstrip("_").replace("_", "-")

    @property
    def typed(self) -> bool:
        """Whether the command line has it; wsplf.toml has every option."""
        return not self.metadata.get("toml_only", False)

    @property
    def choices(self) -> tuple[str, ...]:
        """The values to choose from, as help lists them; empty where any value will do."""
        unlisted = self.metadata.get("unlisted", ())
        return tuple(value for value in self.accepted if value not in unlisted)

    @property
    def accepted(self) -> tuple[str, ...]:
        """As ``choices``, with the values that help does not list."""
        if "plugins" in self.metadata:
            return tuple(name.replace("_", "-") for name in plugins.names(self.metadata["plugins"]))
        return tuple(self.metadata.get("choices", ()))


@dataclass(frozen=True, slots=True)
class Settings:
    """What a wsplf.toml says for one command: values by field name, and all recipes, its own and the built-in ones."""

    values: Mapping[str, Any] = field(default_factory=dict)
    recipes: Mapping[str, Recipe] = field(default_factory=lambda: RECIPES)


def options(record: type) -> dict[str, Option]:
    """The options of a record and of the records inside it, flat, by field name.

    A recipe in a record counts as one option with the recipe's name, and one for each of its fields that is ``shown``;
    these are None by default, which leaves the choice to the recipe.
    """
    hints = typing.get_type_hints(record)
    flat: dict[str, Option] = {}
    for part in dataclasses.fields(record):
        kind = _without_none(hints[part.name])
        if kind is Recipe:
            flat[part.name] = Option(part.name, str, Recipe().name, part.metadata)
            shown = {name: option for name, option in options(Recipe).items() if option.metadata.get("shown")}
            flat |= {name: replace(option, default=None) for name, option in shown.items()}
        elif kind is ClusterOptions:
            continue  # a table of its own
        elif dataclasses.is_dataclass(kind):
            left_out = part.metadata.get("without", ())
            inner = options(cast(type, kind))
            flat |= {name: option for name, option in inner.items() if name not in left_out}
        elif "help" in part.metadata:
            flat[part.name] = Option(part.name, kind, part.default, part.metadata)
    return flat


def build(record: type[T], values: Mapping[str, Any], recipes: Mapping[str, Recipe] = RECIPES) -> T:
    """A record filled from flat values by field name; what is missing keeps its default.

    Args:
        record: One of the records of options.py.
        values: What was chosen, by field name; ``recipe`` is the name of a recipe.
        recipes: The recipes to choose from, by name. A field ``known_recipes`` gets them all.

    Raises:
        ConfigError: a value is outside its limits, or there is no such recipe.
    """
    hints = typing.get_type_hints(record)
    arguments: dict[str, Any] = {}
    for part in dataclasses.fields(cast(Any, record)):
        kind = _without_none(hints[part.name])
        if kind is Recipe:
            arguments[part.name] = _chosen_recipe(values, recipes)
        elif kind is ClusterOptions:
            arguments[part.name] = values.get(part.name)
        elif dataclasses.is_dataclass(kind):
            arguments[part.name] = build(cast(Any, kind), values, recipes)
        elif part.name == "known_recipes":
            arguments[part.name] = recipes
        elif part.name in values:
            option = Option(part.name, kind, part.default, part.metadata)
            arguments[part.name] = _checked(option, values[part.name], named=option.flag)
    return record(**arguments)


def _chosen_recipe(values: Mapping[str, Any], recipes: Mapping[str, Recipe]) -> Recipe:
    """The recipe that the values name, with those of its fields that were chosen beside it.

    Raises:
        ConfigError: there is no such recipe, or a field that was chosen takes the effect from another one.
    """
    recipe = find_recipe(values.get("recipe", Recipe().name), recipes)
    known = options(Recipe)
    changes = {
        name: _checked(option, values[name], named=option.flag)
        for name, option in known.items()
        if option.metadata.get("shown") and values.get(name) is not None
    }
    for option in known.values():
        field_name, unused_values = option.metadata.get("unused_with", ("", ()))
        value = getattr(recipe, option.name)
        if changes.get(field_name) in unused_values and value != option.default:
            flag = known[field_name].flag
            raise ConfigError(
                f"{flag} {changes[field_name]}: with it, {option.key} = {_toml_text(value)} of the recipe {recipe.name}"
                " has no effect",
                hint=f"another recipe, or leave {flag} out",
            )
    return replace(recipe, **changes)


def require_effect(chosen: Any, typed: Iterable[str]) -> None:
    """Refuse an option that was typed and does nothing with the recipe, or with another option.

    What wsplf.toml says is for other runs too.

    Args:
        chosen: The filled record.
        typed: The names of the typed options.

    Raises:
        ConfigError: there is one.
    """
    known = options(type(chosen))
    for name in typed:
        field_name, values = known[name].metadata.get("unused_with", ("", ())) if name in known else ("", ())
        if not values:
            continue
        if hasattr(chosen, field_name):
            if getattr(chosen, field_name) in values:
                value = getattr(chosen, field_name)
                other = known[field_name].flag + ("" if value is True else f" {value}")
                raise ConfigError(f"{known[name].flag} has no effect with {other}", hint="leave one of them out")
        elif (value := getattr(chosen.recipe, field_name)) in values:
            key = field_name.replace("_", "-")
            raise ConfigError(
                f"{known[name].flag} has no effect with {key} = {value}", hint="leave it out, or choose another recipe"
            )


def find_recipe(name: str, recipes: Mapping[str, Recipe]) -> Recipe:
    """The recipe of that name.

    Raises:
        ConfigError: there is none; for an earlier name of a recipe it says the present one.
    """
    if name in recipes:
        return recipes[name]
    if name in MOVED_RECIPES:
        raise ConfigError(f"recipe {name} is called {MOVED_RECIPES[name]} now", hint=f"--recipe {MOVED_RECIPES[name]}")
    raise ConfigError(f"unknown recipe {name!r}", hint=_closest(name, recipes))


def read_settings(path: Path, command: str) -> Settings:
    """What a wsplf.toml says for a command. The whole file is checked, not only this command's part.

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
    commands = {name: _by_key(options(record)) for name, record in COMMANDS.items()}
    shared = {key: option for known in commands.values() for key, option in known.items() if option.name in SHARED}
    recipes: Mapping[str, Recipe] = RECIPES
    top: dict[str, Any] = {}
    values: dict[str, Any] = {}
    for key, value in content.items():
        if key == "recipe" and isinstance(value, dict):
            recipes = _recipes(path, value)
        elif key == CLUSTER and isinstance(value, dict):
            values[CLUSTER] = _cluster(path, value)
        elif isinstance(value, dict):
            if key not in commands:
                raise ConfigError(f"{path}: unknown table [{key}]", hint=_closest(key, [*commands, "recipe", CLUSTER]))
            for inner, inner_value in value.items():
                option = _known(path, inner, commands[key], table=key)
                converted = _from_toml(path, option, inner_value)
                if key == command:
                    values[option.name] = converted
        else:
            owners = [f"[{name}]" for name, known in commands.items() if key in known]
            if key not in (*shared, *MOVED_OPTIONS[""]) and owners:
                raise ConfigError(f"{path}: {key} cannot stand at the top", hint="move it into " + " or ".join(owners))
            option = _known(path, key, shared)
            converted = _from_toml(path, option, value)
            if key in commands[command]:
                top[option.name] = converted
    return Settings(top | values, recipes)


def _recipes(path: Path, tables: Mapping[str, Any]) -> dict[str, Recipe]:
    """The built-in recipes as the tables ``[recipe.NAME]`` change them, and those that the tables add."""
    recipes = dict(RECIPES)
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise ConfigError(
                f"{path}: recipe.{name} must be a table", hint=f"[recipe.NAME], with {name} as a key in it"
            )
        if not RECIPE_NAME.fullmatch(name) or name == UPPER_BOUND:
            raise ConfigError(
                f"{path}: a recipe cannot be called {name!r}", hint="letters, digits, - and _; not upper-bound"
            )
        recipes[name] = _recipe(path, name, table)
    return recipes


def _recipe(path: Path, name: str, table: Mapping[str, Any]) -> Recipe:
    """The recipe that a table ``[recipe.NAME]`` describes.

    Raises:
        ConfigError: an unknown key, a value of the wrong type or outside its limits, or one without effect.
    """
    where = f"{path}: [recipe.{name}]"
    known = _by_key(options(Recipe))
    base = table.get("base", name if name in RECIPES else Recipe().name)
    if not isinstance(base, str) or base not in RECIPES:
        moved = MOVED_RECIPES.get(base, "") if isinstance(base, str) else ""
        raise ConfigError(
            f"{where} base must be a built-in recipe, not {base!r}",
            hint=f"{base} is called {moved} now" if moved else _closest(str(base), RECIPES),
        )
    changes: dict[str, Any] = {}
    for key, value in table.items():
        if key == "base":
            continue
        option = _known(path, key, known, table=f"recipe.{name}", others=("base",))
        converted = _from_toml(path, option, value)
        changes[option.name] = _checked(option, converted, named=f"{where} {key}")
    changed = [f"{key} = {_toml_text(value)}" for key, value in table.items() if key not in ("base", "summary")]
    summary = f"{base} with {', '.join(changed) or 'no change'}"
    recipe = replace(RECIPES[base], **{"name": name, "summary": summary, **changes})
    for option in (option for option in known.values() if option.name in changes):
        other_name, values = option.metadata.get("unused_with", ("", ()))
        if values and getattr(recipe, other_name) in values:
            other = f"{other_name.replace('_', '-')} = {_toml_text(getattr(recipe, other_name))}"
            raise ConfigError(
                f"{where} {option.key} has no effect with {other}",
                hint=f"leave it out, or change {other} in the recipe",
            )
    return recipe


def _cluster(path: Path, table: Mapping[str, Any]) -> ClusterOptions:
    """The table ``[cluster]``.

    Raises:
        ConfigError: an unknown key, or a value of the wrong type or outside its limits.
    """
    known = _by_key(options(ClusterOptions))
    values = {}
    for key, value in table.items():
        option = _known(path, key, known, table=CLUSTER)
        values[option.name] = _checked(option, _from_toml(path, option, value), named=f"{path}: [{CLUSTER}] {key}")
    return ClusterOptions(**values)


def _by_key(flat: Mapping[str, Option]) -> dict[str, Option]:
    return {option.key: option for option in flat.values()}


def _known(
    path: Path, key: str, known: Mapping[str, Option], *, table: str = "", others: tuple[str, ...] = ()
) -> Option:
    """The option of a key in a table, or at the top.

    Raises:
        ConfigError: there is none; says where it is now if it moved, else the closest key.
    """
    if key in known:
        return known[key]
    moved = MOVED_OPTIONS.get(table, {}).get(key)
    if moved is not None:
        raise ConfigError(f"{path}: {f'[{table}] ' if table else ''}{key} {moved}")
    raise ConfigError(
        f"{path}: unknown key {f'[{table}] ' if table else ''}{key}", hint=_closest(key, [*known, *others])
    )


def _closest(word: str, known: Iterable[str]) -> str:
    """A hint: the known word that is closest, else all of them."""
    words = list(known)
    closest = difflib.get_close_matches(word.replace("_", "-"), words, n=1)
    return f"did you mean {closest[0]}?" if closest else "known: " + ", ".join(sorted(words))


def _from_toml(path: Path, option: Option, value: Any) -> Any:
    """``value`` as the option's type.

    Raises:
        ConfigError: TOML gave it another type; nothing is converted but whole numbers where any number will do.
    """
    kind = option.kind
    if kind is Path and isinstance(value, str):
        return path.parent / Path(value).expanduser()
    if kind is float and type(value) in (int, float):
        return float(value)
    if typing.get_origin(kind) is tuple and isinstance(value, list) and all(isinstance(word, str) for word in value):
        return tuple(value)
    if "count_or" in option.metadata and type(value) is int:
        return str(value)
    if type(value) is kind:
        return value
    wanted = {Path: "a path", float: "a number", int: "a whole number", str: "text", bool: "true or false"}
    raise ConfigError(
        f"{path}: {option.key} must be {wanted.get(kind, 'a list of texts')}, not {value!r}",
        hint="" if option.default is None else f"the default is {option.default!r}",
    )


def _toml_text(value: object) -> str:
    """A value as wsplf.toml has it, without quotes."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _checked(option: Option, value: Any, *, named: str) -> Any:
    """``value`` if it is within the limits of its option; a list becomes a tuple.

    Raises:
        ConfigError: it is not; ``named`` says which option.
    """
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
    elif option.accepted and value.replace("_", "-" if "plugins" in limits else "_") not in option.accepted:
        wrong = "one of: " + ", ".join(option.accepted)
    elif "count_or" in limits and not (value.isdecimal() or value in limits["count_or"]):
        wrong = f"a whole number or {' or '.join(limits['count_or'])}"
    if wrong:
        raise ConfigError(f"{named} must be {wrong}, not {value}")
    if option.name == "images":
        try:
            re.compile(value)
        except re.error as error:
            raise ConfigError(f"{named} is not a regular expression: {error}") from error
    return tuple(value) if isinstance(value, list) else value


def _without_none(kind: Any) -> Any:
    """``Path`` of ``Path | None``; other types as they are."""
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        return next(part for part in typing.get_args(kind) if part is not type(None))
    return kind
