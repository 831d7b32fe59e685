"""``wsplf doctor``: is this machine ready, and is every entry of a project. It only looks; it starts no Java."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from wsplf_cli.backends import Project
from wsplf_cli.cohort.label_table import LabelRow, count_classes, label_rows, require_both
from wsplf_cli.cohort.labels import classes_of
from wsplf_cli.errors import ConfigError, ProjectError, SlideError
from wsplf_cli.networks import weights
from wsplf_cli.options import DoctorOptions
from wsplf_cli.schema import Check, Entry, titles

NEEDED_GB = 0.2
COMFORTABLE_GB = 5.0
QUPATH_FOLDERS = ("/opt", "/Applications", "~/Applications", "C:/Program Files", "~/AppData/Local")


def check_machine(options: DoctorOptions, *, folder: Path) -> list[Check]:
    """Python, torch and its device, OpenSlide, weights, QuPath, paquo, and the disk that ``folder`` is on."""
    return [
        Check("PASS", "Python", f"{platform.python_version()} ({sys.executable})"),
        _torch(),
        _openslide(),
        _shipped_weights(),
        *_sam_checkpoint(options.sam_checkpoint),
        _qupath(),
        _paquo(),
        _disk(folder),
    ]


def check_project(project: Project, entries: Sequence[Entry], options: DoctorOptions) -> list[Check]:
    """Every entry: its slide opens and can be read, its mpp and source, its data file, its label; then the cohort."""
    rows = label_rows(entries, options.project)
    classes = classes_of(options.project)
    checks = [Check("PASS", "project", f"{project.path}, QuPath {project.version}, {len(entries)} entries")]
    if not os.access(project.folder, os.W_OK):
        checks.append(Check("WARN", "folder", f"{project.folder} cannot be written", fix="copy the project elsewhere"))
    mpp_override = options.project.mpp_override
    named = zip(titles(entries), rows, strict=True)
    checks += [_entry(project, row, title=title, classes=classes, mpp_override=mpp_override) for title, row in named]
    try:
        require_both([row.entry for row in rows], classes)
    except ProjectError as error:
        checks.append(Check("WARN", "labels", error.message, fix=error.hint))
    else:
        positive = sum(row.meaning == "positive" for row in rows)
        negative = sum(row.meaning == "negative" for row in rows)
        message = f"{positive} positive, {negative} negative"
        if len(classes) > 1:
            counts = count_classes([row.entry for row in rows], classes)
            message += "; " + ", ".join(f"{count} {name}" for name, count in counts.items())
        checks.append(Check("PASS", "labels", message))
    return checks


def _torch() -> Check:
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a library of torch's that does not load
        return Check("FAIL", "torch", f"cannot be imported: {error}", fix="pip install --force-reinstall torch")
    device = "CPU only"
    if torch.cuda.is_available():
        device = f"CUDA: {torch.cuda.get_device_name()}"
    elif torch.backends.mps.is_available():
        device = "Apple MPS (used only with --device mps)"
    return Check("PASS", "torch", f"{torch.__version__}, {device}, {torch.get_num_threads()} threads")


def _openslide() -> Check:
    try:
        import openslide
    except (ImportError, OSError) as error:
        fix = "pip install --force-reinstall openslide-python openslide-bin"
        return Check("FAIL", "OpenSlide", f"cannot be imported: {error}", fix=fix)
    return Check("PASS", "OpenSlide", f"{openslide.__library_version__}, openslide-python {openslide.__version__}")


def _shipped_weights() -> Check:
    if damaged := weights.damaged():
        return Check("FAIL", "weights", "; ".join(damaged), fix="pip install --force-reinstall --no-deps wsplf")
    return Check("PASS", "weights", f"{', '.join(weights.shipped())}: as shipped")


def _sam_checkpoint(path: Path | None) -> list[Check]:
    """One check when there is a checkpoint to look at. A published file is read whole, to compare its SHA-256."""
    if path is None:
        return []
    name = next((name for name, published in weights.SAM.items() if published.name == path.name), None)
    try:
        weights.check_sam(name or "", checkpoint=path)
    except ConfigError as error:
        return [Check("FAIL", "SAM checkpoint", error.message, fix=error.hint)]
    if name is None:
        fix = "known: " + ", ".join(published.name for published in weights.SAM.values())
        return [Check("WARN", "SAM checkpoint", f"{path.name} is not a published file; loading will tell", fix=fix)]
    if weights.sha256(path) != weights.SAM[name].sha256:
        return [Check("FAIL", "SAM checkpoint", f"{path} has another SHA-256 than published", fix="download it again")]
    return [Check("PASS", "SAM checkpoint", f"{path.name}: {name}, as published")]


def _qupath() -> Check:
    """Where a QuPath is; wsplf does not need one."""
    named = os.environ.get("PAQUO_QUPATH_DIR")
    if named:
        there = Path(named).exists()
        fix = "" if there else "correct or unset PAQUO_QUPATH_DIR"
        return Check("PASS" if there else "WARN", "QuPath", f"PAQUO_QUPATH_DIR={named}", fix=fix)
    found = [path for folder in QUPATH_FOLDERS for path in Path(folder).expanduser().glob("QuPath*")]
    on_path = shutil.which("QuPath")
    shown = [str(path) for path in found] + ([on_path] if on_path else [])
    return Check("PASS", "QuPath", ", ".join(shown) or "none found here; the embedded backend needs none")


def _paquo() -> Check:
    if importlib.util.find_spec("paquo") is None:
        return Check("PASS", "paquo", "not installed; the embedded backend does not need it")
    return Check("PASS", "paquo", importlib.metadata.version("paquo"))


def _disk(folder: Path) -> Check:
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


def _entry(project: Project, row: LabelRow, *, title: str, classes: Sequence[str], mpp_override: float | None) -> Check:
    """One line for one entry; the first thing that prevents work on it, else what deserves a warning."""
    from wsplf_cli.slides.entry import entry_slide

    entry = row.entry
    try:
        slide, pixel_size = entry_slide(entry, mpp_override=mpp_override)
        slide.thumbnail(64)
        annotations = project.annotations(entry.id)
    except SlideError as error:
        return Check("FAIL", title, error.message, fix=error.hint)
    label = f"label {row.word!r} ({row.source}): {row.meaning}" if row.word else "unlabelled"
    if len(classes) > 1 and row.classes(classes):
        label += f" for {' and '.join(row.classes(classes))}"
    message = f"{pixel_size.mpp:.4g} um/px ({pixel_size.source}), {label}, {len(annotations)} annotations"
    if entry.steps:
        message += f"; QuPath shows it {' and '.join(step.kind for step in entry.steps)}"
    if row.unknown:
        fix = f"--positive {row.word!r} or --negative {row.word!r}, or correct the label in QuPath"
        return Check("FAIL", title, message, fix=fix)
    if pixel_size.warning:
        return Check("WARN", title, f"{message}; {pixel_size.warning}", fix="correct the pixel size in QuPath")
    if entry.label is None:
        return Check("WARN", title, message, fix="pseudolabel leaves it out; see wsplf labels")
    return Check("PASS", title, message)
