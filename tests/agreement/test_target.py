"""The files of the merged project: where its slides are, and where it may be written."""

import pytest
from readers import base_project, copies_of, square

from wsplf_cli.agreement.target import target_path
from wsplf_cli.backends.embedded import open_project
from wsplf_cli.commands.agree import agree
from wsplf_cli.errors import ProjectError
from wsplf_cli.options import AgreeOptions, ProjectOptions
from wsplf_cli.schema import Silent


@pytest.fixture
def copies(tiny_slide, tmp_path):
    """Two copies of a project beside the folder of its slide, in a study that was moved from /srv/old."""
    study = tmp_path / "study"
    (study / "slides").mkdir(parents=True)
    slide = study / "slides" / "slide.tif"
    slide.write_bytes(tiny_slide.read_bytes())
    base = base_project(study / "base", slide, {"A": square(0, 0)})
    for path in (base, base.parent / "data" / "1" / "server.json"):
        path.write_text(path.read_text().replace(study.as_posix(), "/srv/old"))
    copies = copies_of(base, study, ["one", "two"])
    for copy in copies:
        copy.accept("A")
    return copies


def test_the_slides_of_the_merged_project_are_where_they_were_found(copies, tmp_path):
    out = tmp_path / "far" / "away" / "from" / "the" / "study"
    agree([copy.open() for copy in copies], AgreeOptions(merge=out), Silent())
    project = open_project(target_path(out), ProjectOptions())
    (entry,) = project.entries()
    assert entry.slide_path == tmp_path / "study" / "slides" / "slide.tif"
    assert "/srv/old" not in project.path.read_text()
    assert "/srv/old" not in (project.folder / "data" / "1" / "server.json").read_text()


def test_a_folder_means_the_project_file_in_it(tmp_path):
    assert target_path(tmp_path / "merged") == tmp_path / "merged" / "project.qpproj"
    assert target_path(tmp_path / "study.qpproj") == tmp_path / "study.qpproj"


def test_a_folder_in_the_way_of_the_project_file_is_refused(copies, tmp_path):
    (tmp_path / "merged.qpproj").mkdir()
    with pytest.raises(ProjectError, match="already exists"):
        agree([copy.open() for copy in copies], AgreeOptions(merge=tmp_path / "merged.qpproj"), Silent())


def test_pixel_classifiers_and_scripts_come_along(copies, tmp_path):
    for name in ("classifiers/pixel_classifiers/own.json", "scripts/own.groovy"):
        path = copies[0].path.parent / name
        path.parent.mkdir(parents=True)
        path.write_text("own")
    agree([copy.open() for copy in copies], AgreeOptions(merge=tmp_path / "merged"), Silent())
    assert (tmp_path / "merged" / "classifiers" / "pixel_classifiers" / "own.json").read_text() == "own"
    assert (tmp_path / "merged" / "scripts" / "own.groovy").read_text() == "own"


def test_a_folder_that_cannot_be_made_is_one_clear_line(copies, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ProjectError, match="cannot write"):
        agree([copy.open() for copy in copies], AgreeOptions(merge=tmp_path / "file" / "merged"), Silent())
