"""Tumour is searched for in epithelium alone: glands, nests and sheets of cells with their lumens.

Slide labels do not separate tumour from the stroma around it. Where most tissue of positive slides is one or the other,
both occur on positive slides only. What is epithelium does not depend on labels: a linear layer on the features of the
frozen backbone, trained on synthetic tissue (``layer``), tells it. The probes of the classes learn from epithelium and
draw in it. The cells of one tumour lie together, so the logits of epithelium are averaged with those of the epithelium
around.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsplf_cli.errors import ConfigError
from wsplf_cli.networks.backbone import DenseBackbone
from wsplf_cli.options import PseudolabelOptions
from wsplf_cli.schema import Tracker
from wsplf_cli.slides.window import DenseInference
from wsplf_cli.weak.epithelium.layer import epithelium_layer
from wsplf_cli.weak.linear_probe import LinearProbe
from wsplf_cli.weak.pooling import masked_gaussian
from wsplf_cli.weak.self_training import Instances

#: Epithelium logits from which an instance is learned from, and from which it may become tumour.
LEARN_FROM = 1.0
DRAW_FROM = -0.5
#: Below ``DRAW_FROM`` the tumour logit is limited to this slope times the missing epithelium logit.
_SLOPE = 0.5
#: Standard deviation of the neighbourhood whose logits are averaged, and how much the average counts.
_NEIGHBOURHOOD_PX = 72.0
_NEIGHBOURHOOD_SHARE = 0.5
#: With less epithelium than this on the median positive slide, the tumour is not epithelial.
_LEAST_EPITHELIUM = 0.01
#: From this share of stroma in what people drew, they draw whole areas.
_STROMA_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class SearchArea:
    """Where tumour is searched for: in epithelium, told by ``probe``, or in all tissue (None).

    ``message`` is what the user is told about it; empty for nothing.
    """

    probe: LinearProbe | None
    message: str = ""

    @property
    def name(self) -> str:
        """The option value, "epithelium" or "tissue"."""
        return "tissue" if self.probe is None else "epithelium"


def search_area(options: PseudolabelOptions, backbone: DenseBackbone | None, tracker: Tracker) -> SearchArea:
    """Where tumour is searched for with these options.

    Args:
        options: Of the command.
        backbone: The frozen backbone; None where the recipe only fine-tunes.
        tracker: Is told of the training of a layer that tells epithelium, where the backbone needs a new one.

    Raises:
        ConfigError: Epithelium is asked for and cannot be told.
    """
    recipe = options.recipe
    if recipe.search_in == "epithelium" and backbone is None:
        raise ConfigError(
            "--search-in epithelium needs a frozen backbone: fine-tuned networks have no features that tell it",
            hint=f'backbone-mode = "frozen" or "both" in [recipe.{recipe.name}], or --search-in tissue',
        )
    if recipe.search_in == "tissue" or backbone is None:
        return SearchArea(None)
    probe = epithelium_layer(backbone, mpp=options.mpp, tracker=tracker)
    return SearchArea(probe, "tumour is searched for in epithelium (--search-in tissue searches everywhere)")


def restrict_instances(slides: Sequence[Instances], epithelium: LinearProbe) -> tuple[list[Instances], str]:
    """The instances of each slide that are epithelium, or that a person has decided about.

    All instances, with the reason as the second value, where tumour cannot be searched for in epithelium alone.
    """
    logits = [epithelium(slide.features) for slide in slides]
    shares = [
        float((slide_logits >= LEARN_FROM).mean())
        for slide_logits, slide in zip(logits, slides, strict=True)
        if slide.positive and slide.trusted and slide_logits.size
    ]
    if not shares or np.median(shares) < _LEAST_EPITHELIUM:
        return list(slides), "positive slides hold hardly any epithelium: tumour is searched for in all tissue"
    drawn = np.concatenate([slide_logits[slide.known > 0] for slide_logits, slide in zip(logits, slides, strict=True)])
    if drawn.size and (drawn < DRAW_FROM).mean() > _STROMA_SHARE:
        return list(slides), "people drew around stroma as well: tumour is searched for in all tissue"
    restricted = []
    for slide_logits, slide in zip(logits, slides, strict=True):
        kept = (slide_logits >= LEARN_FROM) | (slide.known != 0)
        restricted.append(slide.select(kept))
    for positive, label in ((True, "positive"), (False, "negative")):
        if not any(len(slide.features) for slide in restricted if slide.positive is positive):
            return list(slides), f"{label} slides hold no epithelium: tumour is searched for in all tissue"
    return restricted, ""


def restrict_to_epithelium(
    logits: NDArray[np.float32], epithelium: NDArray[np.float32], inference: DenseInference
) -> NDArray[np.float32]:
    """Tumour logits that are low outside epithelium; all arrays float32 [rows, columns], NaN outside the tissue."""
    inside = epithelium >= DRAW_FROM
    of_epithelium = np.where(inside, logits, np.float32(np.nan))
    around = masked_gaussian(of_epithelium[None], inside, sigma=_NEIGHBOURHOOD_PX / inference.stride)[0]
    averaged = (1 - _NEIGHBOURHOOD_SHARE) * logits + _NEIGHBOURHOOD_SHARE * around
    joined = np.where(inside, averaged, logits)
    restricted: NDArray[np.float32] = np.minimum(joined, _SLOPE * (epithelium - DRAW_FROM)).astype(np.float32)
    return restricted
