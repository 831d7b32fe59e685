"""The stages that learn are replaced, but for one short run with all that is real."""

import csv
import json
import shutil
from dataclasses import replace as changed
from functools import partial
from pathlib import Path
from uuid import uuid4
from xml.etree import ElementTree

import numpy as np
import pytest
from shapely import box
from shapely.geometry import mapping

from wsplf_cli.backends.embedded import open_project
from wsplf_cli.benchmark import charts, table
from wsplf_cli.benchmark import runner as stage
from wsplf_cli.benchmark.runner import benchmark
from wsplf_cli.cohort.labels import resolve_labels
from wsplf_cli.errors import ConfigError, ProjectError
from wsplf_cli.files import write_json
from wsplf_cli.options import BenchmarkOptions, ProjectOptions, TileOptions
from wsplf_cli.qupath.create import Image, create_project
from wsplf_cli.recipes import RECIPES
from wsplf_cli.schema import Annotation, EntryResult, StageReport
from wsplf_cli.segmentation.train import FitSettings
from wsplf_cli.synthetic.cohort import make_cohort
from wsplf_cli.synthetic.pyramid import write_pyramid
from wsplf_cli.weak.cam import require_used

TRUTH = box(100, 100, 200, 200)
WORDS = {
    "p1": {"label": "tumor"},
    "p2": {"label": "tumor"},
    "n1": {"label": "normal"},
    "n2": {"label": "normal"},
    "t1": {"label": "tumor", "split": "test"},
    "t2": {"label": "normal", "split": "test"},
}


def make_project(folder, slide, words):
    images = [Image(slide, f"{name}.tif", 512, 512, 1.0, [(1.0, 512, 512)], meta) for name, meta in words.items()]
    return create_project(folder / "project", images, classes=[])


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    rgb = np.full((512, 512, 3), 244, np.uint8)
    rgb[50:450, 50:450] = (220, 140, 180)
    path = tmp_path_factory.mktemp("slides") / "slide.tif"
    write_pyramid(path, rgb, mpp=1.0)
    return path


@pytest.fixture
def cohort(tmp_path, slide):
    """A project, with something that a person drew, and its truth."""
    path = make_project(tmp_path, slide, WORDS)
    drawn = Annotation(uuid4(), box(0, 0, 30, 30), "Tumor", name="mine")
    project = open_project(path, ProjectOptions())
    project.replace(project.entries()[0].id, origin="human", annotations=[drawn])
    for name, words in WORDS.items():
        shapes = [TRUTH] if words["label"] == "tumor" else []
        write_truth(tmp_path / "truth" / f"{name}.geojson", shapes)
    return path


def write_truth(path, shapes):
    path.parent.mkdir(exist_ok=True)
    feature = {"type": "Feature", "properties": {"classification": {"name": "Tumor"}}}
    write_json(path, {"type": "FeatureCollection", "features": [feature | {"geometry": mapping(s)} for s in shapes]})


@pytest.fixture
def stages(monkeypatch):
    """Stand-ins: recipes draw the truth too small by their length, the more so the higher the seed. Gives the calls."""
    calls = []

    def labelled(project, entries, options, tracker, *, memory):
        calls.append(("pseudolabel", options.recipe, options.run.seed))
        memory.setdefault(options.head, True)
        results = []
        for entry in entries:
            assert all(one.origin != "human" for one in project.annotations(entry.id))
            assert not entry.held_out
            positive = bool(entry.label.classes)
            shape = TRUTH.buffer(-len(options.recipe) - options.run.seed)
            found = Annotation(uuid4(), shape, "Tumor", measurements={"wsplf: confidence": 0.8})
            project.replace(entry.id, origin="pseudolabel", annotations=[found] if positive else [])
            counts = {"tissue mm2": 0.16, "suppressed_um2": 0.0 if positive else 1600.0}
            results.append(EntryResult(entry.id, entry.name, "done", counts=counts))
        return StageReport("pseudolabel", "run", tuple(results), 5.0, {"learn_seconds": 4.0})

    def trained(project, entries, options, tracker):
        calls.append(("train", options.name, options.run.seed))
        seen = {one.name for entry in entries for one in project.annotations(entry.id) if one.origin == "human"}
        assert "mine" not in seen
        return StageReport("train", "run", (), 1.0)

    def predicted(project, entries, options, tracker):
        calls.append(("segment", options.model, options.run.seed))
        for entry in entries:
            shrunk = TRUTH if options.model == "upper-bound" else TRUTH.buffer(-2)
            found = [Annotation(uuid4(), shrunk, "Tumor")] if entry.label.classes else []
            project.replace(entry.id, origin="prediction", annotations=found)
        return StageReport("segment", "run", tuple(EntryResult(e.id, e.name, "done") for e in entries), 1.0)

    monkeypatch.setattr(stage, "pseudolabel", labelled)
    monkeypatch.setattr(stage, "train", trained)
    monkeypatch.setattr(stage, "segment", predicted)
    return calls


