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
from wsplf_cli.review.regions import ReviewRegions
from wsplf_cli.schema import Annotation, Plane

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

        def review(self):
            project = self.project()
            return read_review(project, project.entries()[0], ["Tumor", "Stroma"], recorder)

        def run(self, *shapes, run_id, path_class="Tumor"):
            polygons = [polygon(shape, run_id, path_class=path_class) for shape in shapes]
            write_polygons(self.project(), self.review(), annotations=polygons, origin="pseudolabel", run_id=run_id)

        def delete(self, shape):
            project = self.project()
            delete_annotations(
                project, "1", [drawn.id for drawn in project.annotations("1") if drawn.shape.equals(shape)]
            )

    return Stage()


def negative(review, path_class="Tumor"):
    return union_all(list(review.of(path_class).negative))


def test_a_deletion_is_still_known_after_the_next_runs(stage):
    stage.run(DELETED, LEFT, run_id="1")
    stage.delete(DELETED)
    for run_id in ("2", "3"):
        stage.run(LEFT, run_id=run_id)
        assert negative(stage.review()).equals(DELETED)
    (remembered,) = geojson.read(stage.folder / "wsplf" / "removed" / "1.geojson")
    assert (remembered.path_class, remembered.name) == ("Tumor", "removed in review")


def test_what_a_run_itself_replaces_is_no_deletion(stage):
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
    assert negative(review).is_empty
    assert [shape.equals(DELETED) for shape in review.of("Tumor").positive] == [True]


def test_a_deletion_concerns_its_own_class(stage):
    stage.run(DELETED, LEFT, run_id="1")
    stage.delete(DELETED)
    stage.run(box(700, 500, 800, 600), run_id="2", path_class="Stroma")
    stage.run(LEFT, run_id="3")
    assert negative(stage.review()).equals(DELETED)
    assert negative(stage.review(), "Stroma").is_empty


def test_an_unreadable_memory_is_an_error_that_names_the_file(stage):
    stage.run(DELETED, LEFT, run_id="1")
    stage.delete(DELETED)
    stage.run(LEFT, run_id="2")
    (stage.folder / "wsplf" / "removed" / "1.geojson").write_text("{", encoding="utf-8")
    with pytest.raises(ProjectError, match=r"1\.geojson"):
        stage.review()


def test_a_class_that_was_not_asked_for_has_no_regions(stage):
    assert stage.review().of("Necrosis") == ReviewRegions()


def test_one_reading_gives_the_regions_of_every_class(stage):
    stage.project().replace("1", origin="human", annotations=[replace(polygon(DELETED), origin="human")])
    review = stage.review()
    assert [len(review.of(name).positive) for name in ("Tumor", "Stroma")] == [1, 0]
    assert [len(review.of(name).negative) for name in ("Tumor", "Stroma")] == [0, 1]
    assert review.entry_id == "1"
    assert len(review.annotations) == 1
    assert not review.complete


def test_an_image_that_was_saved_over_the_run_is_said_once_and_rejects_nothing(stage, recorder):
    stage.run(DELETED, LEFT, run_id="1")
    stage.delete(DELETED)
    stage.delete(LEFT)
    assert negative(stage.review()).is_empty
    (line,) = recorder.said
    assert "nothing is left of the 2 polygons" in line


def test_a_deletion_counts_for_the_class_in_every_spelling(stage):
    stage.run(DELETED, LEFT, run_id="1", path_class="tumor")
    stage.delete(DELETED)
    assert negative(stage.review()).equals(DELETED)
    stage.run(LEFT, run_id="2", path_class="TUMOR")
    assert negative(stage.review()).equals(DELETED)


def test_only_the_first_plane_is_reviewed_inside_the_image(stage, tiny_project, recorder):
    kept, other, past = (
        Annotation(uuid4(), shape, "Tumor", plane=plane)
        for shape, plane in [(LEFT, Plane(c=0)), (DELETED, Plane(z=1)), (box(1000, 0, 1100, 50), Plane())]
    )
    stage.project().add("1", [kept, other, past])
    review = stage.review()
    assert [annotation.id for annotation in review.annotations] == [kept.id, past.id]
    positive = review.of("Tumor").positive
    assert union_all(positive).equals(union_all([LEFT, box(1000, 0, 1024, 50)]))
    assert recorder.said == [
        "positive.tif: annotations left out: 1 on another plane than the first z-slice and time point"
    ]


def test_a_drawing_on_another_plane_does_not_bring_back_a_deleted_polygon(stage):
    stage.run(DELETED, LEFT, run_id="r1")
    stage.delete(DELETED)
    stage.project().add("1", [Annotation(uuid4(), DELETED, "Tumor", plane=Plane(z=1))])
    assert union_all(stage.review().of("Tumor").negative).equals(DELETED)


def test_a_polygon_of_ours_past_the_border_is_not_deleted_there(stage):
    stage.run(box(900, 100, 1040, 300), run_id="r1")
    assert stage.review().removed == {}
