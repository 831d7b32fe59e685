"""The method: what is refused before any work, what runs share, and polygons of given CAMs."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from shapely import box, union_all

from wsplf_cli.errors import ConfigError
from wsplf_cli.options import ProjectOptions, PseudolabelOptions, RunOptions
from wsplf_cli.recipes import RECIPES, Recipe
from wsplf_cli.review.regions import ReviewRegions
from wsplf_cli.schema import REVIEWED_KEY, Silent
from wsplf_cli.slides.map import SlideMap
from wsplf_cli.weak.calibration import Calibration, PeakThreshold
from wsplf_cli.weak.cam import SlideLogits
from wsplf_cli.weak.class_fit import CalibratedCam, ClassFit
from wsplf_cli.weak.method import annotate, fit_key, load_networks
from wsplf_cli.weak.sam.refiners import CamOnly, Superpixels

CPU = torch.device("cpu")
AREA, CONFIDENCE = "wsplf: area um^2", "wsplf: confidence"
AREAS = {"LUAD": box(400, 240, 560, 400), "LUSC": box(480, 320, 640, 480)}


def options(*, min_area_um2=100.0, **fields):
    return PseudolabelOptions(recipe=Recipe(**fields), min_area_um2=min_area_um2)


@pytest.mark.parametrize("name", RECIPES)
def test_the_networks_of_every_built_in_recipe_can_be_loaded(name):
    networks = load_networks(PseudolabelOptions(recipe=RECIPES[name]), CPU, Silent())
    mode = RECIPES[name].backbone_mode
    assert (networks.backbone is None) is (mode == "fine-tuned")
    assert (networks.make_mil is None) is (mode == "frozen")


@pytest.mark.parametrize(
    "wrong", [{"recipe": Recipe(head="nonsense")}, {"recipe": Recipe(prompts="nonsense")}, {"backbone": "nonsense"}]
)
def test_unknown_names_are_refused(wrong):
    with pytest.raises(ConfigError, match="nonsense"):
        load_networks(replace(PseudolabelOptions(), **wrong), CPU, Silent())


def test_probes_take_two_backbones_by_default_and_networks_that_are_trained_take_one():
    networks = load_networks(PseudolabelOptions(recipe=Recipe(backbone_mode="both")), CPU, Silent())
    assert len(networks.backbone.parts) == 2
    assert len(networks.make_mil().backbone.parts) == 1


@pytest.mark.parametrize(
    "drawing",
    [
        {"refiner": "slic"},
        {"prompts": "boxes"},
        {"rounds": 2},
        {"cam_scale": "tile"},
        {"name": "other", "summary": "another", "trains": True},
    ],
)
def test_runs_that_differ_only_in_the_drawing_share_what_was_learned(drawing):
    assert fit_key(options(**drawing)) == fit_key(options())


def test_alpha_sam_and_the_least_area_are_of_the_drawing():
    other = replace(PseudolabelOptions(), alpha=0.2, min_area_um2=9.0, cache_gb=0.0, sam="vit_b")
    assert fit_key(other) == fit_key(PseudolabelOptions())


@pytest.mark.parametrize(
    "learning",
    [
        {"recipe": Recipe(tta=4)},
        {"recipe": Recipe(search_in="tissue")},
        {"recipe": Recipe(backbone_mode="both")},
        {"mpp": 2.0},
        {"run": RunOptions(seed=1)},
        {"backbone": "resnet18"},
        {"project": ProjectOptions(path_class="Stroma")},
    ],
)
def test_runs_that_differ_in_the_learning_share_nothing(learning):
    assert fit_key(replace(PseudolabelOptions(), **learning)) != fit_key(PseudolabelOptions())


def logits_map(area, *, surely, seed=0):
    values = np.random.default_rng(seed).normal(-3, 0.5, (96, 128)).astype(np.float32)
    left, top, right, bottom = (int(value // 8) for value in area.bounds)
    values[top:bottom, left:right] += surely
    cam = SlideMap(values, 8.0)
    return SlideLogits(cam, cam, cam)


#: Logits are foreground from 0 on, and every component has a peak.
AT_ZERO = CalibratedCam(Calibration(0.0, 1.0, 0.1, 0.1, 0.9, 0.0), PeakThreshold(0.0, 0.0, 0.1, 2, 99))


def fits_of(slide, *classes):
    """Fits of classes, each of which is found in its area of the slide; LUSC has the higher logits."""
    fits = []
    for path_class in classes or AREAS:
        logits = logits_map(AREAS[path_class], surely={"LUAD": 5.0, "LUSC": 7.0}[path_class])
        name = path_class if len(classes) != 1 else ""
        fits.append(ClassFit(path_class, name, (slide,), {slide.entry.id: logits}, {}, {}, "tissue", AT_ZERO))
    return fits


def draw(slide, fits, *, refiner=None, **fields):
    refiners = [refiner or CamOnly(256)] * len(fits)
    return annotate(slide, fits, refiners, options(**fields), run_id="run 1")


def area_of(result, path_class):
    return union_all([annotation.shape for annotation in result.annotations if annotation.path_class == path_class])


def overlap(shape, other):
    return shape.intersection(other).area / shape.union(other).area


def test_a_positive_slide_gets_the_tumour_with_run_and_measurements(slide):
    positive = slide({"LUAD"})
    result = draw(positive, fits_of(positive, "LUAD"))
    (annotation,) = result.annotations
    assert overlap(annotation.shape, AREAS["LUAD"]) > 0.9
    assert (annotation.path_class, annotation.origin, annotation.run_id) == ("LUAD", "pseudolabel", "run 1")
    assert annotation.review == "pending"
    assert annotation.measurements[AREA] == pytest.approx(annotation.shape.area * 0.25)
    assert 0.5 <= annotation.measurements[CONFIDENCE] <= 1
    assert "wsplf: SAM IoU" not in annotation.measurements
    assert result.counts["polygons"] == 1
    assert result.counts["area mm2"] == pytest.approx(annotation.shape.area * 0.25 / 1e6)
    assert result.counts["suppressed_um2"] == 0
    assert set(result.maps) == {"LUAD"}


def test_the_same_seed_gives_the_same_polygons(slide):
    positive = slide({"LUAD"})
    fits = fits_of(positive, "LUAD")
    first, second = (draw(positive, fits) for _ in range(2))
    assert [annotation.shape.wkb for annotation in first.annotations] == [
        annotation.shape.wkb for annotation in second.annotations
    ]
    assert first.annotations[0].id == second.annotations[0].id, "ids belong to the run, the entry and the number"


def test_what_a_label_lacks_is_counted_and_not_drawn(slide):
    positive = slide({"LUSC"})
    result = draw(positive, fits_of(positive))
    assert area_of(result, "LUAD").is_empty
    assert overlap(area_of(result, "LUSC"), AREAS["LUSC"]) > 0.9, "what the label lacks takes no area from others"
    assert result.counts["suppressed_um2"] == pytest.approx(AREAS["LUAD"].area * 0.25, rel=0.1)
    assert (result.counts["polygons LUAD"], result.counts["polygons LUSC"], result.counts["polygons"]) == (0, 1, 1)


def test_a_negative_slide_gets_no_polygon(slide):
    negative = slide(set())
    result = draw(negative, fits_of(negative))
    assert result.annotations == ()
    assert result.counts["suppressed_um2"] == pytest.approx((AREAS["LUAD"].area + AREAS["LUSC"].area) * 0.25, rel=0.1)


def test_an_area_that_two_classes_want_goes_to_the_higher_cam(slide):
    both = slide({"LUAD", "LUSC"})
    result = draw(both, fits_of(both))
    luad, lusc = area_of(result, "LUAD"), area_of(result, "LUSC")
    assert luad.intersection(lusc).area < 1
    assert overlap(lusc, AREAS["LUSC"]) > 0.9
    assert overlap(luad, AREAS["LUAD"].difference(AREAS["LUSC"])) > 0.85


def test_outlines_of_two_classes_never_overlap_and_are_measured_as_they_are(slide):
    both = slide({"LUAD", "LUSC"})
    result = draw(both, fits_of(both), refiner=Superpixels(256))
    luad, lusc = area_of(result, "LUAD"), area_of(result, "LUSC")
    assert min(luad.area, lusc.area) > 0.4 * AREAS["LUAD"].area
    assert luad.intersection(lusc).area < 1
    for annotation in result.annotations:
        assert annotation.measurements[AREA] == pytest.approx(annotation.shape.area * 0.25)


def test_a_polygon_that_a_review_cuts_has_the_area_and_confidence_of_what_is_left(slide):
    whole = slide({"LUAD"})
    (uncut,) = draw(whole, fits_of(whole, "LUAD")).annotations
    left_part = box(0, 0, 500, 768)
    cut = slide({"LUAD"}, regions={"LUAD": ReviewRegions(positive=(left_part,))})
    (annotation,) = draw(cut, fits_of(cut, "LUAD")).annotations
    assert annotation.shape.equals(uncut.shape.difference(left_part))
    assert annotation.shape.area < 0.5 * uncut.shape.area
    assert annotation.measurements[AREA] == pytest.approx(annotation.shape.area * 0.25)
    assert annotation.measurements[CONFIDENCE] != uncut.measurements[CONFIDENCE]


def test_what_a_person_drew_for_one_class_keeps_both_from_being_drawn_there(slide):
    drawn = box(490, 330, 550, 390)
    regions = {"LUAD": ReviewRegions(positive=(drawn,)), "LUSC": ReviewRegions(negative=(drawn,))}
    both = slide({"LUAD", "LUSC"}, regions=regions)
    result = draw(both, fits_of(both))
    assert {annotation.path_class for annotation in result.annotations} == {"LUAD", "LUSC"}
    assert union_all([annotation.shape for annotation in result.annotations]).intersection(drawn).area < 1


def test_a_reviewed_image_gets_no_polygon_and_has_its_maps(slide):
    reviewed = slide({"LUAD"}, metadata={REVIEWED_KEY: "2026-01-31 A. Person"})
    result = draw(reviewed, fits_of(reviewed, "LUAD"))
    assert result.annotations == ()
    assert (result.maps["LUAD"].values >= 0.5).any()


def test_polygons_below_the_least_area_are_dropped(slide):
    positive = slide({"LUAD"})
    fits = fits_of(positive, "LUAD")
    assert draw(positive, fits, min_area_um2=1e6).annotations == ()
