"""``wsplf model``: the models of a project, one of them in detail, its card, and its export for other programs."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from wsplf_cli.backends import Project
from wsplf_cli.errors import ConfigError
from wsplf_cli.options import ModelExportOptions
from wsplf_cli.qupath import project_file
from wsplf_cli.runs import layout
from wsplf_cli.schema import Entry, Tracker
from wsplf_cli.segmentation import checkpoint as checkpoints
from wsplf_cli.segmentation.export.card import model_card, read_training
from wsplf_cli.segmentation.export.write import CARD, export_model
from wsplf_cli.segmentation.loading import describe_model, find_model


def list_models(project: Path) -> list[dict[str, Any]]:
    """What each model of a project is, by name; one that cannot be read has the reason under ``problem``.

    Raises:
        ProjectError: There is no such project.
    """
    folder = layout.models_folder(project_file.locate(project).absolute().parent)
    return [_summary(path) for path in sorted(folder.glob(f"[!.]*/{checkpoints.CONFIG}"))]


def show_model(project: Path, name: str) -> dict[str, Any]:
    """All that is known of a model: of the project, or at a path.

    Raises:
        ConfigError: There is no such model, or it cannot be read.
        ProjectError: There is no such project.
    """
    path = find_model(project_file.locate(project).absolute().parent, name)
    checkpoint = describe_model(path)
    return {"name": name, "path": path, **_fields(checkpoint)}


def card_of(project: Project, entries: Sequence[Entry], name: str) -> str:
    """The card of a model. One that came with a model from elsewhere is given as it is.

    Raises:
        ConfigError: There is no such model, or it cannot be read.
    """
    path = find_model(project.folder, name)
    checkpoint = describe_model(path)
    came_with = (path if path.is_dir() else path.parent) / CARD
    if came_with.is_file():
        return came_with.read_text(encoding="utf-8")
    title = path.name if path.is_dir() else path.stem
    return model_card(title, checkpoint, read_training(project.folder, checkpoint.run_id, entries))


def export(
    project: Project, entries: Sequence[Entry], name: str, options: ModelExportOptions, tracker: Tracker
) -> dict[str, Any]:
    """Write a model for other programs. The project is only read.

    Args:
        project: The project.
        entries: Its entries, which name the patients that the card counts.
        name: Name of a model of the project, or a model folder.
        options: The options of the command.
        tracker: Where notes are shown.

    Returns:
        The folder, the file of the format, and the notes.

    Raises:
        ConfigError: There is no such model, it cannot be written in this format, or the folder holds something else.
        MissingDependency: The format needs a library that is not installed.
        ProjectError: The folder cannot be written.
    """
    path = find_model(project.folder, name)
    if path.is_file():
        raise ConfigError(f"{path} is an export already", hint="give the name of a model, or its folder")
    export = export_model(path, options.out, file_format=options.format, card=card_of(project, entries, name))
    for note in export.notes:
        tracker.say(note)
    return {"folder": export.folder, "file": export.file, "notes": export.notes}


def _summary(config: Path) -> dict[str, Any]:
    """The row of one model in the list."""
    made = datetime.fromtimestamp(config.stat().st_mtime, UTC).strftime("%Y-%m-%d")
    summary: dict[str, Any] = {"name": config.parent.name, "made": made, "problem": ""}
    try:
        return summary | _fields(checkpoints.read(config.parent))
    except ConfigError as error:
        return summary | {"problem": error.message}


def _fields(checkpoint: checkpoints.Checkpoint) -> dict[str, Any]:
    return {
        "segmenter": checkpoint.plugin,
        "settings": checkpoint.settings,
        "classes": checkpoint.classes,
        "mpp": checkpoint.mpp,
        "tile_px": checkpoint.tile_px,
        "threshold": checkpoint.threshold,
        "scores": checkpoint.scores,
        "run": checkpoint.run_id,
        "version": checkpoint.version,
    }
