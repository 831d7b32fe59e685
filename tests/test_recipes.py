import dataclasses

import pytest

from wsplf_cli import plugins
from wsplf_cli.moved_options import MOVED_RECIPES
from wsplf_cli.recipes import RECIPES, UPPER_BOUND, Recipe
from wsplf_cli.settings import RECIPE_NAME, options


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=list(RECIPES))
def test_a_recipe_has_values_within_their_limits_and_a_summary(recipe):
    for name, option in options(Recipe).items():
        value = getattr(recipe, name)
        assert not option.accepted or value in option.accepted
        assert value >= option.metadata.get("least", value)
        assert value <= option.metadata.get("most", value)
    assert recipe.summary
    assert RECIPE_NAME.fullmatch(recipe.name)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=list(RECIPES))
def test_a_recipe_changes_nothing_that_has_no_effect(recipe):
    for name, option in options(Recipe).items():
        field, values = option.metadata.get("unused_with", ("", ()))
        if values and getattr(recipe, field) in values:
            assert getattr(recipe, name) == option.default


def test_recipes_differ_in_more_than_their_names():
    described = {dataclasses.replace(recipe, name="", summary="", trains=False) for recipe in RECIPES.values()}
    assert len(described) == len(RECIPES)


def test_every_prompt_strategy_has_a_recipe():
    assert {recipe.prompts for recipe in RECIPES.values()} == set(plugins.names("weak.prompts"))


def test_names_are_keys_and_an_earlier_name_leads_to_a_recipe():
    assert all(recipe.name == name for name, recipe in RECIPES.items())
    assert set(MOVED_RECIPES.values()) <= set(RECIPES)
    assert not set(MOVED_RECIPES) & set(RECIPES)
    assert UPPER_BOUND not in RECIPES
