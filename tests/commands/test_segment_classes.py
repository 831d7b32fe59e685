"""One segmentation model of several classes: what each slide teaches of each, and what is drawn where."""

from dataclasses import replace as changed
from uuid import uuid4

import numpy as np
import pytest
import torch
from qupath_objects import delete_annotations
from shapely import box, union_all
from torch import nn

from wsplf_cli.backends.embedded import open_project
from wsplf_cli.cohort.labels import resolve_labels
from wsplf_cli.commands import train as stage
from wsplf_cli.commands.segment import segment
from wsplf_cli.commands.train import train
from wsplf_cli.errors import ProjectError
from wsplf_cli.options import ProjectOptions, RunOptions, SegmentOptions, TileOptions, TrainOptions
from wsplf_cli.qupath.create import Image, create_project
from wsplf_cli.review.regions import ReviewRegions
from wsplf_cli.schema import Annotation, Silent, TileGrid
from wsplf_cli.segmentation import checkpoint
from wsplf_cli.segmentation.checkpoint import Checkpoint
from wsplf_cli.segmentation.models import unet
from wsplf_cli.segmentation.predict import outline
from wsplf_cli.segmentation.sampling import (
    DECIDED_WEIGHT,
    FULL_WEIGHT,
    IGNORE,
    BalancedCropSampler,
    Blocks,
    ClassTargets,
    TrainingSlide,
    rasterise_targets,
)
from wsplf_cli.segmentation.train import FitSettings, fit, hold_out, mean_loss, segmentation_loss
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
    monkeypatch.setattr(stage, "FitSettings", lambda **fields: FitSettings(**fields, tiles_per_epoch=8))


def entries_of(path, options=LUNG):
    opened = open_project(path, ProjectOptions())
    return opened, resolve_labels(opened.entries(), options)


def roles_of(path, monkeypatch):
    """The slides that a training would learn from, by name."""
    seen = {}

    def watched(model, slides, **rest):
        seen.update({slide.name: slide.classes for slide in slides})
        return fit(model, slides, **rest)

    monkeypatch.setattr(stage, "fit", watched)
    train(*entries_of(path), OPTIONS, Silent())
    return seen


@pytest.mark.parametrize("segmenter", ["unet", "sam"])
def test_one_model_has_an_output_for_each_class(project, recorder, segmenter):
    report = train(*entries_of(project), changed(OPTIONS, segmenter=segmenter), recorder)
    assert [one.status for one in report.entries] == ["done"] * 4 + ["skipped"]
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
    assert [(one.positive, one.known, one.has_polygons) for one in roles["a"]] == [
        (True, True, True),
        (False, True, False),
    ]
    assert [(one.positive, one.known) for one in roles["ab"]] == [(True, True), (True, True)]
    assert [(one.positive, one.known) for one in roles["n"]] == [(False, True), (False, True)]
    assert [(one.positive, one.known) for one in roles["none"]] == [(True, True), (False, False)]
    assert len(roles["none"][1].regions.negative) == 1, "what a person drew of one class is background for the other"


def test_a_class_without_a_polygon_is_named(project):
    opened, entries = entries_of(project)
    for entry in entries:
        kept = [one for one in opened.annotations(entry.id) if one.path_class == "LUAD"]
        opened.replace(entry.id, origin="pseudolabel", annotations=kept)
    with pytest.raises(ProjectError, match="no polygon of class 'LUSC'"):
        train(opened, entries, changed(OPTIONS, run=RunOptions(dry_run=True)), Silent())


def slide_of(name, *roles, group="", columns=2, colour=()):
    xy = np.array([[64 * column, 0] for column in range(columns)], np.int32)
    canvas = np.full((64, 64 * columns, 3), 215, np.uint8)
    for (left, top, right, bottom), ink in colour:
        canvas[top:bottom, left:right] = ink

    def read(indices):
        return np.stack([canvas[:, 64 * index : 64 * (index + 1)] for index in indices])

    grid = TileGrid(name, 64, 1.0, 64.0, xy, np.ones(columns, np.float32))
    return TrainingSlide(name, group or name, grid, read, roles)


def test_beside_the_marks_of_a_slide_that_says_nothing_of_a_class_nothing_is_taught():
    refused = ClassTargets(False, ReviewRegions(negative=(box(0, 0, 20, 20),)), known=False)
    target, weight = rasterise_targets(refused.regions, slide_of("a").grid, 0, known=False)
    assert (target[:20, :20] == 0).all()
    assert (weight[:20, :20] == DECIDED_WEIGHT).all()
    assert (target[22:, 22:] == IGNORE).all()
    assert slide_of("a", refused).crop_kinds == [[frozenset({"negative"}), frozenset()]]


