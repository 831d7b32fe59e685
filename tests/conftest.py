"""What several test files need: the shared data, a small slide, a small project."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: tests are small, and threads only wait


import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from shared_folder import SHARED

from wsplf_cli.qupath.create import Image, create_project
from wsplf_cli.schema import Entry, PathClass, SlideLabel
from wsplf_cli.synthetic.pyramid import write_pyramid


@pytest.fixture(scope="session", autouse=True)
def cache_of_user() -> Iterator[Path]:
    """What wsplf keeps for the user goes into a folder of this session, for the commands that tests start too."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", folder)
        yield Path(folder)


@pytest.fixture(scope="session")
def shared_data():
    """The shared data folder, for tests marked ``shared``."""
    if not SHARED.is_dir():
        pytest.skip(f"no shared data at {SHARED} (set WSPLF_SHARED_DATA)")
    return SHARED


@pytest.fixture(scope="session")
def tiny_slide(tmp_path_factory):
    """A pyramidal TIFF of 1024 x 768 pixels at 0.5 um/px: one pink piece of tissue with dark dots on white."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[0:768, 0:1024]
    tissue = ((columns - 500) / 380) ** 2 + ((rows - 380) / 280) ** 2 < 1
    rgb = np.full((768, 1024, 3), 244, np.uint8)
    rgb[tissue] = (222, 150, 190)
    dots = tissue & (rng.random(tissue.shape) < 0.2)
    rgb[dots] = (92, 60, 140)
    path = tmp_path_factory.mktemp("slides") / "tiny slide ü.tif"
    write_pyramid(path, rgb, mpp=0.5)
    return path


@pytest.fixture
def tiny_project(tmp_path, tiny_slide):
    """A QuPath project with three entries on the tiny slide: positive.tif, negative.tif and unlabelled.tif."""
    labels = {"positive.tif": {"label": "tumor"}, "negative.tif": {"label": "normal"}, "unlabelled.tif": {}}
    levels = [(1.0, 1024, 768), (4.0, 256, 192), (16.0, 64, 48)]
    images = [Image(tiny_slide, name, 1024, 768, 0.5, levels, metadata) for name, metadata in labels.items()]
    return create_project(tmp_path / "project", images, classes=[PathClass("Tumor", (200, 0, 0))])


@pytest.fixture
def make_entry():
    """Entries with ids 1, 2, ...; the label is the slide label itself, the word only metadata."""
    count = 0

    def make(name="a.tif", *, word=None, tags=(), label=None, **fields):
        nonlocal count
        count += 1
        metadata = dict(fields.pop("metadata", {}))
        if word is not None:
            metadata["label"] = word
        resolved = None if label is None else SlideLabel(frozenset(label))
        defaults = {"slide_path": None, "width_px0": 1024, "height_px0": 768, "mpp": 0.5, "mpp_source": "test"}
        return Entry(str(count), name, **(defaults | fields), label=resolved, metadata=metadata, tags=tuple(tags))

    return make


class MemoryProject:
    """A project that is only a folder and entries; remembers the metadata that was set."""

    def __init__(self, folder, entries=()):
        self.folder = folder
        self.path = folder / "project.qpproj"
        self.version = "0.6.0"
        self.listed = list(entries)
        self.metadata = {}

    def entries(self):
        return list(self.listed)

    def annotations(self, entry_id):
        return []

    def set_metadata(self, values):
        self.metadata |= values


@pytest.fixture
def memory_project(tmp_path):
    """Makes a project of given entries that needs no files."""
    return lambda entries=(): MemoryProject(tmp_path, entries)


@pytest.fixture
def slides(tmp_path, tiny_slide):
    """A folder with two slides, in a folder below it a third, a broken one and a text."""
    folder = tmp_path / "slides"
    (folder / "below").mkdir(parents=True)
    for name in ("a.tif", "b.tif", "below/c.tif"):
        shutil.copy(tiny_slide, folder / name)
    (folder / "broken.svs").write_bytes(b"no slide")
    (folder / "notes.txt").write_text("no slide either")
    return folder


class Recorder:
    """A Tracker that remembers what it was told."""

    def __init__(self):
        self.said = []
        self.steps = 0
        self.started = []

    def start(self, name, total):
        self.started.append((name, total))

    def advance(self, steps=1, message=""):
        self.steps += steps

    def say(self, message):
        self.said.append(message)


@pytest.fixture
def recorder():
    return Recorder()
