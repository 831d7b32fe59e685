"""The options of every command: one frozen record each, the defaults written once, here.

Order of strength: what is typed, then wsplf.toml, then the recipe (of pseudolabel), then the default below. Lengths are
in micrometres, so that they mean the same on every scanner. Each field is an option of the command line (``label_key``
is ``--label-key``) and a key of wsplf.toml (``label-key``) in the table of its command; those in ``SHARED`` may also
stand at the top, for all commands that have them. The fields of a recipe stand in tables ``[recipe.NAME]``.
"""

from dataclasses import dataclass, field
from pathlib import Path

from wsplf_cli.recipes import RECIPES, WITHOUT_SAM, Recipe, option
from wsplf_cli.worker_options import WorkerOptions

SETTINGS = "wsplf.toml"

#: The options that may stand at the top of a wsplf.toml, by field name.
SHARED = (
    *("backend", "slides", "images", "mpp_override", "label_key", "positive", "negative", "path_class"),
    *("mpp", "device", "seed", "dry_run", "workers", "scheduler"),
)


_ACCEPT_MISSING_DATA = "Take an entry as empty whose data.qpdata is missing though its summary.json counts objects."


@dataclass(frozen=True, slots=True)
class ProjectOptions:
    """How to reach the project, its slides and its labels."""

    backend: str = option("embedded", "How the project is read and written.", plugins="backends", hidden=True)
    slides: Path | None = option(None, "Folder searched for slides (by name and size) that have moved.")
    images: str | None = option(None, "Only the entries whose name matches this regular expression, at any position.")
    mpp_override: float | None = option(
        None, "Micrometres per pixel at level 0, for slides that do not state it.", above=0
    )
    label_key: str = option("label", "Key of the entry metadata that holds the slide label.")
    positive: tuple[str, ...] = option(
        ("tumor",), "Label of positive slides, or WORD=CLASS for a class of its own; may be repeated."
    )
    negative: tuple[str, ...] = option(("normal",), "Label of negative slides; may be repeated.")
    path_class: str = option("Tumor", "QuPath class that a --positive without =CLASS means.")
    accept_missing_data: bool = option(False, _ACCEPT_MISSING_DATA, hidden=True)


#: The names of SAM models; ``tiny`` is shipped.
SAM_NAMES = ("tiny", "vit_b", "vit_l", "vit_h")
#: The options of ProjectOptions that only commands that write annotations have.
WRITING = ("accept_missing_data",)


