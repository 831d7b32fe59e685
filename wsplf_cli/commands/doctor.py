"""``wsplf doctor``: is this machine ready, and is every entry of a project. It writes nothing and starts no Java."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from pathlib import Path

from wsplf_cli import plugins
from wsplf_cli.backends import Project
from wsplf_cli.cohort.checks import check_project
from wsplf_cli.cohort.names import select_entries
from wsplf_cli.cohort.registration import check_registration
from wsplf_cli.errors import ConfigError, ProjectError
from wsplf_cli.executors.choose import open_workers
from wsplf_cli.networks import weights
from wsplf_cli.options import DoctorOptions
from wsplf_cli.schema import Check, Tracker

NEEDED_GB = 0.2
COMFORTABLE_GB = 5.0
QUPATH_FOLDERS = ("/opt", "/Applications", "~/Applications", "C:/Program Files", "~/AppData/Local")


def doctor(project_path: Path | None, options: DoctorOptions, tracker: Tracker) -> list[Check]:
    """The checks of this machine and, where a project is given, of the project and its entries.

    A project that cannot be read is a check that failed.

    Raises:
        ConfigError: ``--registration`` without a project, or ``--images`` finds no entry.
    """
    if options.registration and project_path is None:
        raise ConfigError("--registration needs a project", hint="wsplf doctor PROJECT --registration")
    checks = check_machine(options, folder=project_path.parent if project_path else Path())
    if project_path is None:
        return checks
    try:
        backend = plugins.load("backends", options.project.backend)
        project: Project = backend.open_project(project_path, options.project)
        entries = select_entries(project.entries(), options.project)
        with open_workers(options.workers, entries, tracker, files=[project.folder]) as workers:
            checks += check_project(project, entries, options.project, tracker=tracker, workers=workers)
            if options.registration:
                checks += check_registration(project, entries, options.project.backend, tracker, workers=workers)
    except ProjectError as error:
        checks.append(Check("FAIL", "project", error.message, error.hint))
    return checks


def check_machine(options: DoctorOptions, *, folder: Path) -> list[Check]:
    """Python, torch and its device, OpenSlide, weights, QuPath, paquo, and the disk that holds ``folder``."""
    return [
        Check("PASS", "Python", f"{platform.python_version()} ({sys.executable})"),
        _check_torch(),
        _check_openslide(),
        _check_shipped_weights(),
        *_check_sam(options.sam_checkpoint),
        _check_qupath(),
        _check_paquo(),
        _check_disk(folder),
    ]


def _check_torch() -> Check:
    try:
        from wsplf_cli.networks.device import describe_torch

        return Check("PASS", "torch", describe_torch())
    except (ImportError, OSError) as error:  # OSError: a library of torch's that does not load
        return Check("FAIL", "torch", f"cannot be imported: {error}", fix="pip install --force-reinstall torch")


def _check_openslide() -> Check:
    try:
        import openslide
    except (ImportError, OSError) as error:
        fix = "pip install --force-reinstall openslide-python openslide-bin"
        return Check("FAIL", "OpenSlide", f"cannot be imported: {error}", fix=fix)
    return Check("PASS", "OpenSlide", f"{openslide.__library_version__}, openslide-python {openslide.__version__}")


def _check_shipped_weights() -> Check:
    if damaged := weights.damaged():
        return Check("FAIL", "weights", "; ".join(damaged), fix="pip install --force-reinstall --no-deps wsplf")
    return Check("PASS", "weights", f"{', '.join(weights.shipped())}: as shipped")


def _check_sam(checkpoint: Path | None) -> list[Check]:
    """One check of a SAM checkpoint, none without one. A published file is read whole, to compare its SHA-256."""
    if checkpoint is None:
        return []
    name = next((name for name, published in weights.SAM.items() if published.name == checkpoint.name), None)
    try:
        weights.check_sam(name or "", checkpoint=checkpoint)
    except ConfigError as error:
        return [Check("FAIL", "SAM checkpoint", error.message, fix=error.hint)]
    if name is None:
        fix = "known: " + ", ".join(published.name for published in weights.SAM.values())
        message = f"{checkpoint.name} is not a published file; loading it will show whether it fits"
        return [Check("WARN", "SAM checkpoint", message, fix=fix)]
    if weights.sha256(checkpoint) != weights.SAM[name].sha256:
        message = f"{checkpoint} has another SHA-256 than the published file"
        return [Check("FAIL", "SAM checkpoint", message, fix="download it again")]
    return [Check("PASS", "SAM checkpoint", f"{checkpoint.name}: {name}, as published")]


def _check_qupath() -> Check:
    """Where QuPath is installed; wsplf does not need one."""
    configured = os.environ.get("PAQUO_QUPATH_DIR")
    if configured:
        exists = Path(configured).exists()
        fix = "" if exists else "correct or unset PAQUO_QUPATH_DIR"
        return Check("PASS" if exists else "WARN", "QuPath", f"PAQUO_QUPATH_DIR={configured}", fix=fix)
    installed = [str(path) for folder in QUPATH_FOLDERS for path in Path(folder).expanduser().glob("QuPath*")]
    on_path = shutil.which("QuPath")
    installed += [on_path] if on_path else []
    return Check("PASS", "QuPath", ", ".join(installed) or "none found here; the embedded backend needs none")


def _check_paquo() -> Check:
    if importlib.util.find_spec("paquo") is None:
        return Check("PASS", "paquo", "not installed; the embedded backend does not need it")
    return Check("PASS", "paquo", importlib.metadata.version("paquo"))


def _check_disk(folder: Path) -> Check:
    try:
        free_gb = shutil.disk_usage(folder).free / 1e9
    except OSError as error:
        return Check("WARN", "disk", f"{folder.absolute()}: {error.strerror}")
    message = f"{free_gb:.1f} GB free at {folder.absolute()}"
    if free_gb < NEEDED_GB:
        return Check("FAIL", "disk", message, fix="free some space")
    if free_gb < COMFORTABLE_GB:
        return Check("WARN", "disk", message, fix="large projects may need more")
    return Check("PASS", "disk", message)
