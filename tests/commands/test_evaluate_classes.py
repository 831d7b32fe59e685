"""Evaluation, report and benchmark of a project with several classes."""

import json
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
from PIL import Image
from shapely import box
from shapely.geometry import mapping

from wsplf_cli.benchmark_options import BenchmarkOptions
from wsplf_cli.cohort.labels import label_rows
from wsplf_cli.commands.benchmark import benchmark
from wsplf_cli.commands.evaluate import evaluate
from wsplf_cli.commands.report import report
from wsplf_cli.errors import ConfigError, ProjectError
from wsplf_cli.options import EvaluateOptions, ProjectOptions, ReportOptions
from wsplf_cli.report.scores import read_scores
from wsplf_cli.runs.layout import cam_file
from wsplf_cli.schema import Annotation
from wsplf_cli.ui import Screen

LUNG = ProjectOptions(positive=("luad=LUAD", "lusc=LUSC"))
WORDS = {"a": "luad", "b": "lusc", "ab": "luad;lusc", "n": "normal"}
AREAS = {"LUAD": box(300, 300, 500, 500), "LUSC": box(520, 300, 700, 500)}
HALF = box(300, 300, 500, 400)


@pytest.fixture
def entries(make_entry, tiny_slide):
    return [
        make_entry(f"{name}.tif", word=word, label={key for key in AREAS if key.lower() in word}, slide_path=tiny_slide)
        for name, word in WORDS.items()
    ]


def annotation(shape, name):
    return Annotation(uuid4(), shape, name, origin="pseudolabel", measurements={"wsplf: confidence": 0.9})


@pytest.fixture
def project(entries, memory_project, tmp_path):
    """On slides of LUAD half of it is drawn, on those of LUSC all of it; on the negative slide LUSC."""
    drawn = {"LUAD": HALF, "LUSC": AREAS["LUSC"]}
    there = {one.id: [annotation(drawn[name], name) for name in sorted(one.label.classes)] for one in entries}
    there[entries[3].id] = [annotation(AREAS["LUSC"], "LUSC")]
    made = memory_project(entries)
    made.annotations = lambda entry_id: there[entry_id]
    for one in entries[:3]:
        write_truth(tmp_path, one.name.removesuffix(".tif"), {name: AREAS[name] for name in one.label.classes})
    return made


def write_truth(folder, stem, shapes):
    features = [
        {
            "type": "Feature",
            "geometry": mapping(shape),
            "properties": {"classification": {"name": name}} if name else {},
        }
        for name, shape in shapes.items()
    ]
    (folder / "truth").mkdir(exist_ok=True)
    path = folder / "truth" / f"{stem}.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))


@pytest.fixture
def options(tmp_path):
    return EvaluateOptions(project=LUNG, truth=tmp_path / "truth")


def test_each_class_is_measured_against_its_own_truth(project, entries, options, recorder):
    found = evaluate(project, entries, options, recorder)
    assert set(found) == {"classes", "skipped", "failed"}
    first, second = found["classes"].values()
    dice = {name: [one["dice"] for one in table["entries"]] for name, table in found["classes"].items()}
    assert dice["LUAD"] == [pytest.approx(2 / 3), 1.0, pytest.approx(2 / 3), 1.0]
    assert dice["LUSC"] == [1.0, pytest.approx(1.0), pytest.approx(1.0), 0.0]
    assert first["mean_dice"] == pytest.approx(2 / 3)
    assert second["mean_dice"] == pytest.approx(1.0)
    assert first["negative_fp_share"] == 0.0
    assert second["negative_fp_share"] > 0
    assert [one["label"] for one in first["entries"]] == ["luad", "lusc", "luad;lusc", "normal"]


def test_truth_without_a_class_or_of_other_classes_only_is_refused(project, entries, options, recorder, tmp_path):
    write_truth(tmp_path, "a", {"": AREAS["LUAD"]})
    write_truth(tmp_path, "b", {"Gland": AREAS["LUSC"]})
    found = evaluate(project, entries, options, recorder)
    assert [one["name"] for one in found["failed"]] == ["a.tif", "b.tif"]
    assert "a feature has no class" in found["failed"][0]["reason"]
    assert "no feature of class LUAD or LUSC; there are: Gland" in found["failed"][1]["reason"]
    with pytest.raises(ProjectError, match="none of 1 entries"):
        evaluate(project, entries[:1], options, recorder)


def test_a_slide_without_truth_is_skipped_unless_its_label_lacks_all_classes(project, entries, options, recorder):
    Path(options.truth / "ab.geojson").unlink()
    found = evaluate(project, entries, options, recorder)
    assert [one["name"] for one in found["skipped"]] == ["ab.tif"]
    assert len(found["classes"]["LUAD"]["entries"]) == 3


def test_the_screen_shows_each_class(project, entries, options, recorder, capsys):
    with Screen() as screen:
        screen.scores(evaluate(project, entries, options, recorder))
    out = capsys.readouterr().out
    assert out.index("class LUAD") < out.index("mean_dice: 0.6667") < out.index("class LUSC")


def test_the_report_shows_all_classes(project, entries, options, recorder, tmp_path):
    evaluate(project, entries, replace(options, keep_scores=True), recorder)
    run = tmp_path / "wsplf" / "runs" / "20260101T000000Z-pseudolabel-abc"
    (run / "cams").mkdir(parents=True)
    (run / "run.json").write_text(json.dumps({"stage": "pseudolabel", "status": "done", "started": "2026-01-01"}))
    for name in AREAS:
        Image.fromarray(np.full((48, 64), 200, np.uint8)).save(cam_file(run, entries[2].id, name))
    out = tmp_path / "report.html"
    report(project, entries, ReportOptions(project=LUNG, out=out), recorder)
    page = out.read_text(encoding="utf-8")
    assert "classes LUAD, LUSC" in page
    for text in ("CAM, LUAD", "CAM, LUSC", "Pseudo-label, LUAD", "Pseudo-label LUSC", "labelled luad;lusc"):
        assert text in page
    assert page.count("0.667") >= 3
    assert page.count('id="picture-3"') == 1


def test_scores_of_several_classes_are_read_from_a_file(project, entries, options, recorder, tmp_path):
    found = evaluate(project, entries, options, recorder)
    path = tmp_path / "scores.json"
    path.write_text(json.dumps(found))
    assert list(read_scores(path)) == ["LUAD", "LUSC"]
    path.write_text(json.dumps({"prediction": found, "other": found["classes"]["LUAD"]}))
    assert list(read_scores(path)) == ["Prediction, LUAD", "Prediction, LUSC", "other"]


def test_a_benchmark_takes_one_class(project, entries, options, recorder):
    wanted = BenchmarkOptions(project=LUNG, truth=options.truth)
    with pytest.raises(ConfigError, match="one class, not on LUAD and LUSC") as caught:
        benchmark(project, entries, wanted, recorder)
    assert "--positive WORD=LUAD" in caught.value.hint
    one = replace(LUNG, positive=("luad=LUAD",), negative=("lusc", "normal"))
    resolved = [row.entry for row in label_rows(entries[:2], one)]
    shown = benchmark(project, resolved, replace(wanted, project=one, dry_run=True), recorder)
    assert {run["status"] for run in shown["runs"]} == {"to run"}
