"""What version 0.1 had and is elsewhere now: refused with one line that says where."""

import pytest

from wsplf_cli import cli
from wsplf_cli.command_options import ALL
from wsplf_cli.moved_options import MOVED_OPTIONS
from wsplf_cli.settings import options

MOVED = [
    (command_name, key, sentence)
    for command_name, keys in MOVED_OPTIONS.items()
    if command_name
    for key, sentence in keys.items()
]
#: An option that only the command line lost is still a key of wsplf.toml.
MOVED_KEYS = [moved for moved in MOVED if moved[1].replace("-", "_") not in options(ALL[moved[0]])]


def run(capsys, *arguments):
    """Exit code, stdout and stderr of a command line."""
    code = cli.main([str(argument) for argument in arguments])
    return (code, *capsys.readouterr())


@pytest.mark.parametrize(("command_name", "key", "sentence"), MOVED)
def test_an_option_of_an_earlier_version_is_refused_with_where_it_is_now(capsys, command_name, key, sentence):
    for arguments in ([f"--{key}", "2"], [f"--{key}=2"], [f"--{key}"]):
        code, out, err = run(capsys, command_name, "p", *arguments)
        assert (code, out) == (2, "")
        assert err.splitlines()[0] == f"error: --{key} {sentence}"


@pytest.mark.parametrize(("command_name", "key", "sentence"), MOVED_KEYS)
def test_a_key_of_an_earlier_version_is_refused_with_where_it_is_now(capsys, tiny_project, command_name, key, sentence):
    (tiny_project.parent / "wsplf.toml").write_text(f"[{command_name}]\n{key} = 1\n")
    code, _, err = run(capsys, "labels", tiny_project)
    assert code == 2
    assert f"[{command_name}] {key} {sentence}" in err.splitlines()[0]


@pytest.mark.parametrize("flag", ["--no-adl", "--no-contrast", "--no-robust-loss"])
def test_a_switch_of_an_earlier_version_is_refused_when_turned_off_too(capsys, flag):
    code, _, err = run(capsys, "pseudolabel", "p", flag)
    assert code == 2
    assert err.startswith(f"error: {flag} is a field of a recipe now: [recipe.NAME] ")


def test_a_key_that_stood_at_the_top_in_an_earlier_version_says_where_it_is_now(capsys, tiny_project):
    (tiny_project.parent / "wsplf.toml").write_text("tile-px = 128\n")
    code, _, err = run(capsys, "train", tiny_project)
    assert code == 2
    assert "[train] tile-px" in err
