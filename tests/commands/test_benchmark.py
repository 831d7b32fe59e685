"""Stand-ins take the place of the commands that learn, but for one short run with the real ones."""

import csv
import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from uuid import uuid4
from xml.etree import ElementTree

import numpy as np
import pytest
from shapely import box
from shapely.geometry import mapping

from wsplf_cli.backends.embedded import open_project
from wsplf_cli.benchmark.runner import Pipeline
from wsplf_cli.benchmark_options import BenchmarkOptions
from wsplf_cli.cohort.labels import resolve_labels
from wsplf_cli.commands.benchmark import PIPELINE, benchmark
from wsplf_cli.commands.evaluate import evaluate
from wsplf_cli.errors import ConfigError, ProjectError
from wsplf_cli.files import write_json
from wsplf_cli.options import ProjectOptions, PseudolabelOptions, TrainOptions
from wsplf_cli.qupath.create import Image, create_project
from wsplf_cli.recipes import RECIPES
from wsplf_cli.schema import Annotation, EntryResult, StageReport
from wsplf_cli.segmentation.train import FitSettings
from wsplf_cli.settings import read_settings
from wsplf_cli.synthetic.cohort import make_cohort
from wsplf_cli.synthetic.pyramid import write_pyramid

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


class StandIns:
    """Commands that draw the truth too small by the length of the recipe's name, the more so the higher the seed."""

    def __init__(self):
        self.calls = []
        self.options = []
        self.pipeline = Pipeline(self.pseudolabel, self.train, self.segment, evaluate)

    def pseudolabel(self, project, entries, options, tracker, *, memory):
        recipe = options.recipe
        self.calls.append(("pseudolabel", recipe.name, options.run.seed))
        self.options.append(options)
        memory.setdefault(recipe.head, True)
        results = []
        for entry in entries:
            assert all(annotation.origin != "human" for annotation in project.annotations(entry.id))
            assert not entry.held_out
            positive = bool(entry.label.classes)
            shape = TRUTH.buffer(-len(recipe.name) - options.run.seed)
            drawn = Annotation(uuid4(), shape, "Tumor", measurements={"wsplf: confidence": 0.8})
            project.replace(entry.id, origin="pseudolabel", annotations=[drawn] if positive else [])
            counts = {"tissue mm2": 0.16, "suppressed_um2": 0.0 if positive else 1600.0}
            results.append(EntryResult(entry.id, entry.name, "done", counts=counts))
        return StageReport("pseudolabel", "run", tuple(results), 5.0, {"learn_seconds": 4.0})

    def train(self, project, entries, options, tracker):
        self.calls.append(("train", options.name, options.run.seed))
        self.options.append(options)
        annotations = [annotation for entry in entries for annotation in project.annotations(entry.id)]
        assert "mine" not in {annotation.name for annotation in annotations if annotation.origin == "human"}
        return StageReport("train", "run", (), 1.0)

    def segment(self, project, entries, options, tracker):
        self.calls.append(("segment", options.model, options.run.seed))
        for entry in entries:
            shape = TRUTH if options.model == "upper-bound" else TRUTH.buffer(-2)
            drawn = [Annotation(uuid4(), shape, "Tumor")] if entry.label.classes else []
            project.replace(entry.id, origin="prediction", annotations=drawn)
        results = (EntryResult(entry.id, entry.name, "done") for entry in entries)
        return StageReport("segment", "run", tuple(results), 1.0)


@pytest.fixture
def stand_ins():
    return StandIns()


@pytest.fixture
def run(cohort, stand_ins, recorder):
    """Runs a benchmark of stand-ins on the cohort."""

    def run_with(pipeline=stand_ins.pipeline, entries=slice(None), **options):
        project = open_project(cohort, ProjectOptions())
        labelled = resolve_labels(project.entries(), ProjectOptions())[entries]
        chosen = BenchmarkOptions(**{"truth": cohort.parents[1] / "truth", **options})
        return benchmark(project, labelled, chosen, recorder, pipeline=pipeline)

    return run_with


