"""The options of every command: each has its help and does something."""

import dataclasses
import re
import typing
from pathlib import Path

import pytest

import wsplf_cli
from wsplf_cli import plugins
from wsplf_cli.command_options import ALL, COMMANDS
from wsplf_cli.options import SHARED, NoOptions
from wsplf_cli.recipes import Recipe
from wsplf_cli.settings import build, options

PACKAGE = Path(wsplf_cli.__file__).parent
#: What defines and fills options does not use them.
FILLING = {"options.py", "recipes.py", "settings.py"}


def records():
    """All option records, those inside others and the recipe included."""
    known = set()
    waiting = list(ALL.values())
    while waiting:
        record = waiting.pop()
        if record not in known:
            known.add(record)
            waiting += [hint for hint in typing.get_type_hints(record).values() if dataclasses.is_dataclass(hint)]
    return sorted(known, key=lambda record: record.__name__)


@pytest.mark.parametrize("record", ALL.values())
def test_every_option_has_help_and_a_default_within_its_limits(record):
    known = options(record)
    assert known or record is NoOptions
    for option in known.values():
        assert option.metadata["help"].endswith((".", ")"))
    defaults = {name: option.default for name, option in known.items()}
    built, made = build(record, defaults), record()
    assert getattr(built, "of_command", built) == getattr(made, "of_command", made)


@pytest.mark.parametrize("record", [*COMMANDS.values(), Recipe])
def test_every_default_plug_in_exists(record):
    for option in options(record).values():
        if "plugins" in option.metadata:
            assert option.default.replace("-", "_") in plugins.names(option.metadata["plugins"])


@pytest.mark.parametrize("record", records())
def test_every_field_is_used_somewhere(record):
    sources = [path for path in PACKAGE.rglob("*.py") if path.name not in FILLING]
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    unused = [field.name for field in dataclasses.fields(record) if not re.search(rf"\.{field.name}\b", text)]
    assert not unused


def test_what_may_stand_at_the_top_of_wsplf_toml_means_the_same_in_every_command():
    for name in SHARED:
        owners = [options(record)[name] for record in COMMANDS.values() if name in options(record)]
        assert len(owners) > 1
        assert len({(option.kind, option.default) for option in owners}) == 1