@dataclass(frozen=True, slots=True)
class TileOptions:
    """How tiles are read."""

    mpp: float = option(1.0, "Micrometres per pixel at which tiles are read.", above=0)
    tile_px: int = option(128, "Side of a tile in pixels.", least=32)


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What every long command takes."""

    device: str = option("auto", "Device that networks run on.", choices=("auto", "cpu", "cuda", "mps"))
    seed: int = option(0, "Seed of all random numbers.", least=0)
    dry_run: bool = option(False, "Do the work; write nothing.")


@dataclass(frozen=True, slots=True)
class DoctorOptions:
    """``wsplf doctor``."""

    project: ProjectOptions = field(default_factory=ProjectOptions, metadata={"without": WRITING})
    workers: WorkerOptions = field(default_factory=WorkerOptions)
    sam_checkpoint: Path | None = option(None, "SAM checkpoint file to check.")
    registration: bool = option(
        False, "Check for every entry, on a copy of the project, that annotations land on their pixels."
    )
    verbose: bool = option(False, "Show every check, also where many have the same cause.")


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """``wsplf demo``."""

    out: Path = option(
        Path("wsplf-demo"), "Folder to make. An earlier demo in it is replaced, anything else is left alone."
    )
    device: str = option("auto", "Device that networks run on.", choices=("auto", "cpu", "cuda", "mps"))
    seed: int = option(0, "Seed of all random numbers.", least=0)


@dataclass(frozen=True, slots=True)
class LabelsOptions:
    """``wsplf labels``."""

    project: ProjectOptions = field(
        default_factory=ProjectOptions,
        metadata={"without": ("mpp_override", *WRITING)},  # it reads no pixel
    )
    csv: Path | None = option(None, "Table with the columns slide and label (patient, split): written to the entries.")
    dry_run: bool = option(False, "Show what --csv would write; write nothing.")


@dataclass(frozen=True, slots=True)
class PseudolabelOptions:
    """``wsplf pseudolabel``. What only an ablation changes is a field of ``recipe``."""

    project: ProjectOptions = field(default_factory=ProjectOptions)
    run: RunOptions = field(default_factory=RunOptions)
    workers: WorkerOptions = field(default_factory=WorkerOptions)
    recipe: Recipe = field(
        default_factory=lambda: RECIPES[Recipe().name],
        metadata={
            "help": "How pseudo-labels are made: a named recipe (see wsplf benchmark). Its fields are set in"
            f" wsplf.toml. Built in: {', '.join(RECIPES)}."
        },
    )
    mpp: float = option(1.0, "Micrometres per pixel at which tiles are read.", above=0)
    backbone: str = option(
        "auto",
        "Network that reads the tiles: small (shipped), efficientnet-lite0, a name timm knows, hf-hub:OWNER/NAME, or"
        " several with + between them, side by side; auto: small+efficientnet-lite0, and small where it is trained.",
    )
    backbone_weights: Path | None = option(None, "Weights file of the backbone (safetensors or PyTorch).")
    sam: str = option(
        "tiny",
        "SAM model; all but tiny need --sam-checkpoint.",
        choices=SAM_NAMES,
        unused_with=("refiner", WITHOUT_SAM),
    )
    sam_checkpoint: Path | None = option(
        None, "Checkpoint file of the SAM model.", unused_with=("refiner", WITHOUT_SAM)
    )
    alpha: float = option(
        0.01,
        "Largest share of the tissue of negative slides that may reach the peak threshold, which a part of each polygon"
        " reaches.",
        above=0,
        most=1,
        unused_with=("cam_scale", ("tile", "tile-gated")),
    )
    min_area_um2: float = option(
        2000.0, "Smaller polygons are dropped (the default: about twenty tumour nuclei).", least=0
    )
    cache_gb: float = option(
        4.0,
        "Most gigabytes of SAM embeddings to keep beside the project for the next run; 0 keeps none.",
        least=0,
        toml_only=True,
    )


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """``wsplf train``."""

    project: ProjectOptions = field(default_factory=ProjectOptions, metadata={"without": WRITING})
    tiles: TileOptions = field(default_factory=TileOptions)
    run: RunOptions = field(default_factory=RunOptions)
    segmenter: str = option("unet", "Segmentation model.", plugins="segmentation.models")
    backbone: str = option(
        "auto",
        "Encoder of the U-Net: small (shipped), efficientnet-lite0, a CNN that timm knows, or the mean of several"
        " with +; auto is small+efficientnet-lite0.",
    )
    backbone_weights: Path | None = option(None, "Weights file of the backbone (safetensors or PyTorch).")
    sam: str = option(
        "tiny",
        "SAM model of the sam segmenter; all but tiny need --sam-checkpoint.",
        choices=SAM_NAMES,
    )
    sam_checkpoint: Path | None = option(None, "Checkpoint file of the SAM model.")
    name: str = option("default", "Name of the model, a folder under wsplf/models/ of the project.")
    epochs: int = option(10, "Epochs of the training, of 400 random crops each.", least=1)
    folds: int = option(
        4,
        "Folds of the patients, each predicted by networks that did not learn from it; 1 for no validation.",
        least=1,
        toml_only=True,
    )
    alpha: float = option(
        0.01,
        "Largest share of the tissue of negative slides that polygons may cover, out of fold; where patients are too"
        " few to guarantee it, as far as that costs little Dice.",
        above=0,
        most=1,
        unused_with=("folds", (1,)),
    )


@dataclass(frozen=True, slots=True)
class SegmentOptions:
    """``wsplf segment``."""

    project: ProjectOptions = field(default_factory=ProjectOptions)
    run: RunOptions = field(default_factory=RunOptions)
    workers: WorkerOptions = field(default_factory=WorkerOptions)
    model: str = option("default", "Name of a model of this project, a model folder, or an .onnx file.")
    threshold: float | None = option(
        None, "Probability from which a pixel belongs to the class; by default the model's.", least=0, most=1
    )
    min_area_um2: float = option(
        2000.0, "Smaller polygons are dropped (the default: about twenty tumour nuclei).", least=0
    )
    outlines: str = option(
        "sam",
        "What outlines polygons: SAM, prompted with the network's probabilities; or the network alone: faster.",
        choices=("sam", "network"),
    )
    sam: str = option(
        "tiny",
        "SAM model; all but tiny need --sam-checkpoint.",
        choices=SAM_NAMES,
        unused_with=("outlines", ("network",)),
    )
    sam_checkpoint: Path | None = option(
        None, "Checkpoint file of the SAM model.", unused_with=("outlines", ("network",))
    )


#: Options of the commands that say nothing of how long they take.
_OF_RESULTS = ("seed", "dry_run", "scheduler", "alpha", "min_area_um2", "accept_missing_data")


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """``wsplf plan``: the options of the command that is planned, as they are typed or as wsplf.toml has them."""

    for_: str = option("pseudolabel", "Command to plan.", choices=("pseudolabel", "train", "segment"))
    pseudolabel: PseudolabelOptions = field(default_factory=PseudolabelOptions, metadata={"without": _OF_RESULTS})
    train: TrainOptions = field(
        default_factory=TrainOptions,
        metadata={"without": ("backbone", "sam", "name", "segmenter", "tile_px", *_OF_RESULTS)},
    )
    segment: SegmentOptions = field(
        default_factory=SegmentOptions,
        metadata={"without": ("threshold", "sam", "sam_checkpoint", *_OF_RESULTS)},
    )

    @property
    def of_command(self) -> PseudolabelOptions | TrainOptions | SegmentOptions:
        """The options of the command that is planned."""
        if self.for_ == "train":
            return self.train
        return self.segment if self.for_ == "segment" else self.pseudolabel


@dataclass(frozen=True, slots=True)
class EvaluateOptions:
    """``wsplf evaluate``."""

    project: ProjectOptions = field(default_factory=ProjectOptions, metadata={"without": WRITING})
    workers: WorkerOptions = field(default_factory=WorkerOptions)
    truth: Path = option(Path("truth"), "Folder of SLIDE-STEM.geojson files, or another project.qpproj.")
    origin: str = option(
        "pseudolabel", "Which annotations are measured.", choices=("pseudolabel", "prediction", "human")
    )
    tolerance_um: float = option(5.0, "Distance in micrometres within which two boundaries count as the same.", least=0)
    keep_scores: bool = option(False, "Keep the scores in the project, where wsplf report shows them.")


@dataclass(frozen=True, slots=True)
class ReportOptions:
    """``wsplf report``."""

    project: ProjectOptions = field(default_factory=ProjectOptions, metadata={"without": WRITING})
    workers: WorkerOptions = field(default_factory=WorkerOptions)
    out: Path | None = option(
        None, "HTML file to write; wsplf/report.html (or review.html) beside the project by default."
    )
    scores: Path | None = option(
        None, "Scores to show: what wsplf evaluate --json printed.", unused_with=("review", (True,))
    )
    review: bool = option(False, "Write a review sheet instead: the pending polygons, least certain first.")


@dataclass(frozen=True, slots=True)
class AgreeOptions:
    """``wsplf agree``."""

    project: ProjectOptions = field(
        default_factory=ProjectOptions,
        metadata={"without": ("label_key", "negative", *WRITING)},  # it reads no slide label
    )
    rule: str = option("all", "How many readers decide: all of them, or the majority.", choices=("all", "majority"))
    merge: Path | None = option(
        None, "New project.qpproj to write: what the readers decided is decided there, the rest is Disputed."
    )


@dataclass(frozen=True, slots=True)
class ExplainOptions:
    """``wsplf explain``."""

    project: ProjectOptions = field(
        default_factory=ProjectOptions,
        metadata={"without": ("images", *WRITING)},  # an id is looked for in all entries
    )
    image: str | None = option(None, "Explain all pseudo-labels and predictions of this image, least certain first.")
    out: Path | None = option(
        None, "HTML file to write; explain-ID.html in this folder (not in the project) by default."
    )


@dataclass(frozen=True, slots=True)
class CreateOptions:
    """``wsplf project create``."""

    labels: Path | None = option(
        None, "Table with the columns slide and label (patient, split): written to the entries; mpp: the pixel size."
    )
    label_key: str = option("label", "Key of the entry metadata that holds the slide label.")
    mpp_override: float | None = option(
        None, "Micrometres per pixel at level 0, for slides that do not state it.", above=0
    )
    image_type: str = option(
        "UNSET",
        "QuPath's image type of all slides, with its default stains; UNSET lets QuPath ask.",
        choices=("BRIGHTFIELD_H_E", "BRIGHTFIELD_H_DAB", "BRIGHTFIELD_OTHER", "UNSET"),
    )


@dataclass(frozen=True, slots=True)
class RelinkOptions:
    """``wsplf project relink``."""

    map: tuple[str, ...] = option((), "OLD=NEW: the start of an address, and what replaces it; may be repeated.")
    search: Path | None = option(None, "Folder searched for the slides, by name and size.")
    dry_run: bool = option(False, "Show what would change; write nothing.")


@dataclass(frozen=True, slots=True)
class UndoOptions:
    """``wsplf undo``."""

    list: bool = option(False, "List the runs that can be undone, newest first, and stop.")
    dry_run: bool = option(False, "Show what would be put back; write nothing.")


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """``wsplf export``."""

    backend: str = option("embedded", "How the project is read and written.", plugins="backends")
    images: str | None = option(None, "Only the entries whose name matches this regular expression, at any position.")
    out: Path = option(Path("geojson"), "Folder for one IMAGE-NAME.geojson per entry; made if it is not there.")
    origin: tuple[str, ...] = option(
        (), "Only annotations of this origin: human, pseudolabel or prediction; may be repeated; by default all."
    )
    compress: bool = option(False, "Write .geojson.gz, which QuPath 0.7 reads.")


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """``wsplf import``."""

    backend: str = option("embedded", "How the project is read and written.", plugins="backends")
    image: str | None = option(None, "Name of the entry that gets the annotations; by default the name of the file.")
    slides: Path | None = option(None, "Folder searched for slides (by name and size) that have moved.")
    asap_class: tuple[str, ...] = option(
        (), "GROUP=CLASS: QuPath class of an ASAP group; GROUP= leaves it out, GROUP=- cuts it out; may be repeated."
    )
    accept_missing_data: bool = option(False, _ACCEPT_MISSING_DATA)
    dry_run: bool = option(False, "Show what would be added; write nothing.")


@dataclass(frozen=True, slots=True)
class InstallOptions:
    """``wsplf scripts install``."""

    force: bool = option(False, "Replace scripts of the same name that a person changed.")


@dataclass(frozen=True, slots=True)
class ModelExportOptions:
    """``wsplf model export``."""

    out: Path = option(Path("model"), "Folder of the export; made if it is not there.")
    format: str = option("onnx", "What to write.", plugins="segmentation.export.formats")


@dataclass(frozen=True, slots=True)
class NoOptions:
    """``wsplf model list``, ``model show`` and ``model card``."""