def test_every_recipe_runs_with_every_seed_and_comes_into_one_table(cohort, run, stand_ins):
    document = run(recipes=("default,cam", "upper-bound"), seeds=2)
    assert [call for call in stand_ins.calls if call[0] == "pseudolabel"] == [
        ("pseudolabel", "default", 0),
        ("pseudolabel", "cam", 0),
        ("pseudolabel", "default", 1),
        ("pseudolabel", "cam", 1),
    ]
    assert {call[1] for call in stand_ins.calls if call[0] == "train"} == {"default", "upper-bound"}
    rows = {(row.recipe, row.measured): row for row in document["rows"]}
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
    assert all(job["status"] == "done" for job in document["runs"])
    assert document["failed"] == []


@pytest.mark.parametrize("backbone", ["vit_tiny_patch16_224", "small+efficientnet-lite0"])
def test_with_a_frozen_backbone_recipes_that_only_change_its_training_are_left_out(run, stand_ins, recorder, backbone):
    names = ("default", "ep-sam", "fine-tuned", "fine-tuned-no-adl", "fine-tuned-high-frequency")
    run(recipes=names, seeds=1, backbone=backbone)
    recipes = {options.recipe for options in stand_ins.options if isinstance(options, PseudolabelOptions)}
    assert {recipe.name for recipe in recipes} == {"default", "ep-sam", "fine-tuned"}
    assert all(recipe.adl == (recipe.backbone_mode == "frozen") for recipe in recipes)
    trained = [options for options in stand_ins.options if isinstance(options, TrainOptions)]
    assert {options.backbone for options in trained} == {"auto"}
    left_out = "left out: fine-tuned-no-adl, fine-tuned-high-frequency"
    assert any("is frozen" in line and left_out in line for line in recorder.said)
    with pytest.raises(ConfigError, match="is frozen"):
        run(recipes=("fine-tuned-no-adl",), backbone=backbone)


def test_a_recipe_that_takes_dropout_from_probes_is_compared_with_a_frozen_backbone_too(run, stand_ins):
    run(recipes=("default", "no-adl"), seeds=1, backbone="small+efficientnet-lite0")
    recipes = {options.recipe for options in stand_ins.options if isinstance(options, PseudolabelOptions)}
    assert {recipe.name: recipe.adl for recipe in recipes} == {"default": True, "no-adl": False}


def test_the_project_and_what_a_person_drew_are_not_touched(cohort, run, stand_ins):
    before = {path: path.read_bytes() for path in cohort.parent.rglob("*") if path.is_file()}
    run(recipes=("default", "upper-bound"), seeds=1)
    after = {path: path.read_bytes() for path in cohort.parent.rglob("*") if path.is_file()}
    outside = {path for path in after if "wsplf" not in path.relative_to(cohort.parent).parts}
    assert {path: after[path] for path in outside} == before


