import json
from dataclasses import replace
from uuid import uuid4

import numpy as np
import pytest
from shapely import Polygon, box
from shapely.geometry import mapping

from wsplf_cli.commands.evaluate import evaluate
from wsplf_cli.errors import ConfigError, ProjectError, SlideError
from wsplf_cli.files import json_text
from wsplf_cli.geometry import mask_polygons
from wsplf_cli.options import EvaluateOptions, ProjectOptions
from wsplf_cli.qupath import geojson
from wsplf_cli.schema import Annotation, Plane, Step
from wsplf_cli.slides.open import open_slide
from wsplf_cli.slides.tissue import tissue_mask, tissue_um2

TRUTH = box(300, 300, 500, 500)
HALF = box(300, 300, 500, 400)


def annotation(shape, *, path_class="Tumor", origin="pseudolabel", **values):
    return Annotation(uuid4(), shape, path_class, origin=origin, **values)


@pytest.fixture
def project_with(memory_project):
    """A project in memory whose entries have the given annotations: name -> list."""

    def make(annotations):
        project = memory_project()
        project.annotations = lambda entry_id: annotations.get(entry_id, [])
        return project

    return make


@pytest.fixture
def cohort(make_entry, tiny_slide, tmp_path):
    """Two positive slides and two negative ones, all of the same picture, and a folder for their truth."""
    (tmp_path / "truth").mkdir()
    words = {"p1": "tumor", "p2": "tumor", "n1": "normal", "n2": "normal"}
    return [
        make_entry(
            f"{name}.tif", word=word, label={"Tumor"} if word == "tumor" else set(), slide_path=tiny_slide, mpp=0.5
        )
        for name, word in words.items()
    ]


def write_truth(folder, name, shapes, *, path_class="Tumor"):
    properties = {} if path_class is None else {"classification": {"name": path_class, "color": [200, 0, 0]}}
    features = [{"type": "Feature", "geometry": mapping(shape), "properties": properties} for shape in shapes]
    path = folder / "truth" / f"{name}.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))


def options_for(folder, **values):
    return EvaluateOptions(truth=folder / "truth", **values)


def test_the_figures_of_a_small_cohort(cohort, project_with, recorder, tmp_path):
    write_truth(tmp_path, "p1", [TRUTH])
    write_truth(tmp_path, "p2", [TRUTH])
    project = project_with({"1": [annotation(HALF)], "2": [annotation(TRUTH)], "3": [annotation(HALF)]})
    scores = evaluate(project, cohort, options_for(tmp_path), recorder)
    first, second, third, fourth = scores["entries"]
    assert list(first) == ["name", "label", "dice", "iou", "boundary_f1", "fp_share", "truth_um2", "predicted_um2"]
    assert [entry["label"] for entry in scores["entries"]] == ["tumor", "tumor", "normal", "normal"]
    assert first["dice"] == pytest.approx(2 / 3)
    assert first["iou"] == pytest.approx(1 / 2)
    assert (first["truth_um2"], first["predicted_um2"]) == (10_000, 5_000)
    assert first["fp_share"] == 0
    assert (second["dice"], second["boundary_f1"]) == pytest.approx((1, 1))
    assert (third["dice"], fourth["dice"]) == (0, 1)
    assert scores["mean_dice"] == pytest.approx((2 / 3 + 1) / 2)
    assert scores["pooled_dice"] == pytest.approx(2 * 15_000 / (20_000 + 20_000))
    assert scores["pooled_iou"] == pytest.approx(15_000 / 25_000)
    with open_slide(cohort[0].slide_path) as slide:
        tissue = tissue_um2(tissue_mask(slide, mpp_slide=0.5), mpp_slide=0.5)
    assert third["fp_share"] == pytest.approx(5_000 / tissue)
    assert scores["negative_fp_share"] == pytest.approx(2_500 / tissue)
    assert scores["skipped"] == scores["failed"] == []
    assert json.loads(json_text(scores)) == scores


def test_only_the_asked_origin_and_class_count_and_no_rejected_ones(cohort, project_with, recorder, tmp_path):
    write_truth(tmp_path, "p1", [TRUTH])
    outside = box(600, 300, 700, 500)
    project = project_with(
        {
            "1": [
                annotation(TRUTH, origin="prediction"),
                annotation(outside, origin="human"),
                annotation(outside, origin="prediction", review="rejected"),
                annotation(outside, origin="prediction", path_class="Stroma"),
                annotation(outside, origin="prediction", path_class=None),
            ]
        }
    )
    dice = {
        origin: evaluate(project, cohort[:1], options_for(tmp_path, origin=origin), recorder)["entries"][0]["dice"]
        for origin in ("pseudolabel", "prediction", "human")
    }
    assert dice == pytest.approx({"pseudolabel": 0, "prediction": 1, "human": 0})


