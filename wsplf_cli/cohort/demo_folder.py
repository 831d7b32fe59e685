"""The folder of ``wsplf demo``: making it anew without ever removing what a person put there."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from wsplf_cli import plugins
from wsplf_cli.backends import Project
from wsplf_cli.errors import ConfigError, ProjectError
from wsplf_cli.files import write_bytes
from wsplf_cli.options import ProjectOptions
from wsplf_cli.qupath.create import Image
from wsplf_cli.runs import layout
from wsplf_cli.synthetic.cohort import SyntheticSlide

#: Marks a folder that the demo made, from its first moment, so that it can be made anew.
MARK = ".wsplf-demo"
PARTS = ("project", "slides", "truth", "report.html", "results.json")
_PROJECT_PARTS = {"project.qpproj", "project.qpproj.backup", "data", "classifiers", layout.FOLDER}
_HINT = "choose another folder with --out"


def make_folder(out: Path) -> None:
    """Make the folder of a demo, or empty one that an earlier demo made; nothing else is ever removed.

    Raises:
        ConfigError: ``out`` holds something that the demo did not make.
        ProjectError: ``out`` cannot be written.
    """
    _clear(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_bytes(out / MARK, b"Made by wsplf demo; it may be made anew.\n")
    except OSError as error:
        raise ProjectError(f"cannot write {out}: {error.strerror}", hint=_HINT) from error


def slide_images(slides: Sequence[SyntheticSlide]) -> list[Image]:
    """What a project records of synthetic slides; label, patient and split are metadata."""
    return [
        Image(
            path=slide.path,
            name=slide.name,
            width_px0=slide.width_px0,
            height_px0=slide.height_px0,
            mpp=slide.mpp,
            levels=[(slide.width_px0 / width, width, height) for width, height in slide.levels],
            metadata={"label": slide.label, "patient": slide.patient, "split": slide.split},
        )
        for slide in slides
    ]


def _clear(out: Path) -> None:
    if not out.exists() and not out.is_symlink():
        return
    if not out.is_dir():
        raise ConfigError(f"{out} exists and is no folder", hint=_HINT)
    paths = sorted(out.iterdir())
    if not paths:
        return
    foreign = [path for path in paths if path.name not in (MARK, *PARTS) or path.is_symlink()]
    if not (out / MARK).is_file() or foreign:
        raise ConfigError(f"{out} is not empty: it holds {(foreign or paths)[0].name}", hint=_HINT)
    by_person = _made_by_person(out)
    if by_person:
        raise ConfigError(f"{out} holds an earlier demo in which {by_person}", hint=_HINT)
    try:
        for name in PARTS:
            path = out / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    except OSError as error:
        raise ProjectError(f"cannot remove the earlier demo in {out}: {error.strerror}", hint=_HINT) from error


def _made_by_person(out: Path) -> str:
    """What a person added to an earlier demo, in words; empty when it is as the demo left it."""
    for folder, suffix in (("slides", ".tif"), ("truth", ".geojson")):
        for path in sorted((out / folder).glob("*")):
            if path.suffix != suffix and not path.name.endswith(".part"):
                return f"{folder}/{path.name} was added"
    for path in sorted((out / "project").glob("*")):
        if path.name not in _PROJECT_PARTS:
            return f"project/{path.name} was added"
    project_path = out / "project" / "project.qpproj"
    if not project_path.is_file():
        return ""
    options = ProjectOptions()
    project: Project = plugins.load("backends", options.backend).open_project(project_path, options)
    for entry in project.entries():
        for annotation in project.annotations(entry.id):
            if annotation.origin == "human" or annotation.edited or annotation.review != "pending":
                return f"a person annotated {entry.name}"
    return ""
