"""``benchmark --review`` and ``--test-project``. Stand-ins take the place of commands that learn, but for one run."""

import csv
import json
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
from wsplf_cli.errors import ConfigError
from wsplf_cli.files import write_json
from wsplf_cli.options import ProjectOptions
from wsplf_cli.qupath.create import Image, create_project
from wsplf_cli.recipes import RECIPES
from wsplf_cli.schema import Annotation, EntryResult, StageReport, is_pending
from wsplf_cli.segmentation.train import FitSettings
from wsplf_cli.synthetic.cohort import make_cohort
from wsplf_cli.synthetic.pyramid import write_pyramid

TRUTH = box(100, 100, 200, 200)
#: Polygons of a positive slide with their confidence: right, wrong, and too small.
POLYGONS = ((TRUTH, 0.9), (box(300, 300, 360, 360), 0.55), (box(100, 100, 140, 140), 0.6), (box(400, 60, 440, 90), 0.7))
TRAINING = {"p1": "tumor", "p2": "tumor", "n1": "normal"}
TESTING = {"q1": "tumor", "m1": "normal"}


def make_project(folder, slide, words):
    """A project with the truth of its slides beside it."""
    images = [
        Image(slide, f"{name}.tif", 512, 512, 1.0, [(1.0, 512, 512)], {"label": word}) for name, word in words.items()
    ]
    path = create_project(folder / "project", images, classes=[])
    (folder / "truth").mkdir()
    feature = {"type": "Feature", "properties": {"classification": {"name": "Tumor"}}, "geometry": mapping(TRUTH)}
    for name, word in words.items():
        features = [feature] if word == "tumor" else []
        write_json(folder / "truth" / f"{name}.geojson", {"type": "FeatureCollection", "features": features})
    return path


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    rgb = np.full((512, 512, 3), 244, np.uint8)
    rgb[50:450, 50:450] = (220, 140, 180)
    path = tmp_path_factory.mktemp("slides") / "slide.tif"
    write_pyramid(path, rgb, mpp=1.0)
    return path


@pytest.fixture
def cohort(tmp_path, slide):
    return make_project(tmp_path / "training", slide, TRAINING)


@pytest.fixture
def other(tmp_path, slide):
    return make_project(tmp_path / "testing", slide, TESTING)


class StandIns:
    """Commands of a pipeline whose predictions are the larger, the more polygons were decided in the project."""

    def __init__(self):
        self.calls = []
        self.decided = []
        self.pipeline = Pipeline(self.pseudolabel, self.train, self.segment, evaluate)

    def pseudolabel(self, project, entries, options, tracker, *, memory):
        self.calls.append("pseudolabel")
        assert memory == {}
        for entry in entries:
            taken = [annotation.shape for annotation in project.annotations(entry.id) if not is_pending(annotation)]
            drawn = [
                Annotation(uuid4(), shape, "Tumor", measurements={"wsplf: confidence": confidence})
                for shape, confidence in POLYGONS
                if not any(shape.intersects(other) for other in taken)
            ]
            annotations = drawn if entry.label.classes else []
            project.replace(entry.id, origin="pseudolabel", annotations=annotations)
        results = tuple(EntryResult(entry.id, entry.name, "done") for entry in entries)
        return StageReport("pseudolabel", "run", results, 1.0, {"learn_seconds": 1.0})

    def train(self, project, entries, options, tracker):
        self.calls.append("train")
        annotations = [annotation for entry in entries for annotation in project.annotations(entry.id)]
        self.decided.append(sum(not is_pending(annotation) for annotation in annotations))
        return StageReport("train", "run", (), 1.0)

    def segment(self, project, entries, options, tracker):
        self.calls.append("segment")
        assert all(entry.label is None for entry in entries)
        assert Path(options.model).name in ("default", "upper-bound")
        for entry in entries:
            shape = TRUTH.buffer(self.decided[-1] - 10) if entry.name.startswith("q") else box(60, 60, 80, 80)
            project.replace(entry.id, origin="prediction", annotations=[Annotation(uuid4(), shape, "Tumor")])
        return StageReport("segment", "run", tuple(EntryResult(e.id, e.name, "done") for e in entries), 1.0)


