"""One segmentation model of several classes: what each slide teaches of each, and what is drawn where."""

from dataclasses import replace
from functools import partial
from uuid import uuid4

import numpy as np
import pytest
import torch
from qupath_objects import delete_annotations
from shapely import box, union_all
from torch import nn

from wsplf_cli.backends.embedded import open_project
from wsplf_cli.cohort.labels import resolve_labels
from wsplf_cli.commands import train as command
from wsplf_cli.commands.segment import segment
from wsplf_cli.commands.train import train
from wsplf_cli.errors import ProjectError
from wsplf_cli.options import ProjectOptions, RunOptions, SegmentOptions, TileOptions, TrainOptions
from wsplf_cli.qupath.create import Image, create_project
from wsplf_cli.schema import Annotation, Silent
from wsplf_cli.segmentation import checkpoint
from wsplf_cli.segmentation.checkpoint import Checkpoint
from wsplf_cli.segmentation.cross_fit import cross_fit
from wsplf_cli.segmentation.models import unet
from wsplf_cli.segmentation.train import FitSettings
from wsplf_cli.synthetic.pyramid import write_pyramid

SIDE = 320
AREAS = {"LUAD": box(60, 60, 170, 180), "LUSC": box(140, 140, 260, 260)}
INKS = {"LUAD": (150, 60, 120), "LUSC": (110, 120, 210)}
LUNG = ProjectOptions(positive=("luad=LUAD", "lusc=LUSC"))
WORDS = {"a": "luad", "b": "lusc", "ab": "luad;lusc", "n": "normal", "none": ""}
OPTIONS = TrainOptions(project=LUNG, tiles=TileOptions(tile_px=64), epochs=1)


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    """Pale tissue with a red area on slides of one class and a blue one, over it, on slides of the other."""
    folder = tmp_path_factory.mktemp("slides")
    for name, word in WORDS.items():
        rgb = np.full((SIDE, SIDE, 3), 243, np.uint8)
        rgb[20:300, 20:300] = (230, 175, 205)
        for held, shape in AREAS.items():
            if held.lower() in word or name == "none":
                left, top, right, bottom = map(int, shape.bounds)
                rgb[top:bottom, left:right] = INKS[held]
        write_pyramid(folder / f"{name}.tif", rgb, mpp=1.0, quality=95)
    return folder


@pytest.fixture
def project(tmp_path, slides):
    images = [
        Image(slides / f"{name}.tif", name, SIDE, SIDE, 1.0, [(1.0, SIDE, SIDE)], {"label": word} if word else {})
        for name, word in WORDS.items()
    ]
    path = create_project(tmp_path / "project", images, classes=[])
    opened = open_project(path, ProjectOptions())
    for entry in opened.entries():
        held = [name for name in AREAS if name.lower() in WORDS[entry.name]]
        drawn = [Annotation(uuid4(), AREAS[name], name, origin="pseudolabel") for name in held]
        opened.replace(entry.id, origin="pseudolabel", annotations=drawn)
    return path


@pytest.fixture(autouse=True)
def short_epochs(monkeypatch):
    monkeypatch.setattr(command, "FitSettings", partial(FitSettings, tiles_per_epoch=8))


def entries_of(path, options=LUNG):
    opened = open_project(path, ProjectOptions())
    return opened, resolve_labels(opened.entries(), options)


def roles_of(path, monkeypatch):
    """The slides that a training would learn from, by name."""
    targets = {}

    def recorded(build, slides, **options):
        targets.update({slide.name: slide.classes for slide in slides})
        return cross_fit(build, slides, **options)

    monkeypatch.setattr(command, "cross_fit", recorded)
    train(*entries_of(path), OPTIONS, Silent())
    return targets


@pytest.mark.parametrize("segmenter", ["unet", pytest.param("sam", marks=pytest.mark.slow)])
def test_one_model_has_an_output_for_each_class(project, recorder, segmenter):
    report = train(*entries_of(project), replace(OPTIONS, segmenter=segmenter), recorder)
    assert [result.status for result in report.entries] == ["done"] * 4 + ["skipped"]
    folder = project.parent / "wsplf" / "models" / "default"
    described, network = checkpoint.load(folder, device=torch.device("cpu"))
    assert described.classes == ("LUAD", "LUSC")
    with torch.no_grad():
        assert network(torch.rand(1, 3, 64, 64)).shape == (1, 2, 64, 64)
    for name in AREAS:
        line = next(line for line in recorder.said if line.startswith(f"{name}: learning from"))
        assert all(part in line for part in ("2 slides with polygons", "2 pending pseudo-labels", "2 negative slides"))
    assert any("for all classes, against" in line for line in recorder.said)


def test_a_slide_teaches_each_class_what_its_label_says(project, monkeypatch):
    opened, entries = entries_of(project)
    ids = {entry.name: entry.id for entry in entries}
    opened.replace(ids["none"], origin="human", annotations=[Annotation(uuid4(), AREAS["LUAD"], "LUAD")])
    opened.replace(
        ids["a"],
        origin="pseudolabel",
        annotations=[Annotation(uuid4(), AREAS[name], name, origin="pseudolabel") for name in AREAS],
    )
    roles = roles_of(project, monkeypatch)
    assert [(targets.positive, targets.known, targets.has_polygons) for targets in roles["a"]] == [
        (True, True, True),
        (False, True, False),
    ]
    assert [(targets.positive, targets.known) for targets in roles["ab"]] == [(True, True), (True, True)]
    assert [(targets.positive, targets.known) for targets in roles["n"]] == [(False, True), (False, True)]
    assert [(targets.positive, targets.known) for targets in roles["none"]] == [(True, True), (False, False)]
    assert len(roles["none"][1].regions.negative) == 1, "what a person drew of one class is background for the other"


