"""The options of every command: one frozen record each, the defaults written once, here.

Order of strength: command line, then wsplf.toml, then the default below. Lengths are in micrometres so that they mean
the same on every scanner. Each field is an option of the command line (``label_key`` is ``--label-key``) and a key of
wsplf.toml (``label-key``): the records that several commands share at the top level, the rest in the command's table.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from wsplf_cli.recipes import RECIPES

T = TypeVar("T")

SETTINGS = "wsplf.toml"


def _option(default: T, help: str, **limits: Any) -> T:
    """A field with its help text; ``limits`` are above, least, most, choices (of values) or plugins (a folder)."""
    return field(default=default, metadata={"help": help, **limits})


@dataclass(frozen=True, slots=True)
class ProjectOptions:
    """How to reach the project, its slides and its labels."""

    backend: str = _option("embedded", "How the project is read and written.", plugins="backends")
    slides: Path | None = _option(None, "Folder searched for slides (by name and size) that have moved.")
    images: str | None = _option(None, "Work only on the entries whose name this regular expression finds.")
    mpp_override: float | None = _option(None, "Micrometres per pixel at level 0, for slides that lack it.", above=0)
    label_key: str = _option("label", "Key of the entry metadata that holds the slide label.")
    positive: tuple[str, ...] = _option(
        ("tumor",), "Label of a positive slide, or WORD=CLASS for a class of its own; repeat for several."
    )
    negative: tuple[str, ...] = _option(("normal",), "Label of a negative slide; repeat for several.")
    path_class: str = _option("Tumor", "QuPath class of the polygons, of each --positive without a class of its own.")


@dataclass(frozen=True, slots=True)
class TileOptions:
    """How tiles are read."""

    mpp: float = _option(1.0, "Micrometres per pixel at which tiles are read.", above=0)
    tile_px: int = _option(192, "Side of a tile in pixels.", least=32)
    min_tissue: float = _option(0.25, "Least share of tissue in a tile.", least=0, most=1)


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What every long command takes."""

    device: str = _option("auto", "Where networks run.", choices=("auto", "cpu", "cuda", "mps"))
    seed: int = _option(0, "Seed of all random numbers.", least=0)
    dry_run: bool = _option(False, "Do the work, write nothing.")


@dataclass(frozen=True, slots=True)
class DoctorOptions:
    """``wsplf doctor``."""

    project: ProjectOptions = field(default_factory=ProjectOptions)
    sam_checkpoint: Path | None = _option(None, "SAM checkpoint file to check.")
    registration: bool = _option(
        False, "Prove for every entry that annotations land on their pixels, on a copy of the project."
    )


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """``wsplf demo``."""

    out: Path = _option(
        Path("wsplf-demo"), "Folder to make; an earlier demo in it is made anew, anything else is left alone."
    )
    device: str = _option("auto", "Where networks run.", choices=("auto", "cpu", "cuda", "mps"))
    seed: int = _option(0, "Seed of all random numbers.", least=0)


@dataclass(frozen=True, slots=True)
class LabelsOptions:
    """``wsplf labels``."""

    project: ProjectOptions = field(default_factory=ProjectOptions)
    csv: Path | None = _option(None, "Table with the columns slide and label (patient, split): written to the entries.")
    dry_run: bool = _option(False, "Show what --csv would write, write nothing.")


