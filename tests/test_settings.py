"""Option records and wsplf.toml."""

import dataclasses
import re
from pathlib import Path

import pytest

from wsplf_cli import options as config
from wsplf_cli import plugins
from wsplf_cli.errors import ConfigError
from wsplf_cli.options import PseudolabelOptions, TrainOptions
from wsplf_cli.settings import build, options, read_settings


@pytest.fixture
def settings(tmp_path):
    def write(text, command="pseudolabel"):
        path = tmp_path / "wsplf.toml"
        path.write_text(text, encoding="utf-8")
        return read_settings(path, command)

    return write


def test_build_fills_nested_records_and_keeps_defaults():
    built = build(PseudolabelOptions, {"mpp": 2.0, "label_key": "grade", "epochs": 3, "positive": ["a", "b"]})
    assert (built.tiles.mpp, built.project.label_key, built.epochs) == (2.0, "grade", 3)
    assert built.project.positive == ("a", "b")
    assert built.run == config.RunOptions()


@pytest.mark.parametrize("record", config.ALL.values())
def test_every_option_has_help_and_a_default_within_its_limits(record):
    found = options(record)
    assert found
    for option in found.values():
        assert option.metadata["help"].endswith((".", ")"))
    defaults = {name: option.default for name, option in found.items()}
    assert build(record, defaults) == record()


@pytest.mark.parametrize("record", config.COMMANDS.values())
def test_every_default_plug_in_exists(record):
    for option in options(record).values():
        if "plugins" in option.metadata:
            assert option.default.replace("-", "_") in plugins.names(option.metadata["plugins"])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mpp", 0.0),
        ("tile_px", 8),
        ("min_tissue", 1.5),
        ("epochs", 0),
        ("seed", -1),
        ("device", "tpu"),
        ("images", "("),
    ],
)
def test_value_outside_its_limits_names_the_option(name, value):
    with pytest.raises(ConfigError, match=f"--{name.replace('_', '-')} "):
        build(PseudolabelOptions, {name: value})


def test_records_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PseudolabelOptions().epochs = 3


def test_settings_take_common_keys_at_the_top_and_the_rest_from_the_table(settings):
    common = 'label-key = "grade"\nmpp = 2\nslides = "scans"\npositive = ["a"]\n'
    found = settings(common + "[pseudolabel]\nepochs = 5\n[train]\nepochs = 9\n")
    assert found["label_key"] == "grade"
    assert found["mpp"] == 2.0
    assert type(found["mpp"]) is float
    assert found["positive"] == ("a",)
    assert found["epochs"] == 5
    assert found["slides"].name == "scans"
    assert found["slides"].parent.is_absolute()


def test_the_table_is_stronger_than_the_top_whatever_their_order(settings):
    assert settings("seed = 1\n[pseudolabel]\nseed = 2\n")["seed"] == 2
    assert settings("seed = 1\n[pseudolabel]\nseed = 2\n", "train")["seed"] == 1


def test_common_key_that_the_command_lacks_is_left_out(settings):
    assert settings("tile-px = 256\n", "segment") == {}


@pytest.mark.parametrize(
    ("text", "says", "hint"),
    [
        ("lable-key = 'x'", "unknown key lable-key", "did you mean label-key"),
        ("label_key = 'x'", "unknown key label_key", "did you mean label-key"),
        ("[pseudolable]\nepochs = 1", r"unknown table \[pseudolable\]", "did you mean pseudolabel"),
        ("[train]\nepohcs = 1", r"unknown key \[train\] epohcs", "did you mean epochs"),
        ("epochs = 3", "epochs cannot stand at the top", r"\[pseudolabel\] or \[train\]"),
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
def test_wrong_settings_name_file_and_key(settings, text, says, hint):
    with pytest.raises(ConfigError, match=says) as caught:
        settings(text)
    assert "wsplf.toml" in caught.value.message
    assert re.search(hint, caught.value.hint)


def test_a_mistake_in_another_commands_table_is_found_too(settings):
    with pytest.raises(ConfigError, match="epohcs"):
        settings("[train]\nepohcs = 1\n", "segment")


def test_settings_that_cannot_be_read_are_one_clear_error():
    with pytest.raises(ConfigError, match="cannot read"):
        read_settings(Path("nowhere/wsplf.toml"), "train")


def test_flags_are_the_field_names_with_dashes():
    assert options(TrainOptions)["tile_px"].flag == "--tile-px"
