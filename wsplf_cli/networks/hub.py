"""Models of the Hugging Face hub that are in the cache on this computer. Nothing is ever downloaded."""

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
#: The normalisation that a model's configuration may give.
_STATISTICS = ("mean", "std")


@dataclass(frozen=True, slots=True)
class CachedModel:
    """A timm model: architecture, weights, arguments, and ``mean`` and ``std`` where its configuration gives them."""

    architecture: str
    weights: Path
    arguments: Mapping[str, Any] = field(default_factory=dict)
    statistics: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


def find_cached(name: str) -> CachedModel:
    """The model ``hf-hub:OWNER/NAME`` (or ``hf-hub:OWNER/NAME@REVISION``) from the cache that ``hf download`` fills.

    Raises:
        ConfigError: It is not in the cache, or is not a timm model.
    """
    repository, _, revision = name.removeprefix(PREFIX).partition("@")
    config = _find(repository, _CONFIG, revision)
    weights = next((path for file_name in _WEIGHTS if (path := _find(repository, file_name, revision))), None)
    if config is None or weights is None:
        missing = _CONFIG if config is None else " or ".join(_WEIGHTS)
        raise ConfigError(
            f"{name}: its {missing} is not in the cache on this computer, and wsplf downloads nothing",
            hint=f"hf download {repository}, or --backbone NAME --backbone-weights FILE",
        )
    try:
        content = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{name}: cannot read {config} ({error})") from error
    if not isinstance(content, dict) or not isinstance(content.get("architecture"), str):
        raise ConfigError(f"{name} is not a timm model: its {_CONFIG} names no architecture")
    pretrained = content.get("pretrained_cfg", content)
    return CachedModel(
        content["architecture"],
        weights,
        arguments=dict(content.get("model_args") or {}),
        statistics={key: tuple(map(float, pretrained[key])) for key in _STATISTICS if pretrained.get(key)},
    )


def _find(repository: str, name: str, revision: str) -> Path | None:
    """The path of a file in the cache, or None."""
    try:
        path = try_to_load_from_cache(repository, name, revision=revision or None)
    except HFValidationError as error:
        raise ConfigError(
            f"{PREFIX}{repository} is not the name of a model ({error})", hint=f"write {PREFIX}OWNER/NAME"
        ) from error
    return Path(path) if isinstance(path, str) else None
