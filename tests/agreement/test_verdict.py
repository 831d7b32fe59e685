"""What becomes of a polygon in the merged project, for decisions that are rare."""

from dataclasses import replace
from uuid import uuid4

import pytest
from readers import base_project, copies_of, identifier, square

from wsplf_cli.backends.embedded import open_project
from wsplf_cli.commands.agree import agree
from wsplf_cli.options import AgreeOptions, ProjectOptions
from wsplf_cli.qupath import geojson
from wsplf_cli.runs.layout import removed_file
from wsplf_cli.schema import DISPUTED, Annotation, Silent, is_pending


@pytest.fixture
def copies(tiny_slide, tmp_path):
    shapes = {name: square(index, 0) for index, name in enumerate(("A", "B", "C"))}
    copies = copies_of(base_project(tmp_path / "base", tiny_slide, shapes), tmp_path, ["one", "two"])
    for copy in copies:
        copy.accept("C")  # both have read the slide
    return copies


@pytest.fixture
def merged(copies, tmp_path):
    """Merges the copies; gives the annotations of the result by id, and its project."""

    def make(**options):
        out = tmp_path / "merged"
        agree([copy.open() for copy in copies], AgreeOptions(merge=out, **options), Silent())
        project = open_project(out / "project.qpproj", ProjectOptions())
        return {annotation.id: annotation for annotation in project.annotations("1")}, project

    return make


def test_what_all_ignore_stays_ignored(copies, merged):
    for copy in copies:
        copy.change("A", path_class="Ignore*")
    assert merged()[0][identifier("A")].path_class == "Ignore*"


def test_ignored_by_one_and_accepted_by_the_other_is_disputed(copies, merged):
    copies[0].change("A", path_class="Ignore*")
    copies[1].accept("A")
    assert merged()[0][identifier("A")].path_class == DISPUTED


def test_what_both_gave_another_class_keeps_it(copies, merged):
    for copy in copies:
        copy.change("A", path_class="Stroma")
    annotation = merged()[0][identifier("A")]
    assert (annotation.path_class, annotation.edited) == ("Stroma", True)


def test_what_one_accepted_and_the_other_never_had_is_pending_again(copies, merged):
    metadata = {**copies[0].annotation("C").metadata, "wsplf.run": "later"}
    copies[0].open().add("1", [replace(copies[0].annotation("C"), id=identifier("new"), metadata=metadata)])
    annotation = merged()[0][identifier("new")]
    assert is_pending(annotation)
    assert annotation.path_class == "Tumor"


def test_what_both_deleted_is_rejected_in_grey(copies, merged):
    for copy in copies:
        copy.delete("A")
    annotation = merged()[0][identifier("A")]
    assert (annotation.review, annotation.rgb) == ("rejected", (140, 140, 140))
    assert annotation.shape.equals(square(0, 0))


def test_the_area_of_a_disputed_polygon_is_that_of_all_outlines_together(copies, merged):
    copies[0].edit("A", square(0, 0, side=20))
    copies[1].accept("A")
    annotation = merged()[0][identifier("A")]
    assert annotation.path_class == DISPUTED
    assert annotation.measurements["wsplf: area um^2"] == pytest.approx(60 * 60 * 0.25)


def test_a_disputed_polygon_that_both_accept_later_is_of_its_class_again(copies, merged, tmp_path):
    copies[0].accept("A")
    copies[1].reject("A")
    _, project = merged()
    again = copies_of(project.path, tmp_path, ["three", "four"])
    again[0].accept("A")
    again[1].change("A", path_class="Tumor")
    document = agree([copy.open() for copy in again], AgreeOptions(merge=tmp_path / "last"), Silent())
    (line,) = [line for line in document["polygons"] if line["id"] == str(identifier("A"))]
    assert line["decisions"] == {"three": "accepted", "four": "accepted"}
    last = open_project(tmp_path / "last" / "project.qpproj", ProjectOptions())
    annotation = next(one for one in last.annotations("1") if one.id == identifier("A"))
    assert annotation.path_class == "Tumor"


def test_deletions_that_earlier_runs_found_are_kept_if_enough_readers_have_them(copies, merged):
    both, one = Annotation(uuid4(), square(0, 2), "Tumor"), Annotation(uuid4(), square(1, 2), "Tumor")
    for copy, areas in zip(copies, ([both, one], [both]), strict=True):
        path = removed_file(copy.path.parent, "1")
        path.parent.mkdir()
        geojson.write(path, areas)
    _, project = merged()
    assert [area.id for area in geojson.read(removed_file(project.folder, "1"))] == [both.id]
