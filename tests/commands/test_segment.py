"""``wsplf segment`` with a model that needs no training: what is written, and what is left alone."""

import json
from dataclasses import replace
from uuid import uuid4

import numpy as np
import pytest
import torch
from shapely import box, union_all
from torch import nn

from wsplf_cli.commands.segment import segment
from wsplf_cli.errors import ConfigError
from wsplf_cli.options import ProjectOptions, RunOptions, SegmentOptions
from wsplf_cli.schema import REVIEWED_KEY, Annotation, Entry, Replaced, Silent, SlideLabel
from wsplf_cli.segmentation import checkpoint, likeness
from wsplf_cli.segmentation.appearance import describe_slide
from wsplf_cli.segmentation.checkpoint import Checkpoint
from wsplf_cli.segmentation.likeness import TrainingAppearance, learn_appearance
from wsplf_cli.segmentation.models import unet
from wsplf_cli.segmentation.operating_point import Bound
from wsplf_cli.slides.open import open_slide
from wsplf_cli.slides.tissue import tissue_mask
from wsplf_cli.synthetic.pyramid import write_pyramid

POSITIVE, NEGATIVE = SlideLabel(frozenset({"Tumor"})), SlideLabel(frozenset())
TUMOUR_PX0 = box(160, 200, 460, 360)


class Project:
    """A project in memory that remembers what was written."""

    def __init__(self, folder, annotations=()):
        self.folder = folder
        self.path = folder / "project.qpproj"
        self.version = "0.6.0"
        self.existing = list(annotations)
        self.written = {}

    def annotations(self, entry_id):
        return self.existing

    def replace(self, entry_id, *, origin, annotations):
        assert origin == "prediction"
        self.written[entry_id] = list(annotations)
        return Replaced(added=len(annotations), removed=0, kept=len(self.existing))


class Darkness(nn.Module):
    """A segmenter that needs no training: what is dark is tumour."""

    def __init__(self, classes):
        super().__init__()
        self.scale = nn.Parameter(torch.full((1, classes, 1, 1), 20.0))

    def forward(self, tiles):
        return self.scale * (0.6 - tiles.mean(dim=1, keepdim=True))


BOUND = Bound(alpha=0.01, measured=0.004, guaranteed=0.175, slides=6, patients=5, patients_needed=99)


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    """800 x 700 pixels at 0.5 um/px: pale tissue, dark in a rectangle with one corner at (160, 200)."""
    rgb = np.full((700, 800, 3), 243, np.uint8)
    rgb[80:620, 80:720] = (230, 175, 205)
    rgb[200:360, 160:460] = (130, 60, 140)
    path = tmp_path_factory.mktemp("slides") / "a.tif"
    write_pyramid(path, rgb, mpp=0.5, quality=95)
    return path


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.setattr(unet, "build", lambda classes, **settings: Darkness(classes))
    described = Checkpoint(
        plugin="unet", settings={}, classes=("Tumor",), tile_px=64, mpp=1.0, run_id="run 1", threshold=0.5
    )
    state = Darkness(1).state_dict()
    checkpoint.save(tmp_path / "wsplf" / "models" / "default", described, state)
    return Project(tmp_path)


def entry(path, label=None, **fields):
    return Entry("7", path.name, path, 800, 700, 0.5, "slide", **({"label": label} | fields))


def test_polygons_lie_where_the_tumour_is_in_level_0_pixels(slide, project):
    report = segment(project, [entry(slide)], SegmentOptions(), Silent())
    (annotation,) = project.written["7"]
    assert annotation.shape.intersection(TUMOUR_PX0).area / annotation.shape.union(TUMOUR_PX0).area > 0.97
    assert (annotation.path_class, annotation.origin, annotation.review) == ("Tumor", "prediction", "pending")
    assert annotation.run_id == report.run_id
    assert annotation.measurements["wsplf: area um^2"] == pytest.approx(annotation.shape.area * 0.25, rel=1e-3)
    assert 0.9 < annotation.measurements["wsplf: confidence"] <= 1
    assert report.entries[0].counts["polygons"] == 1
    run = json.loads((project.folder / "wsplf" / "runs" / report.run_id / "run.json").read_text(encoding="utf-8"))
    assert run["details"]["model_run"] == "run 1"


