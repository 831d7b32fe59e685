"""Turns functions into commands, and runs the command line.

The options of a command come from its record in options.py. Nothing heavy is imported before a command runs, so that
help is quick. Exit codes: 0 all done, 1 an error or an entry that failed, 2 wrong usage, 130 stopped with Ctrl-C.
"""

import errno
import functools
import inspect
import os
import sys
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wsplf_cli import __version__, plugins, settings
from wsplf_cli.cli.interrupts import never_lost
from wsplf_cli.command_options import ALL, COMMANDS
from wsplf_cli.errors import ConfigError, ProcessError, WsplfError
from wsplf_cli.moved_options import MOVED_OPTIONS
from wsplf_cli.options import SETTINGS, ProjectOptions
from wsplf_cli.worker_options import chosen

if TYPE_CHECKING:
    from wsplf_cli.backends import Project
    from wsplf_cli.schema import Entry, StageReport
    from wsplf_cli.ui import Screen

#: Errors of the disk or its permissions, which the user can mend. Any other OSError is a bug, and its traceback shows.
DISK_ERRORS = {
    errno.ENOSPC: "no space left on the disk",
    errno.EDQUOT: "disk quota used up",
    errno.EROFS: "the disk is read-only",
    errno.EACCES: "no permission to write or read",
}

STOPPED = 130

#: The commands that train networks, in several processes under torchrun.
TRAINING = ("pseudolabel", "train")

#: QuPath does not notice changes on disk, and saves an open image over them.
RELOAD = "in QuPath: reload an image that is open (File > Reload data, Ctrl+R) before you save it there"
REOPEN = "in QuPath: if the project is open, close it without saving and open it again"

METAVARS = {Path: "PATH", float: "NUMBER", int: "N", bool: None}

#: The base class of errors in a command line, in the copy of click that typer brings.
UsageError: Any = typer.BadParameter.__base__

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    help="From slide labels to reviewed segmentation in QuPath projects.",
    epilog="Exit codes: 0 all done, 1 an error or an entry that failed, 2 wrong usage, 130 stopped with Ctrl-C.",
)

_PROJECT = typer.Argument(metavar="PROJECT", help="A project.qpproj file, or the folder that holds it.")
ProjectPath = Annotated[Path, _PROJECT]
OptionalProject = Annotated[Path | None, _PROJECT]


class Stopped(Exception):  # noqa: N818  not an error: the user pressed Ctrl-C
    """Ctrl-C, with how far the work was."""


def group(name: str, *, help: str) -> typer.Typer:
    """A group of commands, such as ``project`` in ``wsplf project create``."""
    commands = typer.Typer(rich_markup_mode=None, invoke_without_command=True)
    commands.callback()(_help_without_command)
    app.add_typer(commands, name=name, help=help)
    return commands


def _help_without_command(ctx: typer.Context) -> None:
    if ctx.invoked_subcommand is None:
        sys.stderr.write(ctx.get_help() + "\n")
        raise typer.Exit(2)


def command(name: str, *, under: typer.Typer = app) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """A decorator that makes a function a command.

    The command has the function's parameters as arguments, the options of its record, --json, and --config if it reads
    wsplf.toml. The function gets the filled record as ``options`` and a Screen as ``screen``; it returns the exit code.

    Args:
        name: All words of the command ("project create"), which are the key of its record in options.py.
        under: The group that the command belongs to.
    """
    record = ALL[name]

    def decorate(function: Callable[..., int]) -> Callable[..., int]:
        arguments = [
            parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for parameter in inspect.signature(function).parameters.values()
            if parameter.name not in ("options", "screen")
        ]

        @functools.wraps(function)
        def run(ctx: typer.Context, **values: Any) -> int:
            from wsplf_cli.ui import Screen

            with Screen(json=values["json"]) as screen:
                try:
                    if _of_torchrun() is not None and name not in TRAINING:
                        raise ConfigError(f"wsplf {name} does not run under torchrun", hint=f"wsplf {name}")
                    options: Any = _options(ctx, record, values)
                    given = {parameter.name: values[parameter.name] for parameter in arguments}
                    return function(**given, options=options, screen=screen)
                except KeyboardInterrupt as stop:
                    raise Stopped(str(stop) or f"0 entries were finished{screen.where}") from stop

        generated = [_parameter(option) for option in settings.options(record).values() if option.typed]
        extra = [_JSON, _CONFIG] if name in (*COMMANDS, "plan") else [_JSON]
        run.__annotations__ = {}
        run.__signature__ = inspect.Signature([_CONTEXT, *arguments, *generated, *extra])  # type: ignore[attr-defined]
        under.command(name.rsplit(maxsplit=1)[-1])(run)
        return run

    return decorate


def _given(name: str, annotation: Any, *, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


_CONTEXT = _given("ctx", typer.Context)
_JSON = _given(
    "json",
    Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, all else on stderr.")],
    default=False,
)
_CONFIG = _given(
    "config",
    Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="PATH",
            help="Settings file; by default wsplf.toml beside the project, else in this folder.",
        ),
    ],
    default=None,
)


def _parameter(option: settings.Option) -> inspect.Parameter:
    """A typer option for an option of a record."""
    help_text = option.metadata["help"]
    if option.choices:
        help_text += f" One of: {', '.join(option.choices)}."
    if option.metadata.get("shown"):
        help_text += " The recipe's by default."
    several = typing.get_origin(option.kind) is tuple
    kind = list[str] if several else option.kind
    default = list(option.default) if several else option.default
    flags = ["--label-key", "--key"] if option.name == "label_key" else [option.flag]
    if option.kind is bool and option.default:
        flags = [f"{option.flag}/--no-{option.key}"]
    hidden = bool(option.metadata.get("hidden", False))
    value = typer.Option(default, *flags, help=help_text, metavar=METAVARS.get(option.kind, "TEXT"), hidden=hidden)
    return _given(option.name, kind if default is not None else kind | None, default=value)


