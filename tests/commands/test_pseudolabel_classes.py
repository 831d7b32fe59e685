"""The command with several classes, with all of its parts as they are: each class is learned against the rest."""

import json
import shutil
from dataclasses import replace
from functools import partial
from uuid import uuid4

import pytest
import tifffile
from pseudolabel_runs import AREA, area, copy, make_project, overlap, paint, run_pseudolabel, use_small_fits
from shapely import box

from wsplf_cli.backends.embedded import open_project
from wsplf_cli.cohort.labels import resolve_labels
from wsplf_cli.commands.pseudolabel import pseudolabel
from wsplf_cli.errors import ProjectError
from wsplf_cli.options import ProjectOptions, PseudolabelOptions
from wsplf_cli.recipes import Recipe
from wsplf_cli.schema import Annotation, Silent
from wsplf_cli.weak import features
from wsplf_cli.weak.mil import ensemble
from wsplf_cli.weak.mil.training import MilSettings
from wsplf_cli.weak.sam import rounds

pytestmark = pytest.mark.slow  # the quick set runs the command with one class

AREAS = {"LUAD": box(80, 80, 300, 300), "LUSC": box(240, 200, 430, 430)}
WORDS = {"a1": "luad", "a2": "luad", "b1": "lusc", "b2": "lusc", "ab": "luad;lusc", "n1": "normal", "n2": "normal"}
LUNG = ProjectOptions(positive=("luad=LUAD", "lusc=LUSC"))


@pytest.fixture(scope="module", autouse=True)
def small_fits():
    with pytest.MonkeyPatch.context() as patch:
        use_small_fits(patch)
        yield


def drawn_by_class(done, name):
    """The annotations of an entry, by class."""
    of_class = {path_class: [] for path_class in AREAS}
    for annotation in done.annotations(name):
        of_class.setdefault(annotation.path_class, []).append(annotation)
    return of_class


def run(path, *, only=None, memory=None, **recipe):
    recipe = Recipe(**({"refiner": "none", "search_in": "tissue", "tile_px": 64} | recipe))
    options = PseudolabelOptions(project=LUNG, recipe=recipe, min_area_um2=500.0)
    return run_pseudolabel(path, options, only=only, memory=memory)


@pytest.fixture(scope="module")
def unrun(tmp_path_factory):
    """LUAD is full of dots, LUSC is blue."""
    slides = {}
    for seed, (name, word) in enumerate(WORDS.items()):
        dense, blue = (shape if path_class.lower() in word else None for path_class, shape in AREAS.items())
        slides[name] = (paint(dense, blue, seed=seed), {"label": word})
    return make_project(tmp_path_factory.mktemp("cohort"), slides)


@pytest.fixture(scope="module")
def backbone_maps():
    """Counts the passes of the backbone over a slide, or a region of it."""
    calls, infer_map = [], features.infer_map
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "infer_map", lambda *args, **options: calls.append(1) or infer_map(*args, **options))
        yield calls


@pytest.fixture(scope="module")
def first(unrun, backbone_maps, tmp_path_factory):
    backbone_maps.clear()
    done = run(copy(unrun, tmp_path_factory.mktemp("first")))
    done.passes = len(backbone_maps)
    return done


def test_two_classes_are_separated_by_slide_labels_alone(first):
    assert first.report.failed == 0
    for name, path_class in (("a1", "LUAD"), ("b1", "LUSC")):
        drawn = drawn_by_class(first, name)
        assert overlap(drawn.pop(path_class), AREAS[path_class]) > 0.3
        assert not any(drawn.values())
    both = drawn_by_class(first, "ab")
    assert area(both["LUSC"]).intersection(AREAS["LUSC"]).area > 0.4 * AREAS["LUSC"].area
    assert area(both["LUAD"]).intersection(area(both["LUSC"])).area < 1
    for annotation in (*both["LUAD"], *both["LUSC"]):
        assert annotation.measurements[AREA] == pytest.approx(annotation.shape.area, rel=1e-3)


def test_negative_slides_get_no_polygon_of_any_class(first):
    assert not any(drawn_by_class(first, "n1").values())
    assert not any(drawn_by_class(first, "n2").values())


def test_polygons_are_counted_by_class(first):
    for name in WORDS:
        counts, drawn = first.results()[name].counts, drawn_by_class(first, name)
        assert [counts[f"polygons {path_class}"] for path_class in AREAS] == [len(drawn[name]) for name in AREAS]
        assert counts["polygons"] == sum(map(len, drawn.values()))


def test_the_backbone_passes_a_small_slide_once_for_the_instances_and_the_cams_of_all_classes(first):
    assert first.passes == len(WORDS)


def test_run_and_cams_say_which_class(first):
    details = json.loads((first.run_folder / "run.json").read_text(encoding="utf-8"))["details"]
    assert set(details["classes"]) == {"LUAD", "LUSC"}
    assert details["classes"]["LUSC"]["prevalence"] > 0
    assert details["suspected_label_errors"] == {}
    assert {path.name for path in (first.run_folder / "cams").iterdir()} == {
        f"{entry_id}.{name}.png" for entry_id in first.ids.values() for name in AREAS
    }
    assert (
        "7 labelled slides (5 positive (3 LUAD, 3 LUSC), 2 negative); left out: 0 without label, 0 held out"
        in first.said
    )
    for name in AREAS:
        assert any(line.startswith(f"{name}: foreground of the CAM:") for line in first.said)


