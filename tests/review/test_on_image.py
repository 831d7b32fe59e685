"""Which annotations lie on the first plane of an image, inside its borders."""

from uuid import uuid4

import pytest
from shapely import LineString, MultiPolygon, Point, Polygon, box

from wsplf_cli.errors import SlideError
from wsplf_cli.review.on_image import on_image, require_on_image
from wsplf_cli.schema import Annotation, Plane

INSIDE, PARTLY, OUTSIDE = box(10, 10, 50, 50), box(1000, 10, 1100, 50), box(2000, 10, 2100, 50)


def drawn(shape, **fields):
    return Annotation(uuid4(), shape, "Tumor", **fields)


@pytest.fixture
def entry(make_entry):
    return make_entry("a.tif")  # 1024 x 768


def test_an_annotation_inside_is_kept_as_it_is_and_one_at_the_border_is_clipped(entry):
    inside, partly, outside = map(drawn, (INSIDE, PARTLY, OUTSIDE))
    placed = on_image([inside, partly, outside], entry)
    assert placed.annotations[0] is inside
    assert placed.annotations[1].id == partly.id
    assert placed.annotations[1].shape.equals(box(1000, 10, 1024, 50))
    assert (placed.outside, placed.partly_outside, len(placed.annotations)) == (1, 1, 2)
    assert placed.left_out == "1 outside the image"


@pytest.mark.parametrize(
    ("shape", "places"),
    [
        (box(1024, 0, 1100, 100), (1, 0)),  # only touches
        (box(-0.5, 0, 10, 10), (0, 0)),  # the rounding of a drawing at the border
        (MultiPolygon([INSIDE, OUTSIDE]), (0, 1)),
        (Point(5, 5), (0, 0)),
        (Point(-5, 5), (1, 0)),
        (LineString([(-50, 5), (50, 5)]), (0, 1)),
        (LineString([(-50, 5), (-5, 5)]), (1, 0)),
        (Polygon([(1000, 0), (1100, 100), (1100, 0), (1000, 100)]), (0, 1)),  # crosses itself
    ],
    ids=str,
)
def test_every_kind_of_shape_has_a_place(entry, shape, places):
    placed = on_image([drawn(shape)], entry)
    assert (placed.outside, placed.partly_outside) == places


def test_nothing_is_outside_an_image_of_unknown_size(make_entry):
    placed = on_image([drawn(OUTSIDE)], make_entry(width_px0=0, height_px0=0))
    assert (placed.outside, placed.partly_outside, len(placed.annotations)) == (0, 0, 1)


@pytest.mark.parametrize("plane", [Plane(z=1), Plane(t=1), Plane(c=2, z=3)], ids=str)
def test_other_planes_are_left_out(make_entry, plane):
    stack = make_entry("stack", z_slices=4, time_points=2)
    placed = on_image([drawn(INSIDE, plane=plane)], stack)
    assert (placed.annotations, placed.other_planes, placed.missing_planes) == ((), 1, 0)
    assert "another plane" in placed.left_out


def test_a_shape_of_one_channel_counts_as_one_of_the_whole_image(entry):
    placed = on_image([drawn(INSIDE, plane=Plane(c=0))], entry)
    assert (len(placed.annotations), placed.left_out) == (1, "")


@pytest.mark.parametrize("plane", [Plane(z=1), Plane(z=-1), Plane(t=1), Plane(c=3), Plane(c=-2)], ids=str)
def test_planes_that_the_image_lacks_are_counted(entry, plane):
    assert on_image([drawn(INSIDE, plane=plane)], entry).missing_planes == 1


def test_annotations_of_another_slide_are_refused(entry):
    with pytest.raises(
        SlideError, match=r"there: none of its annotations lies in a.tif: 2 outside the image"
    ) as caught:
        require_on_image([drawn(OUTSIDE), drawn(box(3000, 0, 4000, 9))], entry, "there")
    assert "belong to this slide" in caught.value.hint
    assert require_on_image([], entry, "there").annotations == ()
