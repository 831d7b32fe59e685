"""The options of ``wsplf benchmark``; as ``options``, for those of the other commands."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from wsplf_cli.options import SAM_NAMES, WRITING, ProjectOptions
from wsplf_cli.recipes import RECIPES, UPPER_BOUND, Recipe, option


@dataclass(frozen=True, slots=True)
class BenchmarkOptions:
    """``wsplf benchmark``."""

    project: ProjectOptions = field(default_factory=ProjectOptions, metadata={"without": WRITING})
    mpp: float = option(1.0, "Micrometres per pixel at which tiles are read.", above=0)
    truth: Path = option(Path("truth"), "Folder of SLIDE-STEM.geojson files, or another project.qpproj.")
    recipes: tuple[str, ...] = option(
        (),
        f"Recipes to run, with commas or repeated: built-in ones, those of wsplf.toml, {UPPER_BOUND}; all by default.",
    )
    known_recipes: Mapping[str, Recipe] = field(default_factory=lambda: RECIPES)
    seeds: int = option(3, "Number of seeds that each recipe runs with: 0, 1 and so on.", least=1)
    out: Path | None = option(None, "Folder of the results; wsplf/benchmark beside the project by default.")
    test_project: Path | None = option(
        None, "Other project to measure predictions on; its slide labels are not known to the model."
    )
    test_truth: Path | None = option(None, "Truth of --test-project, as --truth.")
    review: int = option(
        0,
        "Simulate a reviewer: decisions in each round (--review-rounds, --review-orders), then one recipe goes on.",
        least=0,
    )
    review_rounds: int | None = option(
        None,
        "Rounds of --review; by default as many as 40 decisions take.",
        least=1,
        hidden=True,
        unused_with=("review", (0,)),
    )
    review_orders: tuple[str, ...] = option(
        ("uncertain", "random"),
        "Orders of --review, with commas or repeated: uncertain, gain, spread, random.",
        hidden=True,
        unused_with=("review", (0,)),
    )
    device: str = option("auto", "Device that networks run on.", choices=("auto", "cpu", "cuda", "mps"))
    dry_run: bool = option(False, "List the jobs that would run and those that are finished; run nothing.")
    backbone: str = option(
        "auto",
        "Network of all recipes: small (shipped), efficientnet-lite0, a name timm knows, hf-hub:OWNER/NAME, or several"
        " with + between them, side by side; auto: as for pseudolabel.",
    )
    backbone_weights: Path | None = option(None, "Weights file of the backbone (safetensors or PyTorch).", hidden=True)
    sam: str = option("tiny", "SAM of all recipes; all but tiny need --sam-checkpoint.", choices=SAM_NAMES)
    sam_checkpoint: Path | None = option(None, "Checkpoint file of the SAM model.", hidden=True)
    train_epochs: int = option(10, "Epochs of the segmentation model.", least=1)
    tolerance_um: float = option(
        5.0, "Distance in micrometres within which two boundaries count as the same.", least=0, hidden=True
    )
