"""What each thing that a person can do in QuPath is for training; all through the files of a real project."""

from dataclasses import replace
from uuid import uuid4

import pytest
from qupath_objects import delete_annotations
from shapely import MultiPolygon, box, union_all
from shapely.affinity import translate

from wsplf_cli.backends.embedded import open_project
from wsplf_cli.options import ProjectOptions
from wsplf_cli.review.regions import ReviewRegions, removed, review_regions
from wsplf_cli.schema import (
    DESCRIPTION_KEY,
    DISPUTED,
    DISPUTED_KEY,
    REVIEW_KEY,
    REVIEWED_KEY,
    Annotation,
    Entry,
)

SQUARE = box(100, 100, 300, 300)
OTHER = box(500, 100, 600, 200)


def polygon(shape=SQUARE, origin="pseudolabel", **fields):
    return Annotation(uuid4(), shape, **({"path_class": "Tumor", "origin": origin} | fields))


@pytest.fixture
def image(tiny_project):
    """An image of a project as a person in QuPath sees and changes it."""
    return Image(tiny_project)


class Image:
    def __init__(self, path):
        self.path = path
        self.written = []

    def project(self):
        return open_project(self.path, ProjectOptions())

    def run(self, *annotations, origin="pseudolabel"):
        """A stage writes these polygons."""
        self.project().replace("1", origin=origin, annotations=annotations)
        self.written = self.annotations()
        return self.written

    def annotations(self):
        return self.project().annotations("1")

    def change(self, annotation, **fields):
        """A person changes an annotation: its regions stay on it, as QuPath keeps them."""
        self.delete(annotation)
        self.draw(replace(annotation, **fields))

    def delete(self, annotation):
        delete_annotations(self.project(), "1", [annotation.id])

    def draw(self, *annotations):
        self.project().replace("1", origin="human", annotations=annotations)

    def regions(self, path_class="Tumor", *, reviewed=False):
        annotations = self.annotations()
        deleted = removed(self.written, annotations, path_class, reviewed=reviewed)
        return review_regions(annotations, path_class, removed=deleted or [], reviewed=reviewed)


def area(shapes):
    return union_all(list(shapes)).area


def is_only(regions, role, shape=SQUARE):
    """Whether the shape has this role, and no other role is given to anything in it."""
    pending = [pending_shape for pending_shape, _ in regions.pending]
    roles = {"positive": regions.positive, "pending": pending, "negative": regions.negative, "ignored": regions.ignored}
    covered = {name: union_all(list(shapes)).intersection(shape).area for name, shapes in roles.items()}
    return covered.pop(role) == pytest.approx(shape.area, rel=1e-3) and not any(covered.values())


def test_untouched_pseudo_label_is_pending_with_its_confidence(image):
    image.run(polygon(measurements={"wsplf: confidence": 0.4}))
    regions = image.regions()
    assert is_only(regions, "pending")
    assert regions.pending[0][1] == pytest.approx(0.4)


def test_untouched_prediction_teaches_nothing(image):
    image.run(polygon(origin="prediction"), origin="prediction")
    assert image.regions() == ReviewRegions()


@pytest.mark.parametrize("origin", ["pseudolabel", "prediction"])
def test_accepted_is_truth(image, origin):
    (annotation,) = image.run(polygon(origin=origin), origin=origin)
    image.change(annotation, metadata=dict(annotation.metadata) | {REVIEW_KEY: "accepted"}, locked=True)
    (after,) = image.annotations()
    assert (after.review, after.edited) == ("accepted", False)
    assert is_only(image.regions(), "positive")


@pytest.mark.parametrize("origin", ["pseudolabel", "prediction"])
def test_rejected_is_background(image, origin):
    (annotation,) = image.run(polygon(origin=origin), origin=origin)
    image.change(annotation, metadata=dict(annotation.metadata) | {REVIEW_KEY: "rejected"})
    assert is_only(image.regions(), "negative")