@pytest.mark.parametrize("path_class", ["Tumor: Necrotic", "tumor:necrotic", "TUMOR"])
def test_a_derived_class_and_another_spelling_count_as_the_class(cohort, project_with, recorder, tmp_path, path_class):
    write_truth(tmp_path, "p1", [TRUTH], path_class=path_class)
    rest = TRUTH.difference(HALF)
    project = project_with({"1": [annotation(HALF, path_class=path_class), annotation(rest)]})
    assert evaluate(project, cohort[:1], options_for(tmp_path), recorder)["mean_dice"] == pytest.approx(1)


def test_overlapping_annotations_and_holes_are_measured_as_one_area(cohort, project_with, recorder, tmp_path):
    ring = Polygon(TRUTH.exterior, [box(350, 350, 450, 450).exterior.coords])
    write_truth(tmp_path, "p1", [ring])
    project = project_with({"1": [annotation(ring), annotation(HALF.difference(box(350, 350, 450, 450)))]})
    assert evaluate(project, cohort[:1], options_for(tmp_path), recorder)["mean_dice"] == pytest.approx(1)


def test_a_positive_slide_without_truth_is_skipped_and_a_negative_one_has_an_empty_truth(
    cohort, project_with, recorder, tmp_path
):
    write_truth(tmp_path, "p1", [TRUTH])
    scores = evaluate(project_with({}), cohort, options_for(tmp_path), recorder)
    assert [entry["name"] for entry in scores["entries"]] == ["p1.tif", "n1.tif", "n2.tif"]
    assert scores["skipped"][0]["name"] == "p2.tif"
    assert any("p2.tif" in line and "no truth" in line for line in recorder.said)


def test_the_truth_is_found_by_the_slide_file_too(cohort, project_with, recorder, tmp_path):
    write_truth(tmp_path, cohort[0].slide_path.stem, [TRUTH])
    scores = evaluate(project_with({"1": [annotation(TRUTH)]}), cohort[:1], options_for(tmp_path), recorder)
    assert scores["mean_dice"] == pytest.approx(1)


def test_the_truth_of_a_slide_is_not_that_of_an_image_turned_from_it(cohort, project_with, recorder, tmp_path):
    write_truth(tmp_path, cohort[0].slide_path.stem, [TRUTH])
    turned = replace(cohort[0], width_px0=768, height_px0=1024, steps=(Step("rotated", (1,)),))
    with pytest.raises(ProjectError, match="no truth for it"):
        evaluate(project_with({"1": [annotation(TRUTH)]}), [turned], options_for(tmp_path), recorder)
    write_truth(tmp_path, "p1", [TRUTH])
    scores = evaluate(project_with({"1": [annotation(TRUTH)]}), [turned], options_for(tmp_path), recorder)
    assert scores["mean_dice"] == pytest.approx(1)


@pytest.mark.parametrize("path_class", [None, "tumor", "TUMOR"])
def test_truth_without_a_class_or_with_the_class_in_any_case_counts(
    cohort, project_with, recorder, tmp_path, path_class
):
    write_truth(tmp_path, "p1", [TRUTH], path_class=path_class)
    scores = evaluate(project_with({"1": [annotation(TRUTH)]}), cohort[:1], options_for(tmp_path), recorder)
    assert scores["mean_dice"] == pytest.approx(1)


def test_truth_of_other_classes_only_is_a_mistake_on_a_positive_slide(cohort, project_with, recorder, tmp_path):
    for name in ("p1", "n1"):
        write_truth(tmp_path, name, [TRUTH], path_class="Gland")
    scores = evaluate(project_with({}), cohort, options_for(tmp_path), recorder)
    (failed,) = scores["failed"]
    assert failed["name"] == "p1.tif"
    assert "Gland" in failed["reason"]
    assert "--path-class" in failed["reason"]
    assert scores["entries"][0] == scores["entries"][0] | {"name": "n1.tif", "truth_um2": 0, "dice": 1}


def test_an_unlabelled_slide_is_positive_when_its_truth_is(make_entry, tiny_slide, project_with, recorder, tmp_path):
    (tmp_path / "truth").mkdir()
    entries = [make_entry(f"{name}.tif", slide_path=tiny_slide) for name in ("a", "b", "c")]
    write_truth(tmp_path, "a", [TRUTH])
    write_truth(tmp_path, "b", [])
    scores = evaluate(project_with({"1": [annotation(HALF)]}), entries, options_for(tmp_path), recorder)
    assert scores["mean_dice"] == pytest.approx(2 / 3)
    assert scores["negative_fp_share"] == 0
    assert [entry["label"] for entry in scores["entries"]] == [None, None]
    assert [entry["name"] for entry in scores["skipped"]] == ["c.tif"]