def test_the_files_hold_what_the_table_says(run, tmp_path):
    out = tmp_path / "out"
    document = run(recipes=("cam", "default"), seeds=2, out=out)
    text = (out / "benchmark.md").read_text()
    assert text.splitlines()[0].startswith("| recipe | measured | seeds | mean Dice")
    assert "±" in text.splitlines()[2]
    assert f"- cam: {RECIPES['cam'].summary}" in text.splitlines()
    with (out / "benchmark.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["recipe"] for row in rows] == ["default", "default", "cam"]
    dice = document["rows"][2].figures["mean_dice"]
    assert float(rows[2]["mean_dice_mean"]) == pytest.approx(np.mean(dice), rel=1e-5)
    assert float(rows[2]["mean_dice_sd"]) == pytest.approx(np.std(dice, ddof=1), rel=1e-4)
    written = json.loads((out / "benchmark.json").read_text())
    assert {result["recipe"] for result in written["results"]} == {"cam", "default"}
    for name in ("mean_dice", "negative_fp_share"):
        plot = ElementTree.parse(out / f"{name}.svg").getroot()
        assert [len(plot.findall(f".//*[@id='row-{line}']//{{*}}use")) for line in range(3)] == [2, 2, 2]


@pytest.mark.slow
def test_what_is_finished_is_not_run_again_until_something_changes(cohort, run, stand_ins):
    run(recipes=("fine-tuned",), seeds=1)
    run(recipes=("fine-tuned",), seeds=2)
    assert [call[2] for call in stand_ins.calls] == [0, 1]
    again = run(recipes=("fine-tuned",), seeds=2, dry_run=True)
    assert [job["status"] for job in again["runs"]] == ["done", "done"]
    assert len(stand_ins.calls) == 2
    run(recipes=("fine-tuned",), seeds=1, mpp=2.0)
    assert len(stand_ins.calls) == 3
    write_truth(cohort.parents[1] / "truth" / "p1.geojson", [TRUTH, box(300, 300, 320, 320)])
    run(recipes=("fine-tuned",), seeds=1, mpp=2.0)
    assert len(stand_ins.calls) == 4
    (result,) = (cohort.parent / "wsplf" / "benchmark" / "runs").glob("fine-tuned-seed0.json")
    result.write_text("{half")
    run(recipes=("fine-tuned",), seeds=1, mpp=2.0)
    assert len(stand_ins.calls) == 5


def test_a_benchmark_goes_on_after_one_that_was_killed_while_it_wrote(cohort, run, stand_ins):
    run(recipes=("fine-tuned",), seeds=1)
    left = cohort.parent / "wsplf" / "benchmark" / "copy" / "wsplf"
    (left / "runs").mkdir(parents=True, exist_ok=True)
    for name in ("lock", "lock.json", "train-fine-tuned.lock"):
        (left / name).write_text("")
    run(recipes=("fine-tuned",), seeds=2)
    assert len(stand_ins.calls) == 2
    assert not (left / "lock.json").exists()


def test_a_dry_run_lists_the_runs_and_writes_nothing(cohort, run, stand_ins):
    document = run(seeds=1, dry_run=True)
    assert [job["recipe"] for job in document["runs"]] == [*RECIPES, "upper-bound"]
    assert {job["status"] for job in document["runs"]} == {"to run"}
    assert stand_ins.calls == []
    assert not (cohort.parent / "wsplf").exists()


def test_an_unknown_recipe_a_foreign_folder_no_truth_and_one_class_are_refused_before_any_work(
    cohort, run, stand_ins, recorder, tmp_path, slide
):
    with pytest.raises(ConfigError, match="nonsense"):
        run(recipes=("cam,nonsense",))
    foreign = tmp_path / "mine"
    foreign.mkdir()
    (foreign / "project.qpproj").write_text("a person's")
    with pytest.raises(ConfigError, match="not of a benchmark"):
        run(out=foreign)
    with pytest.raises(ConfigError, match="no truth"):
        run(truth=tmp_path / "nowhere")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ConfigError, match="no truth of any"):
        run(truth=tmp_path / "nothing")
    shutil.rmtree(cohort.parent)
    positives = make_project(tmp_path, slide, {name: words for name, words in WORDS.items() if name != "n1"})
    project = open_project(positives, ProjectOptions())
    entries = resolve_labels(project.entries(), ProjectOptions())
    with pytest.raises(ProjectError):
        benchmark(project, entries[:2], BenchmarkOptions(truth=tmp_path / "truth"), recorder)
    assert stand_ins.calls == []


def test_a_recipe_that_draws_nothing_still_has_its_row_and_is_named(run, stand_ins):
    def train(*_):
        raise ProjectError("no polygon of class 'Tumor' to learn from")

    document = run(replace(stand_ins.pipeline, train=train), recipes=("default",), seeds=1)
    assert [(row.recipe, row.measured) for row in document["rows"]] == [("default", "pseudo-labels")]
    assert "no polygon" in document["failed"][0]


def test_without_held_out_slides_predictions_are_measured_on_the_training_slides_and_a_note_says_so(run, stand_ins):
    def segment(project, entries, options, tracker):
        report = stand_ins.segment(project, entries, options, tracker)
        results = [replace(result, counts={"suppressed_um2": 800.0}) for result in report.entries]
        return replace(report, entries=tuple(results))

    pipeline = replace(stand_ins.pipeline, segment=segment)
    document = run(pipeline, entries=slice(4), recipes=("default",), seeds=1)
    predictions = next(row for row in document["rows"] if row.measured == "predictions")
    assert predictions.figures["negative_fp_share"] == pytest.approx((0.005,), rel=0.05)
    assert any("predictions on the training slides" in note for note in document["notes"])


