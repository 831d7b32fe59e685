"""Named sets of options of ``wsplf pseudolabel``: ours, the paper's, and ours with one part changed.

``wsplf pseudolabel --recipe NAME`` takes one, ``wsplf benchmark`` runs several over the same slides. What is not named
here has its default (config.py), which is the default recipe; backbone, epochs and SAM are no part of a recipe, so
that recipes are compared with the same ones.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Recipe:
    """``options`` by field name of PseudolabelOptions; ``trains``: benchmark trains the segmentation model on it."""

    summary: str
    options: Mapping[str, Any] = field(default_factory=dict)
    trains: bool = False


#: The method of EP-SAM (arXiv 2410.13621) with its programming faults mended, learning from slide labels.
#: What differs from the paper: slide labels in place of tile labels, so that every tile of a positive slide is taken
#: for one with tumour, in learning and in drawing (the paper has only tiles with tumour, chosen by pixel masks);
#: windows overlap and are joined (the paper has only single tiles); rates and epochs are those of the default recipe,
#: for its networks and budget.
_PAPER: Mapping[str, Any] = {
    "head": "mean",
    "classifier": "mil",
    "contrast": False,
    "within": "tissue",
    "adl": True,
    "folds": 1,
    "turns": 4,
    "cam_scale": "tile",
    "prompts": "sampled",
    "refiner": "sam-alone",
    "first_round": "cam",
    "rounds": 4,  # once on the CAMs, three times on its own masks
    "selection": "ids",
    "robust_loss": False,
}

RECIPES: Mapping[str, Recipe] = {
    "default": Recipe("the defaults", trains=True),
    "paper": Recipe("the method of EP-SAM on slide labels, its programming faults mended", _PAPER, trains=True),
    "paper-gated": Recipe(
        "and no CAM where its classifier calls a tile normal, which is not in the paper",
        {**_PAPER, "cam_scale": "tile-gated"},
    ),
    "cam": Recipe("the CAM alone, in all tissue, no refiner", {"within": "tissue", "refiner": "none", "rounds": 0}),
    "cam-sam": Recipe("the CAM in all tissue refined by SAM", {"within": "tissue", "refiner": "sam", "rounds": 0}),
    "epithelium": Recipe("the CAM held to epithelium, no refiner", {"refiner": "none", "rounds": 0}),
    "epithelium-slic": Recipe("and refined by superpixels", {"refiner": "slic", "rounds": 0}),
    "round-1": Recipe("SAM's decoder tuned on SAM's own masks", {"refiner": "sam", "rounds": 1}),
    "round-2": Recipe("tuned twice", {"refiner": "sam", "rounds": 2}),
    "round-3": Recipe("tuned three times", {"refiner": "sam", "rounds": 3}),
    "round-1-cam": Recipe("tuned on the CAMs", {"refiner": "sam", "rounds": 1, "first_round": "cam"}),
    "plain-loss": Recipe("tuned once with the paper's loss", {"refiner": "sam", "rounds": 1, "robust_loss": False}),
    "mil": Recipe("MIL networks in place of classifiers of places", {"classifier": "mil"}),
    "mil-no-adl": Recipe("and without attention-based dropout", {"classifier": "mil", "adl": False}),
    "mil-high-frequency": Recipe("and with the high-frequency channel", {"classifier": "mil", "high_frequency": True}),
    "mil-no-contrast": Recipe(
        "and without setting tumour against the rest of its slide", {"classifier": "mil", "contrast": False}
    ),
    "both": Recipe("MIL networks beside classifiers of places", {"classifier": "both"}),
    "turns": Recipe("the CAM as the mean over four quarter turns", {"turns": 4}),
    "prompts-spread": Recipe("spread points, negatives where the CAM is low", {"prompts": "spread"}),
    "prompts-boxes": Recipe("peaks with boxes", {"prompts": "boxes"}),
    "prompts-sampled": Recipe("the paper's sampled points", {"prompts": "sampled"}),
}