def test_moved_outline_is_truth_as_it_is_now(image):
    (annotation,) = image.run(polygon())
    bigger = box(100, 100, 320, 300)
    image.change(annotation, shape=bigger)
    assert is_only(image.regions(), "positive", bigger)


def test_part_that_was_cut_off_is_background(image):
    (annotation,) = image.run(polygon())
    image.change(annotation, shape=box(100, 100, 200, 300))
    regions = image.regions()
    assert is_only(regions, "positive", box(100, 100, 200, 300))
    assert is_only(regions, "negative", box(201, 100, 300, 300))


def test_a_corrected_outline_leaves_no_slivers_of_background(image):
    (annotation,) = image.run(polygon())
    image.change(annotation, shape=box(103, 98, 303, 297))
    assert image.regions().negative == ()


@pytest.mark.parametrize(
    "change", [{"locked": True}, {"name": "lymph node"}, {"metadata": {DESCRIPTION_KEY: "atypical"}}]
)
def test_locked_named_or_described_is_truth(image, change):
    (annotation,) = image.run(polygon())
    if "metadata" in change:
        change = {"metadata": dict(annotation.metadata) | change["metadata"]}
    image.change(annotation, **change)
    assert is_only(image.regions(), "positive")


def test_drawn_by_a_person_is_truth(image):
    image.draw(polygon(origin="human"))
    assert is_only(image.regions(), "positive")


def test_drawn_by_one_person_and_rejected_by_another_is_background(image):
    image.draw(polygon(origin="human", metadata={REVIEW_KEY: "rejected"}))
    assert is_only(image.regions(), "negative")


def test_rejected_stroma_says_nothing_about_tumour(image):
    image.draw(polygon(origin="human", path_class="Stroma", metadata={REVIEW_KEY: "rejected"}))
    assert image.regions() == ReviewRegions()


def test_drawn_in_a_derived_class_is_truth(image):
    image.draw(polygon(origin="human", path_class="Tumor: Necrotic"))
    assert is_only(image.regions(), "positive")


def test_deleted_is_background(image):
    first, _ = image.run(polygon(), polygon(OTHER))
    image.delete(first)
    regions = image.regions()
    assert is_only(regions, "negative")
    assert is_only(regions, "pending", OTHER)


def test_when_nothing_is_left_it_was_written_over_and_nothing_is_rejected(image):
    for annotation in image.run(polygon(), polygon(OTHER)):
        image.delete(annotation)
    assert removed(image.written, image.annotations(), "Tumor") is None
    assert image.regions() == ReviewRegions()


def test_all_deleted_in_an_image_marked_as_reviewed_is_background(image):
    for annotation in image.run(polygon(), polygon(OTHER)):
        image.delete(annotation)
    assert is_only(image.regions(reviewed=True), "negative", OTHER)


@pytest.mark.parametrize("path_class", ["Stroma", None, "Other"])
def test_given_another_class_or_none_is_background(image, path_class):
    (annotation,) = image.run(polygon())
    image.change(annotation, path_class=path_class)
    assert is_only(image.regions(), "negative")


def test_given_another_class_is_truth_for_that_class(image):
    (annotation,) = image.run(polygon())
    image.change(annotation, path_class="Stroma")
    assert is_only(image.regions("Stroma"), "positive")


@pytest.mark.parametrize("path_class", ["Ignore*", "Region*"])
def test_given_an_ignored_class_is_neither(image, path_class):
    (annotation,) = image.run(polygon())
    image.change(annotation, path_class=path_class)
    assert is_only(image.regions(), "ignored")


def test_rejected_with_another_class_is_still_background(image):
    (annotation,) = image.run(polygon())
    image.change(annotation, path_class="Stroma", metadata=dict(annotation.metadata) | {REVIEW_KEY: "rejected"})
    assert is_only(image.regions(), "negative")


@pytest.mark.parametrize("path_class", ["Necrosis", "Regional stroma"])
def test_polygon_of_another_class_by_a_person_is_background(image, path_class):
    image.draw(polygon(origin="human", path_class=path_class))
    assert is_only(image.regions(), "negative")


