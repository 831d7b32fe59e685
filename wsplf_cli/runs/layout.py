"""Where wsplf keeps its files: every path under ``PROJECT-FOLDER/wsplf/``.

::

    wsplf/
      lock, train-NAME.lock          one writer at a time; who holds it stands in FILE.json beside the lock
      runs/ID/                       one run of a command
        run.json, curves.json, log.txt
        cams/ENTRY[.CLASS].png       class activation maps
        fits/fit[.CLASS].safetensors linear probes, calibration and some instances of a class
        prompts/ENTRY.json.gz        SAM's prompts and masks of each polygon
        written/ENTRY-ORIGIN.json.gz what the run wrote into an entry
        undo/                        the replaced files and their journal
      models/NAME/                   trained segmentation models
      cache/embeddings/              SAM embeddings
      resume/COMMAND/                what a stopped run of a command had finished, until one ends
      removed/ENTRY.geojson          where a person removed polygons in review
      benchmark/, report.html, review.html  results of these commands by default
      scripts.json                   the installed QuPath scripts
"""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, unquote

#: Name of wsplf's folder beside the project file.
FOLDER = "wsplf"


def run_folders(project_folder: Path) -> Iterator[Path]:
    """The folders of all runs of a project."""
    return (path for path in runs_folder(project_folder).glob("*") if path.is_dir())


def runs_folder(project_folder: Path) -> Path:
    """The folder of all runs."""
    return project_folder / FOLDER / "runs"


def run_folder(project_folder: Path, run_id: str) -> Path:
    """The folder of one run."""
    return runs_folder(project_folder) / run_id


def run_file(run: Path) -> Path:
    """The record of a run: options, results, status."""
    return run / "run.json"


def curves_file(run: Path) -> Path:
    """The training curves of a run."""
    return run / "curves.json"


def log_file(run: Path) -> Path:
    """The log of a run."""
    return run / "log.txt"


def undo_folder(run: Path) -> Path:
    """What undo needs: the replaced files and ``journal_file``."""
    return run / "undo"


def journal_file(run: Path) -> Path:
    """The journal of what a run wrote into the project."""
    return undo_folder(run) / "journal.jsonl"


def written_file(run: Path, entry_id: str, origin: str) -> Path:
    """What a run wrote into an entry."""
    return run / "written" / f"{entry_id}-{origin}.json.gz"


def cam_file(run: Path, entry_id: str, path_class: str) -> Path:
    """The CAM of an entry as a PNG; ``path_class`` is empty where the project has only one class."""
    name = f"{entry_id}.{quote(path_class, safe='')}.png" if path_class else f"{entry_id}.png"
    return run / "cams" / name


def cam_files(run: Path, entry_id: str) -> dict[str, Path]:
    """The CAMs of an entry that are there, by class; the class is empty where the project has only one."""
    only_class = cam_file(run, entry_id, "")
    paths = [only_class, *sorted(only_class.parent.glob(f"{entry_id}.*.png"))]
    return {unquote(path.name[len(entry_id) + 1 : -len(".png")]): path for path in paths if path.is_file()}


def models_folder(project_folder: Path) -> Path:
    """The folder of all trained segmentation models."""
    return project_folder / FOLDER / "models"


def fit_file(run: Path, path_class: str) -> Path:
    """What a run keeps of the fit of a class; ``path_class`` is empty where the project has only one."""
    name = f"fit.{quote(path_class, safe='')}.safetensors" if path_class else "fit.safetensors"
    return run / "fits" / name


def prompts_file(run: Path, entry_id: str) -> Path:
    """SAM's prompts and masks of each polygon of an entry."""
    return run / "prompts" / f"{entry_id}.json.gz"


def model_folder(project_folder: Path, name: str) -> Path:
    """The folder of a trained segmentation model."""
    return models_folder(project_folder) / name


def embeddings_folder(project_folder: Path) -> Path:
    """The cache of SAM embeddings."""
    return project_folder / FOLDER / "cache" / "embeddings"


def resume_folder(project_folder: Path, command: str) -> Path:
    """What a stopped run of a command had finished, for the next one."""
    return project_folder / FOLDER / "resume" / command


def resume_folders(project_folder: Path) -> Iterator[Path]:
    """What stopped runs of all commands had finished."""
    return (project_folder / FOLDER / "resume").glob("*")


def removed_file(project_folder: Path, entry_id: str) -> Path:
    """Where a person removed wsplf's polygons from an entry, as GeoJSON."""
    return project_folder / FOLDER / "removed" / f"{entry_id}.geojson"


def report_file(project_folder: Path) -> Path:
    """The page of ``wsplf report``."""
    return project_folder / FOLDER / "report.html"


def review_file(project_folder: Path) -> Path:
    """The page of ``wsplf report --review``."""
    return project_folder / FOLDER / "review.html"


def explanation_name(polygon_id: str) -> str:
    """Name of the page of ``wsplf explain`` for a polygon."""
    return f"explain-{polygon_id[:8]}.html"


def image_explanation_name(image: str) -> str:
    """Name of the page of ``wsplf explain`` for all polygons of an image, by the name of its files."""
    return f"explain-{image}.html"


def benchmark_folder(project_folder: Path) -> Path:
    """The results of ``wsplf benchmark``."""
    return project_folder / FOLDER / "benchmark"


def scripts_file(project_folder: Path) -> Path:
    """The hash of each QuPath script as it was installed, by name."""
    return project_folder / FOLDER / "scripts.json"


def project_lock(project_folder: Path) -> Path:
    """The lock of a project. Projects that share a folder share its data, and so the lock."""
    return project_folder / FOLDER / "lock"


def training_lock(project_folder: Path, model: str) -> Path:
    """The lock of one model while it is trained."""
    return project_folder / FOLDER / f"train-{model}.lock"
