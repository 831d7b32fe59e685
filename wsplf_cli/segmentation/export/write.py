"""Writes the export of a model into a folder: the file of the format, config.json, and the card as README.md."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from wsplf_cli import files, plugins
from wsplf_cli.errors import ConfigError, ProjectError
from wsplf_cli.segmentation import checkpoint as checkpoints
from wsplf_cli.segmentation import likeness
from wsplf_cli.segmentation.checkpoint import CONFIG, Checkpoint

CARD = "README.md"


@dataclass(frozen=True, slots=True)
class Export:
    """What was written: the folder, the file of the format in it, and what the user should know."""

    folder: Path
    file: Path
    notes: tuple[str, ...]


def export_model(source: Path, out: Path, *, file_format: str, card: str) -> Export:
    """Write a model for other programs. Several formats of one model can stand in one folder.

    Args:
        source: The folder of the model; it is only read.
        out: The folder to write to; made if it is not there. A card that is there stays.
        file_format: A file of ``formats``.
        card: The model card.

    Raises:
        ConfigError: There is no such model or format, the model cannot be written so, or the folder holds
            something else.
        MissingDependency: The format needs a library that is not installed.
        ProjectError: The folder cannot be written.
    """
    plugin = plugins.load("segmentation.export.formats", file_format)
    checkpoint, network = checkpoints.load(source, device=torch.device("cpu"))
    _require_free(source, out, checkpoint)
    try:
        out.mkdir(parents=True, exist_ok=True)
        notes = list(plugin.write(network, checkpoint, out / plugin.FILE))
        files.write_json(out / CONFIG, checkpoint)
        if (source / likeness.FILE).is_file():
            files.write_bytes(out / likeness.FILE, (source / likeness.FILE).read_bytes())
        if (out / CARD).exists():
            notes.append(f"{CARD} is there already: left as it is")
        else:
            files.write_bytes(out / CARD, card.encode())
    except OSError as error:
        raise ProjectError(f"cannot write {error.filename or out}: {error.strerror or error}") from error
    return Export(out, out / plugin.FILE, tuple(notes))


def _require_free(source: Path, out: Path, checkpoint: Checkpoint) -> None:
    """Refuse a folder that holds something else.

    Raises:
        ConfigError: It is a file, the model's own folder, or holds another model or other files.
    """
    hint = "give a new folder: --out DIR"
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out} is a file", hint=hint)
    if not out.is_dir() or not any(out.iterdir()):
        return
    if out.resolve() == source.resolve():
        raise ConfigError(f"--out {out} is the model's own folder", hint=hint)
    try:
        content = json.loads((out / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"--out {out} holds other files", hint=hint) from error
    if json.loads(files.json_text(checkpoint)) != content:
        raise ConfigError(f"--out {out} holds another model", hint=hint)
