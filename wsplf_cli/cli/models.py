"""The commands for trained models: list, show, export, card; each a few lines."""

from typing import TYPE_CHECKING, Annotated

import typer

from wsplf_cli.cli.command import ProjectPath, command, group, open_chosen
from wsplf_cli.options import ModelExportOptions, NoOptions, ProjectOptions

if TYPE_CHECKING:
    from wsplf_cli.ui import Screen

model_group = group("model", help="Show a project's models, and export one for other programs.")

ModelName = Annotated[str, typer.Argument(metavar="NAME", help="Name of a model of this project, or a model folder.")]


@command("model list", under=model_group)
def list_models(project: ProjectPath, *, options: NoOptions, screen: "Screen") -> int:
    """List the models of a project.

    Classes, pixel size, tile, threshold and validation Dice of each.
    """
    from wsplf_cli.commands.model import list_models as run_command

    screen.models(run_command(project))
    return 0


@command("model show", under=model_group)
def show_model(project: ProjectPath, name: ModelName, *, options: NoOptions, screen: "Screen") -> int:
    """Show all that is known of a model.

    NAME is a model of the project, a model folder, or an .onnx file.
    """
    from wsplf_cli.commands.model import show_model as run_command

    screen.record(run_command(project, name))
    return 0


@command("model export", under=model_group)
def export(project: ProjectPath, name: ModelName, *, options: ModelExportOptions, screen: "Screen") -> int:
    """Write a model for other programs.

    The folder gets the file of the format, config.json, and the model card as README.md. Several formats can stand in
    one folder. The export is compared with the model before it is written.
    """
    from wsplf_cli.commands.model import export as run_command

    document = run_command(*open_chosen(project, ProjectOptions()), name, options, screen)
    if screen.json:
        screen.document(document)
    else:
        screen.line(f"model: {document['file']}")
    return 0


@command("model card", under=model_group)
def card(project: ProjectPath, name: ModelName, *, options: NoOptions, screen: "Screen") -> int:
    """Print the card of a model.

    What it learned from, how it was measured, what it is for, as Markdown. It names no slide.
    """
    from wsplf_cli.commands.model import card_of

    text = card_of(*open_chosen(project, ProjectOptions()), name)
    if screen.json:
        screen.document({"card": text})
    else:
        screen.line(text.rstrip("\n"))
    return 0
