"""What is remembered of deletions from run to run, in the files of a real project."""

from dataclasses import replace
from uuid import uuid4

import pytest
from qupath_objects import delete_annotations
from shapely import box, union_all

from wsplf_cli.backends.embedded import open_project
from wsplf_cli.errors import ProjectError
from wsplf_cli.options import ProjectOptions
from wsplf_cli.qupath import geojson
from wsplf_cli.review.memory import read_review, write_polygons
from wsplf_cli.schema import Annotation

DELETED, LEFT = box(100, 100, 300, 300), box(500, 100, 600, 200)


def polygon(shape, run_id="1", **fields):
    return Annotation(uuid4(), shape, **({"path_class": "Tumor", "origin": "pseudolabel", "run_id": run_id} | fields))


@pytest.fixture
def stage(tiny_project, recorder):
    """Runs of a stage on the first entry of a project."""

    class Stage:
        folder = tiny_project.parent

        def project(self):
            return open_project(tiny_project, ProjectOptions())

        def review(self, path_class="Tumor"):
            project = self.project()
            return read_review(project, project.entries()[0], path_class, recorder)

        def run(self, *shapes, run_id, path_class="Tumor"):
            polygons = [polygon(shape, run_id, path_class=path_class) for shape in shapes]
            review = self.review(path_class)
            write_polygons(self.project(), review, annotations=polygons, origin="pseudolabel", run_id=run_id)

        def delete(self, shape):
            project = self.project()
            delete_annotations(project, "1", [one.id for one in project.annotations("1") if one.shape.equals(shape)])

    return Stage()


def refused(review):
    return union_all(list(review.regions.negative))


def test_a_deletion_is_still_known_after_the_next_runs(stage):
    stage.run(DELETED, LEFT, run_id="1")
    stage.delete(DELETED)
    for run_id in ("2", "3"):
        stage.run(LEFT, run_id=run_id)
        assert refused(stage.review()).equals(DELETED)
    (kept,) = geojson.read(stage.folder / "wsplf" / "removed" / "1.geojson")
    assert (kept.path_class, kept.name) == ("Tumor", "removed in review")


def test_what_a_run_itself_takes_away_is_no_deletion(stage):
    stage.run(DELETED, LEFT, run_id="1")
    stage.run(LEFT, run_id="2")
    assert stage.review().removed == {}
    assert not (stage.folder / "wsplf" / "removed").exists()


def test_drawing_there_takes_a_deletion_back(stage):
    stage.run(DELETED, LEFT, run_id="1")
    stage.delete(DELETED)
    stage.run(LEFT, run_id="2")
    stage.project().replace("1", origin="human", annotations=[replace(polygon(DELETED), origin="human")])
    review = stage.review()
    assert refused(review).is_empty
    assert [shape.equals(DELETED) for shape in review.regions.positive] == [True]


def test_a_deletion_concerns_its_own_class(stage):
    stage.run(DELETED, LEFT, run_id="1")
    stage.delete(DELETED)
    stage.run(box(700, 500, 800, 600), run_id="2", path_class="Stroma")
    stage.run(LEFT, run_id="3")
    assert refused(stage.review()).equals(DELETED)
    assert refused(stage.review("Stroma")).is_empty


def test_an_unreadable_memory_stops_with_what_to_do(stage):
    stage.run(DELETED, LEFT, run_id="1")
    stage.delete(DELETED)
    stage.run(LEFT, run_id="2")
    (stage.folder / "wsplf" / "removed" / "1.geojson").write_text("{", encoding="utf-8")
    with pytest.raises(ProjectError, match=r"1\.geojson"):
        stage.review()
