"""Help: of every command and option, short, quick, and without anything heavy."""

import os
import re
import subprocess
import sys

import pytest

from wsplf_cli import cli
from wsplf_cli.command_options import ALL
from wsplf_cli.settings import options

COMMANDS = list(ALL)

HELP_WITHOUT_TORCH = """
import sys
HEAVY = "torch torchvision timm segment_anything jpype paquo numpy shapely openslide matplotlib skimage sklearn"
for name in HEAVY.split():
    sys.modules[name] = None  # importing it raises
from wsplf_cli import cli
for arguments in ([], *(name.split() for name in {commands!r})):
    assert cli.main([*arguments, {flag!r}]) == 0, arguments
"""


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_of_every_command_loads_nothing_heavy(flag):
    code = HELP_WITHOUT_TORCH.format(commands=COMMANDS, flag=flag)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert all(f"Usage: wsplf {name} " in result.stdout for name in COMMANDS)


def test_help_is_quick():
    """Measured in processor time, which other work on the machine does not lengthen."""

    def seconds():
        before = os.times()
        subprocess.run([sys.executable, "-m", "wsplf_cli", "pseudolabel", "-h"], capture_output=True, check=True)
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    assert min(seconds() for _ in range(3)) < 0.7


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_has_help_and_no_command_more_than_a_screen_of_options(capsys, name):
    assert cli.main([*name.split(), "-h"]) == 0
    out = capsys.readouterr().out
    usage, _, described = out.partition("Options:")
    assert len(usage.splitlines()) > 2
    shown = re.findall(r"^  (?:-h, )?(--[a-z0-9-]+)(.*(?:\n {4,}.*)*)", described, re.M)
    assert [flag for flag, text in shown if not re.search(r"[a-z]{3,}.*\.", text, re.S)] == []
    listed = [option for option in options(ALL[name]).values() if option.typed and not option.metadata.get("hidden")]
    flags = [option.flag for option in listed]
    assert {flag for flag, _ in shown} >= {*flags, "--json", "--help"}
    assert len(shown) <= 24