def test_crops_are_as_often_of_one_class_as_of_the_other():
    first, second = (ReviewRegions(pending=((box(*place), 1.0),)) for place in ((5, 5, 40, 40), (70, 5, 100, 40)))
    common = [slide_of(f"a{n}", ClassTargets(True, first), ClassTargets(False), columns=3) for n in range(6)]
    rare = slide_of("b", ClassTargets(False), ClassTargets(True, second), columns=3)
    draw = BalancedCropSampler(Blocks([*common, rare]), side_px=32, rng=np.random.default_rng(0))
    crops = [crop.block for crop in draw(400)]
    shares = [np.mean([(crop.target[place] == 1).any() for crop in crops]) for place in (0, 1)]
    assert shares[1] > 0.7 * shares[0]


def test_validation_holds_polygons_of_each_class_and_leaves_some_to_learn_from():
    regions = ReviewRegions(pending=((box(0, 0, 9, 9), 1.0),))
    slides = [slide_of(f"a{n}", ClassTargets(True, regions), ClassTargets(False)) for n in range(8)]
    slides += [slide_of(f"b{n}", ClassTargets(False), ClassTargets(True, regions)) for n in range(3)]
    held = hold_out(slides, share=0.25, rng=np.random.default_rng(0))
    assert sum(name.startswith("a") for name in held) == 2
    assert sum(name.startswith("b") for name in held) == 1
    for seed in range(8):
        three = [slides[0], slide_of("ab", ClassTargets(True, regions), ClassTargets(True, regions)), slides[8]]
        left = {one.name for one in three} - hold_out(three, share=0.25, rng=np.random.default_rng(seed))
        assert left >= {"ab"} or left >= {"a0", "b0"}


def test_the_loss_is_the_mean_over_classes_each_with_its_own_weights():
    logits = torch.randn(2, 2, 8, 8)
    target = torch.randint(0, 2, (2, 2, 8, 8), dtype=torch.uint8)
    weight = torch.full((2, 2, 8, 8), FULL_WEIGHT, dtype=torch.uint8)
    weight[:, 1] = DECIDED_WEIGHT
    target[:, 1, :4] = IGNORE
    each = [segmentation_loss(logits[:, n], target[:, n], weight=weight[:, n]) for n in (0, 1)]
    assert torch.isclose(mean_loss(logits, target, weight=weight), (each[0] + each[1]) / 2)


def test_training_tells_two_colours_apart():
    places = [
        ((10, 10, 50, 40), (70, 20, 110, 60)),
        ((5, 30, 45, 60), (80, 5, 120, 35)),
        ((12, 2, 52, 32), (66, 25, 106, 62)),
    ]
    slides = [
        slide_of(
            f"p{n}",
            *(ClassTargets(True, ReviewRegions(pending=((box(*place), 0.9),))) for place in pair),
            colour=[(pair[0], INKS["LUAD"]), (pair[1], INKS["LUSC"])],
        )
        for n, pair in enumerate(places)
    ]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 1))
    settings = FitSettings(epochs=6, tile_px=32, batch_size=4, tiles_per_epoch=100, learning_rate=0.03)
    rng = np.random.default_rng(0)
    found = fit(model, slides, settings=settings, rng=rng, device=torch.device("cpu"), tracker=Silent())
    assert found.dice > 0.6
    inks = torch.tensor([INKS["LUAD"], INKS["LUSC"], (215, 215, 215)]).float()[:, :, None, None] / 255
    with torch.no_grad():
        first, second, background = torch.sigmoid(model(inks.expand(3, 3, 9, 9)))[..., 4, 4]
    assert first[0] > first[1]
    assert second[1] > second[0]
    assert background.max() < min(first[0], second[1])


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
    checkpoint.save(project.parent / "wsplf" / "models" / "default", described, best=state, last=state)
    return SegmentOptions(project=LUNG, min_area_um2=200.0)


def drawn(path, entry_id, *, origin="prediction"):
    found = {name: [] for name in AREAS}
    for one in open_project(path, ProjectOptions()).annotations(entry_id):
        if one.origin == origin:
            found[one.path_class].append(one)
    return found


