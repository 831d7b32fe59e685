"""Recipes: how pseudo-labels are made, step by step, as named sets of choices. Data alone.

``wsplf pseudolabel --recipe NAME`` uses one and ``wsplf benchmark`` compares several on the same slides. A wsplf.toml
changes them and adds others, in tables ``[recipe.NAME]`` with the fields below as keys, and ``base`` for the built-in
recipe to start from. Backbone, SAM and mpp are not part of a recipe: recipes are compared with the same networks.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

T = TypeVar("T")

#: Not a recipe, but listed by benchmark as one: the segmentation model learns from the truth of the training slides.
UPPER_BOUND = "upper-bound"


def option(default: T, help: str, **limits: Any) -> T:
    """A field of an options record, with its help text.

    Args:
        default: The default.
        help: What the option does, for ``--help``.
        limits: ``above``, ``least``, ``most``; ``choices`` (values) or ``plugins`` (a package whose modules are the
            values); ``unlisted`` values are taken but not shown in help. A text with ``count_or`` is a whole number
            from 0 on, or one of these words. ``shown=True`` makes a field of a recipe an option of ``wsplf
            pseudolabel`` too; ``toml_only=True`` leaves an option to wsplf.toml. ``hidden=True`` keeps an option out of
            the help: an error or the help of another option names it, or it is rarely used. ``unused_with`` is a field
            of the recipe, or another option, and those of its values with which this one has no effect.
    """
    return field(default=default, metadata={"help": help, **limits})


_FINE_TUNED_ONLY: Mapping[str, Any] = {"unused_with": ("backbone_mode", ("frozen",))}
#: Refiners that do without SAM.
WITHOUT_SAM = ("slic", "none")
_SAM_ONLY: Mapping[str, Any] = {"unused_with": ("refiner", WITHOUT_SAM)}
_ROUNDS_ONLY: Mapping[str, Any] = {"unused_with": ("rounds", (0,))}


@dataclass(frozen=True, slots=True)
class Recipe:
    """One way from slide labels to polygons; the defaults are the default recipe."""

    name: str = "default"
    summary: str = option(
        "linear probes on the frozen backbone, CAM and SAM together",
        "What the recipe does, in one line for the reader of a benchmark.",
    )
    backbone_mode: str = option(
        "frozen",
        "How the backbone takes part: frozen (linear probes on its dense features), fine-tuned (MIL networks are"
        " trained through it, with head, high-frequency, contrast, epochs and folds), or both.",
        choices=("frozen", "fine-tuned", "both"),
    )
    search_in: str = option(
        "auto",
        "Where tumour is searched for: in epithelium (glands, nests and sheets of cells with their lumens), in all"
        " tissue, or auto: in epithelium with a frozen backbone.",
        choices=("auto", "epithelium", "tissue"),
        shown=True,
    )
    refiner: str = option(
        "sam",
        "What draws the outlines: SAM together with the CAM, superpixels (slic), or none (the CAM itself).",
        choices=("sam", "sam-only", "slic", "none"),
        unlisted=("sam-only",),  # EP-SAM's; only its recipes gain by it
        shown=True,
    )
    head: str = option(
        "gated-attention", "MIL head of the fine-tuned networks.", plugins="weak.heads", **_FINE_TUNED_ONLY
    )
    adl: bool = option(True, "Attention-based dropout, in the self-training of probes and in the fine-tuned networks.")
    self_training: bool = option(
        True,
        "Self-training of the linear probes; without it they learn from slide labels alone.",
        unused_with=("backbone_mode", ("fine-tuned",)),
    )
    high_frequency: bool = option(
        False, "A fourth input channel with the high frequencies of the tile.", **_FINE_TUNED_ONLY
    )
    contrast: bool = option(
        True, "Set the likeliest instances of a positive slide against its least likely ones.", **_FINE_TUNED_ONLY
    )
    epochs: int = option(10, "Epochs of the fine-tuned networks.", least=1, **_FINE_TUNED_ONLY)
    folds: int = option(
        3,
        "Fine-tuned networks, each trained on the slides outside its fold; 1: one for all.",
        least=1,
        **_FINE_TUNED_ONLY,
    )
    tile_px: int = option(192, "Side of a tile in pixels.", least=32)
    min_tissue: float = option(0.25, "Least share of tissue in a tile.", least=0, most=1)
    tta: int = option(1, "Test-time augmentation: quarter turns over which the CAM is averaged.", least=1, most=4)
    cam_scale: str = option(
        "cohort",
        "One scale and threshold of the CAM for the cohort, or one per tile (EP-SAM's), on all tiles or, gated, on"
        " those that the classifier calls positive.",
        choices=("cohort", "tile", "tile-gated"),
    )
    prompts: str = option("spread", "How CAMs become prompts for SAM.", plugins="weak.prompts", **_SAM_ONLY)
    rounds: int = option(
        0, "How often SAM's decoder is tuned on masks that it made itself; 0: never.", least=0, **_SAM_ONLY
    )
    first_round: str = option(
        "sam",
        "What the first round learns from: SAM's own masks, or the CAMs (EP-SAM's).",
        choices=("sam", "cam"),
        **_ROUNDS_ONLY,
    )
    selection: str = option(
        "agreement",
        "Masks that go into the next round: those that agree with the CAM, or those that lie in it (ids, EP-SAM's).",
        choices=("agreement", "ids"),
        **_ROUNDS_ONLY,
    )
    robust_loss: bool = option(
        True,
        "Pixels that SAM's decoder keeps contradicting count less while it is tuned; else Dice and IoU loss.",
        **_ROUNDS_ONLY,
    )
    trains: bool = option(False, "Whether benchmark also trains the segmentation model on this recipe's pseudo-labels.")


_DEFAULT = Recipe(trains=True)

#: The method of EP-SAM (arXiv 2410.13621) with its programming faults mended, learning from slide labels.
#: What differs from the paper: slide labels in place of tile labels, so that every tile of a positive slide is taken
#: for one with tumour, in training and in drawing (the paper has only tiles with tumour, chosen by pixel masks);
#: windows overlap and are joined (the paper has only single tiles); rates and epochs are those of the default recipe,
#: for its networks and budget.
_EP_SAM = Recipe(
    "ep-sam",
    "the method of EP-SAM on slide labels, its programming faults mended",
    backbone_mode="fine-tuned",
    search_in="tissue",
    head="mean",
    contrast=False,
    folds=1,
    tta=4,
    cam_scale="tile",
    prompts="sampled",
    refiner="sam-only",
    rounds=4,  # once on the CAMs, three times on its own masks
    first_round="cam",
    selection="ids",
    robust_loss=False,
    trains=True,
)
_FINE_TUNED = Recipe(
    "fine-tuned", "MIL networks trained through the backbone, in place of linear probes", backbone_mode="fine-tuned"
)

_BUILT_IN = (
    _DEFAULT,
    _EP_SAM,
    replace(
        _EP_SAM,
        name="ep-sam-gated",
        summary="ep-sam without a CAM where its classifier calls a tile negative, which is not in the paper",
        cam_scale="tile-gated",
        trains=False,
    ),
    Recipe("cam", "the CAM alone, in all tissue, no refiner", search_in="tissue", refiner="none"),
    Recipe("cam-sam", "the CAM in all tissue refined by SAM", search_in="tissue"),
    Recipe("epithelium", "the CAM restricted to epithelium, no refiner", refiner="none"),
    Recipe("epithelium-slic", "the CAM restricted to epithelium, refined by superpixels", refiner="slic"),
    Recipe("no-adl", "linear probes without attention-based dropout", adl=False),
    Recipe("no-self-training", "linear probes of slide labels, without self-training", self_training=False),
    Recipe("round-1", "SAM's decoder tuned once on its own masks", rounds=1),
    Recipe("round-2", "SAM's decoder tuned twice on its own masks", rounds=2),
    Recipe("round-3", "SAM's decoder tuned three times on its own masks", rounds=3),
    Recipe("round-1-cam", "SAM's decoder tuned once on the CAMs", rounds=1, first_round="cam"),
    Recipe("plain-loss", "SAM's decoder tuned once on its own masks, with EP-SAM's loss", rounds=1, robust_loss=False),
    _FINE_TUNED,
    replace(
        _FINE_TUNED,
        name="fine-tuned-no-adl",
        summary="fine-tuned MIL networks without attention-based dropout",
        adl=False,
    ),
    replace(
        _FINE_TUNED,
        name="fine-tuned-high-frequency",
        summary="fine-tuned MIL networks with the high-frequency channel",
        high_frequency=True,
    ),
    replace(
        _FINE_TUNED,
        name="fine-tuned-no-contrast",
        summary="fine-tuned MIL networks without contrast within positive slides",
        contrast=False,
    ),
    Recipe("both", "MIL networks beside linear probes", backbone_mode="both"),
    Recipe("tta", "the CAM averaged over four quarter turns", tta=4),
    Recipe("prompts-boxes", "SAM prompted with the box and the peaks of each piece of the CAM", prompts="boxes"),
    Recipe("prompts-sampled", "SAM prompted with EP-SAM's sampled points", prompts="sampled"),
)

#: The recipes that wsplf brings, by name, in the order in which benchmark lists them.
RECIPES: Mapping[str, Recipe] = {recipe.name: recipe for recipe in _BUILT_IN}
