import json

import numpy as np
import pytest
import torch
from shapely import box
from torch import nn

from wsplf_cli.errors import ConfigError, ProjectError
from wsplf_cli.schema import Silent, TileGrid
from wsplf_cli.segmentation import checkpoint
from wsplf_cli.segmentation.checkpoint import Checkpoint
from wsplf_cli.segmentation.models.unet import build
from wsplf_cli.segmentation.sampling import (
    DECIDED_WEIGHT,
    FULL_WEIGHT,
    IGNORE,
    BalancedCropSampler,
    Block,
    Blocks,
    ClassTargets,
    ReviewRegions,
    TrainingSlide,
    draw_validation_tiles,
    rasterise_targets,
)
from wsplf_cli.segmentation.train import FitSettings, choose_threshold, fit, hold_out, segmentation_loss

SIDE = 64


def _slide(name, *, regions=None, group="", positive=True, columns=2, colour=None):
    """A row of blocks of 64 pixels at 1 um; inside ``colour``, boxes in level-0 pixels, the slide is dark."""
    xy = np.array([[SIDE * column, 0] for column in range(columns)], np.int32)
    grid = TileGrid(name, SIDE, 1.0, float(SIDE), xy, np.ones(columns, np.float32))
    canvas = np.full((SIDE, SIDE * columns, 3), 215, np.uint8)
    for left, top, right, bottom in colour or []:
        canvas[top:bottom, left:right] = (120, 70, 140)

    def read(indices):
        return np.stack([canvas[:, SIDE * index : SIDE * (index + 1)] for index in indices])

    return TrainingSlide(name, group or name, grid, read, (ClassTargets(positive, regions or ReviewRegions()),))


def test_decided_polygons_overrule_pseudo_labels_and_rejected_ones_are_background():
    regions = ReviewRegions(
        positive=(box(0, 0, 20, 20),), pending=((box(0, 0, 40, 40), 0.6),), negative=(box(50, 50, 60, 60),)
    )
    target, weight = rasterise_targets(regions, _slide("a").grid, 0)
    assert (target[:20, :20] == 1).all()
    assert (weight[:20, :20] == DECIDED_WEIGHT).all()
    assert target[30, 30] == 1
    assert weight[30, 30] == 60
    assert target[55, 55] == 0
    assert weight[55, 55] == DECIDED_WEIGHT
    assert target[5, 60] == 0
    assert weight[5, 60] == FULL_WEIGHT


def test_the_outline_of_a_pseudo_label_is_ignored_and_that_of_a_person_is_not():
    pending, _ = rasterise_targets(ReviewRegions(pending=((box(10, 10, 40, 40), 1.0),)), _slide("a").grid, 0)
    assert (pending[20, 37:43] == IGNORE).all()
    assert pending[20, 34] == 1
    assert pending[20, 46] == 0
    decided, _ = rasterise_targets(ReviewRegions(positive=(box(10, 10, 40, 40),)), _slide("a").grid, 0)
    assert IGNORE not in decided
    beside, _ = rasterise_targets(ReviewRegions(pending=((box(66, 10, 90, 40), 1.0),)), _slide("a").grid, 0)
    assert (beside[20, 62:] == IGNORE).all()


def test_truth_is_stronger_than_background_and_ignored_stronger_than_both():
    square = box(10, 10, 40, 40)
    both = ReviewRegions(positive=(square,), negative=(box(10, 10, 40, 60),))
    target, weight = rasterise_targets(both, _slide("a").grid, 0)
    assert (target[12:38, 12:38] == 1).all()
    assert (target[42:58, 12:38] == 0).all()
    assert (weight[12:58, 12:38] == DECIDED_WEIGHT).all()
    ignored, _ = rasterise_targets(
        ReviewRegions(positive=(square,), ignored=(box(20, 20, 30, 30),)), _slide("a").grid, 0
    )
    assert (ignored[21:29, 21:29] == IGNORE).all()


def test_a_rejected_area_over_a_pseudo_label_is_background_with_the_weight_of_truth():
    regions = ReviewRegions(pending=((box(0, 0, 60, 60), 0.9),), negative=(box(20, 20, 40, 40),))
    target, weight = rasterise_targets(regions, _slide("a").grid, 0)
    assert (target[21:39, 21:39] == 0).all()
    assert (weight[21:39, 21:39] == DECIDED_WEIGHT).all()
    assert (target[8:12, 8:12] == 1).all()


def test_background_of_a_reviewed_image_weighs_more():
    _, weight = rasterise_targets(ReviewRegions(complete=True), _slide("a").grid, 0)
    assert FULL_WEIGHT < weight[0, 0] < DECIDED_WEIGHT


