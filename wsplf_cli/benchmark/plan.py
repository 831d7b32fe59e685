"""The jobs of a benchmark: one per recipe and seed, and which of them were finished before."""

import dataclasses
import hashlib
import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wsplf_cli import __version__, files, settings
from wsplf_cli.benchmark.copies import RUNS
from wsplf_cli.benchmark_options import BenchmarkOptions
from wsplf_cli.errors import ConfigError
from wsplf_cli.networks.backbone import AUTO, SMALL, is_frozen
from wsplf_cli.networks.hub import PREFIX
from wsplf_cli.options import PseudolabelOptions, RunOptions, TileOptions, TrainOptions
from wsplf_cli.recipes import UPPER_BOUND, Recipe
from wsplf_cli.review.order import ORDERS
from wsplf_cli.schema import Entry, Tracker

log = logging.getLogger(__name__)

#: By default a simulated review has so many rounds that at least this many decisions are made.
SHOWN_DECISIONS = 40

#: Fields of a recipe that change how the backbone is trained, and nothing else.
_BACKBONE_TRAINING = {"adl", "high_frequency"}
#: Fields that say nothing of how pseudo-labels are made, or only whether the backbone is trained.
_NO_CHANGE = {"name", "summary", "trains", "backbone_mode"}


@dataclass(frozen=True, slots=True)
class ReviewRound:
    """One round of a simulated review: so many ``decisions`` in an order, then the pipeline runs.

    Round 0 has no decisions and no order: it is the start of all orders.
    """

    number: int = 0
    order: str = ""
    decisions: int = 0


@dataclass(frozen=True, slots=True)
class Job:
    """One recipe with one seed. ``fingerprint`` changes when the result would: options, slides, truth or version.

    ``recipe`` is its name, or ``UPPER_BOUND``; ``trains``: the segmentation model is trained and measured too.
    ``review`` is the round of a simulated review; None without one.
    """

    recipe: str
    seed: int
    pseudolabel: PseudolabelOptions
    train: TrainOptions
    trains: bool
    fingerprint: str
    review: ReviewRound | None = None

    @property
    def title(self) -> str:
        """What is run, for people."""
        if self.review is None:
            return self.recipe
        order = f", {self.review.order}" if self.review.order else ""
        return f"{self.recipe}, review{order}, round {self.review.number}"

    @property
    def summary(self) -> str:
        """What the recipe does."""
        if self.recipe == UPPER_BOUND:
            return "no recipe: the segmentation model is trained on the truth of the training slides"
        return self.pseudolabel.recipe.summary

    @property
    def review_key(self) -> tuple[str, int] | None:
        """The order and the number of the round of a review; None without one."""
        return None if self.review is None else (self.review.order, self.review.number)

    @property
    def name(self) -> str:
        """The name of its state, and of the file with its result without the suffix."""
        return f"{self.recipe}-{_round_name(self.review)}seed{self.seed}"

    @property
    def file(self) -> str:
        """The name of the file with its result."""
        return f"{self.name}.json"


def _round_name(review: ReviewRound | None) -> str:
    if review is None:
        return ""
    order = f"{review.order}-" if review.order else ""
    return f"review-{order}round{review.number}-"


def list_jobs(entries: Sequence[Entry], options: BenchmarkOptions, tracker: Tracker) -> list[Job]:
    """All jobs, sorted by seed: of the recipes, or of a simulated review of one recipe.

    Raises:
        ConfigError: an unknown recipe or order, or a recipe that does not fit the backbone or the review.
    """
    seeds = range(options.seeds)
    if options.review:
        return [job for seed in seeds for job in review_jobs(seed, entries, options)]
    names = recipes_for_backbone(chosen_recipes(options), options, tracker)
    return [job for seed in seeds for job in jobs_of(names, seed, entries, options)]


def chosen_recipes(options: BenchmarkOptions) -> list[str]:
    """The names of the recipes to run, in the order of the list of recipes, ``UPPER_BOUND`` last.

    Raises:
        ConfigError: there is no recipe of a name.
    """
    names = [*options.known_recipes, UPPER_BOUND]
    asked = _words(options.recipes)
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
        f"{options.backbone} is frozen: no attention-based dropout in fine-tuned networks"
        + (f"; left out: {', '.join(left_out)}" if left_out else "")
    )
    return kept