@pytest.mark.parametrize("path_class", ["Region*", "Tissue", "ROI", "Region 2", "roi_3", None, "Immune cells*"])
def test_polygon_that_only_marks_an_area_teaches_nothing(image, path_class):
    image.draw(polygon(origin="human", path_class=path_class))
    assert image.regions() == ReviewRegions()


def test_drawn_ignore_is_ignored_even_within_truth(image):
    hole = box(150, 150, 200, 200)
    image.draw(polygon(origin="human"), polygon(hole, origin="human", path_class="Ignore*"))
    assert area(image.regions().ignored) == hole.area


def test_a_person_who_rejects_and_draws_better_means_the_better_one(image):
    (annotation,) = image.run(polygon())
    image.change(annotation, metadata=dict(annotation.metadata) | {REVIEW_KEY: "rejected"})
    better = box(150, 150, 350, 350)
    image.draw(polygon(better, origin="human"))
    regions = image.regions()
    assert is_only(regions, "positive", better)
    assert is_only(regions, "negative", box(100, 100, 300, 150))


def test_a_person_who_deletes_and_draws_better_means_the_better_one(image):
    first, _ = image.run(polygon(), polygon(OTHER))
    image.delete(first)
    better = box(150, 150, 350, 350)
    image.draw(polygon(better, origin="human"))
    regions = image.regions()
    assert is_only(regions, "positive", better)
    assert is_only(regions, "negative", box(100, 100, 300, 150))


def test_split_in_two_without_marks_is_truth_and_the_cut_is_no_background(image):
    """QuPath 0.4 to 0.7 make new objects without metadata when an annotation is split."""
    first, _ = image.run(polygon(), polygon(OTHER))
    image.delete(first)
    halves = box(100, 100, 199, 300), box(201, 100, 300, 300)
    image.draw(*(polygon(half, origin="human") for half in halves))
    regions = image.regions()
    assert area(regions.positive) == pytest.approx(area(halves))
    assert regions.negative == ()


def test_split_in_two_with_marks_is_truth(image):
    (annotation,) = image.run(polygon())
    halves = box(100, 100, 199, 300), box(201, 100, 300, 300)
    image.change(annotation, shape=halves[0])
    image.draw(replace(annotation, id=uuid4(), shape=halves[1]))
    assert area(image.regions().positive) == pytest.approx(area(halves))


def test_merged_is_truth(image):
    first, second, _ = image.run(polygon(), polygon(OTHER), polygon(box(800, 600, 900, 700)))
    image.delete(first)
    image.delete(second)
    image.draw(polygon(MultiPolygon([SQUARE, OTHER]), origin="human"))
    regions = image.regions()
    assert area(regions.positive) == pytest.approx(SQUARE.area + OTHER.area)
    assert regions.negative == ()


def test_duplicate_counts_once(image):
    (annotation,) = image.run(polygon())
    image.draw(replace(annotation, id=uuid4()))
    assert is_only(image.regions(), "pending")


def test_duplicate_that_was_moved_is_truth_where_it_is(image):
    (annotation,) = image.run(polygon())
    moved = translate(SQUARE, 400, 300)
    image.draw(replace(annotation, id=uuid4(), shape=moved))
    regions = image.regions()
    assert is_only(regions, "pending")
    assert is_only(regions, "positive", moved)


def test_reviewed_image_is_truth_as_it_stands(image):
    annotation, _ = image.run(polygon(), polygon(OTHER))
    image.change(annotation, metadata=dict(annotation.metadata) | {REVIEW_KEY: "rejected"})
    regions = image.regions(reviewed=True)
    assert is_only(regions, "negative")
    assert is_only(regions, "positive", OTHER)
    assert regions.complete
    assert regions.pending == ()