def test_a_run_again_keeps_what_a_person_drew_and_replaces_its_own_polygons_of_both_classes(first, tmp_path):
    path = copy(first.path, tmp_path)
    project = open_project(path, ProjectOptions())
    half = box(240, 200, 330, 430)
    by_hand = Annotation(uuid4(), half, "LUAD")
    project.replace(first.ids["ab"], origin="human", annotations=[by_hand])
    again = run(path)
    before, after = drawn_by_class(first, "ab"), drawn_by_class(again, "ab")
    assert [drawn.id for drawn in after["LUAD"] if drawn.origin == "human"] == [by_hand.id]
    new = [drawn for of_class in after.values() for drawn in of_class if drawn.origin == "pseudolabel"]
    assert {drawn.path_class for drawn in new} == {"LUAD", "LUSC"}
    assert {drawn.run_id for drawn in new} == {again.report.run_id}
    assert {drawn.id for of_class in before.values() for drawn in of_class}.isdisjoint(drawn.id for drawn in new)
    assert area(new).intersection(half).area < 1, "neither class is drawn where a person drew one"
    for drawn in new:
        assert drawn.measurements[AREA] == pytest.approx(drawn.shape.area, rel=1e-3)


@pytest.mark.parametrize("refiner", ["sam", "slic"])
def test_refined_outlines_of_two_classes_never_overlap(first, tmp_path, refiner):
    both = run(copy(first.path, tmp_path), memory=first.memory, refiner=refiner)
    both = drawn_by_class(both, "ab")
    luad, lusc = area(both["LUAD"]), area(both["LUSC"])
    assert min(luad.area, lusc.area) > 0
    assert luad.intersection(lusc).area < 1
    for annotation in (*both["LUAD"], *both["LUSC"]):
        assert annotation.measurements[AREA] == pytest.approx(annotation.shape.area, rel=1e-3)


def test_rounds_tune_a_decoder_for_each_class(first, tmp_path, monkeypatch):
    monkeypatch.setattr(rounds, "MOST_WINDOWS", 3)
    tuned = run(copy(first.path, tmp_path), memory=first.memory, refiner="sam", rounds=1)
    curves = json.loads((tuned.run_folder / "curves.json").read_text(encoding="utf-8"))
    assert set(curves) == {"SAM decoder loss, LUAD", "SAM decoder loss, LUSC"}
    assert all(len(of_class["round_windows"]) == 1 for of_class in tuned.report.details["classes"].values())


def test_a_class_without_a_slide_that_can_be_used_is_named(unrun, tmp_path):
    path = copy(unrun, tmp_path)
    with pytest.raises(ProjectError, match="class LUSC: only negative slides"):
        run(path, only=[name for name in WORDS if "b" not in name])
    project = open_project(path, ProjectOptions())
    entries = [
        replace(entry, slide_path=None, problem="gone") if "b" in entry.name else entry
        for entry in resolve_labels(project.entries(), LUNG)
    ]
    with pytest.raises(ProjectError, match=r"class LUSC: no positive slide can be used: .*gone"):
        pseudolabel(project, entries, PseudolabelOptions(project=LUNG), Silent())


def test_a_slide_whose_data_is_damaged_is_left_out_for_all_classes(unrun, tmp_path):
    path = copy(unrun, tmp_path)
    shutil.copy(unrun.parents[1] / "n1.tif", tmp_path / "n1.tif")
    with tifffile.TiffFile(tmp_path / "n1.tif") as tiff:
        page = tiff.pages[0]
        offset = page.dataoffsets[len(page.dataoffsets) // 2]
    with (tmp_path / "n1.tif").open("r+b") as file:
        file.seek(offset)
        file.write(b"\0" * 64)
    project = open_project(path, ProjectOptions())
    entries = [
        replace(entry, slide_path=tmp_path / "n1.tif") if entry.name == "n1.tif" else entry
        for entry in resolve_labels(project.entries(), LUNG)
        if entry.name[:2] not in ("a2", "b2", "ab")
    ]
    recipe = Recipe(refiner="none", search_in="tissue")
    report = pseudolabel(project, entries, PseudolabelOptions(project=LUNG, recipe=recipe), Silent())
    assert [(result.name, result.status) for result in report.entries if result.status != "done"] == [
        ("n1.tif", "failed")
    ]
    assert set(report.details["classes"]) == {"LUAD", "LUSC"}


def test_mil_networks_are_fitted_for_each_class(unrun, tmp_path, monkeypatch):
    monkeypatch.setattr(ensemble, "MilSettings", partial(MilSettings, tiles_per_bag=2, least_steps=2))
    only = ["a1", "b1", "n1"]
    done = run(copy(unrun, tmp_path), only=only, backbone_mode="both", epochs=1, folds=1)
    assert done.report.failed == 0
    folds = [set(of_class["folds"]) for of_class in done.report.details["classes"].values()]
    assert folds == [{done.ids[name] for name in only}] * 2
    curves = json.loads((done.run_folder / "curves.json").read_text(encoding="utf-8"))
    assert set(curves) == {"MIL loss, LUAD", "MIL loss, LUSC"}
