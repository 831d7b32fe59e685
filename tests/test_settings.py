"""How option records are filled: limits, wsplf.toml, recipes."""

import dataclasses
import re
from pathlib import Path

import pytest

from wsplf_cli.benchmark_options import BenchmarkOptions
from wsplf_cli.errors import ConfigError
from wsplf_cli.options import (
    EvaluateOptions,
    LabelsOptions,
    PseudolabelOptions,
    RunOptions,
    SegmentOptions,
    TrainOptions,
)
from wsplf_cli.recipes import RECIPES, Recipe
from wsplf_cli.settings import build, options, read_settings, require_effect
from wsplf_cli.worker_options import ClusterOptions


@pytest.fixture
def read(tmp_path):
    """Reads a text as a wsplf.toml, by default for pseudolabel."""

    def read_text(text, command="pseudolabel"):
        path = tmp_path / "wsplf.toml"
        path.write_text(text, encoding="utf-8")
        return read_settings(path, command)

    return read_text


@pytest.fixture
def pseudolabel_options(read):
    """The options of pseudolabel from a text as wsplf.toml and from what is typed."""

    def build_from(text, **typed):
        settings = read(text)
        return build(PseudolabelOptions, {**settings.values, **typed}, settings.recipes)

    return build_from


def test_build_fills_nested_records_and_keeps_defaults():
    built = build(TrainOptions, {"mpp": 2.0, "label_key": "grade", "epochs": 3, "positive": ["a", "b"]})
    assert (built.tiles.mpp, built.project.label_key, built.epochs) == (2.0, "grade", 3)
    assert built.project.positive == ("a", "b")
    assert built.run == RunOptions()


@pytest.mark.parametrize(
    ("record", "name", "value"),
    [
        (TrainOptions, "mpp", 0.0),
        (TrainOptions, "tile_px", 8),
        (PseudolabelOptions, "alpha", 1.5),
        (TrainOptions, "epochs", 0),
        (TrainOptions, "seed", -1),
        (TrainOptions, "device", "tpu"),
        (TrainOptions, "images", "("),
        (TrainOptions, "segmenter", "x"),
        (PseudolabelOptions, "refiner", "x"),
    ],
)
def test_value_outside_its_limits_names_the_option(record, name, value):
    with pytest.raises(ConfigError, match=f"--{name.replace('_', '-')} "):
        build(record, {name: value})


def test_plug_in_names_may_have_dashes_or_underscores(read):
    for name in ("gated-attention", "gated_attention"):
        read(f'[recipe.mine]\nbackbone-mode = "both"\nhead = "{name}"\n')


def test_records_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PseudolabelOptions().alpha = 0.5


def test_settings_take_shared_keys_at_the_top_and_the_rest_from_the_table(read):
    shared = 'label-key = "grade"\nmpp = 2\nslides = "scans"\npositive = ["a"]\n'
    values = read(shared + "[pseudolabel]\nalpha = 0.05\n[train]\nepochs = 9\n").values
    assert values["label_key"] == "grade"
    assert values["mpp"] == 2.0
    assert type(values["mpp"]) is float
    assert values["positive"] == ("a",)
    assert values["alpha"] == 0.05
    assert values["slides"].name == "scans"
    assert values["slides"].parent.is_absolute()
    assert "epochs" not in values


def test_the_table_is_stronger_than_the_top(read):
    assert read("seed = 1\n[pseudolabel]\nseed = 2\n").values["seed"] == 2
    assert read("seed = 1\n[pseudolabel]\nseed = 2\n", "train").values["seed"] == 1


def test_a_shared_key_that_the_command_lacks_is_left_out(read):
    assert read("mpp = 2.0\n", "segment").values == {}
    assert read("mpp-override = 0.5\n", "labels").values == {}


@pytest.mark.parametrize(
    ("text", "says", "hint"),
    [
        ("lable-key = 'x'", "unknown key lable-key", "did you mean label-key"),
        ("label_key = 'x'", "unknown key label_key", "did you mean label-key"),
        ("[pseudolable]\nalpha = 1", r"unknown table \[pseudolable\]", "did you mean pseudolabel"),
        ("[train]\nepohcs = 1", r"unknown key \[train\] epohcs", "did you mean epochs"),
        (
            "sam = 'tiny'",
            "sam cannot stand at the top",
            r"\[pseudolabel\] or .* or \[benchmark\]",
        ),
        ("mpp = '1'", "mpp must be a number, not '1'", "default is 1.0"),
        ("seed = 1.5", "seed must be a whole number", ""),
        ("seed = true", "seed must be a whole number", ""),
        ("dry-run = 1", "dry-run must be true or false", ""),
        ("positive = 'tumor'", "positive must be a list of texts", ""),
        ("positive = ['a', 1]", "positive must be a list of texts", ""),
        ("slides = 3", "slides must be a path", ""),
        ("mpp = ", "is not TOML", ""),
    ],
)
def test_wrong_settings_name_file_and_key(read, text, says, hint):
    with pytest.raises(ConfigError, match=says) as caught:
        read(text)
    assert "wsplf.toml" in caught.value.message
    assert re.search(hint, caught.value.hint)


