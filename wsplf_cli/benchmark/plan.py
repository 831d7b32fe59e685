"""What a benchmark runs: one job per recipe and seed, and which of them were finished before."""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsplf_cli import __version__, files, settings
from wsplf_cli.errors import ConfigError
from wsplf_cli.networks.backbone import SMALL, is_frozen
from wsplf_cli.networks.hub import PREFIX
from wsplf_cli.options import BenchmarkOptions, PseudolabelOptions, RunOptions, TrainOptions
from wsplf_cli.recipes import RECIPES
from wsplf_cli.schema import Entry, Tracker

log = logging.getLogger(__name__)

#: Not a recipe: the segmentation model learns from the truth of the slides that the others know the labels of.
UPPER_BOUND = "upper-bound"
RUNS = "runs"
#: Options that are about what the backbone learns.
_LEARNED = {"adl", "high_frequency"}
#: Options that only recipes which train MIL networks take.
_OF_MIL = ("epochs", "folds")


@dataclass(frozen=True, slots=True)
class Job:
    """One recipe with one seed. ``fingerprint`` changes when the result would: options, slides, truth or version."""

    recipe: str
    seed: int
    pseudolabel: PseudolabelOptions
    train: TrainOptions
    trains: bool
    fingerprint: str

    @property
    def file(self) -> str:
        """Name of its result."""
        return f"{self.recipe}-seed{self.seed}.json"


def chosen_recipes(given: Sequence[str]) -> list[str]:
    """The names asked for, in the order of the list of recipes."""
    known = [*RECIPES, UPPER_BOUND]
    asked = [word.strip() for text in given for word in text.split(",") if word.strip()]
    unknown = [name for name in asked if name not in known]
    if unknown:
        raise ConfigError(f"unknown recipe {unknown[0]!r}", hint=f"choose from: {', '.join(known)}")
    return [name for name in known if name in asked or not asked]


def for_backbone(names: Sequence[str], backbone: str, tracker: Tracker) -> list[str]:
    """The recipes that differ with that backbone: one that only changes how it learns is left out when it is frozen.

    Raises:
        ConfigError: none is left, or the backbone is not on this computer.
    """
    if not is_frozen(backbone):
        return list(names)
    kept = [name for name in names if not _only_learns(name)]
    left_out = ", ".join(name for name in names if _only_learns(name))
    if not kept:
        raise ConfigError(
            f"{left_out}: changes only how the backbone learns, and {backbone} is frozen",
            hint="name other recipes, or --backbone small",
        )
    tracker.say(f"{backbone} is frozen: no attention-based dropout" + (f"; left out: {left_out}" if left_out else ""))
    return kept


def _only_learns(name: str) -> bool:
    """Whether a recipe changes nothing but how the backbone learns."""
    changed = RECIPES[name].options.keys() - {"classifier"} if name in RECIPES else set()
    return bool(changed) and changed <= _LEARNED


def require_used(names: Sequence[str], options: BenchmarkOptions) -> None:
    """Refuse epochs and folds of MIL networks where no recipe trains any.

    Raises:
        ConfigError: one of them is not its default.
    """
    if any(_trains_mil(name) for name in names):
        return
    for name in _OF_MIL:
        option = settings.options(BenchmarkOptions)[name]
        value = getattr(options, name)
        if value != option.default:
            raise ConfigError(
                f"{option.flag} {value} is of MIL networks, which none of {', '.join(names)} trains",
                hint="name a recipe that does, such as mil, or leave it out",
            )


def _trains_mil(name: str) -> bool:
    return name in RECIPES and settings.build(PseudolabelOptions, {"recipe": name}).classifier != "places"


def jobs_of(names: Sequence[str], seed: int, entries: Sequence[Entry], options: BenchmarkOptions) -> list[Job]:
    """One job per recipe, all with the same networks and budget.

    Epochs and folds are those of recipes that train MIL networks. With a frozen backbone there is no attention-based
    dropout. The U-Net is that of ``small`` where it cannot be built on the backbone.
    """
    frozen = is_frozen(options.backbone)
    other = frozen or options.backbone.startswith(PREFIX)
    run = RunOptions(device=options.device, seed=seed)
    shared = {
        "backbone": options.backbone,
        "backbone_weights": options.backbone_weights,
        "sam": options.sam,
        "sam_checkpoint": options.sam_checkpoint,
    }
    kept = ("project", "tiles")
    jobs = []
    for name in names:
        recipe = RECIPES.get(name)
        chosen = {} if recipe is None else {**recipe.options, "recipe": name}
        values = {key: value for part in kept for key, value in _flat(getattr(options, part)).items()}
        mil = _trains_mil(name)
        values |= {**_flat(run), **shared, **({key: getattr(options, key) for key in _OF_MIL} if mil else {}), **chosen}
        if frozen and mil:
            values["adl"] = False
        labelled = settings.build(PseudolabelOptions, values)
        trained = TrainOptions(
            project=options.project,
            tiles=options.tiles,
            run=run,
            name=name,
            epochs=options.train_epochs,
            backbone=SMALL if other else options.backbone,
            backbone_weights=None if other else options.backbone_weights,
        )
        content = {
            "recipe": name,
            "pseudolabel": labelled,
            "train": trained,
            "version": __version__,
            "tolerance_um": options.tolerance_um,
            "entries": list(entries),
            "truth": _truth_state(options.truth),
        }
        digest = hashlib.sha256(json.dumps(files.json_value(content), sort_keys=True).encode()).hexdigest()
        jobs.append(Job(name, seed, labelled, trained, recipe is None or recipe.trains, digest))
    return jobs


def _flat(record: Any) -> dict[str, Any]:
    """The fields of an options record by name."""
    return {name: getattr(record, name) for name in settings.options(type(record))}


def _truth_state(truth: Path) -> list[tuple[str, int, int]]:
    """Names, sizes and times of the truth's files: when they change, it was measured against something else."""
    folder = truth if truth.is_dir() else truth.parent
    found = [path for path in folder.rglob("*") if path.is_file() and path.suffix in (".geojson", ".gz", ".qpdata")]
    stats = [(str(path.relative_to(folder)), path.stat()) for path in sorted(found)]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]


def finished(out: Path, job: Job) -> dict[str, Any] | None:
    """The result of a job that was finished as it would run now."""
    path = out / RUNS / job.file
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        log.info("%s is run again: %s", path, error)
        return None
    return result if isinstance(result, dict) and result.get("fingerprint") == job.fingerprint else None
