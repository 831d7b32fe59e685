"""What a reader decided on a polygon, by what is in the reader's copy, and what follows from it."""

from dataclasses import replace

import pytest
from readers import base_project, copies_of, identifier, square
from shapely import Polygon, box

from wsplf_cli.agreement.decisions import decide
from wsplf_cli.agreement.match import Reader
from wsplf_cli.agreement.reading import read_class, read_entry
from wsplf_cli.schema import DESCRIPTION_KEY

NAMES = ("A", "B", "C")
SHAPES = {name: square(index, 0) for index, name in enumerate(NAMES)}


@pytest.fixture
def copies(tiny_slide, tmp_path):
    """Two copies of a project with three pseudo-labels."""
    return copies_of(base_project(tmp_path / "base", tiny_slide, SHAPES), tmp_path, ["one", "two"])


def polygons(*copies, rule="all"):
    readings = {}
    for index, copy in enumerate(copies):
        project = copy.open()
        entry = read_entry(Reader(str(index), project), project.entries()[0], ["Tumor"])
        if entry.read:
            readings[index] = read_class(entry, "Tumor")
    return {polygon.id: polygon for polygon in decide(readings, "Tumor", rule=rule, unit_um2=0.25)}


def decision(copy, name="A"):
    """What the reader of a copy decided on a polygon."""
    return polygons(copy)[identifier(name)].decisions[0]


def describe(copy):
    copy.change("A", metadata={**copy.annotation("A").metadata, DESCRIPTION_KEY: "sure"})


@pytest.mark.parametrize(
    ("act", "expected"),
    [
        (lambda copy: copy.accept("A"), "accepted"),
        (lambda copy: copy.change("A", locked=True), "accepted"),
        (lambda copy: copy.change("A", name="tumour 1"), "accepted"),
        (describe, "accepted"),
        (lambda copy: copy.change("A", path_class="Tumor: Necrotic"), "accepted"),
        (lambda copy: copy.mark_reviewed(), "accepted"),
        (lambda copy: copy.edit("A", square(0, 0, side=50)), "edited"),
        (lambda copy: copy.reject("A"), "rejected"),
        (lambda copy: copy.delete("A"), "deleted"),
        (lambda copy: copy.change("A", path_class="Stroma"), "other class"),
        (lambda copy: copy.change("A", path_class=None), "other class"),
        (lambda copy: copy.change("A", path_class="Ignore*"), "ignored"),
        (lambda copy: copy.accept("B"), "pending"),
    ],
)
def test_each_thing_that_a_reader_can_do_is_a_decision(copies, act, expected):
    act(copies[0])
    assert decision(copies[0]) == expected


def test_a_slide_on_which_nothing_was_decided_was_not_read(copies):
    assert polygons(*copies) == {}
    copies[0].draw("region", box(0, 0, 900, 700), path_class="Region*")
    assert polygons(*copies) == {}, "a region says nothing of the class"
    copies[0].draw("own", square(4, 1))
    assert polygons(*copies)[identifier("own")].decisions == {0: "drawn"}


def test_an_image_that_was_saved_over_the_run_rejects_nothing(copies):
    copies[0].delete(*NAMES)
    copies[0].draw("own", square(4, 1))
    copies[1].accept(*NAMES)
    assert polygons(*copies)[identifier("A")].decisions == {0: "absent", 1: "accepted"}
    copies[0].mark_reviewed()
    assert polygons(*copies)[identifier("A")].decisions == {0: "deleted", 1: "accepted"}


def test_what_all_deleted_is_still_known_from_what_the_run_wrote(copies):
    for copy in copies:
        copy.delete("A")
    polygon = polygons(*copies)[identifier("A")]
    assert (polygon.decisions, polygon.outcome) == ({0: "deleted", 1: "deleted"}, "rejected")
    assert polygon.original.shape.equals(SHAPES["A"])


def test_a_polygon_of_a_run_that_a_copy_never_had_is_no_vote(copies):
    annotation = replace(copies[0].annotation("A"), id=identifier("new"), run_id="later", shape=square(4, 1))
    metadata = {**annotation.metadata, "wsplf.run": "later", "wsplf.review": "accepted"}
    copies[0].open().add("1", [replace(annotation, metadata=metadata)])
    copies[1].accept("A")
    polygon = polygons(*copies)[identifier("new")]
    assert polygon.decisions[1] == "absent"
    assert polygon.outcome == "pending"