def test_crops_are_balanced_and_those_of_tumour_hold_tumour():
    marked = _slide(
        "a", regions=ReviewRegions(pending=((box(70, 5, 100, 30), 1.0),), negative=(box(260, 20, 300, 60),)), columns=8
    )
    empty = _slide("b", positive=False, columns=8)
    draw = BalancedCropSampler(Blocks([marked, empty]), side_px=32, rng=np.random.default_rng(0))
    crops = [crop.block for crop in draw(400)]
    assert {crop.target.shape for crop in crops} == {(1, 32, 32)}
    tumour = np.mean([(crop.target == 1).any() for crop in crops])
    refused = np.mean([(crop.weight == DECIDED_WEIGHT).any() for crop in crops])
    assert 0.33 < tumour < 0.55
    assert 0.05 < refused < 0.3


def test_errors_on_negative_slides_are_shown_more_often_and_those_on_positive_ones_are_not():
    positive, negative = _slide("a", columns=10), _slide("b", positive=False, columns=10)
    draw = BalancedCropSampler(Blocks([positive, negative]), side_px=32, rng=np.random.default_rng(0))
    for _ in range(10):
        crops = draw(40)
        draw.update_difficulty(crops, np.array([[0.5 if crop.block_index == 3 else 0.0] for crop in crops], np.float32))
    counts = np.zeros((2, 10))
    for crop in draw(1000):
        counts[crop.slide_index, crop.block_index] += 1
    assert counts[1, 3] > 0.5 * counts[1].sum()
    assert counts[1].min() > 0
    assert counts[0, 3] < 0.2 * counts[0].sum()


def test_blocks_beyond_the_memory_bound_are_read_again():
    reads = []
    slide = _slide("a")

    def read(indices):
        reads.extend(indices)
        return slide.read(indices)

    counted = TrainingSlide(slide.name, slide.group, slide.grid, read)
    size = SIDE * SIDE * 5
    for bound, expected in ((2 * size, 2), (size, 3), (0, 4)):
        reads.clear()
        blocks = Blocks([counted], cache_bytes=bound)
        for index in (0, 1, 0, 1):
            blocks(0, index)
        assert len(reads) == expected


def test_validation_tiles_cover_each_place_once():
    tiles = draw_validation_tiles(Blocks([_slide("a")]), side_px=32, max_tiles=100, rng=np.random.default_rng(0))
    assert len(tiles) == 8
    assert len(draw_validation_tiles(Blocks([_slide("a")]), side_px=32, max_tiles=3, rng=np.random.default_rng(0))) == 3


def test_patients_are_held_out_whole_and_never_the_only_one_with_polygons():
    regions = ReviewRegions(pending=((box(0, 0, 9, 9), 1.0),))
    slides = [_slide(f"p{n}", regions=regions, group=f"P{n // 2}") for n in range(8)]
    slides += [_slide(f"n{n}", positive=False, group=f"N{n // 2}") for n in range(8)]
    held = hold_out(slides, share=0.25, rng=np.random.default_rng(0))
    assert sum(group.startswith("P") for group in held) == 1
    assert sum(group.startswith("N") for group in held) == 1
    assert hold_out(slides[:2] + slides[8:], share=0.25, rng=np.random.default_rng(0)) == frozenset()


def test_loss_ignores_what_is_to_be_ignored_and_heeds_weights():
    logits = torch.zeros(1, 4, 4)
    target = torch.zeros(1, 4, 4, dtype=torch.uint8)
    target[:, 2:] = IGNORE
    weight = torch.full((1, 4, 4), FULL_WEIGHT, dtype=torch.uint8)
    before = segmentation_loss(logits, target, weight=weight)
    wild = logits.clone()
    wild[:, 2:] = 50.0
    assert segmentation_loss(wild, target, weight=weight) == before
    wrong = logits.clone()
    wrong[:, 0] = 4.0
    heavy = weight.clone()
    heavy[:, 0] = DECIDED_WEIGHT
    assert segmentation_loss(wrong, target, weight=heavy) > segmentation_loss(wrong, target, weight=weight) > before


def test_threshold_is_the_middle_of_the_best_ones():
    target = np.zeros((10, 10), np.uint8)
    target[:5] = 1
    block = Block(np.zeros((10, 10, 3), np.uint8), target[None], np.full((1, 10, 10), FULL_WEIGHT, np.uint8))
    clear = np.where(target == 1, 0.99, 0.01).astype(np.float32)[None, None]
    assert choose_threshold(clear, [block]) == (0.6, 1.0)
    raised = np.where(target == 1, 0.88, 0.62).astype(np.float32)[None, None]
    threshold, dice = choose_threshold(raised, [block])
    assert 0.65 < threshold < 0.88
    assert dice == 1.0


@pytest.fixture(scope="module")
def lesson():
    """Four positive slides, each with one dark square that is marked, and two negative ones."""
    places = [(10, 10, 50, 40), (70, 20, 110, 60), (5, 30, 45, 60), (80, 5, 120, 35)]
    slides = [
        _slide(f"p{n}", regions=ReviewRegions(pending=((box(*place), 0.9),)), colour=[place])
        for n, place in enumerate(places)
    ]
    return [*slides, _slide("n0", positive=False), _slide("n1", positive=False)]


