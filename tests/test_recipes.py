import pytest

from wsplf_cli import plugins, settings
from wsplf_cli.errors import ConfigError
from wsplf_cli.options import PseudolabelOptions
from wsplf_cli.recipes import RECIPES


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_sets_known_options_within_their_limits(name):
    known = settings.options(PseudolabelOptions)
    assert set(RECIPES[name].options) <= set(known) - {"recipe", "seed", "device", "epochs", "backbone", "sam"}
    built = settings.build(PseudolabelOptions, {"recipe": name})
    for option, value in RECIPES[name].options.items():
        assert getattr(built, option) == value
        folder = known[option].metadata.get("plugins")
        if folder:
            assert str(value).replace("-", "_") in plugins.names(folder)


def test_the_default_recipe_is_the_defaults():
    assert settings.build(PseudolabelOptions, {"recipe": "default"}) == PseudolabelOptions()


def test_what_is_typed_counts_more_than_the_recipe():
    built = settings.build(PseudolabelOptions, {"recipe": "paper", "rounds": 1})
    assert built.rounds == 1
    assert built.prompts == "sampled"


def test_every_prompt_strategy_has_its_recipe():
    assert {f"prompts-{name.replace('_', '-')}" for name in plugins.names("weak.prompts")} <= set(RECIPES)


def test_an_unknown_recipe_is_refused():
    with pytest.raises(ConfigError, match="recipe"):
        settings.build(PseudolabelOptions, {"recipe": "nonsense"})