def _options(ctx: typer.Context, record: type, values: dict[str, Any]) -> Any:
    """The filled record: what is typed is stronger than wsplf.toml, that than the recipe, that than the defaults."""
    path = _settings_file(values)
    table = str(values.get("for_", ctx.info_name))  # plan has the options of another command
    table = table if table in COMMANDS else "pseudolabel"
    read = settings.read_settings(path, table) if path is not None else settings.Settings()
    typed = {name: value for name, value in values.items() if _was_typed(ctx, name)}
    options: Any = settings.build(record, {**chosen(read.values, typed), **typed}, read.recipes)
    planned = getattr(options, "of_command", options)
    known = settings.options(record)
    for name in (known.keys() & typed.keys()) - {"for_"} - settings.options(type(planned)).keys():
        raise ConfigError(f"{known[name].flag} has no effect with --for {options.for_}", hint="leave one of them out")
    settings.require_effect(planned, typed)
    return options


def _settings_file(values: dict[str, Any]) -> Path | None:
    """--config, else wsplf.toml beside the project, else in this folder, else none; demo reads none."""
    if "config" not in values or values["config"] is not None:
        return values.get("config")
    project: Path | None = values.get("project") or next(iter(values.get("projects") or ()), None)
    folders = [] if project is None else [project if project.is_dir() else project.parent]
    candidates = (folder / SETTINGS for folder in (*folders, Path()))
    return next((path for path in candidates if path.is_file()), None)


def _was_typed(ctx: typer.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def open_chosen(path: Path, options: ProjectOptions) -> "tuple[Project, list[Entry]]":
    """The project and the entries that --images chooses."""
    from wsplf_cli.cohort.names import select_entries

    project: Project = plugins.load("backends", options.backend).open_project(path, options)
    return project, select_entries(project.entries(), options)


def open_labelled(path: Path, options: ProjectOptions) -> "tuple[Project, list[Entry]]":
    """As ``open_chosen``, with the slide labels. An unknown label is an error, so that no slide is lost in silence."""
    from wsplf_cli.cohort.labels import resolve_labels

    project, entries = open_chosen(path, options)
    return project, resolve_labels(entries, options)


def open_any(path: Path, options: ProjectOptions, screen: "Screen") -> "tuple[Project, list[Entry]]":
    """As ``open_chosen``, with the slide labels that are known. An unknown label is a warning."""
    from wsplf_cli.cohort.labels import label_rows, unknown_words

    project, entries = open_chosen(path, options)
    rows = label_rows(entries, options)
    unknown = unknown_words(rows)
    if unknown:
        screen.say(f"warning: slide label neither positive nor negative: {unknown}; taken as unlabelled")
    return project, [row.entry for row in rows]


def shown(report: "StageReport", screen: "Screen") -> int:
    """Show the report of a command, and what to do in QuPath if the command wrote; return the exit code."""
    screen.report(report)
    if wrote := report.details.get("wrote"):
        screen.say(RELOAD if wrote["entries"] else REOPEN)
    return int(report.failed > 0)


@app.callback()
def _top(
    ctx: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if version:
        sys.stdout.write(f"wsplf {__version__}\n")
        raise typer.Exit
    _help_without_command(ctx)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line (by default the process's) and return the exit code; every error is shown here."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        with never_lost():
            code = app(args=arguments, prog_name="wsplf", standalone_mode=False) or 0
        if code == STOPPED:  # typer's answer to Ctrl-C before a command has begun
            raise Stopped("0 entries were finished")
        return code
    except UsageError as error:
        path = error.ctx.command_path if error.ctx else "wsplf"
        message = _moved(path, getattr(error, "option_name", "")) or error.format_message()
        return _fail(message, hint=f"{path} -h", code=2, arguments=arguments)
    except Stopped as stop:
        return _fail(f"stopped; nothing half-written, {stop}", hint="", code=STOPPED, arguments=arguments)
    except WsplfError as error:
        code = 2 if isinstance(error.__cause__ if isinstance(error, ProcessError) else error, ConfigError) else 1
        return _fail(error.message, hint=error.hint, code=code, arguments=arguments)
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        where = f": {error.filename}" if error.filename else ""
        return _fail(DISK_ERRORS[error.errno] + where, hint="", code=1, arguments=arguments)


def _moved(command_path: str, flag: str) -> str:
    """Where an option of an earlier version is now, in one line; empty for an option that never was."""
    moved = MOVED_OPTIONS.get(command_path.removeprefix("wsplf "), {})
    where = moved.get(flag.removeprefix("--")) or moved.get(flag.removeprefix("--no-"))
    return f"{flag} {where}" if where else ""


def _of_torchrun() -> int | None:
    """The number of this process among those that torchrun started, from 0; None where it is the only one."""
    return int(os.environ.get("RANK", "0")) if int(os.environ.get("WORLD_SIZE", "1")) > 1 else None


def _fail(message: str, *, hint: str, code: int, arguments: Sequence[str]) -> int:
    from wsplf_cli.ui import show_error

    # of what all processes have, the first one tells
    if not _of_torchrun() or isinstance(sys.exception(), ProcessError):
        show_error(message, hint=hint, json="--json" in arguments)
    return code
