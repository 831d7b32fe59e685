"""``wsplf train``: what each slide teaches, and what a training leaves behind."""

import json
from dataclasses import replace
from functools import partial
from uuid import uuid4

import numpy as np
import pytest
from shapely import box

from wsplf_cli.commands.train import train
from wsplf_cli.errors import ConfigError, ProjectError
from wsplf_cli.options import ProjectOptions, RunOptions, TileOptions, TrainOptions
from wsplf_cli.schema import REVIEWED_KEY, Annotation, Entry, Silent, SlideLabel
from wsplf_cli.segmentation import likeness
from wsplf_cli.synthetic.pyramid import write_pyramid

TUMOUR = box(200, 200, 360, 330)


def annotation(shape=TUMOUR, **fields):
    return Annotation(uuid4(), shape, **({"path_class": "Tumor", "origin": "pseudolabel"} | fields))


class Project:
    """A project in memory: entries and their annotations; writing annotations is a bug here."""

    def __init__(self, folder, annotations):
        self.folder = folder
        self.path = folder / "project.qpproj"
        self.version = "0.6.0"
        self._annotations = annotations

    def annotations(self, entry_id):
        return self._annotations.get(entry_id, [])


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    """Two positive slides with a dark square and two negative ones, 512 x 512 at 1 um/px, pink tissue on white."""
    folder = tmp_path_factory.mktemp("slides")
    rng = np.random.default_rng(0)
    entries = []
    for index in range(4):
        rgb = np.full((512, 512, 3), 243, np.uint8)
        rgb[60:460, 60:460] = (225, 160, 195)
        if index < 2:
            rgb[200:330, 200:360] = (130, 80, 150)
        noisy = np.clip(rgb + rng.normal(0, 4, rgb.shape), 0, 255).astype(np.uint8)
        path = folder / f"S{index}.tif"
        write_pyramid(path, noisy, mpp=1.0)
        label = SlideLabel(frozenset({"Tumor"} if index < 2 else ()))
        entries.append(Entry(str(index), path.name, path, 512, 512, 1.0, "slide", label=label))
    return entries


OPTIONS = TrainOptions(tiles=TileOptions(tile_px=128), epochs=1)


@pytest.fixture(autouse=True)
def short_epochs(monkeypatch):
    """An epoch of 16 crops, so that a training takes a second."""
    from wsplf_cli.commands import train as stage

    monkeypatch.setattr(stage, "FitSettings", partial(stage.FitSettings, tiles_per_epoch=16))


def test_a_model_folder_a_run_and_its_curves_are_written(slides, tmp_path, recorder):
    project = Project(tmp_path, {"0": [annotation()], "1": [annotation()]})
    report = train(project, slides, OPTIONS, recorder)
    assert [result.status for result in report.entries] == ["done"] * 4
    folder = tmp_path / "wsplf" / "models" / "default"
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["run_id"] == report.run_id
    assert config["classes"] == ["Tumor"]
    assert (config["tile_px"], config["mpp"], config["plugin"]) == (128, 1.0, "unet")
    assert config["scores"]["validation_dice"] == report.details["validation_dice"]
    training = likeness.read(folder / likeness.FILE)
    assert (training.slides, training.patients) == (4, 4)
    run = tmp_path / "wsplf" / "runs" / report.run_id
    curves = json.loads((run / "curves.json").read_text(encoding="utf-8"))
    assert {len(values) for curve in curves.values() for values in curve["y"].values()} == {1}
    assert json.loads((run / "run.json").read_text(encoding="utf-8"))["status"] == "done"
    assert any("2 slides with polygons" in line and "2 negative slides" in line for line in recorder.said)


def test_slides_that_cannot_teach_are_left_out_with_the_reason(slides, tmp_path):
    entries = [
        slides[0],
        replace(slides[1], label=SlideLabel(frozenset({"Tumor"}))),
        replace(slides[2], split="test"),
        replace(slides[3], slide_path=None, problem="slide not found"),
    ]
    report = train(Project(tmp_path, {"0": [annotation()]}), entries, OPTIONS, Silent())
    assert [result.status for result in report.entries] == ["done", "skipped", "skipped", "failed"]
    assert "no polygon" in report.entries[1].reason
    assert "split: test" in report.entries[2].reason
    assert report.failed == 1
    assert report.details["validation_dice"] is None


def test_pending_pseudo_labels_of_a_slide_that_became_negative_teach_nothing(slides, tmp_path):
    project = Project(tmp_path, {"0": [annotation()], "2": [annotation()]})
    dry = replace(OPTIONS, run=RunOptions(dry_run=True))
    report = train(project, [slides[0], slides[2]], dry, Silent())
    assert [result.counts["pending"] for result in report.entries] == [1, 0]


def test_every_role_of_a_review_is_counted(slides, tmp_path, recorder):
    annotations = [
        annotation(),
        annotation(review="accepted"),
        annotation(box(70, 70, 120, 120), review="rejected"),
        annotation(box(70, 130, 120, 180), origin="human", path_class="Stroma"),
    ]
    dry = replace(OPTIONS, run=RunOptions(dry_run=True))
    report = train(Project(tmp_path, {"0": annotations}), slides, dry, recorder)
    counts = report.entries[0].counts
    assert {key: counts[key] for key in ("positive", "pending", "negative")} == {
        "positive": 1,
        "pending": 1,
        "negative": 2,
    }
    assert any("2 areas of background by a person" in line for line in recorder.said)