def test_an_entry_that_cannot_be_read_fails_alone(cohort, project_with, recorder, tmp_path):
    for name in ("p1", "p2"):
        write_truth(tmp_path, name, [TRUTH])
    (tmp_path / "truth" / "n1.geojson").write_text("no json")
    project = project_with({"2": [annotation(TRUTH)]})
    readable = project.annotations

    def annotations(entry_id):
        if entry_id == "1":
            raise SlideError("data/1/data.qpdata: cut short")
        return readable(entry_id)

    project.annotations = annotations
    scores = evaluate(project, cohort, options_for(tmp_path), recorder)
    assert [entry["name"] for entry in scores["failed"]] == ["p1.tif", "n1.tif"]
    assert [entry["name"] for entry in scores["entries"]] == ["p2.tif", "n2.tif"]
    assert "cut short" in scores["failed"][0]["reason"]


def test_without_positive_or_negative_slides_their_figures_are_null(cohort, project_with, recorder, tmp_path):
    scores = evaluate(project_with({}), cohort[2:], options_for(tmp_path), recorder)
    assert scores["mean_dice"] is None
    assert scores["negative_fp_share"] == 0
    write_truth(tmp_path, "p1", [TRUTH])
    assert evaluate(project_with({}), cohort[:1], options_for(tmp_path), recorder)["negative_fp_share"] is None


def test_a_missing_truth_folder_and_an_empty_one_are_refused(cohort, project_with, recorder, tmp_path):
    with pytest.raises(ConfigError, match="no truth at") as caught:
        evaluate(project_with({}), cohort, EvaluateOptions(truth=tmp_path / "absent"), recorder)
    assert "--truth" in caught.value.hint
    with pytest.raises(ProjectError, match="none of 2 entries"):
        evaluate(project_with({}), cohort[:2], options_for(tmp_path), recorder)


def test_a_negative_slide_whose_truth_is_not_empty_is_pointed_out(cohort, project_with, recorder, tmp_path):
    write_truth(tmp_path, "n1", [TRUTH])
    evaluate(project_with({}), cohort[2:3], options_for(tmp_path), recorder)
    assert any("n1.tif" in line and "negative" in line for line in recorder.said)


def test_another_project_can_hold_the_truth(cohort, project_with, recorder, tmp_path, monkeypatch):
    other = project_with(
        {
            "1": [
                annotation(HALF, origin="human"),
                annotation(box(300, 400, 500, 500), review="accepted"),
                annotation(box(0, 0, 50, 50)),
                annotation(box(0, 0, 50, 50), origin="human", review="rejected"),
                annotation(box(0, 0, 50, 50), origin="human", path_class="Stroma"),
            ]
        }
    )
    other.listed = cohort[:1]
    backend = type("Backend", (), {"open_project": staticmethod(lambda path, options: other)})
    monkeypatch.setattr("wsplf_cli.benchmark.truth.plugins.load", lambda package, name: backend)
    options = EvaluateOptions(truth=tmp_path / "other" / "project.qpproj", project=ProjectOptions())
    scores = evaluate(project_with({"1": [annotation(TRUTH)]}), cohort[:2], options, recorder)
    assert scores["mean_dice"] == pytest.approx(1)
    assert scores["skipped"][0]["name"] == "p2.tif"


@pytest.mark.shared
def test_all_tissue_as_tumour_scores_as_measured_before(shared_data, make_entry, project_with, recorder):
    """The figure 0.574 comes with the data: calling all tissue tumour."""
    folder = shared_data / "glas-dev"
    entries, annotations = [], {}
    for number in range(6):
        path = folder / "slides" / f"D{number:02}.tif"
        with open_slide(path) as slide:
            size, overview = (slide.width_px0, slide.height_px0), slide.thumbnail(775)
        entry = make_entry(path.name, label={"Tumor"}, slide_path=path, width_px0=size[0], height_px0=size[1], mpp=0.62)
        entries.append(entry)
        tissue = np.abs(overview[0].astype(int) - 241).max(axis=2) > 4
        shapes = mask_polygons(
            tissue, origin_px0=(0, 0), downsample=overview[1], tolerance_px0=2, min_area_px0=500, min_hole_px0=1e6
        )
        annotations[entry.id] = [annotation(shape) for shape in shapes]
    scores = evaluate(project_with(annotations), entries, EvaluateOptions(truth=folder / "truth"), recorder)
    assert scores["mean_dice"] == pytest.approx(0.574, abs=0.03)


