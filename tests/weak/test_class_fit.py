"""What was learned of a class: the scale of its CAM, cells that several classes want, and what run.json says."""

from dataclasses import replace

import numpy as np
import pytest

from wsplf_cli.cohort.slide import CohortSlide
from wsplf_cli.options import PseudolabelOptions
from wsplf_cli.recipes import Recipe
from wsplf_cli.schema import Silent, TileGrid, TissueMask
from wsplf_cli.slides.map import SlideMap
from wsplf_cli.weak.calibration import Calibration, PeakThreshold
from wsplf_cli.weak.cam import SlideLogits
from wsplf_cli.weak.class_fit import CalibratedCam, CamsOfClass, ClassFit, fit_details, resolve_overlap

SHAPE = (40, 60)
TUMOUR = np.s_[10:25, 15:40]


@pytest.fixture
def slide(make_entry):
    def make(label, name="a.tif"):
        entry = make_entry(name, label=label)
        grid = TileGrid(entry.id, 64, 1.0, 64.0, np.zeros((0, 2), np.int32), np.zeros(0, np.float32))
        return CohortSlide(entry, 1.0, TissueMask(np.ones(SHAPE, bool), 8.0), grid)

    return make


def logits_of(values, *, mean=None, raw=None):
    out_of_fold = SlideMap(values.astype(np.float32), 8.0)
    mean = out_of_fold if mean is None else SlideMap(mean.astype(np.float32), 8.0)
    return SlideLogits(out_of_fold, mean, mean if raw is None else SlideMap(raw.astype(np.float32), 8.0))


def background(seed, *, tumour=0.0):
    values = np.random.default_rng(seed).normal(-3, 0.5, SHAPE)
    values[TUMOUR] += tumour
    values[:3] = np.nan
    return values


def fit_of(slides, logits, *, path_class="Tumor", name="", suspected=None, **fields):
    by_id = {slide.entry.id: slide_logits for slide, slide_logits in zip(slides, logits, strict=True)}
    return ClassFit(path_class, name, tuple(slides), by_id, suspected or {}, fields.get("fold_of", {}), "tissue")


@pytest.fixture
def cohort(slide):
    return [slide({"Tumor"}), slide({"Tumor"}), slide(set()), slide(set())]


@pytest.fixture
def fit(cohort):
    return fit_of(cohort, [logits_of(background(index, tumour=6.0 * (index < 2))) for index in range(4)])


def options(**fields):
    return PseudolabelOptions(recipe=Recipe(**fields))


def test_the_scale_of_the_cohort_makes_the_tumour_foreground_and_nothing_else(cohort, fit, recorder):
    calibrated = fit.with_scale(options(), recorder)
    cam = calibrated.cam(cohort[0])
    assert cam.downsample == 8.0
    truth = np.zeros(SHAPE, bool)
    truth[TUMOUR] = True
    assert ((cam.values >= 0.5) == truth).mean() > 0.995
    assert not (calibrated.cam(cohort[2]).values >= 0.5).any()
    assert cam.values[:3].max() == 0, "no tissue, no CAM"
    share = truth.sum() / (37 * 60)
    assert calibrated.calibrated.details["prevalence"] == pytest.approx(share, abs=0.02)
    assert any(line.startswith("foreground of the CAM:") for line in recorder.said)
    assert any("2 negative slides" in line and "guaranteed on average" in line for line in recorder.said)


def said_of_the_peak(fit, recorder):
    fit = fit.with_scale(options(), recorder)
    (said,) = [line for line in recorder.said if line.startswith("the peak of a polygon")]
    return fit.calibrated.peak, said


def test_it_is_said_how_well_slide_labels_are_told(slide, recorder):
    slides = [slide({"Tumor"} if index < 8 else set(), name=f"{index}.tif") for index in range(16)]
    logits = [logits_of(background(index, tumour=6.0 * (index < 8))) for index in range(16)]
    told = fit_of(slides, logits).with_scale(options(), recorder)
    found = told.label_auroc
    assert (found.area, found.high, found.positive_patients, found.negative_patients) == (1.0, 1.0, 8, 8)
    assert 0.6 < found.low < 0.9
    assert not found.is_chance
    assert f"slide labels are told out of fold: {found}" in recorder.said


