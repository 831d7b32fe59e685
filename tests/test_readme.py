"""README.md is true: its help blocks, its commands and options, its files. Run as a script, it rewrites the blocks."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from wsplf_cli import options as config
from wsplf_cli import settings

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
HELP_BLOCK = re.compile(r"```console\n\$ wsplf ([a-z ]*)-h\n(.*?)```\n", re.S)
COMMANDS = list(config.ALL)


def read():
    return README.read_text(encoding="utf-8")


def help_of(command):
    arguments = [sys.executable, "-m", "wsplf_cli", *command.split(), "-h"]
    environment = os.environ | {"COLUMNS": "100", "TERMINAL_WIDTH": "100"}
    return subprocess.run(arguments, capture_output=True, text=True, check=True, env=environment).stdout


def words(text):
    """The words of a help page: wrapping and the brackets of usage lines vary between versions of typer."""
    return re.sub(r"[{}<>\[\]\s]+", " ", text).split()


def test_every_command_has_its_help_in_the_readme():
    assert sorted(match[1].strip() for match in HELP_BLOCK.finditer(read())) == sorted(["", *COMMANDS])


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_the_help_in_the_readme_is_the_real_one(command):
    shown = next(match[2] for match in HELP_BLOCK.finditer(read()) if match[1].strip() == command)
    assert words(shown) == words(help_of(command)), "run: python tests/test_readme.py"


def test_every_command_line_in_the_readme_uses_real_commands_and_options():
    lines = re.findall(r"(?:^\s*\$ |`)wsplf ([a-z][^`\n]*)", read(), re.M)
    assert len(lines) > 15
    flags = {
        name: {option.flag for option in settings.options(record).values()} | {"--json", "--config", "--key"}
        for name, record in config.ALL.items()
    }
    for line in lines:
        command, *rest = line.split()
        if command not in flags:
            command = f"{command} {rest[0]}"
        assert command in flags, line
        assert {word for word in rest if word.startswith("--")} <= flags[command], line


def test_every_option_in_the_readme_exists():
    known = {option.flag for record in config.ALL.values() for option in settings.options(record).values()}
    known |= {"--json", "--config", "--key", "--help", "--version"}
    known |= {flag.replace("--", "--no-", 1) for flag in known}
    text = re.sub(r"`[^`\n]*pip [^`\n]*`", "", read())
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", text)) <= known


def test_every_file_that_the_readme_links_to_exists():
    links = re.findall(r"\]\((?!https?://)([^)#]+)\)", read())
    assert links
    for link in links:
        assert (ROOT / link).exists(), link


def test_the_readme_names_the_extras_and_the_layers_of_the_project():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    layers = re.search(r'layers = \[\s*"__main__",(.*?)\]', project, re.S)[1]
    shown = re.search(r"```\n(cli .*?)```", read(), re.S)[1]
    for layer in re.findall(r'"([^"]+)"', layers):
        assert layer in shown, layer
    assert '".[test,lint]"' in read()
    assert "test = [" in project
    assert "lint = [" in project


def rewrite():
    """Put the real help into the blocks."""
    text = HELP_BLOCK.sub(lambda match: f"```console\n$ wsplf {match[1]}-h\n{help_of(match[1])}```\n", read())
    README.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    rewrite()
