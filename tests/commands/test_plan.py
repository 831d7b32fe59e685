"""``wsplf plan`` with a calibration of known seconds: what it prints, and that it only reads."""

import json

import pytest
from read_only import read_only, tree

from wsplf_cli import cli
from wsplf_cli.commands import plan as command
from wsplf_cli.options import ProjectOptions
from wsplf_cli.plan.calibration import Calibration
from wsplf_cli.segmentation import checkpoint
from wsplf_cli.segmentation.checkpoint import Checkpoint
from wsplf_cli.segmentation.models import unet
from wsplf_cli.worker_options import ClusterOptions, WorkerOptions

SECONDS = {"tissue": 1.0, "features": 0.5, "linear probes": 0.001, "CAM": 0.25, "polygons": 2.0}
CALIBRATION = Calibration(4.0, SECONDS, memory_bytes=10**9, slide_disk_bytes=1000, embedding_bytes=1000)


@pytest.fixture
def calibrated(monkeypatch):
    """What the calibration gives; ``requests`` are those that asked for it."""
    requests = []

    def calibrate(wanted, tracker):
        requests.append(wanted)
        return CALIBRATION

    monkeypatch.setattr(command, "calibrate", calibrate)
    return requests


def printed(capsys, *words):
    """The exit code and the JSON document of a plan."""
    code = cli.main(["plan", *map(str, words), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_a_plan_counts_the_labelled_slides_and_writes_nothing(tiny_project, calibrated, capsys):
    before = tree(tiny_project.parent)
    with read_only(tiny_project.parent):
        code, document = printed(capsys, tiny_project, "--backbone", "small")
    assert tree(tiny_project.parent) == before
    assert code == 0
    assert [entry["name"] for entry in document["entries"]] == ["positive.tif", "negative.tif"]
    assert document["slides"] == 2
    # an ellipse with half axes of 190 and 140 um
    assert document["tissue_mm2"] == pytest.approx(2 * 0.0836, rel=0.05)
    of_slides = [entry["seconds"] for entry in document["entries"]]
    # 512 x 384 um are 2 x 2 windows of which 256 um are kept, and the map takes the features of the instances;
    # only the positive slide is searched with SAM
    assert document["entries"][1]["tiles"] == 4
    assert of_slides[1] == pytest.approx(1024 * 768 / 16 / 1e6 + 4 * 0.5, abs=0.01)
    assert of_slides[0] > of_slides[1]
    assert document["longest"] == {"name": "positive.tif", "seconds": pytest.approx(of_slides[0])}
    assert document["seconds"] > 4 + sum(of_slides)
    assert document["memory_bytes"] > 10**9


def test_a_slide_that_cannot_be_read_is_named_and_not_counted(tiny_project, tiny_slide, calibrated, capsys):
    content = tiny_project.read_text(encoding="utf-8")
    document = json.loads(content)
    document["images"][1]["serverBuilder"]["uri"] = "file:/nowhere/gone.tif"
    tiny_project.write_text(json.dumps(document), encoding="utf-8")
    code, planned = printed(capsys, tiny_project, "--backbone", "small")
    assert code == 1
    assert (planned["slides"], planned["failed"]) == (1, 1)
    failed = planned["entries"][1]
    assert failed["status"] == "failed"
    assert "gone.tif" in failed["reason"]
    assert cli.main(["plan", str(tiny_project), "--backbone", "small"]) == 1
    assert "1 cannot be read and are not counted" in capsys.readouterr().out


@pytest.fixture
def model(tiny_project):
    """A model of the project, with random weights."""
    settings = {"backbone": "small"}
    description = Checkpoint("unet", settings, ("Tumor",), 192, 1.0, "run")
    network = unet.build(1, weights=None, **settings)
    folder = tiny_project.parent / "wsplf" / "models" / "default"
    checkpoint.save(folder, description, network.state_dict())
    return folder


def test_segment_is_planned_for_every_slide_with_its_model(tiny_project, model, calibrated, capsys):
    code, document = printed(capsys, tiny_project, "--for", "segment", "--workers", "2")
    assert code == 0
    assert document["workers"] == 2
    assert document["slides"] == 3
    assert document["assumed_tumour_share"] == 0.2
    assert calibrated[0].options.model == str(model)
    assert calibrated[0].threads == 1


def test_without_sam_no_share_of_tumour_is_assumed(tiny_project, model, calibrated, capsys):
    code, document = printed(capsys, tiny_project, "--for", "segment", "--outlines", "network")
    assert code == 0
    assert document["assumed_tumour_share"] is None
    assert calibrated[0].options.outlines == "network"


def test_training_is_planned_without_held_out_slides(tiny_project, calibrated, capsys, monkeypatch):
    steps = {"train": 0.1, "read annotations": 0.0, "appearance of the slides": 0.0}
    monkeypatch.setattr(command, "calibrate", lambda wanted, tracker: Calibration(2.0, steps))
    code, document = printed(capsys, tiny_project, "--for", "train", "--epochs", "2")
    assert code == 0
    assert document["seconds"] == pytest.approx(2 + 0.1 * 100, rel=0.5)  # two slides are too few for folds
    assert document["memory_bytes"] is None


def test_the_options_of_the_command_are_read_from_its_table(tiny_project, calibrated, capsys):
    settings = tiny_project.parent / "wsplf.toml"
    settings.write_text('[pseudolabel]\nmpp = 2.0\nbackbone = "small"\n[train]\nmpp = 0.5\n', encoding="utf-8")
    code, _ = printed(capsys, tiny_project)
    assert code == 0
    assert (calibrated[0].options.mpp, calibrated[0].options.backbone) == (2.0, "small")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "other"], "--model has no effect with --for pseudolabel"),
        (["--for", "train", "--workers", "2"], "--workers has no effect with --for train"),
        (["--for", "segment", "--backbone", "small"], "--backbone has no effect with --for segment"),
        (["--for", "report"], "--for must be one of: pseudolabel, train, segment"),
        (["--recipe", "fine-tuned"], "wsplf plan cannot tell how long the recipe fine-tuned takes"),
        (["--for", "segment"], "no model"),
    ],
)
def test_what_cannot_be_planned_is_refused_in_one_line(tiny_project, calibrated, capsys, words, message):
    assert cli.main(["plan", str(tiny_project), *words]) == 2
    assert message in capsys.readouterr().err
    assert calibrated == []


def test_the_workers_of_a_cluster_are_counted_and_those_of_a_scheduler_are_not_known():
    assert command.workers_of(WorkerOptions(cluster=ClusterOptions(workers=8)), 100) == 8
    assert command.workers_of(WorkerOptions(workers="8"), 3) == 3
    assert command.workers_of(WorkerOptions(), 3) == 0
    with pytest.raises(command.ConfigError, match="is not known"):
        command.workers_of(WorkerOptions(scheduler="tcp://127.0.0.1:1"), 3)


def test_a_plan_takes_the_options_of_the_project():
    assert ProjectOptions() == command.PlanOptions().of_command.project