@pytest.mark.parametrize(
    ("value", "reviewed"), [("2026-01-31 A. Person", True), ("yes", True), ("no", False), ("", False), (None, False)]
)
def test_reviewed_is_what_the_mark_says(value, reviewed):
    metadata = {} if value is None else {REVIEWED_KEY: value}
    assert Entry("1", "a", None, 9, 9, 0.5, "", metadata=metadata).reviewed is reviewed


def test_lines_and_points_teach_nothing(image):
    image.draw(polygon(SQUARE.boundary, origin="human"))
    assert image.regions() == ReviewRegions()


@pytest.mark.parametrize("version", ["0.2.3", "0.3.2"])
def test_before_qupath_0_4_edits_deletions_and_drawings_count_too(image, version):
    text = image.path.read_text(encoding="utf-8")
    image.path.write_text(text.replace(f'"version": "{image.project().version}"', f'"version": "{version}"'))
    assert image.project().version == version
    edited, deleted, _ = image.run(polygon(), polygon(OTHER), polygon(box(800, 600, 900, 700)))
    image.change(edited, shape=box(100, 100, 320, 300))
    image.delete(deleted)
    image.draw(polygon(box(50, 500, 90, 600), origin="human"))
    regions = image.regions()
    assert is_only(regions, "positive", box(100, 100, 320, 300))
    assert is_only(regions, "negative", OTHER)
    assert is_only(regions, "positive", box(50, 500, 90, 600))


@pytest.mark.parametrize("drawn", ["tumor", "TUMOR", " Tumor", "Tumor:Necrotic", "tumor: Necrotic", "Tumor :necrotic"])
def test_a_class_drawn_in_another_spelling_or_derived_is_the_class(image, drawn):
    image.draw(polygon(origin="human", path_class=drawn))
    assert is_only(image.regions(), "positive")


def test_a_pseudo_label_keeps_its_role_where_the_project_spells_its_class_in_another_way(image):
    image.run(polygon(path_class="tumor"))
    assert is_only(image.regions(), "pending")
    image.change(image.written[0], review="rejected", metadata=image.written[0].metadata | {REVIEW_KEY: "rejected"})
    assert is_only(image.regions(), "negative")


def disputed(image):
    """A polygon on which readers disagree, as a merged project has it."""
    metadata = {DISPUTED_KEY: "Tumor"}
    (annotation,) = image.run(polygon(path_class=DISPUTED, metadata=metadata, name="A: accepted; B: rejected"))
    return annotation


def test_a_disputed_polygon_is_ignored_until_a_person_decides(image):
    disputed(image)
    assert is_only(image.regions(), "ignored")
    assert is_only(image.regions(reviewed=True), "ignored")


def test_a_new_run_leaves_a_disputed_polygon(image):
    disputed(image)
    image.run(polygon(OTHER))
    assert is_only(image.regions(), "ignored")
    assert is_only(image.regions(), "pending", OTHER)


@pytest.mark.parametrize(
    ("change", "role"),
    [
        ({"review": "accepted"}, "positive"),
        ({"path_class": "Tumor"}, "positive"),
        ({"locked": True}, "positive"),
        ({"review": "rejected"}, "negative"),
        ({"path_class": "Stroma"}, "negative"),
        ({"path_class": None}, "negative"),
        ({"path_class": "Ignore*"}, "ignored"),
    ],
)
def test_what_a_person_does_with_a_disputed_polygon_decides_on_the_class_in_dispute(image, change, role):
    annotation = disputed(image)
    metadata = {**annotation.metadata, REVIEW_KEY: change.get("review", "pending")}
    image.change(annotation, **{**change, "metadata": metadata})
    assert is_only(image.regions(), role)


def test_a_person_may_call_a_polygon_disputed(image):
    (annotation,) = image.run(polygon())
    image.change(annotation, path_class=DISPUTED)
    assert is_only(image.regions(), "ignored")
    image.delete(annotation)
    image.written = []
    image.draw(polygon(path_class=DISPUTED, origin="human"))
    assert is_only(image.regions(), "ignored")
