"""What the run of a polygon left, and which fit a prediction is compared by."""

import json
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
from shapely import box

from wsplf_cli.explain.runs import cam_of_class, newest_fit, read_fit, read_traces
from wsplf_cli.runs.layout import fit_file, prompts_file, run_file, run_folder, written_file
from wsplf_cli.runs.written import keep
from wsplf_cli.schema import CLASS_KEY, Annotation
from wsplf_cli.weak.class_fit import ClassFit
from wsplf_cli.weak.kept.fit import keep_fit

POLYGON = Annotation(
    uuid4(), box(0, 0, 100, 100), "Tumor", "pseudolabel", run_id="run-2", metadata={CLASS_KEY: "Tumor"}
)


@pytest.fixture
def make_run(tmp_path):
    """Makes a run with a fit of a class, or without one."""

    def make(run_id, path_class=None):
        run = run_folder(tmp_path, run_id)
        run.mkdir(parents=True)
        run_file(run).write_text(json.dumps({"run_id": run_id, "options": {"recipe": {"name": "default"}}}))
        if path_class is not None:
            keep_fit(fit_file(run, ""), ClassFit(path_class, "", (), {}, {}, {}, "tissue"))
        return run

    return make


def test_what_a_run_left_is_found_and_the_rest_is_named(make_run, tmp_path):
    run = make_run("run-2")
    keep(run, "1", origin="pseudolabel", annotations=[POLYGON])
    traces = read_traces(tmp_path, "1", replace(POLYGON, shape=box(0, 0, 50, 100), edited=True))
    assert traces.as_written.shape.equals(POLYGON.shape)
    assert traces.recipe == {"name": "default"}
    assert traces.missing == ("This run kept no CAM of the image.", "This run kept no prompts and masks of SAM.")


def test_a_run_that_is_gone_leaves_one_sentence(tmp_path):
    traces = read_traces(tmp_path, "1", POLYGON)
    assert (traces.record, traces.options, traces.as_written) == ({}, {}, None)
    assert len(traces.missing) == 1
    assert "The folder of run run-2 is not there any more" in traces.missing[0]


def test_damaged_files_are_named_and_the_rest_is_found(make_run, tmp_path):
    run = make_run("run-2", "Tumor")
    for path in (fit_file(run, ""), prompts_file(run, "1"), written_file(run, "1", "pseudolabel")):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"damaged")
    traces = read_traces(tmp_path, "1", POLYGON)
    assert traces.record["run_id"] == "run-2"
    assert sum("not a record of" in sentence for sentence in traces.missing) == 2
    assert "not a fit that wsplf kept" in read_fit(tmp_path, "run-2", {}, "Tumor").reason


def test_a_fit_is_of_its_own_class_only(make_run, tmp_path):
    make_run("run-1", "Tumor")
    assert read_fit(tmp_path, "run-1", {}, "Tumor").fit.path_class == "Tumor"
    other = read_fit(tmp_path, "run-1", {}, "Stroma")
    assert other.fit is None
    assert other.reason.startswith("This run kept no fit")


def test_a_prediction_is_compared_by_the_last_fit_before_its_model_was_trained(make_run, tmp_path):
    for run_id, path_class in (("run-1", "Tumor"), ("run-2", "Tumor"), ("run-3", "Stroma"), ("run-5", "Tumor")):
        make_run(run_id, path_class)
    make_run("run-4")
    assert newest_fit(tmp_path, "Tumor", before="run-4").run_id == "run-2"
    assert newest_fit(tmp_path, "Tumor", before="run-0").run_id == "run-5", "else the newest of all"
    assert newest_fit(tmp_path, "Tumor", before="").run_id == "run-5"
    nothing = newest_fit(tmp_path, "Necrosis", before="")
    assert nothing.fit is None
    assert nothing.reason.startswith("No run of pseudolabel in this project kept features")


def test_the_cam_of_a_class_is_found_in_runs_of_one_and_of_several():
    only, luad = Path("1.png"), Path("1.LUAD.png")
    assert cam_of_class({"": only}, "Tumor") == only
    assert cam_of_class({"LUAD": luad, "LUSC": only}, "LUAD") == luad
    assert cam_of_class({"LUSC": only}, "LUAD") is None