def test_the_figures_are_kept_as_a_run_only_where_the_user_asks(cohort, project_with, recorder, tmp_path):
    write_truth(tmp_path, "p1", [TRUTH])
    project = project_with({"1": [annotation(HALF)]})
    scores = evaluate(project, cohort, options_for(tmp_path), recorder)
    assert not (tmp_path / "wsplf").exists()
    assert evaluate(project, cohort, options_for(tmp_path, keep_scores=True), recorder) == scores
    (path,) = (tmp_path / "wsplf" / "runs").glob("*-evaluate-*/run.json")
    record = json.loads(path.read_text())
    assert record["details"] == scores
    assert record["options"]["origin"] == "pseudolabel"


def test_confidence_is_measured_on_the_polygons_that_have_one(cohort, project_with, recorder, tmp_path):
    write_truth(tmp_path, "p1", [TRUTH, box(10, 10, 110, 110)])
    write_truth(tmp_path, "p2", [TRUTH])
    confidence = "wsplf: confidence"
    good, good_too, bad = (
        annotation(shape, measurements={confidence: value})
        for shape, value in ((TRUTH, 0.9), (box(10, 10, 110, 100), 0.7), (box(550, 10, 700, 60), 0.6))
    )
    project = project_with({"1": [good, good_too, bad], "2": [annotation(TRUTH)]})
    scores = evaluate(project, cohort, options_for(tmp_path), recorder)
    assert scores["confidence"] == {"polygons": 3, "bad": 1, "auroc": 1.0, "bad_in_lowest_third": 1.0}
    assert scores["negative_tissue_um2"] > 0
    assert scores["mean_boundary_f1"] == pytest.approx(
        np.mean([entry["boundary_f1"] for entry in scores["entries"][:2]])
    )
    nothing = evaluate(project_with({}), cohort, options_for(tmp_path), recorder)["confidence"]
    assert nothing == {"polygons": 0, "bad": 0, "auroc": None, "bad_in_lowest_third": None}


def test_truth_of_another_slide_fails_its_entry(cohort, project_with, recorder, tmp_path):
    write_truth(tmp_path, "p1", [box(5000, 5000, 5200, 5200)])
    write_truth(tmp_path, "p2", [TRUTH])
    scores = evaluate(project_with({"2": [annotation(TRUTH)]}), cohort, options_for(tmp_path), recorder)
    (failed,) = scores["failed"]
    assert failed["name"] == "p1.tif"
    assert "p1.geojson: none of its annotations lies in p1.tif: 1 outside the image" in failed["reason"]
    assert scores["pooled_dice"] == 1


def test_truth_past_the_border_is_clipped_and_that_on_other_planes_is_left_out(
    cohort, project_with, recorder, tmp_path
):
    geojson.write(
        tmp_path / "truth" / "p1.geojson",
        [
            annotation(box(900, 100, 2000, 200), origin="human"),
            annotation(box(0, 0, 90, 90), origin="human", plane=Plane(z=3)),
        ],
    )
    drawn = [annotation(box(900, 100, 1024, 200)), annotation(box(0, 0, 90, 90), plane=Plane(t=1))]
    scores = evaluate(project_with({"1": drawn}), cohort[:1], options_for(tmp_path), recorder)
    assert scores["entries"][0]["dice"] == 1
    assert scores["entries"][0]["truth_um2"] == 124 * 100 * 0.25
    assert any("p1.geojson: truth left out: 1 on another plane" in said for said in recorder.said)
    assert any("p1.tif: annotations left out: 1 on another plane" in said for said in recorder.said)


def test_predictions_on_slides_that_the_model_learned_from_are_named(cohort, project_with, recorder, tmp_path):
    write_truth(tmp_path, "p1", [TRUTH])
    project = project_with({"1": [annotation(TRUTH, origin="prediction", metadata={"wsplf.model": "r1"})]})
    run = tmp_path / "wsplf" / "runs" / "r1"
    run.mkdir(parents=True)
    entries = [{"id": "1", "status": "done"}]
    (run / "run.json").write_text(json.dumps({"stage": "train", "entries": entries}), encoding="utf-8")
    options = options_for(tmp_path, origin="prediction")
    scores = evaluate(project, [cohort[0], cohort[2]], options, recorder)
    assert scores["learned_from"] == ["p1.tif"]
    assert any("the model learned from these slides: p1.tif" in said for said in recorder.said)
    assert "learned_from" not in evaluate(project, cohort[:1], options_for(tmp_path), recorder)