def run(path, recorder, **options):
    project = open_project(path, ProjectOptions())
    entries = resolve_labels(project.entries(), ProjectOptions())
    settings = BenchmarkOptions(**{"truth": path.parents[1] / "truth", **options})
    return benchmark(project, entries, settings, recorder)


def test_every_recipe_runs_with_every_seed_and_comes_into_one_table(cohort, stages, recorder):
    found = run(cohort, recorder, recipes=("default,cam", "upper-bound"), seeds=2)
    assert [call for call in stages if call[0] == "pseudolabel"] == [
        ("pseudolabel", "default", 0),
        ("pseudolabel", "cam", 0),
        ("pseudolabel", "default", 1),
        ("pseudolabel", "cam", 1),
    ]
    assert {call[1] for call in stages if call[0] == "train"} == {"default", "upper-bound"}
    rows = {(row.recipe, row.measured): row for row in found["rows"]}
    assert set(rows) == {
        ("default", "pseudo-labels"),
        ("default", "predictions"),
        ("cam", "pseudo-labels"),
        ("upper-bound", "predictions"),
    }
    cam, default = rows["cam", "pseudo-labels"].figures, rows["default", "pseudo-labels"].figures
    assert len(cam["mean_dice"]) == 2
    assert 0 < default["mean_dice"][0] < cam["mean_dice"][0] < 1
    assert cam["negative_fp_share"] == pytest.approx((0.01, 0.01), rel=0.05)
    # what a run learned before counts as if it had learned it: 5 s with 4 s of learning, and 5 s more without
    assert default["seconds_per_mm2"][0] == pytest.approx(5 / 0.64)
    assert cam["seconds_per_mm2"][0] == pytest.approx(9 / 0.64)
    bound = rows["upper-bound", "predictions"].figures
    assert bound["mean_dice"] == pytest.approx((1, 1), abs=1e-6)
    share = rows["default", "predictions"].figures["of_upper_bound"]
    assert share == pytest.approx(rows["default", "predictions"].figures["mean_dice"])
    assert all(one["status"] == "done" for one in found["runs"])
    assert found["failed"] == []


def test_a_frozen_backbone_runs_without_what_needs_it_to_learn(cohort, stages, recorder, monkeypatch):
    given = {}

    def keep(stands_in, key):
        def kept(project, entries, options, tracker, **rest):
            given[key, getattr(options, "recipe", "") or options.name] = options
            return stands_in(project, entries, options, tracker, **rest)

        return kept

    monkeypatch.setattr(stage, "pseudolabel", keep(stage.pseudolabel, "pseudolabel"))
    monkeypatch.setattr(stage, "train", keep(stage.train, "train"))
    names = ("default", "paper", "mil", "mil-no-adl", "mil-high-frequency")
    run(cohort, recorder, recipes=names, seeds=1, backbone="vit_tiny_patch16_224")
    assert {name for key, name in given if key == "pseudolabel"} == {"default", "paper", "mil"}
    for key, options in given.items():
        if key[0] == "pseudolabel":
            assert options.adl == (options.classifier == "places")
            require_used(options)
    assert {options.backbone for (key, _), options in given.items() if key == "train"} == {"small"}
    assert any("is frozen" in line and "left out: mil-no-adl, mil-high-frequency" in line for line in recorder.said)
    with pytest.raises(ConfigError, match="is frozen"):
        run(cohort, recorder, recipes=("mil-no-adl",), backbone="vit_tiny_patch16_224")


def test_the_project_and_what_a_person_drew_are_not_touched(cohort, stages, recorder):
    before = {path: path.read_bytes() for path in cohort.parent.rglob("*") if path.is_file()}
    run(cohort, recorder, recipes=("default", "upper-bound"), seeds=1)
    after = {path: path.read_bytes() for path in cohort.parent.rglob("*") if path.is_file()}
    outside = {path for path in after if "wsplf" not in path.relative_to(cohort.parent).parts}
    assert {path: after[path] for path in outside} == before