@dataclass(frozen=True, slots=True)
class PseudolabelOptions:
    """``wsplf pseudolabel``."""

    project: ProjectOptions = field(default_factory=ProjectOptions)
    tiles: TileOptions = field(default_factory=TileOptions)
    run: RunOptions = field(default_factory=RunOptions)
    recipe: str = _option(
        "default", "A named set of options; those given beside it count more.", choices=tuple(RECIPES)
    )
    backbone: str = _option(
        "small", "Network that reads the tiles: small (shipped), a name timm knows, or hf-hub:OWNER/NAME."
    )
    backbone_weights: Path | None = _option(None, "Weights file of the backbone (safetensors or PyTorch).")
    head: str = _option("gated-attention", "MIL head.", plugins="heads")
    prompts: str = _option("spread", "How CAMs become prompts for SAM.", plugins="prompts")
    sam: str = _option(
        "tiny", "SAM model; all but tiny need --sam-checkpoint.", choices=("tiny", "vit_b", "vit_l", "vit_h")
    )
    sam_checkpoint: Path | None = _option(None, "Checkpoint file of the SAM model.")
    adl: bool = _option(True, "Hide what the classifier attends to most while it learns (attention-based dropout).")
    high_frequency: bool = _option(False, "Show the classifier the fine structure of a tile as a fourth channel.")
    classifier: str = _option(
        "places",
        "What learns from slide labels: linear classifiers of places on the frozen backbone, MIL networks trained"
        " through it (with head, epochs, folds, adl, contrast and high-frequency), or both.",
        choices=("places", "mil", "both"),
    )
    within: str = _option(
        "auto",
        "Where tumour is looked for: in epithelium (glands, nests and sheets of cells with their lumens), in all"
        " tissue, or auto: in epithelium with the shipped backbone and classifiers of places.",
        choices=("auto", "epithelium", "tissue"),
    )
    contrast: bool = _option(True, "Set the likeliest places of a positive slide against its least likely ones.")
    turns: int = _option(1, "Quarter turns of a tile over which its CAM is averaged.", least=1, most=4)
    cam_scale: str = _option(
        "cohort",
        "One scale and threshold of the CAM for all slides, from the negative ones; or one a tile (the paper's), on all"
        " tiles or only (gated) on those that the classifier calls tumour.",
        choices=("cohort", "tile", "tile-gated"),
    )
    refiner: str = _option(
        "sam",
        "What draws the outlines: SAM together with the CAM, SAM alone, superpixels, or none (the CAM itself).",
        choices=("sam", "sam-alone", "slic", "none"),
    )
    rounds: int = _option(
        0,
        "How often SAM's decoder is tuned on masks that it made itself; 0 takes it as it is.",
        least=0,
    )
    first_round: str = _option(
        "sam",
        "What the first round learns from: the masks of SAM as it is, or the CAMs (as the paper).",
        choices=("sam", "cam"),
    )
    selection: str = _option(
        "agreement",
        "Masks that go into the next round: those that agree with the CAM, or those that lie in it (ids, the paper's).",
        choices=("agreement", "ids"),
    )
    robust_loss: bool = _option(
        True, "Pixels that SAM's decoder keeps contradicting count less while it is tuned; else Dice and IoU loss."
    )
    cache_gb: float = _option(
        4.0, "Most gigabytes of SAM embeddings kept beside the project for the next run; 0 keeps none.", least=0
    )
    epochs: int = _option(10, "Epochs of the MIL training.", least=1)
    folds: int = _option(
        3, "MIL networks, each judging the part of the slides that it did not see; 1: one for all.", least=1
    )
    alpha: float = _option(
        0.01, "Share of the tissue of negative slides that may look like the core of a polygon.", above=0, most=1
    )
    min_area_um2: float = _option(
        2000.0, "Smaller pieces are dropped (the default: about twenty tumour nuclei).", least=0
    )


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """``wsplf train``."""

    project: ProjectOptions = field(default_factory=ProjectOptions)
    tiles: TileOptions = field(default_factory=TileOptions)
    run: RunOptions = field(default_factory=RunOptions)
    segmenter: str = _option("unet", "Segmentation model.", plugins="segmenters")
    backbone: str = _option("small", "Encoder of the U-Net: small (shipped), or a CNN that timm knows.")
    backbone_weights: Path | None = _option(None, "Weights file of the backbone (safetensors or PyTorch).")
    sam: str = _option(
        "tiny",
        "SAM model of the sam segmenter; all but tiny need --sam-checkpoint.",
        choices=("tiny", "vit_b", "vit_l", "vit_h"),
    )
    sam_checkpoint: Path | None = _option(None, "Checkpoint file of the SAM model.")
    name: str = _option("default", "Name of the model, a folder under wsplf/models/ of the project.")
    epochs: int = _option(20, "Epochs of the training.", least=1)


@dataclass(frozen=True, slots=True)
class SegmentOptions:
    """``wsplf segment``."""

    project: ProjectOptions = field(default_factory=ProjectOptions)
    run: RunOptions = field(default_factory=RunOptions)
    model: str = _option("default", "Name of a model of this project, or a model folder.")
    threshold: float | None = _option(
        None, "Probability from which a pixel belongs to the class; the model's own by default.", least=0, most=1
    )
    min_area_um2: float = _option(
        2000.0, "Smaller pieces are dropped (the default: about twenty tumour nuclei).", least=0
    )


@dataclass(frozen=True, slots=True)
class EvaluateOptions:
    """``wsplf evaluate``."""

    project: ProjectOptions = field(default_factory=ProjectOptions)
    truth: Path = _option(Path("truth"), "Folder of SLIDE-STEM.geojson files, or another project.qpproj.")
    origin: str = _option(
        "pseudolabel", "Which annotations are measured.", choices=("pseudolabel", "prediction", "human")
    )
    tolerance_um: float = _option(5.0, "Distance within which two boundaries count as the same.", least=0)


