"""The jobs of a benchmark: one per recipe and seed, and which of them were finished before."""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wsplf_cli import __version__, files, settings
from wsplf_cli.benchmark.copies import RUNS
from wsplf_cli.errors import ConfigError
from wsplf_cli.networks.backbone import AUTO, SMALL, is_frozen
from wsplf_cli.networks.hub import PREFIX
from wsplf_cli.options import BenchmarkOptions, PseudolabelOptions, RunOptions, TileOptions, TrainOptions
from wsplf_cli.recipes import UPPER_BOUND, Recipe
from wsplf_cli.schema import Entry, Tracker

log = logging.getLogger(__name__)

#: Fields of a recipe that change how the backbone is trained, and nothing else.
_BACKBONE_TRAINING = {"adl", "high_frequency"}
#: Fields that say nothing of how pseudo-labels are made, or only whether the backbone is trained.
_NO_CHANGE = {"name", "summary", "trains", "backbone_mode"}


@dataclass(frozen=True, slots=True)
class Job:
    """One recipe with one seed. ``fingerprint`` changes when the result would: options, slides, truth or version.

    ``recipe`` is its name, or ``UPPER_BOUND``; ``trains``: the segmentation model is trained and measured too.
    """

    recipe: str
    seed: int
    pseudolabel: PseudolabelOptions
    train: TrainOptions
    trains: bool
    fingerprint: str

    @property
    def file(self) -> str:
        """The name of the file with its result."""
        return f"{self.recipe}-seed{self.seed}.json"


def chosen_recipes(options: BenchmarkOptions) -> list[str]:
    """The names of the recipes to run, in the order of the list of recipes, ``UPPER_BOUND`` last.

    Raises:
        ConfigError: there is no recipe of a name.
    """
    names = [*options.known_recipes, UPPER_BOUND]
    asked = [word.strip() for text in options.recipes for word in text.split(",") if word.strip()]
    for name in asked:
        if name != UPPER_BOUND:
            settings.find_recipe(name, options.known_recipes)
    return [name for name in names if name in asked or not asked]


def recipes_for_backbone(names: Sequence[str], options: BenchmarkOptions, tracker: Tracker) -> list[str]:
    """The recipes that differ with the backbone: with a frozen encoder, one that changes only its training does not.

    Raises:
        ConfigError: none is left, or the backbone is not on this computer.
    """
    if not is_frozen(options.backbone):
        return list(names)
    left_out = [
        name
        for name in names
        if name in options.known_recipes and _changes_only_backbone_training(options.known_recipes[name])
    ]
    kept = [name for name in names if name not in left_out]
    if not kept:
        raise ConfigError(
            f"{', '.join(left_out)}: changes only how the backbone is trained, and {options.backbone} is frozen",
            hint="name other recipes, or --backbone small",
        )
    tracker.say(
        f"{options.backbone} is frozen: no attention-based dropout"
        + (f"; left out: {', '.join(left_out)}" if left_out else "")
    )
    return kept


def _changes_only_backbone_training(recipe: Recipe) -> bool:
    default = Recipe()
    names = {field.name for field in dataclasses.fields(Recipe)} - _NO_CHANGE
    changed = {name for name in names if getattr(recipe, name) != getattr(default, name)}
    return bool(changed) and changed <= _BACKBONE_TRAINING


def jobs_of(names: Sequence[str], seed: int, entries: Sequence[Entry], options: BenchmarkOptions) -> list[Job]:
    """One job per recipe, all with the same networks and mpp.

    A frozen encoder is not trained, so there is no attention-based dropout. The U-Net is that of ``small`` where it
    cannot be built on the backbone.
    """
    frozen = is_frozen(options.backbone)
    backbone = options.backbone
    if backbone == AUTO and options.backbone_weights is not None:
        backbone = SMALL
    builds_unet = not frozen and backbone != AUTO and not backbone.startswith(PREFIX)
    run = RunOptions(device=options.device, seed=seed)
    jobs = []
    for name in names:
        recipe = Recipe() if name == UPPER_BOUND else options.known_recipes[name]
        if frozen and recipe.backbone_mode != "frozen":
            recipe = replace(recipe, adl=False)
        pseudolabel = PseudolabelOptions(
            project=options.project,
            run=run,
            recipe=recipe,
            mpp=options.mpp,
            backbone=backbone,
            backbone_weights=options.backbone_weights,
            sam=options.sam,
            sam_checkpoint=options.sam_checkpoint,
        )
        train = TrainOptions(
            project=options.project,
            tiles=TileOptions(mpp=options.mpp),
            run=run,
            name=name,
            epochs=options.train_epochs,
            backbone=backbone if builds_unet else SMALL,
            backbone_weights=options.backbone_weights if builds_unet else None,
        )
        content = {
            "recipe": name,
            "pseudolabel": replace(pseudolabel, recipe=replace(recipe, summary="")),
            "train": train,
            "version": __version__,
            "tolerance_um": options.tolerance_um,
            "entries": list(entries),
            "truth": _truth_state(options.truth),
        }
        digest = hashlib.sha256(json.dumps(files.json_value(content), sort_keys=True).encode()).hexdigest()
        jobs.append(Job(name, seed, pseudolabel, train, name == UPPER_BOUND or recipe.trains, digest))
    return jobs


def _truth_state(truth: Path) -> list[tuple[str, int, int]]:
    """(name, size, time) of each file of the truth: when one changes, finished jobs were measured on another truth."""
    folder = truth if truth.is_dir() else truth.parent
    paths = [
        path
        for path in folder.rglob("*")
        if path.is_file() and path.suffix in (".geojson", ".gz", ".qpdata") and not files.is_apple_double(path.name)
    ]
    stats = [(str(path.relative_to(folder)), path.stat()) for path in sorted(paths)]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]


def read_result(out: Path, job: Job) -> dict[str, Any] | None:
    """The result of a job that was finished before, as it would run now; else None."""
    path = out / RUNS / job.file
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        log.info("%s is run again: %s", path, error)
        return None
    return result if isinstance(result, dict) and result.get("fingerprint") == job.fingerprint else None
