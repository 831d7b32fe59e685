"""Models of the Hugging Face hub that are on this computer already. Nothing is ever downloaded."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from wsplf_cli.errors import ConfigError

PREFIX = "hf-hub:"
_CONFIG = "config.json"
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
#: What a model's file may say of its normalisation.
_STATISTICS = ("mean", "std")


@dataclass(frozen=True, slots=True)
class Cached:
    """A timm model: its architecture, arguments of it, ``mean`` and ``std`` if the file says them, its weights."""

    architecture: str
    weights: Path
    arguments: Mapping[str, Any] = field(default_factory=dict)
    statistics: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


def cached(name: str) -> Cached:
    """The model ``hf-hub:OWNER/NAME`` (or ``hf-hub:OWNER/NAME@REVISION``) from the cache that ``hf download`` fills.

    Raises:
        ConfigError: it is not there, or is no timm model.
    """
    repository, _, revision = name.removeprefix(PREFIX).partition("@")
    settings = _find(repository, _CONFIG, revision)
    weights = next((path for one in _WEIGHTS if (path := _find(repository, one, revision))), None)
    if settings is None or weights is None:
        lacking = _CONFIG if settings is None else " or ".join(_WEIGHTS)
        raise ConfigError(
            f"{name}: no {lacking} of it on this computer, and nothing is downloaded",
            hint=f"hf download {repository}, or --backbone NAME --backbone-weights FILE",
        )
    try:
        content = json.loads(settings.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{name}: cannot read {settings} ({error})") from error
    if not isinstance(content, dict) or not isinstance(content.get("architecture"), str):
        raise ConfigError(f"{name} is no timm model: its {_CONFIG} names no architecture")
    told = content.get("pretrained_cfg", content)
    return Cached(
        content["architecture"],
        weights,
        arguments=dict(content.get("model_args") or {}),
        statistics={key: tuple(float(one) for one in told[key]) for key in _STATISTICS if told.get(key)},
    )


def _find(repository: str, name: str, revision: str) -> Path | None:
    """The file of that name in the cache."""
    try:
        found = try_to_load_from_cache(repository, name, revision=revision or None)
    except HFValidationError as error:
        raise ConfigError(f"{PREFIX}{repository} names no model ({error})", hint=f"write {PREFIX}OWNER/NAME") from error
    return Path(found) if isinstance(found, str) else None
