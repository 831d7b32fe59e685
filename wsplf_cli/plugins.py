"""A file name is an option value: what is in a plug-in folder, and how to load one of it."""

import importlib
import importlib.util
import pkgutil
from types import ModuleType

from wsplf_cli.errors import ConfigError


def names(package: str) -> list[str]:
    """Sorted names of the plug-ins in a package such as ``"heads"``, without importing any of them."""
    spec = importlib.util.find_spec(f"wsplf_cli.{package}")
    assert spec is not None
    folder = spec.submodule_search_locations
    return sorted(info.name for info in pkgutil.iter_modules(folder) if not info.name.startswith("_"))


def load(package: str, name: str) -> ModuleType:
    """The module ``wsplf_cli.PACKAGE.NAME``.

    Raises:
        ConfigError: no such plug-in; the hint lists those that exist.
    """
    module_name = name.replace("-", "_")
    known = names(package)
    if module_name not in known:
        shown = ", ".join(entry.replace("_", "-") for entry in known)
        raise ConfigError(f"unknown {package.rpartition('.')[2].rstrip('s')} {name!r}", hint=f"choose one of: {shown}")
    return importlib.import_module(f"wsplf_cli.{package}.{module_name}")