@pytest.fixture
def stand_ins():
    return StandIns()


@pytest.fixture
def run(cohort, other, stand_ins, recorder):
    """Runs a review of stand-ins, measured on the other project."""

    def run_with(pipeline=stand_ins.pipeline, **options):
        project = open_project(cohort, ProjectOptions())
        given = {
            "truth": cohort.parents[1] / "truth",
            "test_project": other,
            "test_truth": other.parents[1] / "truth",
            "review": 2,
            "review_rounds": 2,
            "seeds": 1,
        }
        entries = resolve_labels(project.entries(), ProjectOptions())
        return benchmark(project, entries, BenchmarkOptions(**(given | options)), recorder, pipeline=pipeline)

    return run_with


def files_of(path):
    return {
        file: file.read_bytes()
        for file in path.parent.rglob("*")
        if file.is_file() and "benchmark" not in file.relative_to(path.parent).parts
    }


def test_there_is_a_row_for_each_order_seed_and_round_with_the_decisions_so_far(run, stand_ins):
    document = run()
    rows = {(row.order, row.round): row for row in document["rows"]}
    assert set(rows) == {
        ("before review", 0),
        *((order, number) for order in ("uncertain", "random") for number in (1, 2)),
        ("upper-bound", None),
    }
    assert [rows[key].decisions for key in (("before review", 0), ("uncertain", 1), ("uncertain", 2))] == [0, 2, 4]
    # the least certain polygon of each slide is wrong, the next one too small
    first, second = rows["uncertain", 1], rows["uncertain", 2]
    assert (first.accepted, first.rejected, first.redrawn) == (0, 2, 0)
    assert (second.accepted, second.rejected, second.redrawn) == (0, 2, 2)
    assert 0 < rows["before review", 0].mean_dice < first.mean_dice < second.mean_dice < 1
    assert first.negative_fp_share == pytest.approx(400 / 160_000, rel=0.05)
    assert stand_ins.calls == ["pseudolabel", "train", "segment"] * 5 + ["train", "segment"]
    assert stand_ins.decided[:5] == [0, 2, 4, 2, 4]
    assert all(job["status"] == "done" for job in document["runs"])
    assert document["failed"] == []


def test_neither_project_changes(run, cohort, other):
    before = files_of(cohort) | files_of(other)
    run()
    assert files_of(cohort) | files_of(other) == before


def test_finished_rounds_are_not_run_again_and_more_rounds_go_on_where_fewer_ended(run, stand_ins):
    few = run()
    assert stand_ins.calls.count("pseudolabel") == 5
    run()
    assert stand_ins.calls.count("pseudolabel") == 5
    assert {job["status"] for job in run(dry_run=True)["runs"]} == {"done"}
    more = run(review_rounds=3)
    assert stand_ins.calls.count("pseudolabel") == 7
    assert [row for row in more["rows"] if row.round in (0, 1, 2)] == few["rows"][:-1]
    assert [row.decisions for row in more["rows"] if row.round == 3] == [6, 6]
    run(review=1)
    assert stand_ins.calls.count("pseudolabel") == 7 + 4  # the start has no decisions


def test_a_round_that_was_stopped_starts_again_from_the_round_before(run, stand_ins, cohort):
    def stopped(project, entries, options, tracker):
        if len(stand_ins.decided) == 2:
            raise KeyboardInterrupt
        return stand_ins.train(project, entries, options, tracker)

    with pytest.raises(KeyboardInterrupt):
        run(replace(stand_ins.pipeline, train=stopped))
    assert stand_ins.decided == [0, 2]
    document = run()
    assert stand_ins.decided[:5] == [0, 2, 4, 2, 4]
    assert document["rows"][2].decisions == 4


def test_a_round_whose_state_is_lost_is_run_again_from_the_last_one_that_is_left(run, stand_ins, cohort):
    run(review_orders=("uncertain",))
    out = cohort.parent / "wsplf" / "benchmark"
    states = {path.name for path in (out / "states").iterdir()}
    assert states == {"default-review-round0-seed0", "default-review-uncertain-round2-seed0"}
    (out / "states" / "default-review-uncertain-round2-seed0" / "state-of").write_text("another job")
    run(review_orders=("uncertain",), review_rounds=3)
    assert stand_ins.decided[:3] == [0, 2, 4]
    assert stand_ins.decided[4:] == [2, 4, 6]  # round 1 again, because its state is gone as well