def area(annotations):
    return union_all([one.shape for one in annotations])


def test_a_pixel_is_of_the_most_probable_class_and_polygons_never_overlap(project, model):
    opened, entries = entries_of(project)
    report = segment(opened, entries, model, Silent())
    ids = {entry.name: entry.id for entry in entries}
    for name in ("ab", "none"):
        found = {key: area(some) for key, some in drawn(project, ids[name]).items()}
        for key, shape in (("LUSC", AREAS["LUSC"]), ("LUAD", AREAS["LUAD"].difference(AREAS["LUSC"]))):
            assert found[key].intersection(shape).area / found[key].union(shape).area > 0.9
        assert found["LUAD"].intersection(found["LUSC"]).area < 1
    counts = {one.name: one.counts for one in report.entries}
    assert [counts["ab"][key] for key in ("polygons", "polygons LUAD", "polygons LUSC")] == [2, 1, 1]


def test_what_the_label_lacks_is_not_drawn_and_takes_no_pixel(project, model):
    opened, entries = entries_of(project)
    ids = {entry.name: entry.id for entry in entries}
    report = segment(opened, entries, model, Silent())
    counts = {one.name: one.counts for one in report.entries}
    assert not any(drawn(project, ids["n"]).values())
    found = drawn(project, ids["b"])
    assert found["LUAD"] == []
    assert len(found["LUSC"]) == 1
    assert counts["b"]["suppressed_um2"] == pytest.approx(AREAS["LUSC"].area, rel=0.1), "dark, so LUAD as well"
    opened.set_metadata({ids["b"]: {"label": "luad"}})
    segment(*entries_of(project), model, Silent())
    found = drawn(project, ids["b"])
    assert found["LUSC"] == []
    assert area(found["LUAD"]).area == pytest.approx(AREAS["LUSC"].area, rel=0.1)


def test_a_class_of_the_model_that_no_label_means_is_told(project, model, recorder):
    opened, entries = entries_of(project, ProjectOptions(positive=("luad=LUAD", "lusc=Other")))
    dry = changed(model, project=ProjectOptions(positive=("luad=LUAD", "lusc=Other")), run=RunOptions(dry_run=True))
    segment(opened, entries, dry, recorder)
    assert any(line.startswith("warning: no --positive names the model's class LUSC") for line in recorder.said)
    recorder.said.clear()
    segment(*entries_of(project), changed(model, run=RunOptions(dry_run=True)), recorder)
    assert not any("warning" in line for line in recorder.said)


def test_a_run_again_replaces_its_own_pending_predictions_of_both_classes_only(project, model):
    opened, entries = entries_of(project)
    ids = {entry.name: entry.id for entry in entries}
    segment(opened, entries, model, Silent())
    first = drawn(project, ids["ab"])
    (mine,) = first["LUAD"]
    opened = open_project(project, ProjectOptions())
    delete_annotations(opened, ids["ab"], [mine.id])
    opened.replace(ids["ab"], origin="human", annotations=[changed(mine, shape=mine.shape.buffer(-5))])
    before = {one.id for one in opened.annotations(ids["ab"])}
    segment(*entries_of(project), model, Silent())
    after = drawn(project, ids["ab"])
    assert mine.id in {one.id for one in after["LUAD"]}, "what a person changed stays"
    assert first["LUSC"][0].id not in {one.id for one in after["LUSC"]}
    assert len(after["LUSC"]) == 1
    assert len(drawn(project, ids["ab"], origin="pseudolabel")["LUAD"]) == 1
    assert mine.id in before


def test_a_class_that_is_no_rival_neither_takes_nor_loses_pixels():
    canvas = np.zeros((2, 64, 64), np.float32)
    canvas[0, 10:40, 10:40], canvas[1, 20:50, 20:50] = 0.8, 0.9
    values = {"threshold": 0.5, "downsample": 1.0, "tolerance_px0": 0.0, "min_area_px0": 0.0, "min_hole_px0": 0.0}
    sizes = {
        rivals: [round(sum(one.shape.area for one in own)) for own in outline([canvas], **values, rivals=rivals)]
        for rivals in ((True, True), (True, False), (False, True))
    }
    assert sizes[True, True] == [pytest.approx(500, abs=3), pytest.approx(900, abs=3)]
    assert sizes[True, False] == sizes[False, True] == [pytest.approx(900, abs=3), pytest.approx(900, abs=3)]