def test_all_recipes_share_the_networks_and_keep_their_fields(run, stand_ins):
    names = ("default", "ep-sam", "fine-tuned")
    run(recipes=names, seeds=1, backbone="resnet18", mpp=2.0)
    by_name = {options.recipe.name: options for options in stand_ins.options if isinstance(options, PseudolabelOptions)}
    assert set(by_name) == set(names)
    assert all(options.recipe == RECIPES[name] for name, options in by_name.items())
    assert {options.backbone for options in stand_ins.options} == {"resnet18"}
    assert {options.mpp for options in by_name.values()} == {2.0}
    assert {options.tiles.mpp for options in stand_ins.options if isinstance(options, TrainOptions)} == {2.0}


def test_recipes_of_a_settings_file_run_beside_the_built_in_ones(run, stand_ins, tmp_path):
    path = tmp_path / "wsplf.toml"
    path.write_text('[recipe.mine]\nbase = "epithelium"\ntta = 2\n[recipe.cam]\nrefiner = "slic"\n')
    recipes = read_settings(path, "benchmark").recipes
    document = run(known_recipes=recipes, recipes=("mine,cam",), seeds=1)
    assert [job["recipe"] for job in document["runs"]] == ["cam", "mine"]
    assert document["recipes"]["mine"] == "epithelium with tta = 2"
    cam, mine = (options.recipe for options in stand_ins.options if isinstance(options, PseudolabelOptions))
    assert (cam.refiner, cam.search_in, mine.refiner, mine.tta) == ("slic", "tissue", "none", 2)
    calls = len(stand_ins.calls)
    path.write_text('[recipe.mine]\nbase = "epithelium"\ntta = 3\n')
    run(known_recipes=read_settings(path, "benchmark").recipes, recipes=("mine",), seeds=1)
    assert len(stand_ins.calls) > calls


@pytest.mark.slow
def test_the_real_commands_run_on_a_tiny_cohort(tmp_path, recorder, monkeypatch):
    monkeypatch.setattr("wsplf_cli.commands.train.FitSettings", partial(FitSettings, tiles_per_epoch=16))
    slides = make_cohort(tmp_path, seed=0, train=(2, 2), test=(1, 1), size_px=512, workers=1)
    images = [
        Image(
            slide.path, slide.name, 512, 512, slide.mpp, [(1.0, 512, 512)], {"label": slide.label, "split": slide.split}
        )
        for slide in slides
    ]
    project = open_project(create_project(tmp_path / "project", images, classes=[]), ProjectOptions())
    entries = resolve_labels(project.entries(), ProjectOptions())
    recipes = {"cam": replace(RECIPES["cam"], tile_px=96)}
    options = BenchmarkOptions(
        truth=tmp_path / "truth", recipes=("cam,upper-bound",), known_recipes=recipes, seeds=1, train_epochs=1
    )
    document = benchmark(project, entries, options, recorder, pipeline=PIPELINE)
    assert [job["status"] for job in document["runs"]] == ["done", "done"]
    rows = {row.recipe: row.figures for row in document["rows"]}
    assert rows["cam"]["seconds_per_mm2"][0] > 0
    assert 0 <= rows["upper-bound"]["mean_dice"][0] <= 1
    assert Path(document["out"], "benchmark.md").is_file()


def test_an_entry_whose_truth_is_lost_is_named_among_the_failures_and_the_others_are_measured(cohort, run, slide):
    truth = make_project(cohort.parents[1] / "other", slide, WORDS)
    opened = open_project(truth, ProjectOptions())
    for entry in opened.entries():
        drawn = [Annotation(uuid4(), TRUTH, "Tumor")] if entry.metadata["label"] == "tumor" else []
        opened.replace(entry.id, origin="human", annotations=drawn)
    (truth.parent / "data" / "1" / "data.qpdata").unlink()
    document = run(recipes=("default", "upper-bound"), seeds=1, truth=truth)
    assert len(document["rows"]) > 0
    assert any("summary.json counts 1 annotation" in line for line in document["failed"])
