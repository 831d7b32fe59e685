"""Commands that work slide by slide give the same with any workers, to the byte."""

import json
import re
import sys
from dataclasses import replace
from uuid import uuid4

import pytest
import torch
from pseudolabel_runs import copy, make_project, paint, run_pseudolabel, use_small_fits
from shapely import box

from wsplf_cli.backends.embedded import open_project
from wsplf_cli.cohort.labels import resolve_labels
from wsplf_cli.commands.doctor import doctor
from wsplf_cli.commands.evaluate import evaluate
from wsplf_cli.commands.report import report
from wsplf_cli.commands.segment import segment
from wsplf_cli.errors import MissingDependency, WorkersError
from wsplf_cli.networks.inference import as_batch
from wsplf_cli.options import (
    DoctorOptions,
    EvaluateOptions,
    ProjectOptions,
    PseudolabelOptions,
    ReportOptions,
    SegmentOptions,
)
from wsplf_cli.qupath import geojson
from wsplf_cli.runs import layout
from wsplf_cli.schema import Annotation, Silent
from wsplf_cli.segmentation import checkpoint
from wsplf_cli.segmentation.checkpoint import Checkpoint
from wsplf_cli.segmentation.models import unet
from wsplf_cli.worker_options import ClusterOptions, WorkerOptions

