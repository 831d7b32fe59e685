"""What the run that wrote a polygon left in its folder, and what it did not keep."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wsplf_cli.class_names import is_a
from wsplf_cli.errors import ProjectError
from wsplf_cli.review.roles import class_made_for
from wsplf_cli.runs.history import read_record
from wsplf_cli.runs.layout import cam_files, fit_file, run_file, run_folder, run_folders
from wsplf_cli.runs.prompted import read_prompted
from wsplf_cli.runs.written import written_by
from wsplf_cli.schema import Annotation, PromptedMask
from wsplf_cli.weak.kept.fit import KeptFit, load_fit


@dataclass(frozen=True, slots=True)
class RunTraces:
    """What is left of the run of a polygon.

    ``record`` is run.json, empty where it is gone. ``as_written`` is the polygon as the run wrote it, ``cam`` the file
    of the CAM, ``masks`` SAM's masks. ``missing`` says in sentences what there is not.
    """

    id: str
    record: Mapping[str, Any]
    as_written: Annotation | None = None
    cam: Path | None = None
    masks: tuple[PromptedMask, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def options(self) -> Mapping[str, Any]:
        """The options of the run; empty where they are gone."""
        options = self.record.get("options")
        return options if isinstance(options, dict) else {}

    @property
    def recipe(self) -> Mapping[str, Any]:
        """The recipe of the run; empty where it is gone, or the run had none."""
        recipe = self.options.get("recipe")
        return recipe if isinstance(recipe, dict) else {}


@dataclass(slots=True)
class FitOfRun:
    """The fit of a class that a run kept, with the run; ``reason`` says why there is none."""

    run_id: str = ""
    record: Mapping[str, Any] = field(default_factory=dict)
    fit: KeptFit | None = None
    reason: str = ""


def read_traces(project_folder: Path, entry_id: str, annotation: Annotation) -> RunTraces:
    """What is left of the run that wrote a polygon; a damaged file counts as missing."""
    run = run_folder(project_folder, annotation.run_id)
    if not annotation.run_id or not run.is_dir():
        gone = f"The folder of run {annotation.run_id or 'unknown'} is not there any more"
        return RunTraces(annotation.run_id, {}, missing=(f"{gone}: what is shown comes from the annotation itself.",))
    missing: list[str] = []
    record = read_record(run_file(run))
    if not record:
        missing.append("The record of the run (run.json) cannot be read.")
    by_id = {}
    try:
        by_id = {other.id: other for other in written_by(run, entry_id, origin=annotation.origin) or ()}
    except ProjectError as error:
        missing.append(f"{error.message}.")
    cam, masks = None, None
    if annotation.origin == "pseudolabel":
        cam = cam_of_class(cam_files(run, entry_id), class_made_for(annotation) or "")
        if cam is None:
            missing.append("This run kept no CAM of the image.")
        try:
            prompted = read_prompted(run, entry_id)
        except ProjectError as error:
            missing.append(f"{error.message}.")
        else:
            if prompted is None:
                missing.append("This run kept no prompts and masks of SAM.")
            masks = (prompted or {}).get(annotation.id)
    return RunTraces(annotation.run_id, record, by_id.get(annotation.id), cam, tuple(masks or ()), tuple(missing))


def cam_of_class(cams: Mapping[str, Path], path_class: str) -> Path | None:
    """The CAM of a class of a run that may have had one class or several."""
    return cams.get("") or next((path for name, path in cams.items() if is_a(path_class, name)), None)


def read_fit(project_folder: Path, run_id: str, record: Mapping[str, Any], path_class: str) -> FitOfRun:
    """The fit of a class that a run of pseudolabel kept; a damaged file counts as none."""
    run = run_folder(project_folder, run_id)
    try:
        fit = load_fit(fit_file(run, "")) or load_fit(fit_file(run, path_class))
    except ProjectError as error:
        return FitOfRun(run_id, record, reason=f"{error.message}.")
    if fit is None or not is_a(path_class, fit.path_class):
        return FitOfRun(
            run_id,
            record,
            reason="This run kept no fit of its classifier, as older versions of wsplf did not: the classifier's"
            " evidence and the most alike instances cannot be shown. A new run of pseudolabel keeps it.",
        )
    return FitOfRun(run_id, record, fit)


def newest_fit(project_folder: Path, path_class: str, *, before: str) -> FitOfRun:
    """The fit of the newest run of pseudolabel that kept one, of those that began before the run ``before`` if any."""
    kept = sorted(run.name for run in run_folders(project_folder) if (run / "fits").is_dir())
    for run_id in sorted(kept, key=lambda run_id: (not before or run_id < before, run_id), reverse=True):
        fit_of_run = read_fit(
            project_folder, run_id, read_record(run_file(run_folder(project_folder, run_id))), path_class
        )
        if fit_of_run.fit is not None:
            return fit_of_run
    return FitOfRun(reason="No run of pseudolabel in this project kept features: no alike instances can be shown.")
