"""The page templates of the package, and how figures, times and options are written in them."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2

from wsplf_cli import __version__
from wsplf_cli.backends import Project

TEMPLATES = Path(__file__).parents[1] / "assets"


def heading(project: Project) -> dict[str, Any]:
    """What every page says at its top: the project and its short name, when the page was written, and the version."""
    return {
        "project": project,
        "name": "/".join(project.folder.resolve().parts[-2:]).replace("//", "/"),
        "written": datetime.now().astimezone().strftime("%d %B %Y, %H:%M"),
        "version": __version__,
    }


def load_template(name: str) -> jinja2.Template:
    """A page template of the package, with the filters that format figures."""
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {
        "figure": _format_figure,
        "percent": _format_percent,
        "agreement": _format_agreement,
        "duration": _format_duration,
        "moment": _format_moment,
        "flat": _flatten,
    }
    return environment.from_string((TEMPLATES / name).read_text(encoding="utf-8"))


def _format_figure(value: object, digits: int = 3) -> str:
    """A number with so many decimals; a dash where there is none."""
    return f"{value:.{digits}f}" if isinstance(value, (int, float)) else "–"


def _format_agreement(score: Mapping[str, Any], key: str) -> str:
    """A score of one slide; a dash where its truth is empty, since there is nothing to agree with."""
    return _format_figure(score.get(key) if score.get("truth_um2") else None)


def _format_percent(value: object) -> str:
    """A share as per cent, with a second decimal below 1 %; a dash where there is none."""
    if not isinstance(value, (int, float)):
        return "–"
    return f"{value:.1%}" if value == 0 or abs(value) >= 0.01 else f"{value:.2%}"


def _format_duration(seconds: object) -> str:
    """A duration in seconds, minutes or hours; a dash where there is none."""
    if not isinstance(seconds, (int, float)):
        return "–"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _format_moment(text: object) -> str:
    """A time of run.json in this machine's time zone, to the minute; text that is no time is returned as it is."""
    try:
        return datetime.fromisoformat(str(text)).astimezone().strftime("%Y-%m-%d %H:%M")
    except ValueError:
        return str(text)


def _flatten(values: object, prefix: str = "") -> list[tuple[str, str]]:
    """The values of nested JSON objects as (dotted name, text), long lists shortened, empty values left out."""
    rows: list[tuple[str, str]] = []
    for key, value in values.items() if isinstance(values, Mapping) else ():
        if isinstance(value, Mapping):
            rows += _flatten(value, f"{prefix}{key}.")
        elif value not in (None, "", []):
            text = f"{value:.4g}" if isinstance(value, float) else str(value)
            if isinstance(value, list):
                text = ", ".join(map(str, value)) if len(value) <= 6 else f"{len(value)} values"
            rows.append((f"{prefix}{key}", text))
    return rows
