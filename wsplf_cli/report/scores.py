"""The scores that the report shows: of evaluations that were kept as runs, or of a file."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from wsplf_cli.errors import ConfigError
from wsplf_cli.schema import Origin

#: How the page names the origins, one and many of them, in the order in which they come about.
ORIGINS: Mapping[Origin, tuple[str, str]] = {
    "pseudolabel": ("Pseudo-label", "pseudo-labels"),
    "prediction": ("Prediction", "predictions"),
    "human": ("Human", "drawn by people"),
}


def title(origin: str, path_class: str) -> str:
    """How the scores of an origin are called: by it, and by the class where there are several."""
    if not path_class:
        return origin
    one = next((one for known, (one, _) in ORIGINS.items() if known == origin), origin)
    return f"{one}, {path_class}"


def kept_scores(records: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The newest evaluation of each origin in the records of runs, newest first; of several classes by class too."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for record in records:
        options, tables = record.get("options"), _tables(record.get("details"))
        if record.get("stage") == "evaluate" and tables and isinstance(options, dict):
            found.setdefault(str(options.get("origin", "scores")), tables)
    order = [*ORIGINS, *sorted(found)]
    return {
        title(origin, name): table for origin in sorted(found, key=order.index) for name, table in found[origin].items()
    }


def read_scores(path: Path) -> dict[str, dict[str, Any]]:
    """The evaluations in a JSON file, by name: one of them, or an object that holds several.

    Raises:
        ConfigError: there are none in it.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", hint="--scores takes a JSON file") from error
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON: {error}", hint="wsplf evaluate PROJECT --json > FILE") from error
    found = {name or "scores": table for name, table in _tables(document).items()}
    if not found and isinstance(document, dict):
        found = {title(name, own): table for name, one in document.items() for own, table in _tables(one).items()}
    if not found:
        raise ConfigError(f"{path} holds no scores", hint="wsplf evaluate PROJECT --json > FILE")
    return found


def _tables(document: object) -> dict[str, dict[str, Any]]:
    """The tables of one evaluation, by class; by nothing where there is one class."""
    if _is_table(document):
        return {"": dict(cast(Mapping[str, Any], document))}
    by_class = document.get("classes") if isinstance(document, dict) else None
    if not isinstance(by_class, dict):
        return {}
    return {str(name): table for name, table in by_class.items() if _is_table(table)}


def _is_table(value: object) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("entries"), list)
        and all(isinstance(one, dict) for one in value["entries"])
        and "mean_dice" in value
    )
