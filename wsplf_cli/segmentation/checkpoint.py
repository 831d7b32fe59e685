"""A trained model as a folder, with everything that is needed to build it again.

PROJECT-FOLDER/wsplf/models/NAME/
    config.json            architecture, settings, classes, tile size, mpp, threshold, what is drawn, run, scores
    model.safetensors      the weights
    appearance.safetensors what the training slides look like (see likeness.py)
"""

import dataclasses
import json
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from wsplf_cli import __version__, files, plugins
from wsplf_cli.errors import ConfigError, ProjectError
from wsplf_cli.networks.ensemble import mean_of, members_of
from wsplf_cli.segmentation import likeness
from wsplf_cli.segmentation.likeness import TrainingAppearance
from wsplf_cli.segmentation.operating_point import Bound

FORMAT = 1
KIND = "segmenter"
CONFIG = "config.json"
WEIGHTS = "model.safetensors"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The content of config.json: everything about a segmentation model but its weights.

    ``plugin`` is the name of a file of segmentation/models/, ``settings`` are the arguments of its ``build``. A pixel
    belongs to a class from the probability ``threshold`` on. A polygon of a class is drawn if the mean probability
    inside reaches the confidence of that class, and the slide that of ``slide_confidences``; ``bounds`` say what that
    means for negative slides (see ``operating_point``). All three are empty in models of earlier versions. ``scores``
    are those out of fold. The model is the mean of so many ``networks``, those that ``build`` makes in turns; 0 for
    just these. Networks read windows of ``window_px``, those of earlier versions (0) of ``tile_px``.
    """

    plugin: str
    settings: Mapping[str, Any]
    classes: tuple[str, ...]
    tile_px: int
    mpp: float
    run_id: str
    threshold: float = 0.5
    confidences: tuple[float, ...] = ()
    slide_confidences: tuple[float, ...] = ()
    bounds: tuple[Bound | None, ...] = ()
    window_px: int = 0
    networks: int = 0
    scores: Mapping[str, float] = field(default_factory=dict)
    version: str = __version__
    format: int = FORMAT
    kind: str = KIND

    @property
    def predicted_px(self) -> int:
        """Side of the windows that are predicted at once."""
        return self.window_px or self.tile_px


#: The fields that models of earlier versions lack.
_NEW = frozenset(["confidences", "slide_confidences", "bounds", "window_px", "networks"])


def save(
    folder: Path,
    checkpoint: Checkpoint,
    weights: Mapping[str, Tensor],
    *,
    appearance: TrainingAppearance | None = None,
) -> None:
    """Write a model folder completely or not at all, in place of one that is there.

    Raises:
        ProjectError: It cannot be written. The old folder is still there.
    """
    suffix = secrets.token_hex(4)
    part = folder.with_name(f".{folder.name}.{suffix}.part")
    old = folder.with_name(f".{folder.name}.{suffix}.old")
    try:
        part.mkdir(parents=True)
        save_file(plain(weights), part / WEIGHTS)
        if appearance is not None:
            (part / likeness.FILE).write_bytes(likeness.to_bytes(appearance))
        files.write_json(part / CONFIG, checkpoint)
        if folder.exists():
            folder.rename(old)
        part.rename(folder)
    except (OSError, SafetensorError) as error:
        if old.exists() and not folder.exists():
            old.rename(folder)
        raise ProjectError(f"cannot write the model {folder}: {error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)


def load(folder: Path, *, device: torch.device) -> tuple[Checkpoint, nn.Module]:
    """The model of a folder with its weights, in eval mode on the device.

    Raises:
        ConfigError: There is no model, or it is damaged, of a newer format, or its weights do not fit.
    """
    checkpoint = read(folder)
    path = folder / WEIGHTS
    plugin = plugins.load("segmentation.models", checkpoint.plugin)
    try:
        model: nn.Module = plugin.build(len(checkpoint.classes), pretrained=False, **checkpoint.settings)
        if checkpoint.networks:
            networks = members_of(model)
            while len(networks) < checkpoint.networks:
                again = plugin.build(len(checkpoint.classes), pretrained=False, **checkpoint.settings)
                networks += members_of(again)
            model = mean_of(networks[: checkpoint.networks])
    except TypeError as error:
        raise ConfigError(f"{folder / CONFIG}: unknown settings of {checkpoint.plugin}: {error}") from error
    try:
        model.load_state_dict(load_file(path))
    except FileNotFoundError as error:
        exported = folder / "model.onnx"
        hint = f"--model {exported}" if exported.is_file() else _AGAIN
        raise ConfigError(f"{folder} holds no {WEIGHTS}", hint=hint) from error
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"{path} cannot be read: {error}", hint=_AGAIN) from error
    except RuntimeError as error:
        first = str(error).splitlines()[0]
        raise ConfigError(f"{path} does not fit the model that {CONFIG} describes: {first}", hint=_AGAIN) from error
    return checkpoint, model.eval().to(device)


def read(folder: Path) -> Checkpoint:
    """The content of config.json of a model folder.

    Raises:
        ConfigError: There is no model, or its config.json is damaged or of a newer format.
    """
    path = folder / CONFIG
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        known = sorted(entry.parent.name for entry in folder.parent.glob(f"[!.]*/{CONFIG}"))
        hint = f"choose one of: {', '.join(known)}" if known else "make one with: wsplf train PROJECT"
        raise ConfigError(f"no model at {folder}", hint=hint) from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}", hint=_AGAIN) from error
    return from_content(content, str(path))


def from_content(content: object, name: str, *, hint: str = "") -> Checkpoint:
    """The record of what a config.json, or the metadata of an ONNX file, holds.

    Args:
        content: The JSON value.
        name: What to call it in an error.
        hint: What to type where it cannot be used; training again by default.

    Raises:
        ConfigError: It is damaged or of a newer format.
    """
    hint = hint or _AGAIN
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise ConfigError(f"{name} does not describe a segmentation model", hint=hint)
    if content.get("format") != FORMAT:
        raise ConfigError(f"{name} has format {content.get('format')}, this wsplf reads {FORMAT}", hint=hint)
    expected = {record_field.name for record_field in dataclasses.fields(Checkpoint)}
    differing = (set(content) ^ expected) - (_NEW - set(content))
    if differing:
        raise ConfigError(f"{name} has missing or unknown keys: {', '.join(sorted(differing))}", hint=hint)
    bounds = tuple(None if bound is None else Bound(**bound) for bound in content.get("bounds", ()))
    lists = {
        "classes": tuple(content["classes"]),
        "confidences": tuple(content.get("confidences", ())),
        "slide_confidences": tuple(content.get("slide_confidences", ())),
        "bounds": bounds,
    }
    return Checkpoint(**{**content, **lists})


_AGAIN = "train it again with: wsplf train PROJECT"


def plain(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as safetensors needs them: on the CPU, contiguous, without shared memory."""
    return {key: value.detach().cpu().clone(memory_format=torch.contiguous_format) for key, value in state.items()}
