"""The folder of wsplf demo: what is made anew and what is left alone."""

from uuid import uuid4

import pytest
from shapely import box

from wsplf_cli.backends.embedded import open_project
from wsplf_cli.cohort.demo_folder import MARK, make_folder
from wsplf_cli.errors import ConfigError
from wsplf_cli.options import ProjectOptions
from wsplf_cli.schema import Annotation


def made_before(folder):
    """What is left of an earlier demo that was stopped early."""
    for name in ("slides", "truth"):
        (folder / name).mkdir(parents=True)
    (folder / MARK).write_text("")
    (folder / "slides" / "S99.tif").write_bytes(b"")
    (folder / "truth" / "S99.geojson").write_text("{}")
    return folder


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("thesis.docx", "it holds thesis.docx"),
        ("slides/mine.svs", "slides/mine.svs was added"),
        ("project/scripts/mine.groovy", "project/scripts was added"),
    ],
)
def test_leaves_a_folder_that_holds_something_else(tmp_path, name, words):
    out = made_before(tmp_path / "demo")
    mine = out / name
    mine.parent.mkdir(parents=True, exist_ok=True)
    mine.write_text("mine")
    with pytest.raises(ConfigError, match=words) as caught:
        make_folder(out)
    assert "--out" in caught.value.hint
    assert mine.read_text() == "mine"
    assert (out / "slides" / "S99.tif").exists()


def test_leaves_a_folder_that_it_did_not_make(tmp_path):
    (tmp_path / "slides").mkdir()
    with pytest.raises(ConfigError, match="it holds slides"):
        make_folder(tmp_path)
    assert (tmp_path / "slides").is_dir()


def test_does_not_follow_a_link_out_of_its_folder(tmp_path):
    out = made_before(tmp_path / "demo")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "S01.tif").write_text("mine")
    (out / "project").symlink_to(elsewhere)
    with pytest.raises(ConfigError, match="it holds project"):
        make_folder(out)
    assert (elsewhere / "S01.tif").read_text() == "mine"


def test_refuses_a_file_as_its_folder(tmp_path):
    (tmp_path / "a").write_text("mine")
    with pytest.raises(ConfigError, match="no folder"):
        make_folder(tmp_path / "a")


def test_keeps_what_a_person_drew_in_an_earlier_demo(tmp_path, tiny_project):
    (tmp_path / MARK).write_text("")
    project = open_project(tiny_project, ProjectOptions())
    entry = project.entries()[0]
    made = Annotation(uuid4(), box(10, 10, 200, 200), "Tumor", origin="prediction", review="accepted")
    project.replace(entry.id, origin="prediction", annotations=[made])
    with pytest.raises(ConfigError, match=f"a person annotated {entry.name}"):
        make_folder(tmp_path)
    assert open_project(tiny_project, ProjectOptions()).annotations(entry.id)