def _changes_only_backbone_training(recipe: Recipe) -> bool:
    if recipe.backbone_mode == "frozen":  # what it changes is in the probes, as dropout may be
        return False
    default = Recipe()
    names = {field.name for field in dataclasses.fields(Recipe)} - _NO_CHANGE
    changed = {name for name in names if getattr(recipe, name) != getattr(default, name)}
    return bool(changed) and changed <= _BACKBONE_TRAINING


def jobs_of(names: Sequence[str], seed: int, entries: Sequence[Entry], options: BenchmarkOptions) -> list[Job]:
    """One job per recipe, all with the same networks and mpp.

    A frozen encoder is not trained, so its networks have no attention-based dropout. The U-Net is the default one where
    it cannot be built on the backbone.
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
            backbone=backbone if builds_unet else AUTO,
            backbone_weights=options.backbone_weights if builds_unet else None,
        )
        content = {
            "recipe": name,
            "pseudolabel": replace(pseudolabel, recipe=replace(recipe, summary="")),
            "train": train,
            "version": __version__,
            "tolerance_um": options.tolerance_um,
            "entries": list(entries),
            "truth": [_truth_state(path) for path in (options.truth, options.test_truth) if path is not None],
        }
        trains = name == UPPER_BOUND or recipe.trains
        jobs.append(Job(name, seed, pseudolabel, train, trains, _digest(content)))
    return jobs


def review_orders(options: BenchmarkOptions) -> list[str]:
    """The orders of a simulated review.

    Raises:
        ConfigError: there is no order of a name.
    """
    orders = list(dict.fromkeys(_words(options.review_orders)))
    for name in orders:
        if name not in ORDERS:
            raise ConfigError(f"unknown order of review {name!r}", hint=f"--review-orders {','.join(ORDERS)}")
    return orders


def reviewed_recipe(options: BenchmarkOptions) -> str:
    """The recipe that a simulated review is of: ``default``, or the only one that the options name.

    Raises:
        ConfigError: they name several, or one that there is not.
    """
    names = chosen_recipes(options) if options.recipes else [Recipe().name]
    reviewed = [name for name in names if name != UPPER_BOUND] or [Recipe().name]
    if len(reviewed) > 1:
        raise ConfigError(
            f"--review goes with one recipe, not with {', '.join(reviewed)}", hint=f"--recipes {reviewed[0]}"
        )
    return reviewed[0]


def review_jobs(seed: int, entries: Sequence[Entry], options: BenchmarkOptions) -> list[Job]:
    """The jobs of a simulated review: the start of all orders, the rounds of each order, and the upper bound.

    The number of rounds is not in their fingerprints: more rounds go on where fewer ended.

    Raises:
        ConfigError: an unknown order, or several recipes.
    """
    start, upper_bound = jobs_of([reviewed_recipe(options), UPPER_BOUND], seed, entries, options)
    start = replace(start, trains=True, review=ReviewRound())
    rounds = options.review_rounds or math.ceil(SHOWN_DECISIONS / options.review)
    jobs = [start]
    for order in review_orders(options):
        for number in range(1, rounds + 1):
            review = ReviewRound(number, order, options.review)
            jobs.append(replace(start, review=review, fingerprint=_digest([start.fingerprint, review])))
    return [*jobs, upper_bound]


def round_before(job: Job, jobs: Sequence[Job]) -> Job | None:
    """The job whose state a round of review starts from; None for all other jobs."""
    if job.review is None or job.review.number == 0:
        return None
    number = job.review.number - 1
    review = replace(job.review, number=number) if number else ReviewRound()
    return next(other for other in jobs if (other.recipe, other.seed, other.review) == (job.recipe, job.seed, review))


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(files.json_value(content), sort_keys=True).encode()).hexdigest()


def _words(texts: Sequence[str]) -> list[str]:
    """The words of an option that may be repeated and may have commas."""
    return [word.strip() for text in texts for word in text.split(",") if word.strip()]


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