@dataclass(frozen=True, slots=True)
class BenchmarkOptions:
    """``wsplf benchmark``."""

    project: ProjectOptions = field(default_factory=ProjectOptions)
    tiles: TileOptions = field(default_factory=TileOptions)
    truth: Path = _option(Path("truth"), "Folder of SLIDE-STEM.geojson files, or another project.qpproj.")
    recipes: tuple[str, ...] = _option((), "Recipes to run, with commas or repeated; all by default.")
    seeds: int = _option(3, "How many seeds each recipe runs with: 0, 1 and so on.", least=1)
    out: Path | None = _option(None, "Folder of the results; wsplf/benchmark beside the project by default.")
    device: str = _option("auto", "Where networks run.", choices=("auto", "cpu", "cuda", "mps"))
    dry_run: bool = _option(False, "List what would run, and what is there already; run nothing.")
    backbone: str = _option(
        "small", "Network of all recipes: small (shipped), a name timm knows, or hf-hub:OWNER/NAME."
    )
    backbone_weights: Path | None = _option(None, "Weights file of the backbone (safetensors or PyTorch).")
    sam: str = _option(
        "tiny", "SAM of all recipes; all but tiny need --sam-checkpoint.", choices=("tiny", "vit_b", "vit_l", "vit_h")
    )
    sam_checkpoint: Path | None = _option(None, "Checkpoint file of the SAM model.")
    epochs: int = _option(10, "Epochs of the recipes that train MIL networks.", least=1)
    folds: int = _option(3, "Folds of the recipes that train MIL networks and do not say.", least=1)
    train_epochs: int = _option(20, "Epochs of the segmentation model.", least=1)
    tolerance_um: float = _option(5.0, "Distance within which two boundaries count as the same.", least=0)


@dataclass(frozen=True, slots=True)
class ReportOptions:
    """``wsplf report``."""

    project: ProjectOptions = field(default_factory=ProjectOptions)
    out: Path | None = _option(None, "HTML file to write; wsplf/report.html beside the project by default.")
    scores: Path | None = _option(None, "Scores to show: what wsplf evaluate --json printed.")


@dataclass(frozen=True, slots=True)
class CreateOptions:
    """``wsplf project create``."""

    labels: Path | None = _option(
        None, "Table with the columns slide and label (patient, split): written to the entries."
    )
    label_key: str = _option("label", "Key of the entry metadata that holds the slide label.")


@dataclass(frozen=True, slots=True)
class RelinkOptions:
    """``wsplf project relink``."""

    map: tuple[str, ...] = _option(
        (), "OLD=NEW: the start of an address and what stands there now; repeat for several."
    )
    search: Path | None = _option(None, "Folder searched for the slides, by name and size.")
    dry_run: bool = _option(False, "Show what would change, write nothing.")


@dataclass(frozen=True, slots=True)
class UndoOptions:
    """``wsplf undo``."""

    list: bool = _option(False, "List the runs that can be undone, newest first, and stop.")
    dry_run: bool = _option(False, "Show what would be put back, write nothing.")


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """``wsplf export``."""

    backend: str = _option("embedded", "How the project is read and written.", plugins="backends")
    images: str | None = _option(None, "Work only on the entries whose name this regular expression finds.")
    out: Path = _option(Path("geojson"), "Folder for one IMAGE-NAME.geojson per entry; made when it is not there.")
    origin: tuple[str, ...] = _option(
        (), "Only annotations of this origin: human, pseudolabel or prediction; repeat for several; all by default."
    )
    compress: bool = _option(False, "Write .geojson.gz, which QuPath 0.7 reads.")


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """``wsplf import``."""

    backend: str = _option("embedded", "How the project is read and written.", plugins="backends")
    image: str | None = _option(
        None, "Name of the entry that gets the annotations; by default the one whose name is the file's."
    )
    slides: Path | None = _option(None, "Folder searched for slides (by name and size) that have moved.")
    asap_class: tuple[str, ...] = _option(
        (), "GROUP=CLASS: QuPath class of an ASAP group; repeat for several; GROUP= leaves it out, GROUP=- cuts it out."
    )
    dry_run: bool = _option(False, "Show what would be added, write nothing.")


@dataclass(frozen=True, slots=True)
class InstallOptions:
    """``wsplf scripts install``."""

    force: bool = _option(False, "Replace scripts of the same name that were changed.")


#: The options record of each command that reads wsplf.toml.
COMMANDS: Mapping[str, type] = {
    "doctor": DoctorOptions,
    "labels": LabelsOptions,
    "pseudolabel": PseudolabelOptions,
    "train": TrainOptions,
    "segment": SegmentOptions,
    "evaluate": EvaluateOptions,
    "benchmark": BenchmarkOptions,
    "report": ReportOptions,
    "export": ExportOptions,
    "import": ImportOptions,
}

#: The options record of every command, by all of its words.
ALL: Mapping[str, type] = {
    **COMMANDS,
    "demo": DemoOptions,
    "project create": CreateOptions,
    "project relink": RelinkOptions,
    "undo": UndoOptions,
    "scripts install": InstallOptions,
}
