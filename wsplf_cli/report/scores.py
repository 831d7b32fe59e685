"""The scores that the report shows: from evaluations that were kept as runs, or from a file."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from wsplf_cli.errors import ConfigError
from wsplf_cli.schema import Entry, Origin, titles

#: How the page names the annotations of an origin (one, several), in the order of the loop.
ORIGINS: Mapping[Origin, tuple[str, str]] = {
    "pseudolabel": ("Pseudo-label", "pseudo-labels"),
    "prediction": ("Prediction", "predictions"),
    "human": ("Human", "drawn by people"),
}


def title(origin: str, path_class: str) -> str:
    """The name of the scores of an origin; with the class, unless ``path_class`` is empty."""
    if not path_class:
        return origin
    singular = next((singular for known, (singular, _) in ORIGINS.items() if known == origin), origin)
    return f"{singular}, {path_class}"


def kept_scores(records: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The tables of the newest evaluation of each origin, by title; ``records`` are run.json, newest first."""
    by_origin: dict[str, dict[str, dict[str, Any]]] = {}
    for record in records:
        options, tables = record.get("options"), _tables(record.get("details"))
        if record.get("stage") == "evaluate" and tables and isinstance(options, dict):
            by_origin.setdefault(str(options.get("origin", "scores")), tables)
    order = [*ORIGINS, *sorted(by_origin)]
    return {
        title(origin, path_class): table
        for origin in sorted(by_origin, key=order.index)
        for path_class, table in by_origin[origin].items()
    }


def read_scores(path: Path) -> dict[str, dict[str, Any]]:
    """The tables in a JSON file, by title; the file holds one evaluation, or an object of several by name.

    Raises:
        ConfigError: the file cannot be read or holds no evaluation.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", hint="--scores takes a JSON file") from error
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON: {error}", hint="wsplf evaluate PROJECT --json > FILE") from error
    tables = {path_class or "scores": table for path_class, table in _tables(document).items()}
    if not tables and isinstance(document, dict):
        tables = {
            title(name, path_class): table
            for name, evaluation in document.items()
            for path_class, table in _tables(evaluation).items()
        }
    if not tables:
        raise ConfigError(f"{path} holds no scores", hint="wsplf evaluate PROJECT --json > FILE")
    return tables


def rows_of_entries(
    scores: Mapping[str, Mapping[str, Any]], entries: Sequence[Entry]
) -> dict[str, dict[str, Mapping[str, Any]]]:
    """The scores of each entry by title, by entry id. ``entries`` are all of the project: their titles are unique."""
    ids = {title: entry.id for entry, title in zip(entries, titles(entries), strict=True)}
    rows: dict[str, dict[str, Mapping[str, Any]]] = {entry.id: {} for entry in entries}
    for name, table in scores.items():
        for row in table["entries"]:
            if row.get("name") in ids:
                rows[ids[row["name"]]][name] = row
    return rows


def _tables(document: object) -> dict[str, dict[str, Any]]:
    """The tables of one evaluation by class; the class is empty where there is only one."""
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
        and all(isinstance(entry, dict) for entry in value["entries"])
        and "mean_dice" in value
    )