def test_a_mistake_in_another_commands_table_is_found_too(read):
    with pytest.raises(ConfigError, match="epohcs"):
        read("[train]\nepohcs = 1\n", "segment")


def test_settings_that_cannot_be_read_are_one_clear_error():
    with pytest.raises(ConfigError, match="cannot read"):
        read_settings(Path("nowhere/wsplf.toml"), "train")


def test_flags_are_the_field_names_with_dashes():
    assert options(TrainOptions)["tile_px"].flag == "--tile-px"


def test_without_a_choice_the_default_recipe_is_used():
    assert build(PseudolabelOptions, {}) == PseudolabelOptions()
    assert PseudolabelOptions().recipe == RECIPES["default"]


def test_what_is_typed_is_stronger_than_wsplf_toml_and_that_than_the_recipe(pseudolabel_options):
    text = '[pseudolabel]\nrecipe = "cam"\nsearch-in = "epithelium"\nalpha = 0.05\n'
    assert RECIPES["cam"].search_in == "tissue"
    from_file = pseudolabel_options(text)
    assert (from_file.recipe.name, from_file.recipe.search_in, from_file.alpha) == ("cam", "epithelium", 0.05)
    typed = pseudolabel_options(text, recipe="epithelium-slic", search_in="auto", alpha=0.1)
    assert (typed.recipe.refiner, typed.recipe.search_in, typed.alpha) == ("slic", "auto", 0.1)


def test_a_table_adds_a_recipe_that_starts_from_a_built_in_one(read):
    recipes = read('[recipe.mine]\nbase = "ep-sam"\nrounds = 2\n[recipe.plain]\ntta = 4\ntrains = false\n').recipes
    assert list(recipes) == [*RECIPES, "mine", "plain"]
    mine = dataclasses.replace(RECIPES["ep-sam"], name="mine", summary="ep-sam with rounds = 2", rounds=2)
    assert recipes["mine"] == mine
    assert recipes["plain"] == Recipe("plain", "default with tta = 4, trains = false", tta=4)


def test_a_table_with_the_name_of_a_built_in_recipe_changes_it(read, pseudolabel_options):
    text = '[recipe.default]\ntta = 2\n[recipe.round-2]\nselection = "ids"\nsummary = "mine"\n'
    recipes = read(text).recipes
    assert list(recipes) == list(RECIPES)
    assert (recipes["round-2"].rounds, recipes["round-2"].selection, recipes["round-2"].summary) == (2, "ids", "mine")
    assert pseudolabel_options(text).recipe.tta == 2


def test_recipes_are_read_for_benchmark_too(read):
    settings = read("[recipe.mine]\ntta = 2\n", "benchmark")
    assert build(BenchmarkOptions, settings.values, settings.recipes).known_recipes["mine"].tta == 2
    assert build(BenchmarkOptions, {}).known_recipes == RECIPES


@pytest.mark.parametrize(
    ("text", "says", "hint"),
    [
        ("[recipe.x]\nroundz = 1", r"unknown key \[recipe.x\] roundz", "did you mean rounds"),
        ("[recipe.x]\nname = 'y'", r"unknown key \[recipe.x\] name", ""),
        ("[recipe.x]\nalpha = 0.1", r"unknown key \[recipe.x\] alpha", ""),
        ("[recipe.x]\nrounds = 'two'", "rounds must be a whole number", "default is 0"),
        ("[recipe.x]\nrounds = -1", r"\[recipe.x\] rounds must be at least 0", ""),
        ("[recipe.x]\ntta = 5", r"\[recipe.x\] tta must be at most 4", ""),
        ("[recipe.x]\nbackbone-mode = 'mil'", "must be one of: frozen, fine-tuned, both", ""),
        ("[recipe.x]\nprompts = 'x'", r"\[recipe.x\] prompts must be one of: boxes, sampled, spread", ""),
        ("[recipe.x]\nbase = 'ep_sam'", "base must be a built-in recipe", "did you mean ep-sam"),
        ("[recipe.x]\nbase = 'paper'", "base must be a built-in recipe", "paper is called ep-sam now"),
        ("[recipe.x]\nbase = 3", "base must be a built-in recipe", ""),
        ("[recipe]\nrounds = 3", "recipe.rounds must be a table", ""),
        ("[recipe.upper-bound]\nrounds = 3", "cannot be called 'upper-bound'", ""),
        ("[recipe.'a b']\nrounds = 3", "cannot be called 'a b'", ""),
        ("[recipe.x]\nhead = 'mean'", "head has no effect with backbone-mode = frozen", ""),
        ("[recipe.x]\nepochs = 3", "epochs has no effect with backbone-mode = frozen", ""),
        ("[recipe.x]\nselection = 'ids'", "selection has no effect with rounds = 0", ""),
        ("[recipe.x]\nrefiner = 'none'\nrounds = 2", "rounds has no effect with refiner = none", ""),
        ("[recipe.x]\nrefiner = 'slic'\nprompts = 'boxes'", "prompts has no effect with refiner = slic", ""),
    ],
)
def test_a_wrong_recipe_names_file_table_and_key(read, text, says, hint):
    with pytest.raises(ConfigError, match=says) as caught:
        read(text, "train")  # the whole file is checked for every command
    assert "wsplf.toml" in caught.value.message
    assert re.search(hint, caught.value.hint)