def test_the_files_hold_what_the_table_says(cohort, stages, recorder, tmp_path):
    out = tmp_path / "out"
    found = run(cohort, recorder, recipes=("cam", "default"), seeds=2, out=out)
    text = (out / "benchmark.md").read_text()
    assert text.splitlines()[0].startswith("| recipe | measured | seeds | mean Dice")
    assert "±" in text.splitlines()[2]
    with (out / "benchmark.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["recipe"] for row in rows] == ["default", "default", "cam"]
    dice = found["rows"][2].figures["mean_dice"]
    assert float(rows[2]["mean_dice_mean"]) == pytest.approx(np.mean(dice), rel=1e-5)
    assert float(rows[2]["mean_dice_sd"]) == pytest.approx(np.std(dice, ddof=1), rel=1e-4)
    document = json.loads((out / "benchmark.json").read_text())
    assert {one["recipe"] for one in document["results"]} == {"cam", "default"}
    for name in ("mean_dice", "negative_fp_share"):
        regions = ElementTree.parse(out / f"{name}.svg").getroot()
        assert len(regions.findall(".//{*}circle")) == 4


def test_what_is_finished_is_not_run_again_until_something_changes(cohort, stages, recorder):
    run(cohort, recorder, recipes=("mil",), seeds=1)
    run(cohort, recorder, recipes=("mil",), seeds=2)
    assert [call[2] for call in stages] == [0, 1]
    again = run(cohort, recorder, recipes=("mil",), seeds=2, dry_run=True)
    assert [one["status"] for one in again["runs"]] == ["done", "done"]
    assert len(stages) == 2
    run(cohort, recorder, recipes=("mil",), seeds=1, epochs=3)
    assert len(stages) == 3
    write_truth(cohort.parents[1] / "truth" / "p1.geojson", [TRUTH, box(300, 300, 320, 320)])
    run(cohort, recorder, recipes=("mil",), seeds=1, epochs=3)
    assert len(stages) == 4
    (result,) = (cohort.parent / "wsplf" / "benchmark" / "runs").glob("mil-seed0.json")
    result.write_text("{half")
    run(cohort, recorder, recipes=("mil",), seeds=1, epochs=3)
    assert len(stages) == 5


def test_a_benchmark_goes_on_after_one_that_was_killed_while_it_wrote(cohort, stages, recorder):
    run(cohort, recorder, recipes=("mil",), seeds=1)
    left = cohort.parent / "wsplf" / "benchmark" / "copy" / "wsplf"
    (left / "runs").mkdir(parents=True, exist_ok=True)
    for name in ("lock", "lock.json", "train-mil.lock"):
        (left / name).write_text("")
    run(cohort, recorder, recipes=("mil",), seeds=2)
    assert len(stages) == 2
    assert not (left / "lock.json").exists()


def test_a_dry_run_lists_the_runs_and_writes_nothing(cohort, stages, recorder):
    found = run(cohort, recorder, seeds=1, dry_run=True)
    assert [one["recipe"] for one in found["runs"]] == [*RECIPES, "upper-bound"]
    assert {one["status"] for one in found["runs"]} == {"to run"}
    assert stages == []
    assert not (cohort.parent / "wsplf").exists()


def test_an_unknown_recipe_a_foreign_folder_no_truth_and_one_class_are_refused_before_any_work(
    cohort, stages, recorder, tmp_path, slide
):
    with pytest.raises(ConfigError, match="nonsense"):
        run(cohort, recorder, recipes=("cam,nonsense",))
    foreign = tmp_path / "mine"
    foreign.mkdir()
    (foreign / "project.qpproj").write_text("a person's")
    with pytest.raises(ConfigError, match="not of a benchmark"):
        run(cohort, recorder, out=foreign)
    with pytest.raises(ConfigError, match="no truth"):
        run(cohort, recorder, truth=tmp_path / "nowhere")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ConfigError, match="no truth of any"):
        run(cohort, recorder, truth=tmp_path / "nothing")
    shutil.rmtree(cohort.parent)
    positives = make_project(tmp_path, slide, {name: words for name, words in WORDS.items() if name != "n1"})
    project = open_project(positives, ProjectOptions())
    entries = resolve_labels(project.entries(), ProjectOptions())
    with pytest.raises(ProjectError):
        benchmark(project, entries[:2], BenchmarkOptions(truth=tmp_path / "truth"), recorder)
    assert stages == []


def test_a_recipe_that_draws_nothing_still_has_its_row_and_is_named(cohort, stages, recorder, monkeypatch):
    def nothing(*args):
        raise ProjectError("no polygon of class 'Tumor' to learn from")

    monkeypatch.setattr(stage, "train", nothing)
    found = run(cohort, recorder, recipes=("default",), seeds=1)
    assert [(row.recipe, row.measured) for row in found["rows"]] == [("default", "pseudo-labels")]
    assert "no polygon" in found["failed"][0]