@pytest.mark.parametrize(
    ("bounds", "threshold", "said"),
    [
        ((), None, "no bound on false positives: an earlier version trained this model"),
        ((BOUND,), None, "polygons cover 0.40% of the tissue of 6 negative slides of 5 patients, out of fold"),
        ((BOUND,), 0.3, "no bound on false positives: it holds at the model's own threshold, 0.5"),
        ((None,), None, "no bound on false positives: that takes negative slides"),
    ],
)
def test_what_is_known_of_false_positives_is_said(slide, project, recorder, bounds, threshold, said):
    folder = project.folder / "wsplf" / "models" / "default"
    described = replace(checkpoint.read(folder), confidences=(0.6,) * len(bounds), bounds=bounds)
    checkpoint.save(folder, described, Darkness(1).state_dict())
    segment(project, [entry(slide)], SegmentOptions(threshold=threshold), recorder)
    assert [said in line for line in recorder.said].count(True) == 1


def test_negative_slide_gets_no_polygon_and_the_suppressed_area_is_counted(slide, project):
    report = segment(project, [entry(slide, NEGATIVE)], SegmentOptions(), Silent())
    assert project.written == {"7": []}
    assert report.entries[0].counts["suppressed_um2"] == pytest.approx(TUMOUR_PX0.area * 0.25, rel=0.03)
    segment(project, [entry(slide, NEGATIVE, split="test")], SegmentOptions(), Silent())
    assert len(project.written["7"]) == 1


def test_what_a_person_decided_on_is_not_drawn_again(slide, project):
    kept = Annotation(uuid4(), box(140, 180, 300, 380), "Tumor", origin="prediction", review="accepted")
    drawn = Annotation(uuid4(), box(300, 180, 480, 380), "Tumor", origin="human")
    project.existing = [kept, drawn]
    segment(project, [entry(slide)], SegmentOptions(), Silent())
    (annotation,) = project.written["7"]
    assert annotation.shape.intersection(kept.shape).area == 0
    assert annotation.shape.area == pytest.approx(160 * 160, rel=0.05)
    assert annotation.measurements["wsplf: area um^2"] == pytest.approx(annotation.shape.area * 0.25, rel=1e-3)


def test_predicting_twice_gives_the_same_polygons(slide, project):
    written = []
    for _ in range(2):
        segment(project, [entry(slide)], SegmentOptions(), Silent())
        written.append([(annotation.shape.wkb, dict(annotation.measurements)) for annotation in project.written["7"]])
    assert written[0] == written[1]


def test_threshold_and_least_area_are_used(slide, project):
    for options in (SegmentOptions(threshold=1.0), SegmentOptions(min_area_um2=1e6)):
        segment(project, [entry(slide)], options, Silent())
        assert project.written["7"] == []


def test_a_slide_that_cannot_be_used_fails_alone(slide, project):
    lost = replace(entry(slide), id="8", slide_path=None, problem="a.tif: slide not found")
    report = segment(project, [lost, entry(slide)], SegmentOptions(), Silent())
    assert [result.status for result in report.entries] == ["failed", "done"]
    assert set(project.written) == {"7"}


def test_dry_run_counts_and_writes_nothing(slide, project):
    report = segment(project, [entry(slide)], SegmentOptions(run=RunOptions(dry_run=True)), Silent())
    assert report.entries[0].counts["polygons"] == 1
    assert project.written == {}
    assert not (project.folder / "wsplf" / "runs").exists()


def test_a_model_is_found_by_name_or_by_folder(slide, project, tmp_path):
    with pytest.raises(ConfigError, match="no model") as caught:
        segment(project, [entry(slide)], SegmentOptions(model="other"), Silent())
    assert "default" in caught.value.hint
    elsewhere = tmp_path / "copied"
    (tmp_path / "wsplf" / "models" / "default").rename(elsewhere)
    report = segment(project, [entry(slide)], SegmentOptions(model=str(elsewhere)), Silent())
    assert report.entries[0].counts["polygons"] == 1


def test_a_reviewed_image_is_left_as_it_is(slide, project):
    reviewed = entry(slide, metadata={REVIEWED_KEY: "2026-01-31 A. Person"})
    report = segment(project, [reviewed], SegmentOptions(), Silent())
    assert (report.entries[0].status, report.entries[0].reason) == ("skipped", "reviewed by a person: left as it is")
    assert project.written == {}


def test_nothing_is_drawn_where_a_person_said_that_it_is_not_tumour(slide, project, monkeypatch):
    half = box(*TUMOUR_PX0.bounds[:2], TUMOUR_PX0.centroid.x, TUMOUR_PX0.bounds[3])
    stroma = Annotation(uuid4(), half, "Stroma")
    monkeypatch.setattr(project, "annotations", lambda entry_id: [stroma])
    segment(project, [entry(slide)], SegmentOptions(), Silent())
    drawn = union_all([annotation.shape for annotation in project.written["7"]])
    assert drawn.intersection(half).area < 1
    assert drawn.intersection(TUMOUR_PX0).area > 0.9 * (TUMOUR_PX0.area - half.area)