@pytest.mark.parametrize("act", [lambda copy: copy.reject("A"), lambda copy: copy.delete("A")])
def test_a_polygon_that_was_replaced_by_a_drawing_of_the_same_thing_is_redrawn(copies, act):
    copies[0].accept("A")
    act(copies[1])
    copies[1].draw("better", square(0, 0, side=58))
    result = polygons(*copies)
    polygon = result[identifier("A")]
    assert polygon.decisions == {0: "accepted", 1: "redrawn"}
    assert polygon.outcome == "accepted"
    assert identifier("better") not in result
    assert polygon.disputed_um2 == pytest.approx((60**2 - 58**2) * 0.25)


def test_a_drawing_of_something_else_there_is_a_polygon_of_its_own(copies):
    copies[0].accept("A")
    copies[1].reject("A")
    copies[1].draw("other", square(0, 0, side=30))
    result = polygons(*copies)
    assert result[identifier("A")].outcome == "disputed"
    assert result[identifier("other")].decisions == {0: "not drawn", 1: "drawn"}


def test_drawings_of_the_same_thing_are_one_polygon(copies):
    copies[0].draw("one", square(3, 1))
    copies[1].draw("two", square(3, 1, side=55))
    result = polygons(*copies)
    assert result[identifier("one")].decisions == {0: "drawn", 1: "drawn"}
    assert result[identifier("one")].outcome == "accepted"
    assert identifier("two") not in result


def test_what_somebody_drew_is_never_rejected_by_the_majority(copies, tmp_path):
    (third,) = copies_of(copies[0].path, tmp_path, ["three"])
    copies[0].draw("own", square(3, 1))
    for copy in (copies[1], third):
        copy.reject("A")
    polygon = polygons(*copies, third, rule="majority")[identifier("own")]
    assert polygon.decisions == {0: "drawn", 1: "not drawn", 2: "not drawn"}
    assert polygon.outcome == "disputed"


def test_a_drawing_over_what_another_left_pending_is_no_contradiction_of_that_reader(copies):
    copies[0].delete("A")
    copies[0].draw("mine", square(0, 0, side=50))
    copies[1].accept("B")
    polygon = polygons(*copies)[identifier("mine")]
    assert polygon.decisions == {0: "drawn", 1: "pending"}


def test_outlines_that_hardly_overlap_are_disputed(copies):
    copies[0].edit("A", square(0, 0, side=60))
    copies[0].accept("A")
    copies[1].edit("A", square(0, 0, side=30))
    polygon = polygons(*copies)[identifier("A")]
    assert polygon.outcome == "disputed"
    assert polygon.disputed_um2 == pytest.approx((60**2 - 30**2) * 0.25)


@pytest.mark.parametrize(
    ("acts", "rule", "outcome"),
    [
        (("accept", "accept", None), "all", "pending"),
        (("accept", "accept", None), "majority", "accepted"),
        (("accept", None, None), "majority", "pending"),
        (("reject", "reject", None), "majority", "rejected"),
        (("accept", "reject", None), "all", "disputed"),
        (("accept", "reject", None), "majority", "disputed"),
        (("accept", "reject", "reject"), "majority", "rejected"),
        (("reject", "reject", "delete"), "all", "rejected"),
    ],
)
def test_the_rule_says_how_many_must_decide(copies, tmp_path, acts, rule, outcome):
    readers = [*copies, *copies_of(copies[0].path, tmp_path, ["three"])]
    for copy, act in zip(readers, acts, strict=True):
        copy.accept("C")  # all have read the slide
        if act is not None:
            getattr(copy, act)("A")
    assert polygons(*readers, rule=rule)[identifier("A")].outcome == outcome


def test_a_drawn_polygon_that_cannot_be_valid_is_compared_by_its_area(copies):
    copies[0].draw("bow", Polygon([(600, 300), (660, 360), (660, 300), (600, 360)]))
    copies[1].accept("A")
    assert polygons(*copies)[identifier("bow")].disputed_um2 == pytest.approx(60 * 60 / 2 * 0.25)


def test_only_what_lies_on_the_image_counts(copies):
    copies[0].draw("edge", box(1000, 300, 1100, 400))  # the image is 1024 pixels wide
    copies[0].draw("outside", box(2000, 300, 2100, 400))
    copies[1].accept("A")
    result = polygons(*copies)
    assert result[identifier("edge")].disputed_um2 == pytest.approx(24 * 100 * 0.25)
    assert identifier("outside") not in result