def test_the_files_hold_the_rows_and_the_curves(run, tmp_path):
    out = tmp_path / "out"
    document = run(seeds=2, out=out)
    with (out / "review.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["order"] for row in rows] == [row.order for row in document["rows"]]
    assert float(rows[1]["mean_dice"]) == pytest.approx(document["rows"][1].mean_dice, rel=1e-5)
    text = (out / "review.md").read_text()
    assert text.startswith("| order | decisions | seeds | mean Dice | boundary F1 | false positives on negatives |")
    assert "| uncertain | 4 | 2 | 0." in text
    assert "| upper-bound | all | 2 | " in text
    assert len(json.loads((out / "review.json").read_text())["results"]) == 12
    plot = ElementTree.parse(out / "review_mean_dice.svg").getroot()
    names = ("order-uncertain", "order-random")
    assert [len(plot.findall(f".//*[@id='{name}']//{{*}}use")) for name in names] == [3, 3]
    assert plot.find(".//*[@id='bound']") is not None


def test_forty_decisions_are_shown_by_default(run):
    for decisions, rounds in ((10, 4), (20, 2), (15, 3)):
        runs = run(review=decisions, review_rounds=None, review_orders=("gain",), dry_run=True)["runs"]
        assert [job["recipe"] for job in runs] == [
            "default, review, round 0",
            *(f"default, review, gain, round {number}" for number in range(1, rounds + 1)),
            "upper-bound",
        ]


def test_what_does_not_fit_a_review_is_refused_before_any_work(run, stand_ins):
    for wrong, message in (
        ({"review_orders": ("largest",)}, "unknown order of review 'largest'"),
        ({"recipes": ("default,cam",)}, "one recipe, not with default, cam"),
        ({"test_truth": None}, "go together"),
        ({"test_project": None}, "slides that nothing is learned from"),
    ):
        with pytest.raises(ConfigError, match=message):
            run(**wrong)
    assert stand_ins.calls == []


def test_recipes_are_measured_on_the_other_project_without_a_review(run, stand_ins):
    document = run(review=0, review_rounds=None, recipes=("default,upper-bound",))
    assert {row.recipe for row in document["rows"] if row.measured == "predictions"} == {"default", "upper-bound"}
    assert any("predictions on the 2 slides of" in note for note in document["notes"])
    assert document["rows"][1].figures["negative_fp_share"] == pytest.approx((400 / 160_000,), rel=0.05)


@pytest.mark.slow
def test_two_rounds_of_the_real_commands_on_tiny_cohorts(tmp_path, recorder, monkeypatch):
    monkeypatch.setattr("wsplf_cli.commands.train.FitSettings", partial(FitSettings, tiles_per_epoch=16))
    paths = []
    for seed in (10, 11):
        folder = tmp_path / str(seed)
        slides = make_cohort(folder, seed=seed, train=(3, 3), test=(0, 0), size_px=512, shares=(0.3, 0.4), workers=1)
        images = [
            Image(slide.path, slide.name, 512, 512, slide.mpp, [(1.0, 512, 512)], {"label": slide.label})
            for slide in slides
        ]
        paths.append(create_project(folder / "project", images, classes=[]))
    project = open_project(paths[0], ProjectOptions())
    options = BenchmarkOptions(
        truth=tmp_path / "10" / "truth",
        test_project=paths[1],
        test_truth=tmp_path / "11" / "truth",
        review=1,
        review_rounds=2,
        review_orders=("uncertain",),
        known_recipes={"default": replace(RECIPES["cam"], name="default", tile_px=96)},
        seeds=1,
        train_epochs=1,
    )
    entries = resolve_labels(project.entries(), ProjectOptions())
    document = benchmark(project, entries, options, recorder, pipeline=PIPELINE)
    assert [row.decisions for row in document["rows"]] == [0, 1, 2, None]
    assert all(0 <= row.mean_dice <= 1 and row.negative_fp_share >= 0 for row in document["rows"])
    assert document["failed"] == []
