"""How the classes of what is written are spelled, and which polygons are not written again, for every backend."""

from collections.abc import Callable
from dataclasses import replace
from uuid import uuid4

import pytest
from shapely import box

from wsplf_cli.backends import Project
from wsplf_cli.schema import Annotation, Origin, PathClass, Replaced

SQUARE = box(100, 100, 300, 300)
Open = Callable[..., Project]


def _own(*, path_class: str) -> Annotation:
    return Annotation(uuid4(), SQUARE, path_class, run_id="r1")


@pytest.mark.parametrize("origin", ["pseudolabel", "prediction"])
def test_wsplfs_polygons_have_the_spelling_of_the_projects_class(open_: Open, origin: Origin) -> None:
    open_().replace("1", origin=origin, annotations=[_own(path_class="TUMOR")])
    (annotation,) = open_().annotations("1")
    assert (annotation.path_class, annotation.edited) == ("Tumor", False)
    assert open_().path_classes() == [PathClass("Tumor", (200, 0, 0))]


def test_a_persons_spelling_of_a_class_is_kept(open_: Open) -> None:
    open_().add("1", [Annotation(uuid4(), SQUARE, "tumor"), Annotation(uuid4(), SQUARE, "Tumor: necrotic")])
    assert [annotation.path_class for annotation in open_().annotations("1")] == ["tumor", "Tumor: necrotic"]


def test_a_decided_polygon_is_not_drawn_again_in_another_spelling_of_its_class(open_: Open) -> None:
    open_().replace("1", origin="pseudolabel", annotations=[_own(path_class="NeW")])
    (written,) = open_().annotations("1")
    accepted = replace(written, metadata={**written.metadata, "wsplf.review": "accepted"})
    project = open_()
    project.replace("1", origin="pseudolabel", annotations=[])
    project.add("1", [accepted])
    assert open_().replace("1", origin="pseudolabel", annotations=[_own(path_class="new")]) == Replaced(0, 0, 1)