def test_a_class_without_a_polygon_is_named(project):
    opened, entries = entries_of(project)
    for entry in entries:
        kept = [annotation for annotation in opened.annotations(entry.id) if annotation.path_class == "LUAD"]
        opened.replace(entry.id, origin="pseudolabel", annotations=kept)
    with pytest.raises(ProjectError, match="no polygon of class 'LUSC'"):
        train(opened, entries, replace(OPTIONS, run=RunOptions(dry_run=True)), Silent())


class Inks(nn.Module):
    """A segmenter that needs no training: red is LUAD, blue is LUSC, and more surely so."""

    def __init__(self, classes):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([20.0, 30.0])[None, :, None, None])

    def forward(self, tiles):
        red, _, blue = tiles.unbind(1)
        dark = (0.75 - tiles.mean(dim=1)).clamp(max=0.1)
        return self.scale * torch.stack([dark, torch.minimum(dark, blue - red - 0.02)], dim=1)


@pytest.fixture
def model(project, monkeypatch):
    monkeypatch.setattr(unet, "build", lambda classes, **settings: Inks(classes))
    classes = ("LUAD", "LUSC")
    described = Checkpoint("unet", settings={}, classes=classes, tile_px=64, mpp=1.0, run_id="run 1")
    state = Inks(2).state_dict()
    checkpoint.save(project.parent / "wsplf" / "models" / "default", described, state)
    return SegmentOptions(project=LUNG, min_area_um2=200.0)


def drawn(path, entry_id, *, origin="prediction"):
    """The annotations of an origin, by class."""
    of_class = {name: [] for name in AREAS}
    for annotation in open_project(path, ProjectOptions()).annotations(entry_id):
        if annotation.origin == origin:
            of_class[annotation.path_class].append(annotation)
    return of_class


def area(annotations):
    return union_all([annotation.shape for annotation in annotations])


def test_a_pixel_is_of_the_most_probable_class_and_polygons_never_overlap(project, model):
    opened, entries = entries_of(project)
    report = segment(opened, entries, model, Silent())
    ids = {entry.name: entry.id for entry in entries}
    for name in ("ab", "none"):
        areas = {key: area(annotations) for key, annotations in drawn(project, ids[name]).items()}
        for key, shape in (("LUSC", AREAS["LUSC"]), ("LUAD", AREAS["LUAD"].difference(AREAS["LUSC"]))):
            assert areas[key].intersection(shape).area / areas[key].union(shape).area > 0.9
        assert areas["LUAD"].intersection(areas["LUSC"]).area < 1
    counts = {result.name: result.counts for result in report.entries}
    assert [counts["ab"][key] for key in ("polygons", "polygons LUAD", "polygons LUSC")] == [2, 1, 1]


def test_what_the_label_lacks_is_not_drawn_and_takes_no_pixel(project, model):
    opened, entries = entries_of(project)
    ids = {entry.name: entry.id for entry in entries}
    report = segment(opened, entries, model, Silent())
    counts = {result.name: result.counts for result in report.entries}
    assert not any(drawn(project, ids["n"]).values())
    predictions = drawn(project, ids["b"])
    assert predictions["LUAD"] == []
    assert len(predictions["LUSC"]) == 1
    assert counts["b"]["suppressed_um2"] == pytest.approx(AREAS["LUSC"].area, rel=0.1), "dark, so LUAD as well"
    opened.set_metadata({ids["b"]: {"label": "luad"}})
    segment(*entries_of(project), model, Silent())
    predictions = drawn(project, ids["b"])
    assert predictions["LUSC"] == []
    assert area(predictions["LUAD"]).area == pytest.approx(AREAS["LUSC"].area, rel=0.1)


def test_a_class_of_the_model_that_no_label_means_is_said(project, model, recorder):
    opened, entries = entries_of(project, ProjectOptions(positive=("luad=LUAD", "lusc=Other")))
    dry = replace(model, project=ProjectOptions(positive=("luad=LUAD", "lusc=Other")), run=RunOptions(dry_run=True))
    segment(opened, entries, dry, recorder)
    assert any(line.startswith("warning: no --positive names the model's class LUSC") for line in recorder.said)
    recorder.said.clear()
    segment(*entries_of(project), replace(model, run=RunOptions(dry_run=True)), recorder)
    assert not any("warning" in line for line in recorder.said)


def test_a_run_again_replaces_its_own_pending_predictions_of_both_classes_only(project, model):
    opened, entries = entries_of(project)
    ids = {entry.name: entry.id for entry in entries}
    segment(opened, entries, model, Silent())
    first = drawn(project, ids["ab"])
    (mine,) = first["LUAD"]
    opened = open_project(project, ProjectOptions())
    delete_annotations(opened, ids["ab"], [mine.id])
    opened.replace(ids["ab"], origin="human", annotations=[replace(mine, shape=mine.shape.buffer(-5))])
    before = {annotation.id for annotation in opened.annotations(ids["ab"])}
    segment(*entries_of(project), model, Silent())
    after = drawn(project, ids["ab"])
    assert mine.id in {annotation.id for annotation in after["LUAD"]}, "what a person changed stays"
    assert first["LUSC"][0].id not in {annotation.id for annotation in after["LUSC"]}
    assert len(after["LUSC"]) == 1
    assert len(drawn(project, ids["ab"], origin="pseudolabel")["LUAD"]) == 1
    assert mine.id in before