def test_a_reviewed_image_without_a_polygon_teaches_background(slides, tmp_path):
    reviewed = replace(slides[1], metadata={REVIEWED_KEY: "2026-01-31 A. Person"})
    dry = replace(OPTIONS, run=RunOptions(dry_run=True))
    report = train(Project(tmp_path, {"0": [annotation()]}), [slides[0], reviewed], dry, Silent())
    assert [result.status for result in report.entries] == ["done", "done"]
    assert report.entries[1].counts["reviewed"] == 1


def test_a_prediction_in_a_reviewed_image_is_truth(slides, tmp_path):
    reviewed = replace(slides[0], metadata={REVIEWED_KEY: "2026-01-31 A. Person"})
    dry = replace(OPTIONS, run=RunOptions(dry_run=True))
    report = train(Project(tmp_path, {"0": [annotation(origin="prediction")]}), [reviewed], dry, Silent())
    assert report.entries[0].counts["positive"] == 1


def test_no_polygon_says_what_to_type_and_writes_no_model(slides, tmp_path):
    project = Project(tmp_path, {"0": [annotation(origin="prediction")], "1": [annotation(review="rejected")]})
    with pytest.raises(ProjectError, match="no polygon of class 'Tumor'") as caught:
        train(project, slides, OPTIONS, Silent())
    assert "wsplf pseudolabel" in caught.value.hint
    assert not (tmp_path / "wsplf" / "models").exists()
    run = next((tmp_path / "wsplf" / "runs").glob("*/run.json"))
    assert json.loads(run.read_text(encoding="utf-8"))["status"] == "failed"


def test_only_polygons_of_the_class_count(slides, tmp_path):
    options = replace(OPTIONS, project=ProjectOptions(path_class="Stroma"))
    with pytest.raises(ProjectError, match="Stroma"):
        train(Project(tmp_path, {"0": [annotation(origin="human")]}), slides, options, Silent())


def test_dry_run_says_what_it_would_use_and_writes_nothing(slides, tmp_path, recorder):
    project = Project(tmp_path, {"0": [annotation()]})
    train(project, slides, replace(OPTIONS, run=RunOptions(dry_run=True)), recorder)
    assert list(tmp_path.iterdir()) == []
    assert any("1 pending pseudo-labels" in line for line in recorder.said)


def test_ctrl_c_leaves_the_model_that_was_there(slides, tmp_path):
    folder = tmp_path / "wsplf" / "models" / "default"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("old", encoding="utf-8")

    class Stopping(Silent):
        def advance(self, steps=1, message=""):
            if message.startswith("epoch"):
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(Project(tmp_path, {"0": [annotation()]}), slides, OPTIONS, Stopping())
    assert [path.name for path in folder.iterdir()] == ["config.json"]
    assert [path.name for path in folder.parent.iterdir()] == ["default"]
    run = next((tmp_path / "wsplf" / "runs").glob("*/run.json"))
    assert json.loads(run.read_text(encoding="utf-8"))["status"] == "stopped"


def test_unknown_segmenter_or_name_is_a_clear_error(slides, tmp_path):
    project = Project(tmp_path, {"0": [annotation()]})
    with pytest.raises(ConfigError, match="unknown model 'nothing'"):
        train(project, slides, replace(OPTIONS, segmenter="nothing"), Silent())
    with pytest.raises(ConfigError, match="--name"):
        train(project, slides, replace(OPTIONS, name="../out"), Silent())


def summary(project, entries, recorder, options=OPTIONS):
    report = train(project, entries, options, recorder)
    (said,) = [line for line in recorder.said if line.startswith("no validation") or line.startswith("out of fold (")]
    return report, said


def test_a_validation_says_what_it_was_chosen_on_and_against_what(slides, tmp_path, recorder):
    project = Project(tmp_path, {"0": [annotation()], "1": [annotation()]})
    _, said = summary(project, slides, recorder)
    assert "pseudo-labels that nobody has reviewed among them" in said
    assert "the threshold is chosen on them, so new slides may score lower" in said
    assert "no slide names its patient: each of them counts as a patient of its own" in recorder.said
    recorder.said.clear()
    project = Project(tmp_path, {"0": [annotation(origin="human")], "1": [annotation(origin="human")]})
    named = [replace(slide, metadata={"patient": slide.name}) for slide in slides]
    _, said = summary(project, named, recorder)
    assert "nobody has reviewed" not in said
    assert not any("patient of its own" in line for line in recorder.said)


def test_slides_of_one_patient_are_no_validation(slides, tmp_path, recorder):
    of_one = [replace(slide, metadata={"Patient": "P1"}) for slide in slides]
    project = Project(tmp_path, {"0": [annotation()], "1": [annotation()]})
    report, said = summary(project, of_one, recorder)
    assert said == "no validation: polygons of two patients or more are needed"
    assert report.details["validation_dice"] is None