def test_the_model_is_described_before_it_is_used(slide, project, recorder):
    segment(project, [entry(slide)], SegmentOptions(), recorder)
    assert "model default: Tumor; 1 um/px, tiles of 64 px, threshold 0.5; unet of run run 1" in recorder.said


def test_a_model_from_elsewhere_must_fit_the_slides_and_the_classes(slide, project, tmp_path):
    elsewhere = tmp_path / "copied"
    (tmp_path / "wsplf" / "models" / "default").rename(elsewhere)
    fits, coarse = entry(slide), replace(entry(slide), id="8", mpp=1.5)
    report = segment(project, [coarse, fits], SegmentOptions(model=str(elsewhere)), Silent())
    assert [result.status for result in report.entries] == ["failed", "done"]
    assert "the slide has 1.5 um per pixel, the model needs 1" in report.entries[0].reason
    options = SegmentOptions(project=ProjectOptions(path_class="Gland"), model=str(elsewhere))
    with pytest.raises(ConfigError, match="the model outlines Tumor"):
        segment(project, [fits], options, Silent())
    elsewhere.rename(tmp_path / "wsplf" / "models" / "default")
    report = segment(project, [coarse], SegmentOptions(), Silent())
    assert [result.status for result in report.entries] == ["done"], "the project's own model is used as ever"


def write_tissue(path, seed, *, stain=(222, 150, 190)):
    """A slide of 1536 pixels at 0.5 um/px: noisy tissue of a stain with dark spots."""
    rng = np.random.default_rng(seed)
    rgb = np.full((1536, 1536, 3), 243, np.uint8)
    spots = rng.random((154, 154)).repeat(10, axis=0).repeat(10, axis=1)[:1236, :1236] < 0.2
    colour = np.where(spots[..., None], (92, 60, 140), stain) + rng.normal(0, 4, 3) + rng.normal(0, 3, (1236, 1236, 1))
    rgb[150:-150, 150:-150] = np.clip(colour, 0, 255)
    write_pyramid(path, rgb, mpp=0.5, quality=95)
    return Entry(str(seed), path.name, path, 1536, 1536, 0.5, "slide")


@pytest.fixture(scope="module")
def training_appearance(tmp_path_factory):
    """What five slides look like that only differ by chance."""
    folder = tmp_path_factory.mktemp("training")
    looks = []
    for seed in range(5):
        trained = write_tissue(folder / f"{seed}.tif", seed)
        with open_slide(trained.slide_path) as opened:
            tissue = tissue_mask(opened, mpp_slide=0.5)
        looks.append(describe_slide(trained, tissue, mpp=1.0, mpp_slide=0.5))
    return learn_appearance(looks, [str(seed) for seed in range(5)])


def test_a_slide_unlike_the_training_slides_is_said_in_the_table_the_record_and_the_details(
    project, training_appearance, tmp_path, recorder
):
    model = tmp_path / "wsplf" / "models" / "default"
    (model / likeness.FILE).write_bytes(likeness.to_bytes(training_appearance))
    like = write_tissue(tmp_path / "like.tif", 50)
    unlike = write_tissue(tmp_path / "unlike.tif", 51, stain=(200, 170, 120))
    report = segment(project, [like, unlike], SegmentOptions(), recorder)
    assert [result.status for result in report.entries] == ["done", "done"]
    assert report.entries[0].counts["unlike"] < 1 < report.entries[1].counts["unlike"]
    assert report.entries[0].reason == ""
    assert report.entries[1].reason.startswith("unlike the slides that the model learned from: ")
    assert "colour (" in report.entries[1].reason
    assert report.details["unlike"] == {"51": {"name": "unlike.tif", "reason": report.entries[1].reason}}
    assert "warning: 1 of 2 slides are unlike those that the model learned from" in recorder.said
    run = json.loads((project.folder / "wsplf" / "runs" / report.run_id / "run.json").read_text(encoding="utf-8"))
    assert run["entries"][1]["reason"] == report.entries[1].reason
    assert not any("no slide is compared" in line for line in recorder.said)


def test_a_model_that_cannot_be_compared_with_says_why_once(slide, project, tmp_path, recorder):
    report = segment(project, [entry(slide), replace(entry(slide), id="8")], SegmentOptions(), recorder)
    (said,) = [line for line in recorder.said if "no slide is compared" in line]
    assert "the model does not say what they look like" in said
    assert [result.status for result in report.entries] == ["done", "done"]
    assert "unlike" not in report.entries[0].counts
    model = tmp_path / "wsplf" / "models" / "default"
    (model / likeness.FILE).write_bytes(likeness.to_bytes(TrainingAppearance({}, 3, 2)))
    segment(project, [entry(slide)], SegmentOptions(), recorder)
    assert "of 2 patients, and 4 are needed" in recorder.said[-1]