def test_a_cohort_whose_labels_may_be_chance_is_warned_about(slide, recorder):
    slides = [slide({"Tumor"} if index % 2 else set(), name=f"{index}.tif") for index in range(8)]
    told = fit_of(slides, [logits_of(background(index)) for index in range(8)]).with_scale(options(), recorder)
    assert told.label_auroc.is_chance
    assert any(line.startswith("warning: slide labels are told out of fold: AUROC") for line in recorder.said)


def test_slides_of_one_patient_count_once_in_the_interval(cohort, fit):
    of_one = [replace(slide, entry=replace(slide.entry, metadata={"patient": "P1"})) for slide in cohort[2:]]
    found = replace(fit, slides=(*cohort[:2], *of_one)).with_scale(options(), Silent()).label_auroc
    assert (found.positive_patients, found.negative_patients) == (2, 1)
    assert found.low < fit.with_scale(options(), Silent()).label_auroc.low


def test_a_slide_without_tissue_is_told_to_be_negative(cohort, fit):
    logits = {**fit.logits, cohort[3].entry.id: logits_of(np.full(SHAPE, np.nan))}
    assert replace(fit, logits=logits).with_scale(options(cam_scale="tile"), Silent()).label_auroc.area == 1.0


def test_nothing_is_told_of_labels_where_all_slides_have_the_same(cohort, slide):
    tiles = options(cam_scale="tile")
    alike = fit_of(cohort[:2], [logits_of(background(index, tumour=6.0)) for index in range(2)])
    scaled = alike.with_scale(tiles, Silent())
    assert scaled.label_auroc is None
    assert fit_details([scaled], [{}])["label_auroc"] is None


def test_without_held_out_classifiers_nothing_is_guaranteed_or_called_out_of_fold(fit, recorder):
    peak, said = said_of_the_peak(replace(fit, in_sample="there is one patient"), recorder)
    assert peak.guaranteed is None
    assert "by classifiers that learned from them; nothing is guaranteed" in said
    assert "(there is one patient)" in said
    assert not any("out of fold" in line or "is guaranteed on average" in line for line in recorder.said)
    assert any("too good for new ones" in line for line in recorder.said if line.startswith("foreground"))


def test_nothing_is_guaranteed_where_negative_slides_were_left_out_by_their_scores(cohort, fit, recorder):
    peak, said = said_of_the_peak(replace(fit, suspected={cohort[3].entry.id: "looks otherwise"}), recorder)
    assert peak.guaranteed is None
    assert "suspected label errors" in said
    positive_left_out = replace(fit, suspected={cohort[1].entry.id: "looks otherwise"})
    assert positive_left_out.with_scale(options(), Silent()).calibrated.peak.guaranteed is not None


def test_nothing_is_guaranteed_where_polygons_come_from_networks_that_learned_from_the_slides(cohort, recorder):
    logits = [logits_of(background(index), mean=background(index)) for index in range(4)]
    peak, said = said_of_the_peak(fit_of(cohort, logits), recorder)
    assert peak.guaranteed is None
    assert "mean of all networks" in said


def test_the_guarantee_is_for_patients(cohort, fit, recorder):
    unnamed, said = said_of_the_peak(fit, recorder)
    assert (unnamed.patients, unnamed.slides) == (2, 2)
    assert "if the slides that name no patient are of different ones" in said
    named = [replace(slide, entry=replace(slide.entry, metadata={"Patient": "P1"})) for slide in cohort]
    recorder.said.clear()
    of_one, said = said_of_the_peak(replace(fit, slides=tuple(named)), recorder)
    assert (of_one.patients, of_one.slides) == (1, 2)
    assert of_one.guaranteed == pytest.approx((0.01 + 1) / 2)
    assert "different ones" not in said


