"""Which options decide what is learned from the slide labels, and which only how it is drawn."""

from dataclasses import replace

from wsplf_cli.options import PseudolabelOptions

#: Options that say how CAMs become polygons: those that differ only in these share what was learned.
DRAWING = (
    "recipe",
    "cam_scale",
    "alpha",
    "prompts",
    "refiner",
    "sam",
    "sam_checkpoint",
    "rounds",
    "first_round",
    "selection",
    "robust_loss",
    "cache_gb",
    "min_area_um2",
)


def learning_key(options: PseudolabelOptions) -> str:
    """The options without those of ``DRAWING``, as text; one that is not named there counts as one of learning."""
    default = PseudolabelOptions()
    return repr(replace(options, **{name: getattr(default, name) for name in DRAWING}))