def test_without_held_back_slides_predictions_are_measured_where_was_learned_and_it_is_said(
    cohort, stages, recorder, monkeypatch
):
    predicted = stage.segment

    def segment(project, entries, options, tracker):
        report = predicted(project, entries, options, tracker)
        counted = [changed(one, counts={"suppressed_um2": 800.0}) for one in report.entries]
        return changed(report, entries=tuple(counted))

    monkeypatch.setattr(stage, "segment", segment)
    project = open_project(cohort, ProjectOptions())
    entries = resolve_labels(project.entries(), ProjectOptions())[:4]
    settings = BenchmarkOptions(truth=cohort.parents[1] / "truth", recipes=("default",), seeds=1)
    found = benchmark(project, entries, settings, recorder)
    predictions = next(row for row in found["rows"] if row.measured == "predictions")
    assert predictions.figures["negative_fp_share"] == pytest.approx((0.005,), rel=0.05)
    assert any("learned from" in note for note in found["notes"])


def test_all_recipes_share_networks_and_budget(cohort, stages, recorder, monkeypatch):
    given = []
    labelled = stage.pseudolabel

    def look(project, entries, options, tracker, *, memory):
        given.append(options)
        return labelled(project, entries, options, tracker, memory=memory)

    monkeypatch.setattr(stage, "pseudolabel", look)
    names = ("default", "paper", "mil")
    run(cohort, recorder, recipes=names, seeds=1, epochs=2, folds=2, backbone="resnet18")
    by_name = {one.recipe: one for one in given}
    assert set(by_name) == set(names)
    assert {one.backbone for one in given} == {"resnet18"}
    assert (by_name["mil"].epochs, by_name["mil"].folds) == (2, 2)
    assert (by_name["paper"].epochs, by_name["paper"].folds) == (2, RECIPES["paper"].options["folds"])
    assert by_name["paper"].prompts == "sampled"
    for one in given:
        require_used(one)  # what trains no MIL networks is not told of their epochs and folds


def test_epochs_and_folds_that_no_recipe_uses_are_refused_before_any_work(cohort, stages, recorder):
    for options in ({"epochs": 2}, {"folds": 2}):
        with pytest.raises(ConfigError, match="which none of default, cam trains"):
            run(cohort, recorder, recipes=("default", "cam"), seeds=1, **options)
    assert stages == []
    assert not (cohort.parent / "wsplf").exists()


def test_a_cell_is_the_mean_with_its_spread():
    figure = table.FIGURES[0]
    assert table.cell(figure, (0.5, 0.7)) == "0.600 ± 0.141"
    assert table.cell(figure, (0.5,)) == "0.500"
    assert table.cell(figure, ()) == ""


def test_a_chart_of_nothing_is_left_out_and_names_are_escaped():
    row = table.Row("<a>", "pseudo-labels", (0,), {figure.key: () for figure in table.FIGURES})
    assert charts.chart(table.FIGURES[0], [row]) == ""
    drawn = charts.chart(table.FIGURES[0], [changed(row, figures={**row.figures, "mean_dice": (0.4,)})])
    assert "&lt;a&gt;" in drawn
    ElementTree.fromstring(drawn)


def test_the_real_stages_run_on_a_tiny_cohort(tmp_path, recorder, monkeypatch):
    monkeypatch.setattr("wsplf_cli.commands.train.FitSettings", partial(FitSettings, tiles_per_epoch=16))
    slides = make_cohort(tmp_path, seed=0, train=(2, 2), test=(1, 1), size_px=512, workers=1)
    images = [
        Image(one.path, one.name, 512, 512, one.mpp, [(1.0, 512, 512)], {"label": one.label, "split": one.split})
        for one in slides
    ]
    path = create_project(tmp_path / "project", images, classes=[])
    small = {"tiles": TileOptions(tile_px=96), "train_epochs": 1}
    found = run(path, recorder, recipes=("cam,upper-bound",), seeds=1, **small)
    assert [one["status"] for one in found["runs"]] == ["done", "done"]
    rows = {row.recipe: row.figures for row in found["rows"]}
    assert rows["cam"]["seconds_per_mm2"][0] > 0
    assert 0 <= rows["upper-bound"]["mean_dice"][0] <= 1
    assert Path(found["out"], "benchmark.md").is_file()