def test_an_unknown_recipe_is_refused_and_an_earlier_name_is_explained(pseudolabel_options):
    with pytest.raises(ConfigError, match="unknown recipe 'ep_sam'") as caught:
        pseudolabel_options("", recipe="ep_sam")
    assert "ep-sam" in caught.value.hint
    with pytest.raises(ConfigError, match="recipe paper is called ep-sam now"):
        pseudolabel_options('[pseudolabel]\nrecipe = "paper"\n')
    assert pseudolabel_options("[recipe.paper]\ntta = 2\n", recipe="paper").recipe.tta == 2


def test_sam_only_is_a_value_of_the_refiner_that_help_does_not_list():
    assert options(PseudolabelOptions)["refiner"].choices == ("sam", "slic", "none")
    assert build(PseudolabelOptions, {"refiner": "sam-only"}).recipe.refiner == "sam-only"


def test_the_size_of_the_cache_is_set_in_wsplf_toml_alone(pseudolabel_options):
    assert pseudolabel_options("[pseudolabel]\ncache-gb = 1\n").cache_gb == 1.0
    assert not options(PseudolabelOptions)["cache_gb"].typed


def test_labels_has_no_option_about_pixels():
    assert "mpp_override" not in options(LabelsOptions)


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ({"recipe": "cam", "sam": "vit_b"}, "--sam has no effect with refiner = none"),
        ({"refiner": "slic", "sam_checkpoint": Path("x")}, "--sam-checkpoint has no effect with refiner = slic"),
        ({"recipe": "ep-sam", "alpha": 0.1}, "--alpha has no effect with cam-scale = tile"),
    ],
)
def test_a_typed_option_without_effect_is_refused(typed, says):
    with pytest.raises(ConfigError, match=says):
        require_effect(build(PseudolabelOptions, typed), typed)


@pytest.mark.parametrize(("recipe", "refiner"), [("round-1", "none"), ("prompts-boxes", "slic"), ("ep-sam", "none")])
def test_a_typed_field_that_takes_the_effect_from_the_recipe_is_refused(recipe, refiner):
    with pytest.raises(ConfigError, match=rf"--refiner {refiner}: with it, .* of the recipe {recipe} has no effect"):
        build(PseudolabelOptions, {"recipe": recipe, "refiner": refiner})


def test_what_has_an_effect_is_not_refused():
    typed = {"recipe": "cam", "alpha": 0.1, "seed": 3}
    require_effect(build(PseudolabelOptions, typed), typed)
    require_effect(build(TrainOptions, {"sam": "vit_b"}), ["sam"])


def test_a_cluster_is_a_table_of_its_own(read):
    settings = read(
        '[cluster]\nkind = "pbs"\nworkers = 8\ncores = 4\nmemory = "16GB"\njob-script-prologue = ["module load a"]\n',
        "segment",
    )
    expected = ClusterOptions("pbs", 8, 4, "16GB", job_script_prologue=("module load a",))
    assert build(SegmentOptions, settings.values).workers.cluster == expected


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("[cluster]\nworker = 3", "unknown key .cluster. worker"),
        ('[cluster]\nkind = "cray"', "kind must be one of: slurm"),
        ("[cluster]\ncores = 0", "cores must be at least 1"),
        ('workers = "many"', "--workers must be a whole number or auto, not many"),
        ("workers = -1", "--workers must be a whole number or auto, not -1"),
    ],
)
def test_wrong_workers_and_clusters_are_named(read, table, message):
    with pytest.raises(ConfigError, match=message):
        build(SegmentOptions, read(table + "\n", "segment").values)


def test_workers_in_the_file_are_a_number_or_auto(read):
    for value, expected in (("4", "4"), ('"auto"', "auto")):
        assert build(EvaluateOptions, read(f"workers = {value}\n", "evaluate").values).workers.workers == expected
