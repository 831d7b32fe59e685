"""The tiny project through each backend."""

import importlib.util
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import shapely

from wsplf_cli import plugins
from wsplf_cli.backends import Project, paquo
from wsplf_cli.options import ProjectOptions
from wsplf_cli.qupath import qpdata
from wsplf_cli.schema import PathObject

Open = Callable[..., Project]


def _backends() -> Iterator[Any]:
    for name in plugins.names("backends"):
        yield pytest.param(name, marks=[pytest.mark.qupath] if name == "paquo" else [])


@pytest.fixture(scope="session")
def qupath() -> Iterator[paquo.Link]:
    """One real QuPath for all tests, since it takes seconds to start."""
    if not os.environ.get("PAQUO_QUPATH_DIR"):
        pytest.skip("no QuPath: PAQUO_QUPATH_DIR is not set")
    if importlib.util.find_spec("paquo") is None:
        pytest.skip("paquo is not installed")
    link = paquo.Link()
    yield link
    link.close()


@pytest.fixture(params=_backends())
def open_(request: pytest.FixtureRequest, tiny_project: Path, monkeypatch: pytest.MonkeyPatch) -> Open:
    """Opens the tiny project anew with one backend."""
    backend = plugins.load("backends", request.param)
    if request.param == "paquo":
        link = request.getfixturevalue("qupath")
        monkeypatch.setattr(backend, "Link", lambda: link)
    return lambda **options: backend.open_project(tiny_project, ProjectOptions(**options))


@pytest.fixture
def content(request: pytest.FixtureRequest, open_: Open) -> Callable[[Path], object]:
    """What a data file holds, to compare: its bytes, or its objects where QuPath itself writes the file anew."""
    if request.node.callspec.params["open_"] != "paquo":
        return Path.read_bytes

    def objects(path: Path) -> object:
        def plain(one: PathObject) -> PathObject:
            rounded = shapely.normalize(shapely.set_precision(one.shape, 0.01))
            return replace(one, shape=rounded, id=UUID(int=0), parent=None)

        found = [plain(item) for item in qpdata.loads(path.read_bytes()).objects()]
        return found[1:]  # QuPath gives the root an id

    return objects