def test_a_component_without_a_peak_is_no_foreground(cohort, fit):
    weak = background(0, tumour=6.0)
    weak[30:36, 45:55] = 0.9
    weak_fit = replace(fit, logits={**fit.logits, cohort[0].entry.id: logits_of(weak)}).with_scale(options(), Silent())
    assert weak_fit.calibrated.calibration.threshold <= 0.9 < weak_fit.calibrated.peak.threshold
    cam = weak_fit.cam(cohort[0]).values
    assert (cam[TUMOUR] >= 0.5).mean() > 0.95
    assert (cam[30:36, 45:55] < 0.5).all()


def test_a_lower_alpha_asks_for_a_higher_peak(fit):
    fit = replace(fit, logits={**fit.logits, fit.slides[3].entry.id: logits_of(background(3, tumour=5.0))})
    peaks = [
        fit.with_scale(replace(options(), alpha=alpha), Silent()).calibrated.peak.threshold for alpha in (0.2, 0.001)
    ]
    assert peaks[0] < peaks[1]


def test_slides_with_a_suspected_label_do_not_count_for_the_scale(cohort, fit):
    """A negative slide with tumour would raise the threshold, and a positive one without it lower the prevalence."""
    wrong = {
        **fit.logits,
        cohort[1].entry.id: logits_of(background(1)),
        cohort[3].entry.id: logits_of(background(3, tumour=6.0)),
    }
    suspected = {cohort[1].entry.id: "looks otherwise", cohort[3].entry.id: "looks otherwise"}
    trusted = fit_of([cohort[0], cohort[2]], [fit.logits[cohort[index].entry.id] for index in (0, 2)])
    with_wrong = replace(fit, logits=wrong, suspected=suspected).with_scale(options(), Silent())
    expected = trusted.with_scale(options(), Silent()).calibrated
    assert with_wrong.calibrated == replace(expected, peak=replace(expected.peak, guaranteed=None))
    assert with_wrong.calibrated != replace(fit, logits=wrong).with_scale(options(), Silent()).calibrated
    assert (with_wrong.cam(cohort[3]).values[TUMOUR] >= 0.5).mean() > 0.95, "the slide has a CAM all the same"


def test_the_threshold_comes_from_out_of_fold_logits_and_is_carried_to_the_mean(cohort):
    logits = []
    for index in range(4):
        values = background(index, tumour=6.0 * (index < 2))
        logits.append(logits_of(values, mean=3 * values + 10))
    calibration = fit_of(cohort, logits).with_scale(options(backbone_mode="both"), Silent()).calibrated.calibration
    plain = fit_of(cohort, [logits_of(background(index, tumour=6.0 * (index < 2))) for index in range(4)])
    expected = plain.with_scale(options(backbone_mode="both"), Silent()).calibrated.calibration
    assert calibration.prevalence == expected.prevalence
    assert calibration.positive_rate == pytest.approx(max(expected.positive_rate, expected.prevalence), abs=0.005)
    assert calibration.threshold > 3 * -2 + 10


@pytest.mark.parametrize("cam_scale", ["tile", "tile-gated"])
def test_on_the_scale_of_tiles_every_tile_has_foreground_or_those_with_a_high_mean(slide, cam_scale):
    rng = np.random.default_rng(0)
    raw = np.sort(rng.normal(0, 0.2, SHAPE), axis=1)
    raw[:, :20] -= 9
    raw[:, 20:] += 9
    negative = slide(set())
    fit = fit_of([negative], [logits_of(np.zeros(SHAPE), raw=raw)])
    recipe = options(cam_scale=cam_scale, tile_px=160)
    calibrated = fit.with_scale(replace(recipe, mpp=1.0), Silent())
    assert calibrated.calibrated == CalibratedCam(tile_px=160, mpp=1.0, gated=cam_scale == "tile-gated")
    assert calibrated.calibrated.details == {}
    assert calibrated.calibrated.peak_cam is None
    cam = calibrated.cam(negative).values
    assert (cam[:, 20:] >= 0.5).mean() > 0.5
    assert ((cam[:, :20] >= 0.5).mean() > 0.5) == (cam_scale == "tile")