def _fit(slides, *, seed=0, **changes):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 1, 1))
    fields = {"epochs": 4, "tile_px": 32, "batch_size": 4, "tiles_per_epoch": 100, "learning_rate": 0.03}
    settings = FitSettings(**(fields | changes))
    rng = np.random.default_rng(seed)
    return model, fit(model, slides, settings=settings, rng=rng, device=torch.device("cpu"), tracker=Silent())


def test_training_learns_and_keeps_the_best_epoch_of_the_validation(lesson):
    model, found = _fit(lesson)
    assert found.curves.loss[-1] < 0.7 * found.curves.loss[0]
    assert len(found.curves.validation_dice) == len(found.curves.validation_loss) == 4
    assert found.dice > 0.7
    assert found.best_epoch == 4 - int(np.argmax(found.curves.validation_dice[::-1]))
    assert all(torch.equal(value, found.best[key]) for key, value in model.state_dict().items())
    assert {name[0] for name in found.validation_slides} == {"p", "n"}


def test_same_seed_gives_the_same_weights(lesson):
    first, second = (_fit(lesson, epochs=1)[1] for _ in range(2))
    assert all(torch.equal(value, second.last[key]) for key, value in first.last.items())


def test_one_patient_trains_without_validation(lesson):
    _, found = _fit([lesson[0], *lesson[4:]], epochs=1)
    assert found.dice is None
    assert found.curves.validation_dice == []
    assert found.best_epoch == 1
    assert all(torch.equal(value, found.last[key]) for key, value in found.best.items())


def _save(folder, model: nn.Module, **changes):
    fields = {"plugin": "unet", "settings": {"backbone": "small"}, "classes": ("Tumor",), "tile_px": 64, "mpp": 1.0}
    record = Checkpoint(**({**fields, "run_id": "run 1"} | changes))
    checkpoint.save(folder, record, best=model.state_dict(), last=model.state_dict())
    return record


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    model = build(1, pretrained=False).eval()
    nn.init.normal_(model.logits.weight)
    record = _save(tmp_path / "models" / "default", model)
    return tmp_path / "models" / "default", model, record


def test_a_saved_model_is_built_again_without_any_other_file(saved, monkeypatch):
    folder, model, record = saved
    monkeypatch.setattr("wsplf_cli.networks.backbone._SMALL_ASSET", "not there")
    read, rebuilt = checkpoint.load(folder, device=torch.device("cpu"))
    tiles = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(rebuilt(tiles), model(tiles))
    assert read == record
    assert not rebuilt.training
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "last.safetensors", "model.safetensors"]


def test_saving_again_replaces_the_model_and_leaves_nothing_beside_it(saved):
    folder, model, _ = saved
    _save(folder, model, run_id="run 2")
    assert checkpoint.read(folder).run_id == "run 2"
    assert [path.name for path in folder.parent.iterdir()] == ["default"]


def test_a_failed_save_leaves_the_old_model(saved, monkeypatch):
    folder, model, _ = saved

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("wsplf_cli.segmentation.checkpoint.files.write_json", full)
    with pytest.raises(ProjectError, match="No space left"):
        _save(folder, model, run_id="run 2")
    assert checkpoint.read(folder).run_id == "run 1"
    assert [path.name for path in folder.parent.iterdir()] == ["default"]


def _edit(folder, **changes):
    path = folder / "config.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(content | changes), encoding="utf-8")


def _break_json(folder):
    (folder / "config.json").write_text("{", encoding="utf-8")


def _cut_weights(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_break_json, "cannot be read"),
        (_cut_weights, "cannot be read"),
        (lambda folder: (folder / "model.safetensors").unlink(), "holds no model.safetensors"),
        (lambda folder: _edit(folder, format=99), "format 99"),
        (lambda folder: _edit(folder, kind="other"), "does not describe a segmentation model"),
        (lambda folder: _edit(folder, more=1), "more"),
        (lambda folder: _edit(folder, plugin="nothing"), "unknown model"),
        (lambda folder: _edit(folder, settings={"backbone": "resnet10t"}), "does not fit"),
        (lambda folder: _edit(folder, settings={"depth": 3}), "settings"),
    ],
)
def test_a_damaged_model_gives_one_clear_line(saved, damage, message):
    folder, _, _ = saved
    damage(folder)
    with pytest.raises(ConfigError, match=message) as caught:
        checkpoint.load(folder, device=torch.device("cpu"))
    assert "\n" not in caught.value.message


def test_a_missing_model_lists_those_that_are_there(saved):
    folder, _, _ = saved
    with pytest.raises(ConfigError, match="no model") as caught:
        checkpoint.load(folder.with_name("other"), device=torch.device("cpu"))
    assert "default" in caught.value.hint
