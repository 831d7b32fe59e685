"""Tumour looked for in epithelium alone: glands, nests and sheets of cells with their lumens.

Slide labels do not tell tumour from the stroma around it: where most tissue of positive slides is one or the other,
both are found on positive slides only. What is epithelium is no matter of labels. A layer that was trained on painted
tissue beside the shipped backbone (``pretrain/epithelium.py``) reads it off the backbone's features; the classifiers
of places learn from epithelium, and draw in it. The cells of one tumour lie together, so that the logits of epithelium
are joined with those of the epithelium around.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from wsplf_cli.errors import ConfigError
from wsplf_cli.networks.backbone import SMALL
from wsplf_cli.networks.state import read_state
from wsplf_cli.networks.weights import ASSETS
from wsplf_cli.options import PseudolabelOptions
from wsplf_cli.weak.dense import DenseInference, smooth
from wsplf_cli.weak.linear_probe import Instances, LinearProbe

LAYER = "epithelium_small.safetensors"
#: Logit of epithelium from which a place is learned from, and from which it may be drawn.
LEARNED_FROM = 1.0
DRAWN_FROM = -0.5
#: How fast, below that, a place is less like tumour: logits of tumour by logits of epithelium.
_SLOPE = 0.5
#: Standard deviation of the neighbourhood whose logits are joined, and how much they count.
_TOGETHER_PX = 72.0
_TOGETHER_SHARE = 0.5
#: With less epithelium than this share of the places of the middle positive slide, the tumour is of another kind.
_LEAST_SHARE = 0.01
#: From this share of what people drew on, that is no epithelium, they draw whole areas.
_DRAWN_SHARE = 0.25


def layer_of(options: PseudolabelOptions) -> tuple[LinearProbe | None, str]:
    """What tells epithelium with these options, None where it is not asked for or cannot be told; and what to say.

    Raises:
        ConfigError: it is asked for where it cannot be told.
    """
    if options.recipe.search_in == "tissue" or options.recipe.backbone_mode == "fine-tuned":
        if options.recipe.search_in == "epithelium":
            raise ConfigError(
                "--within epithelium is of classifiers of places, which --classifier mil does not train",
                hint="--classifier places or both, or leave it out",
            )
        return None, ""
    if options.backbone != SMALL or options.backbone_weights is not None:
        if options.recipe.search_in == "epithelium":
            raise ConfigError(
                "--within epithelium needs the shipped backbone: only its features are known to tell it",
                hint="--backbone small without --backbone-weights, or --within tissue",
            )
        return None, "what is epithelium is not known with this backbone: tumour is looked for in all tissue"
    state = read_state(ASSETS / LAYER)
    said = "tumour is looked for in epithelium (--within tissue looks everywhere)"
    return LinearProbe(state["weight"].numpy(), float(state["bias"])), said


def learned_from(places: Sequence[Instances], layer: LinearProbe) -> tuple[list[Instances], str]:
    """The places of each slide that are epithelium, or of which a person has spoken.

    All of them, and why, where tumour cannot be looked for in epithelium alone.
    """
    logits = [layer(one.features) for one in places]
    shares = [
        float((own >= LEARNED_FROM).mean())
        for own, one in zip(logits, places, strict=True)
        if one.positive and one.trusted and own.size
    ]
    if not shares or np.median(shares) < _LEAST_SHARE:
        return list(places), "there is hardly any epithelium on positive slides: tumour is looked for in all tissue"
    drawn = np.concatenate([own[one.known > 0] for own, one in zip(logits, places, strict=True)])
    if drawn.size and (drawn < DRAWN_FROM).mean() > _DRAWN_SHARE:
        return list(places), "people drew around stroma as well: tumour is looked for in all tissue"
    kept = [(own >= LEARNED_FROM) | (one.known != 0) for own, one in zip(logits, places, strict=True)]
    return [
        replace(one, features=one.features[own], known=one.known[own]) for one, own in zip(places, kept, strict=True)
    ], ""


def restrict_to_epithelium(
    logits: NDArray[np.float32], epithelium: NDArray[np.float32], looking: DenseInference
) -> NDArray[np.float32]:
    """Logits of tumour that are low where there is no epithelium; all float32 [rows, columns], NaN outside tissue."""
    inside = epithelium >= DRAWN_FROM
    alone = np.where(inside, logits, np.float32(np.nan))
    around = smooth(alone[None], inside, width=_TOGETHER_PX / looking.stride)[0]
    joined = np.where(inside, (1 - _TOGETHER_SHARE) * logits + _TOGETHER_SHARE * around, logits)
    held: NDArray[np.float32] = np.minimum(joined, _SLOPE * (epithelium - DRAWN_FROM)).astype(np.float32)
    return held
