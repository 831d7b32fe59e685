"""Where the options and recipes of version 0.1 are now, for the errors that say so."""

from collections.abc import Mapping


def _recipe_field(setting: str) -> str:
    return f"is a field of a recipe now: [recipe.NAME] {setting} in wsplf.toml, and --recipe NAME"


_IN_RECIPE = {
    "head": _recipe_field('head = "gated-attention"'),
    "prompts": _recipe_field('prompts = "boxes"'),
    "adl": _recipe_field("adl = true"),
    "high-frequency": _recipe_field("high-frequency = true"),
    "classifier": _recipe_field('backbone-mode = "frozen" (for places), "fine-tuned" (for mil) or "both"'),
    "contrast": _recipe_field("contrast = true"),
    "turns": _recipe_field("tta = 4"),
    "cam-scale": _recipe_field('cam-scale = "tile"'),
    "rounds": _recipe_field("rounds = 2"),
    "first-round": _recipe_field('first-round = "cam"'),
    "selection": _recipe_field('selection = "ids"'),
    "robust-loss": _recipe_field("robust-loss = false"),
    "epochs": _recipe_field("epochs = 10"),
    "folds": _recipe_field("folds = 3"),
    "tile-px": _recipe_field("tile-px = 192"),
    "min-tissue": _recipe_field("min-tissue = 0.25"),
}

#: By command ("" for the top of wsplf.toml) and by option without dashes in front: the rest of a sentence that begins
#: with the option.
MOVED_OPTIONS: Mapping[str, Mapping[str, str]] = {
    "pseudolabel": _IN_RECIPE
    | {
        "within": "is called search-in now: --search-in, or search-in in wsplf.toml",
        "cache-gb": "is a key of wsplf.toml now: [pseudolabel] cache-gb = 4",
    },
    "train": {"min-tissue": "is gone: train never used it"},
    "benchmark": {
        "epochs": f"{_IN_RECIPE['epochs']}; --train-epochs is that of the segmentation model",
        "folds": _IN_RECIPE["folds"],
        "tile-px": _IN_RECIPE["tile-px"],
        "min-tissue": _IN_RECIPE["min-tissue"],
    },
    "labels": {"mpp-override": "is gone: labels reads no pixel; pseudolabel, segment, evaluate and others have it"},
    "": {
        "tile-px": "cannot stand at the top any more: [train] tile-px = 192, and [recipe.NAME] tile-px = 192",
        "min-tissue": _recipe_field("min-tissue = 0.25"),
    },
}

#: Earlier names of recipes.
MOVED_RECIPES: Mapping[str, str] = {
    "paper": "ep-sam",
    "paper-gated": "ep-sam-gated",
    "mil": "fine-tuned",
    "mil-no-adl": "fine-tuned-no-adl",
    "mil-high-frequency": "fine-tuned-high-frequency",
    "mil-no-contrast": "fine-tuned-no-contrast",
    "turns": "tta",
    "prompts-spread": "default",
}
