"""The folder of a benchmark, and the copies of the project in it."""

import shutil
from pathlib import Path

from wsplf_cli import files, plugins
from wsplf_cli.backends import Project
from wsplf_cli.errors import ConfigError, ProjectError
from wsplf_cli.options import BenchmarkOptions
from wsplf_cli.qupath.data_folder import SUMMARY
from wsplf_cli.runs import layout

#: Marks a folder that a benchmark made: only there are files removed.
MARK = ".wsplf-benchmark"
RUNS = "runs"
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


def copy_project(project: Project, folder: Path, options: BenchmarkOptions) -> Project:
    """A copy of the project without any annotation, in place of an earlier copy; its cache of embeddings stays.

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
    except (OSError, shutil.Error) as error:
        raise ProjectError(f"cannot copy the project to {folder}: {error}") from error
    copied: Project = plugins.load("backends", options.project.backend).open_project(
        folder / project.path.name, options.project
    )
    return copied
