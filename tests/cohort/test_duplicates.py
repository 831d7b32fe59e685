"""Which annotations of a file an entry does not have yet."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
from shapely import MultiPolygon, Point, Polygon, box

from wsplf_cli.cohort.duplicates import new_annotations
from wsplf_cli.errors import SlideError
from wsplf_cli.qupath.shapes import ellipse
from wsplf_cli.schema import Annotation, Entry, Plane

SHAPE = Polygon([(0, 0), (50, 3), (40, 60)])


def _annotation(*, has_id: bool, **fields: Any) -> Annotation:
    return Annotation(uuid4(), **({"shape": SHAPE, "path_class": "Tumor", "name": "a", "has_id": has_id} | fields))


@pytest.fixture
def new(make_entry: Callable[..., Entry]) -> Callable[[list[Annotation], list[Annotation]], list[Annotation]]:
    return lambda incoming, existing: new_annotations(incoming, existing, make_entry("a.svs"))


@pytest.mark.parametrize(("incoming_has_id", "existing_has_id"), [(False, False), (True, False), (False, True)])
def test_without_qupaths_ids_an_annotation_is_known_by_its_content(
    new: Any, incoming_has_id: bool, existing_has_id: bool
) -> None:
    there = _annotation(has_id=existing_has_id, locked=True, measurements={"a": 1.0})
    same = _annotation(has_id=incoming_has_id, shape=Polygon([(40.01, 60), (50, 2.99), (0, 0)]))
    others = [
        replace(same, id=uuid4(), **change)
        for change in ({"path_class": None}, {"name": ""}, {"plane": Plane(-1, 1, 0)}, {"shape": box(0, 0, 50, 60)})
    ]
    assert new([same, *others], [there]) == others


def test_with_qupaths_ids_on_both_sides_equal_content_is_another_annotation(new: Any) -> None:
    there, incoming = _annotation(has_id=True), _annotation(has_id=True)
    assert new([incoming], [there]) == [incoming]


def test_one_existing_annotation_stands_for_one_of_the_file(new: Any) -> None:
    there = [_annotation(has_id=False) for _ in range(2)]
    incoming = [_annotation(has_id=False) for _ in range(3)]
    assert new(incoming, there[:1]) == incoming[1:]
    assert new(incoming, there) == incoming[2:]
    assert new(incoming, [*there, _annotation(has_id=False)]) == []


def test_annotation_that_is_known_by_its_id_stands_for_no_other(new: Any) -> None:
    there, incoming = _annotation(has_id=False), _annotation(has_id=False)
    assert new([incoming, there], [there]) == [incoming]


def test_another_state_of_the_same_id_is_refused_though_an_equal_one_is_there(new: Any) -> None:
    there, equal = _annotation(has_id=False, path_class="Stroma"), _annotation(has_id=False)
    with pytest.raises(SlideError, match="with another class"):
        new([replace(there, path_class="Tumor")], [there, equal])


def test_ellipse_is_known_in_the_polygon_that_old_versions_write_of_it(new: Any) -> None:
    bounds = (10.123, 20, 4_010.5, 900)
    marked = _annotation(has_id=False, shape=ellipse(bounds), roi="EllipseROI")
    polygon = _annotation(has_id=False, shape=ellipse(bounds, vertices=100))
    larger = _annotation(has_id=False, shape=ellipse((10.123, 20, 4_010.5, 900.1), vertices=100))
    cut = _annotation(has_id=False, shape=ellipse(bounds, vertices=100) - box(500, 0, 600, 100))
    assert new([polygon, larger, cut], [marked]) == [larger, cut]
    assert new([marked], [polygon]) == []


def test_shapes_of_every_kind_are_known_among_many(new: Any) -> None:
    shapes = [box(n, 0, n + 1, 1) for n in range(300)] + [
        Point(1.004, 2),
        Polygon(),
        MultiPolygon([SHAPE, box(90, 90, 99, 99)]),
    ]
    there = [_annotation(has_id=False, shape=shape) for shape in shapes]
    incoming = [_annotation(has_id=True, shape=shape) for shape in shapes]
    assert [annotation.shape for annotation in new(incoming, there)] == [Polygon()]
    assert new(incoming, []) == incoming


@pytest.mark.parametrize("spelling", ["tumor:necrotic", " Tumor: Necrotic", "TUMOR: NECROTIC"])
@pytest.mark.parametrize("has_id", [True, False])
def test_a_class_in_another_spelling_is_no_difference(new: Any, spelling: str, *, has_id: bool) -> None:
    stored = _annotation(has_id=has_id, path_class="Tumor: Necrotic")
    incoming = replace(stored, id=stored.id if has_id else uuid4(), path_class=spelling)
    assert new([incoming], [stored]) == []
