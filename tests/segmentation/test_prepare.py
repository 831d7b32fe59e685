"""What a project's annotations and labels teach of each class."""

from dataclasses import replace
from uuid import uuid4

import numpy as np
import pytest
from shapely import box

from wsplf_cli.cohort.run import Skipped
from wsplf_cli.errors import ProjectError, SlideError
from wsplf_cli.options import ProjectOptions, TileOptions, TrainOptions
from wsplf_cli.review.regions import ReviewRegions
from wsplf_cli.schema import REVIEWED_KEY, Annotation, Entry, Plane, SlideLabel, TileGrid
from wsplf_cli.segmentation.prepare import TrainingCohort, class_targets, describe_targets, without_ink
from wsplf_cli.segmentation.sampling import IGNORE, ClassTargets, rasterise_targets

SQUARE = box(400, 300, 520, 420)
CLASSES = ("LUAD", "LUSC")
OPTIONS = TrainOptions(project=ProjectOptions(positive=("luad=LUAD", "lusc=LUSC")), tiles=TileOptions(tile_px=64))


def annotation(path_class, shape=SQUARE, **fields):
    return Annotation(uuid4(), shape, path_class, **({"origin": "pseudolabel"} | fields))


@pytest.fixture
def gather(memory_project, recorder, monkeypatch):
    def make(annotations):
        project = memory_project()
        monkeypatch.setattr(project, "annotations", lambda entry_id: annotations)
        return TrainingCohort(project, CLASSES, OPTIONS, recorder)

    return make


def test_a_slide_with_polygons_becomes_a_training_slide(gather, make_entry, tiny_slide):
    cohort = gather([annotation("LUAD")])
    entry = make_entry("a.tif", label={"LUAD"}, slide_path=tiny_slide, metadata={"patient": "P1"})
    counts = cohort.add(entry)
    (slide,) = cohort.slides
    assert (slide.name, slide.group) == ("a.tif", "P1")
    assert counts["blocks"] == len(slide.grid.xy_px0)
    assert slide.grid.tile_px == 128
    assert slide.read(np.array([0])).shape == (1, 128, 128, 3)
    assert [(targets.positive, targets.known, targets.has_polygons) for targets in slide.classes] == [
        (True, True, True),
        (False, True, False),
    ]
    assert (counts["pending"], counts["positive"], counts["negative"], counts["reviewed"]) == (1, 0, 0, 0)


def test_held_out_slides_and_slides_without_polygon_or_label_are_skipped(gather, make_entry, tiny_slide):
    cohort = gather([])
    held_out = cohort.add(make_entry(label={"LUAD"}, slide_path=tiny_slide, split="test"))
    assert held_out == Skipped("held out (split: test)")
    nothing = cohort.add(make_entry(slide_path=tiny_slide))
    assert isinstance(nothing, Skipped)
    assert "no polygon" in nothing.reason
    with pytest.raises(SlideError):
        cohort.add(make_entry(label=set(), problem="gone"))
    assert cohort.slides == []


def test_a_class_without_a_polygon_is_named(gather, make_entry, tiny_slide):
    cohort = gather([annotation("LUAD")])
    cohort.add(make_entry(label={"LUAD", "LUSC"}, slide_path=tiny_slide))
    with pytest.raises(ProjectError, match="no polygon of class 'LUSC'") as caught:
        cohort.require_polygons()
    assert "wsplf pseudolabel" in caught.value.hint


def test_a_label_without_the_class_teaches_background_and_outweighs_pending_polygons(make_entry):
    pending = ReviewRegions(pending=((SQUARE, 0.8),))
    targets = class_targets(make_entry(label={"LUSC"}), pending, "LUAD")
    assert (targets.positive, targets.known, targets.regions.pending) == (False, True, ())


def test_a_class_of_which_nobody_has_spoken_is_not_known(make_entry):
    assert not class_targets(make_entry(), ReviewRegions(negative=(SQUARE,)), "LUAD").known
    assert not class_targets(make_entry(label={"LUAD"}), ReviewRegions(), "LUAD").known


def test_polygons_and_a_reviewed_image_make_the_background_known(make_entry):
    assert class_targets(make_entry(), ReviewRegions(positive=(SQUARE,)), "LUAD").known
    assert class_targets(make_entry(), ReviewRegions(pending=((SQUARE, 1.0),)), "LUAD").known
    reviewed = class_targets(make_entry(), ReviewRegions(complete=True), "LUAD")
    assert (reviewed.known, reviewed.positive) == (True, False)


def test_a_polygon_by_a_person_counts_on_a_slide_that_is_labelled_negative(make_entry):
    targets = class_targets(make_entry(label=set()), ReviewRegions(positive=(SQUARE,)), "LUAD")
    assert targets.has_polygons
    assert targets.known
    assert not targets.positive


def test_a_prediction_in_a_reviewed_image_is_truth(gather, make_entry, tiny_slide):
    cohort = gather([annotation("LUAD", origin="prediction")])
    entry = make_entry(slide_path=tiny_slide, metadata={REVIEWED_KEY: "2026-01-31 A. Person"})
    counts = cohort.add(entry)
    assert (counts["positive"], counts["reviewed"]) == (1, 1)
    plain = gather([annotation("LUAD", origin="prediction")]).add(replace(entry, metadata={}))
    assert isinstance(plain, Skipped)


