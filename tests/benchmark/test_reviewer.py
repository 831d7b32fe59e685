"""The simulated reviewer: what it decides, and that its decisions look like a person's."""

from uuid import uuid4

import numpy as np
import pytest
from shapely import MultiPolygon, box
from shapely.geometry import MultiPolygon as Parts

from wsplf_cli.backends.embedded import open_project
from wsplf_cli.benchmark.reviewer import PendingPolygon, Reviewer, decide
from wsplf_cli.errors import SlideError
from wsplf_cli.options import ProjectOptions
from wsplf_cli.review.memory import read_review, write_polygons
from wsplf_cli.review.order import least_certain
from wsplf_cli.schema import REJECTED_RGB, Annotation

GLAND = box(100, 100, 200, 200)
MPP = 0.5


@pytest.fixture
def decided(make_entry):
    """What is decided on a polygon, with the truth of its slide, at 0.5 um per pixel."""

    def decide_shape(shape, truth):
        polygon = Annotation(uuid4(), shape, "Tumor", origin="pseudolabel", run_id="run", locked=False)
        return decide(PendingPolygon(make_entry(), polygon, MPP), truth)

    return decide_shape


def test_a_polygon_that_fits_is_accepted_as_it_is(decided):
    decision, annotation = decided(box(100, 100, 200, 160), GLAND)
    assert decision == "accepted"
    assert annotation.shape.equals(box(100, 100, 200, 160))
    assert (annotation.review, annotation.locked, annotation.metadata["wsplf.review"]) == ("accepted", True, "accepted")


def test_other_tumour_of_the_slide_does_not_matter(decided):
    truth = MultiPolygon([GLAND, box(600, 600, 1000, 1000)])
    assert decided(GLAND, truth)[0] == "accepted"


def test_a_polygon_with_hardly_any_tumour_is_rejected_in_its_shape(decided):
    shape = box(191, 100, 291, 200)
    decision, annotation = decided(shape, GLAND)
    assert decision == "rejected"
    assert annotation.shape.equals(shape)
    assert (annotation.review, annotation.rgb, annotation.locked) == ("rejected", REJECTED_RGB, False)
    assert decided(shape, MultiPolygon())[0] == "rejected"


def test_a_polygon_that_is_partly_right_is_redrawn_as_the_gland_that_it_shows(decided):
    beside = box(215, 100, 300, 130)  # tumour near the polygon, which it does not show
    decision, annotation = decided(box(180, 130, 210, 200), MultiPolygon([GLAND, beside]))
    assert decision == "redrawn"
    assert annotation.shape.equals(GLAND)
    assert (annotation.review, annotation.locked) == ("accepted", True)


def test_a_redrawn_outline_ends_near_the_polygon(decided):
    sheet = box(0, 0, 4000, 400)
    _, annotation = decided(box(0, 0, 100, 400), sheet)
    assert annotation.shape.area == pytest.approx(300 * 400, rel=0.02)  # 200 px are 100 um


def test_two_glands_in_one_polygon_stay_two_pieces(decided):
    truth = MultiPolygon([box(0, 0, 40, 40), box(80, 0, 120, 40)])
    decision, annotation = decided(box(0, 0, 120, 120), truth)
    assert decision == "redrawn"
    assert isinstance(annotation.shape, Parts)
    assert annotation.shape.equals(truth)


@pytest.fixture
def reviewed_project(tiny_project, recorder):
    """A project whose positive slide has four pseudo-labels, and the review of it."""
    project = open_project(tiny_project, ProjectOptions())
    entries = project.entries()
    shapes = [GLAND, box(300, 300, 400, 400), box(500, 100, 600, 400), box(700, 100, 760, 160)]
    polygons = [
        Annotation(uuid4(), shape, "Tumor", run_id="run", measurements={"wsplf: confidence": confidence})
        for shape, confidence in zip(shapes, (0.5, 0.6, 0.7, 0.8), strict=True)
    ]
    review = read_review(project, entries[0], ["Tumor"], recorder)
    write_polygons(project, review, annotations=polygons, origin="pseudolabel", run_id="run")
    return project, polygons


def run_review(project, read_truth, *, decisions):
    rng = np.random.default_rng(0)
    return Reviewer("Tumor", read_truth).review(project, project.entries(), least_certain, decisions=decisions, rng=rng)


def test_the_decisions_come_back_from_the_project_in_the_roles_of_a_persons_review(
    reviewed_project, tiny_project, recorder
):
    project, polygons = reviewed_project
    truth = MultiPolygon([GLAND, box(500, 100, 530, 400)])
    reviewed = run_review(project, lambda entry: truth, decisions=3)
    assert reviewed.decisions == {"accepted": 1, "rejected": 1, "redrawn": 1}
    assert reviewed.pending == 1
    reopened = open_project(tiny_project, ProjectOptions())
    entry = reopened.entries()[0]
    by_id = {annotation.id: annotation for annotation in reopened.annotations(entry.id)}
    assert [by_id[polygon.id].review for polygon in polygons] == ["accepted", "rejected", "accepted", "pending"]
    assert [by_id[polygon.id].edited for polygon in polygons] == [False, False, True, False]
    assert all(annotation.origin == "pseudolabel" for annotation in by_id.values())
    regions = read_review(reopened, entry, ["Tumor"], recorder).of("Tumor")
    assert sorted(shape.area for shape in regions.positive) == pytest.approx([30 * 300, 100 * 100])
    # what was rejected, and what was cut off the redrawn polygon
    assert sorted(shape.area for shape in regions.negative) == pytest.approx([100 * 100, 70 * 300])
    assert [confidence for _, confidence in regions.pending] == [0.8]


def test_no_polygon_is_decided_twice_and_nothing_is_decided_when_nothing_is_pending(reviewed_project):
    project, _ = reviewed_project
    first = run_review(project, lambda entry: GLAND, decisions=3)
    second = run_review(project, lambda entry: GLAND, decisions=3)
    third = run_review(project, lambda entry: GLAND, decisions=3)
    assert [reviewed.decisions.total() for reviewed in (first, second, third)] == [3, 1, 0]


def test_a_slide_without_truth_is_left_alone_and_named(reviewed_project):
    project, polygons = reviewed_project

    def damaged(entry):
        raise SlideError(f"{entry.name}: two truths")

    for read_truth, reason in ((lambda entry: None, "no truth for it"), (damaged, "two truths")):
        reviewed = run_review(project, read_truth, decisions=3)
        assert reviewed.problems == [f"positive.tif: not reviewed: {reason}"]
    assert {annotation.review for annotation in project.annotations(project.entries()[0].id)} == {"pending"}
    assert len(project.annotations(project.entries()[0].id)) == len(polygons)
