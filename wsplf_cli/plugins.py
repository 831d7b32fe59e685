"""Plug-ins: the modules of a package are the values of an option, by their names."""

import importlib
import importlib.util
import pkgutil
from types import ModuleType

from wsplf_cli.errors import ConfigError


def names(package: str) -> list[str]:
    """The sorted module names of the plug-ins in a package such as ``"weak.heads"``; none of them is imported."""
    spec = importlib.util.find_spec(f"wsplf_cli.{package}")
    assert spec is not None
    folder = spec.submodule_search_locations
    return sorted(info.name for info in pkgutil.iter_modules(folder) if not info.name.startswith("_"))


def load(package: str, name: str) -> ModuleType:
    """The module ``wsplf_cli.PACKAGE.NAME``.

    Raises:
        ConfigError: there is no such plug-in; the hint lists those that exist.
    """
    module_name = name.replace("-", "_")
    known = names(package)
    if module_name not in known:
        kind = package.rpartition(".")[2].removesuffix("s")
        choices = ", ".join(plug_in.replace("_", "-") for plug_in in known)
        raise ConfigError(f"unknown {kind} {name!r}", hint=f"choose one of: {choices}")
    return importlib.import_module(f"wsplf_cli.{package}.{module_name}")
