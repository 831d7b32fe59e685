"""The folder of a benchmark, and the copies of the project in it."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from wsplf_cli import files, plugins
from wsplf_cli.backends import Project
from wsplf_cli.benchmark_options import BenchmarkOptions
from wsplf_cli.errors import ConfigError, ProjectError
from wsplf_cli.qupath.data_folder import SUMMARY
from wsplf_cli.runs import layout

#: Marks a folder that a benchmark made: only there are files removed.
MARK = ".wsplf-benchmark"
RUNS = "runs"
#: What is kept of a copy after a round of review, and the file in it that says of which job it is.
STATES, STATE_OF = "states", "state-of"
#: The files of an entry that hold or count annotations.
ANNOTATIONS = ("*.qpdata*", SUMMARY)


def require_benchmark_folder(out: Path) -> None:
    """Refuse a folder that holds anything but an earlier benchmark.

    Raises:
        ConfigError: it does.
    """
    if out.exists() and not (out.is_dir() and ((out / MARK).is_file() or not any(out.iterdir()))):
        raise ConfigError(f"{out} is there and is not of a benchmark", hint="choose another folder with --out")


def make_benchmark_folder(out: Path) -> None:
    """Make the folder, unless it is there.

    Raises:
        ProjectError: it cannot be written.
    """
    try:
        (out / RUNS).mkdir(parents=True, exist_ok=True)
        files.write_bytes(out / MARK, b"Made by wsplf benchmark; its copies of the project may be made anew.\n")
    except OSError as error:
        raise ProjectError(f"cannot write {out}: {error.strerror}", hint="choose another folder with --out") from error


def copy_project(project: Project, folder: Path, options: BenchmarkOptions, *, state: Path | None = None) -> Project:
    """A copy of the project without any annotation, in place of an earlier copy; its cache of embeddings stays.

    ``state``: what ``keep_state`` kept; the copy has the annotations and the runs of then.

    Raises:
        ProjectError: a file cannot be copied.
    """
    try:
        for name in ("data", "classifiers"):
            if (project.folder / name).is_dir():
                shutil.copytree(
                    project.folder / name,
                    folder / name,
                    dirs_exist_ok=True,
                    ignore=shutil.ignore_patterns(*ANNOTATIONS),
                )
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(project.path, folder / project.path.name)
        for path in (path for pattern in ANNOTATIONS for path in folder.glob(f"data/*/{pattern}")):
            path.unlink()
        for path in folder.glob(f"{layout.FOLDER}/*"):  # what earlier runs wrote about annotations that are gone now
            if path.is_dir() and path.name != "cache":
                shutil.rmtree(path)
            elif path.is_file():
                path.unlink()
        if state is not None:
            shutil.copytree(state, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(STATE_OF))
    except (OSError, shutil.Error) as error:
        raise ProjectError(f"cannot copy the project to {folder}: {error}") from error
    copied: Project = plugins.load("backends", options.project.backend).open_project(
        folder / project.path.name, options.project
    )
    return copied


def state_folder(out: Path, name: str) -> Path:
    """Where the state of a copy after a job is kept."""
    return out / STATES / name


def keep_state(copied: Project, state: Path, *, fingerprint: str) -> None:
    """Keep a copy's annotations, and what its runs wrote about them, whole or not at all; not the models.

    Raises:
        ProjectError: a file cannot be copied.
    """
    part = files.part_of(state)
    try:
        state.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(copied.folder, part, ignore=_not_of_state)
        (part / STATE_OF).write_text(fingerprint, encoding="utf-8")
        shutil.rmtree(state, ignore_errors=True)
        part.rename(state)
    except (OSError, shutil.Error) as error:
        shutil.rmtree(part, ignore_errors=True)
        raise ProjectError(f"cannot keep {state}: {error}") from error


def has_state(state: Path, *, fingerprint: str) -> bool:
    """Whether the state after the job of this fingerprint is there."""
    try:
        return (state / STATE_OF).read_text(encoding="utf-8") == fingerprint
    except (OSError, ValueError):
        return False


def drop_state(state: Path) -> None:
    """Remove a state that no job needs any more."""
    shutil.rmtree(state, ignore_errors=True)


def _not_of_state(folder: str, names: Sequence[str]) -> set[str]:
    """The names in a folder of a copy that a state leaves out."""
    if Path(folder).name != layout.FOLDER:
        return set()
    return {name for name in names if name in ("cache", "models") or Path(folder, name).is_file()}
