"""The commands that keep a project in order: make, relink, exchange annotations, undo; each a few lines."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wsplf_cli.cli.command import ProjectPath, command, group, open_chosen, shown
from wsplf_cli.options import (
    CreateOptions,
    ExportOptions,
    ImportOptions,
    InstallOptions,
    ProjectOptions,
    RelinkOptions,
    UndoOptions,
)

if TYPE_CHECKING:
    from wsplf_cli.ui import Screen

project_group = group("project", help="Make a QuPath project, or set where its slides are.")
scripts_group = group("scripts", help="Put wsplf's Groovy scripts into a project.")


@command("project create", under=project_group)
def create(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the new project.")],
    slides: Annotated[list[Path], typer.Argument(metavar="SLIDES", help="Slides or pictures, or their folders.")],
    *,
    options: CreateOptions,
    screen: "Screen",
) -> int:
    """Make a QuPath project from slides.

    The slides stay where they are and are only read. QuPath 0.2 to 0.7 opens the project.
    """
    from wsplf_cli.commands.create import create as run_command

    return shown(run_command(folder, slides, options, screen), screen)


@command("project relink", under=project_group)
def relink(project: ProjectPath, *, options: RelinkOptions, screen: "Screen") -> int:
    """Set where the slides of a project are now.

    Give --map, --search or both. The previous project file is kept; undo puts it back.
    """
    from wsplf_cli.commands.relink import relink as run_command

    return shown(run_command(project, options, screen), screen)


@command("export")
def export(project: ProjectPath, *, options: ExportOptions, screen: "Screen") -> int:
    """Write annotations as GeoJSON.

    One file per entry, as QuPath imports it, with all annotations unless --origin names some.
    """
    from wsplf_cli.commands.export import export as run_command

    access = ProjectOptions(backend=options.backend, images=options.images)
    return shown(run_command(*open_chosen(project, access), options, screen), screen)


@command("import")
def import_(
    project: ProjectPath,
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE", help="GeoJSON (.geojson, .json, .gz) or ASAP XML files, or folders of these."),
    ],
    *,
    options: ImportOptions,
    screen: "Screen",
) -> int:
    """Add annotations from GeoJSON or ASAP files.

    Each file belongs to the image of its name. Annotations that are there stay, and are not added a second time. A file
    is refused when all of it lies outside the image, or when it names a z-slice, time point or channel that the image
    does not have.
    """
    from wsplf_cli.commands.import_ import import_files as run_command

    access = ProjectOptions(
        backend=options.backend, slides=options.slides, accept_missing_data=options.accept_missing_data
    )
    return shown(run_command(*open_chosen(project, access), files, options, screen), screen)


@command("undo")
def undo(
    project: ProjectPath,
    run: Annotated[
        str | None, typer.Argument(metavar="RUN", help="Id of the run; by default the last one that wrote.")
    ] = None,
    *,
    options: UndoOptions,
    screen: "Screen",
) -> int:
    """Put back what a run changed.

    Every file is then as it was before the run, to the byte. A file that a person has changed since is left alone and
    named. The old files stay in wsplf/runs/RUN/undo beside the project until you delete that folder.
    """
    from wsplf_cli.commands.undo import undo as run_command

    return shown(run_command(project, run, options, screen), screen)


@command("scripts install", under=scripts_group)
def install(project: ProjectPath, *, options: InstallOptions, screen: "Screen") -> int:
    """Put wsplf's scripts where QuPath shows them.

    QuPath lists them under Automate > Project scripts.
    """
    from wsplf_cli.commands.install_scripts import install as run_command

    return shown(run_command(project, options, screen), screen)