def test_tiles_have_the_same_size_on_the_tissue_at_any_mpp(slide):
    rng = np.random.default_rng(0)
    raw = rng.normal(size=SHAPE)
    fine = replace(slide(set()), mpp=0.5)
    scale = CalibratedCam(tile_px=80, mpp=1.0)
    coarse = replace(fine, mpp=1.0)
    logits = logits_of(raw)
    twice = SlideLogits(*(SlideMap(raw.astype(np.float32), 16.0) for _ in range(3)))
    np.testing.assert_array_equal(scale.cam(twice, fine).values, scale.cam(logits, coarse).values)


#: Logits are foreground from 0 on, and every component has a peak.
AT_ZERO = CalibratedCam(Calibration(0.0, 1.0, 0.1, 0.1, 0.9, 0.0), PeakThreshold(0.0, 0.0, 0.1, 2, 99))


@pytest.fixture
def two_classes(slide):
    """Fits of two classes on a slide of both, one of each and one of none; both want the same cells."""
    slides = [slide({"LUAD", "LUSC"}, "ab"), slide({"LUAD"}, "a"), slide({"LUSC"}, "b"), slide(set(), "n")]
    fits = []
    for name, surely in (("LUAD", 5.0), ("LUSC", 7.0)):
        logits = []
        for index, cohort_slide in enumerate(slides):
            tumour = surely if name in cohort_slide.entry.label.classes else 0.0
            values = background(index, tumour=tumour)
            if name == "LUAD" and tumour:
                values[30:38, 5:30] += tumour
            logits.append(logits_of(values))
        fits.append(replace(fit_of(slides, logits, path_class=name, name=name), calibrated=AT_ZERO))
    return slides, fits


def test_a_cell_that_two_classes_want_goes_to_the_higher_cam(two_classes):
    (both, *_), fits = two_classes
    luad, lusc = resolve_overlap(both, fits)
    assert not ((luad.values >= 0.5) & (lusc.values >= 0.5)).any()
    assert (lusc.values[TUMOUR] >= 0.5).mean() > 0.9
    assert (luad.values[30:38, 5:30] >= 0.5).mean() > 0.9


def test_a_class_that_the_label_lacks_takes_no_cell(two_classes):
    (_, a, _, _), fits = two_classes
    surer = {**fits[1].logits, a.entry.id: logits_of(background(1, tumour=9.0))}
    fits = [fits[0], replace(fits[1], logits=surer)]
    luad, lusc = resolve_overlap(a, fits)
    assert (lusc.values[TUMOUR] >= 0.5).mean() > 0.9
    assert (luad.values[TUMOUR] >= 0.5).mean() > 0.9


def test_the_cams_of_a_class_are_those_after_the_overlap_is_resolved(two_classes):
    (both, *_), fits = two_classes
    cams = CamsOfClass(fits, 0)
    np.testing.assert_array_equal(cams(both).values, resolve_overlap(both, fits)[0].values)
    assert cams(both) is cams(both), "the last one is kept"


def test_run_json_says_what_was_learned_and_which_labels_are_suspected(cohort, fit):
    suspected = {cohort[3].entry.id: "labelled negative, looks otherwise"}
    fit = replace(fit, suspected=suspected, fold_of={cohort[0].entry.id: 1}).with_scale(options(), Silent())
    details = fit_details([fit], [{"round_windows": [4]}])
    assert details["suspected_label_errors"] == {
        cohort[3].entry.id: {"name": "a.tif", "reason": "labelled negative, looks otherwise"}
    }
    assert details["folds"] == {cohort[0].entry.id: 1}
    assert details["search_in"] == "tissue"
    assert details["round_windows"] == [4]
    assert details["prevalence"] > 0
    assert set(details["peak"]) == {"threshold", "measured", "guaranteed", "slides", "patients", "slides_needed"}
    assert details["in_sample"] == ""


def test_run_json_names_the_class_where_there_are_several(two_classes):
    slides, fits = two_classes
    key = slides[3].entry.id
    fits = [replace(fit, suspected={key: "labelled negative"}) for fit in fits]
    details = fit_details(fits, [{}, {}])
    assert set(details) == {"classes", "suspected_label_errors"}
    assert set(details["classes"]) == {"LUAD", "LUSC"}
    assert details["suspected_label_errors"][key]["reason"] == "LUAD: labelled negative; LUSC: labelled negative"