TUMOUR = box(140, 160, 320, 340)
SLIDES = {
    "p1": (paint(TUMOUR, seed=1), {"label": "tumor"}),
    "p2": (paint(TUMOUR, seed=2), {"label": "tumor"}),
    "n1": (paint(seed=3), {"label": "normal"}),
    "n2": (paint(seed=4), {"label": "normal"}),
}


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A project of four slides with a U-Net of random weights that calls a part of the tissue tumour."""
    path = make_project(tmp_path_factory.mktemp("slides"), SLIDES)
    torch.manual_seed(0)
    network = unet.build(1, pretrained=True).eval()
    with torch.inference_mode():
        for parameter in list(network.parameters())[-2:]:
            parameter.normal_()
        logits = network(as_batch(SLIDES["p1"][0][None, 100:356, 100:356]))
    threshold = float(logits.sigmoid().quantile(0.7))
    described = Checkpoint(
        plugin="unet", settings={}, classes=("Tumor",), tile_px=128, mpp=1.0, run_id="run 1", threshold=threshold
    )
    checkpoint.save(layout.model_folder(path.parent, "default"), described, network.state_dict())
    return path


def annotations_of(path):
    """All that a run writes of each polygon, but its ids."""
    project = open_project(path, ProjectOptions())
    return {
        entry.name: [
            (annotation.shape.wkb, annotation.path_class, annotation.origin, dict(annotation.measurements))
            for annotation in project.annotations(entry.id)
        ]
        for entry in project.entries()
    }


def segmented(template, folder, workers):
    path = copy(template, folder)
    project = open_project(path, ProjectOptions())
    entries = resolve_labels(project.entries(), ProjectOptions())
    options = SegmentOptions(workers=workers, min_area_um2=20.0)
    done = segment(project, [replace(entry, label=None) for entry in entries], options, Silent())
    assert [result.status for result in done.entries] == ["done"] * 4
    return path, done


def test_segment_writes_the_same_polygons_with_workers(template, tmp_path):
    path, alone = segmented(template, tmp_path / "none", WorkerOptions())
    with_two, together = segmented(template, tmp_path / "two", WorkerOptions(workers="2"))
    polygons = annotations_of(path)
    assert sum(map(len, polygons.values())) > 4
    assert annotations_of(with_two) == polygons
    assert [result.counts for result in together.entries] == [result.counts for result in alone.entries]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Dask, where it is installed
@pytest.mark.parametrize("workers", ["1", "2", "4", "dask"])
def test_pseudolabel_writes_the_same_polygons_with_any_workers(template, tmp_path, monkeypatch, workers, alone):
    if workers == "dask":
        pytest.importorskip("distributed", reason='needs Dask: pip install ".[cluster]"')
    chosen = WorkerOptions(cluster=ClusterOptions("local", 2)) if workers == "dask" else WorkerOptions(workers)
    use_small_fits(monkeypatch)
    done = run_pseudolabel(copy(template, tmp_path), PseudolabelOptions(workers=chosen))
    assert annotations_of(done.path) == annotations_of(alone.path)
    assert done.report.details["embedded"] == alone.report.details["embedded"] > 0
    for path in (alone.run_folder / "cams").iterdir():
        assert (done.run_folder / "cams" / path.name).read_bytes() == path.read_bytes()


@pytest.fixture(scope="module")
def alone(template, tmp_path_factory):
    """A run of pseudolabel without workers."""
    with pytest.MonkeyPatch.context() as patch:
        use_small_fits(patch)
        done = run_pseudolabel(copy(template, tmp_path_factory.mktemp("alone")), PseudolabelOptions())
    assert len(done.annotations("p1")) >= 1
    return done


def test_evaluate_report_and_doctor_say_the_same_with_workers(template, tmp_path):
    path, _ = segmented(template, tmp_path, WorkerOptions())
    project = open_project(path, ProjectOptions())
    entries = resolve_labels(project.entries(), ProjectOptions())
    truth = tmp_path / "truth"
    truth.mkdir()
    for name in ("p1", "p2"):
        geojson.write(truth / f"{name}.geojson", [Annotation(uuid4(), TUMOUR, "Tumor")])

    def said(workers, folder):
        folder.mkdir()
        scores = evaluate(
            project, entries, EvaluateOptions(workers=workers, truth=truth, origin="prediction"), Silent()
        )
        page = report(project, entries, ReportOptions(workers=workers, out=folder / "report.html"), Silent()).page
        checks = doctor(path, DoctorOptions(workers=workers, registration=True), Silent())
        of_project = checks[[check.name for check in checks].index("project") :]
        return json.dumps(scores), page.read_text(encoding="utf-8"), of_project

    alone, together = said(WorkerOptions(), tmp_path / "1"), said(WorkerOptions("2"), tmp_path / "2")
    assert together[0] == alone[0]
    minute = re.compile(r"\d{1,2} \w+ \d{4}, \d\d:\d\d")
    assert minute.sub("", together[1]) == minute.sub("", alone[1])
    assert together[2] == alone[2]
    assert {check.status for check in alone[2] if check.name.startswith("registration")} == {"PASS"}


def test_without_dask_a_scheduler_is_one_line_and_nothing_is_written(template, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "dask", None)
    monkeypatch.setitem(sys.modules, "distributed", None)
    monkeypatch.delitem(sys.modules, "wsplf_cli.executors.dask", raising=False)
    monkeypatch.delattr("wsplf_cli.executors.dask", raising=False)
    path = copy(template, tmp_path)
    before = sorted(path.parent.rglob("*"))
    project = open_project(path, ProjectOptions())
    options = SegmentOptions(workers=WorkerOptions(scheduler="tcp://127.0.0.1:9"))
    with pytest.raises(MissingDependency, match="dask is not installed") as raised:
        segment(project, project.entries(), options, Silent())
    assert raised.value.hint == 'pip install ".[cluster]"'
    assert sorted(path.parent.rglob("*")) == before


def test_a_scheduler_that_does_not_answer_is_one_line_and_nothing_is_written(template, tmp_path, monkeypatch):
    pytest.importorskip("distributed", reason='needs Dask: pip install ".[cluster]"')
    from wsplf_cli.executors import dask

    monkeypatch.setattr(dask, "CONNECT_SECONDS", 0.5)
    path = copy(template, tmp_path)
    before = sorted(path.parent.rglob("*"))
    project = open_project(path, ProjectOptions())
    options = SegmentOptions(workers=WorkerOptions(scheduler="tcp://127.0.0.1:9"))
    with pytest.raises(WorkersError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9"):
        segment(project, project.entries(), options, Silent())
    assert sorted(path.parent.rglob("*")) == before