def test_the_description_counts_slides_and_polygons_by_role():
    targets = [
        ClassTargets(True, ReviewRegions(positive=(SQUARE,), pending=((SQUARE, 0.5),) * 2), known=True),
        ClassTargets(False, ReviewRegions(negative=(SQUARE,), complete=True), known=True),
        ClassTargets(False, ReviewRegions(), known=False),
    ]
    assert describe_targets(targets) == (
        "learning from: 1 slides with polygons, 1 polygons a person decided on, 2 pending pseudo-labels,"
        " 1 areas of background by a person, 1 slides reviewed as a whole, 1 negative slides"
    )


@pytest.mark.parametrize("drawn", ["luad", "LUAD: Acinar", "luad:acinar", " LUAD "])
def test_a_class_in_another_spelling_and_a_derived_one_teach_the_class(gather, make_entry, tiny_slide, drawn):
    cohort = gather([annotation(drawn, origin="human")])
    counts = cohort.add(make_entry(label={"LUAD"}, slide_path=tiny_slide))
    (slide,) = cohort.slides
    assert [targets.positive for targets in slide.classes] == [True, False]
    assert (counts["positive"], counts["negative"]) == (1, 1)  # background for LUSC


def test_slides_of_one_patient_are_one_group_in_any_unicode_form(gather, make_entry, tiny_slide):
    cohort = gather([annotation("LUAD")])
    for patient in ("M\u00fcller", "Mu\u0308ller "):
        cohort.add(make_entry(label={"LUAD"}, slide_path=tiny_slide, metadata={"patient": patient}))
    assert len({slide.group for slide in cohort.slides}) == 1


ON_GLASS, BESIDE = box(0, 0, 60, 60), box(5000, 0, 5100, 90)


@pytest.mark.parametrize(("shape", "reason"), [(ON_GLASS, "lies in tissue"), (BESIDE, "1 outside the image")])
def test_a_class_without_a_pixel_in_tissue_is_refused_and_the_slides_are_named(
    gather, make_entry, tiny_slide, shape, reason
):
    cohort = gather([annotation("LUAD", shape, origin="human"), annotation("LUSC")])
    for name in ("a.tif", "b.tif"):
        cohort.add(make_entry(name, label={"LUAD", "LUSC"}, slide_path=tiny_slide))
    with pytest.raises(ProjectError, match="no polygon of class 'LUAD'") as caught:
        cohort.require_polygons()
    for name in ("a.tif: ", "b.tif: "):
        assert name in caught.value.message
    assert caught.value.message.count(reason) == 2


def test_polygons_on_glass_make_no_tissue_background(gather, make_entry, tiny_slide, recorder):
    cohort = gather([annotation("LUAD", ON_GLASS, origin="human")])
    skipped = cohort.add(make_entry("a.tif", label={"LUAD", "LUSC"}, slide_path=tiny_slide))
    assert skipped == Skipped("no pixel of its polygons lies in tissue")
    assert any("a.tif: no pixel of its LUAD polygons lies in tissue" in said for said in recorder.said)
    assert cohort.slides == []


def test_polygons_outside_the_image_or_on_other_planes_are_not_counted(gather, make_entry, tiny_slide, recorder):
    other_plane = annotation("LUAD", plane=Plane(z=1))
    cohort = gather([annotation("LUAD", origin="human"), annotation("LUAD", BESIDE, origin="human"), other_plane])
    counts = cohort.add(make_entry("a.tif", label={"LUAD"}, slide_path=tiny_slide, z_slices=2))
    assert (counts["positive"], counts["pending"]) == (1, 0)
    (said,) = recorder.said
    assert "1 on another plane than the first z-slice and time point, 1 outside the image" in said


def test_a_tiny_polygon_in_tissue_can_be_learned_from(gather, make_entry, tiny_slide):
    cohort = gather([annotation("LUAD", box(500, 380, 504, 384), origin="human")])
    cohort.add(make_entry("a.tif", label={"LUAD"}, slide_path=tiny_slide))
    (slide,) = cohort.slides
    assert any("class" in kinds for kinds in slide.crop_kinds[0])


def test_nothing_is_learned_under_marker_ink():
    ink = [box(450, 300, 470, 420)]
    targets = class_targets(
        Entry("1", "a.tif", None, 1024, 768, 0.5, "test", label=SlideLabel(frozenset({"LUAD"}))),
        ReviewRegions(positive=(SQUARE,), ignored=(box(0, 0, 9, 9),)),
        "LUAD",
    )
    inked = without_ink(targets, ink)
    assert inked.regions.ignored == (box(0, 0, 9, 9), *ink)
    assert inked.regions.positive == (SQUARE,)
    grid = TileGrid("1", 120, 0.5, 120.0, np.array([[400, 300]], np.int32), np.ones(1, np.float32))
    target, _ = rasterise_targets(inked.regions, grid, 0)
    assert (target[:, 50:70] == IGNORE).all()
    assert (target[:, :50] == 1).all()
    assert without_ink(targets, []) is targets
