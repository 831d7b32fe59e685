import numpy as np
import pytest
import torch
from shapely import box
from torch import nn
from training_slides import training_slide

from wsplf_cli.schema import Silent
from wsplf_cli.segmentation.sampling import (
    DECIDED_WEIGHT,
    FULL_WEIGHT,
    IGNORE,
    Block,
    ReviewRegions,
)
from wsplf_cli.segmentation.train import FitSettings, choose_threshold, fit, hold_out, segmentation_loss


def test_patients_are_held_out_whole_and_never_the_only_one_with_polygons():
    regions = ReviewRegions(pending=((box(0, 0, 9, 9), 1.0),))
    slides = [training_slide(f"p{n}", regions=regions, group=f"P{n // 2}") for n in range(8)]
    slides += [training_slide(f"n{n}", positive=False, group=f"N{n // 2}") for n in range(8)]
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
        training_slide(f"p{n}", regions=ReviewRegions(pending=((box(*place), 0.9),)), colour=[place])
        for n, place in enumerate(places)
    ]
    return [*slides, training_slide("n0", positive=False), training_slide("n1", positive=False)]


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


def test_validation_without_a_pixel_of_the_class_has_no_dice(lesson, monkeypatch):
    from wsplf_cli.segmentation import train

    drawn = train.draw_validation_tiles
    monkeypatch.setattr(
        train,
        "draw_validation_tiles",
        lambda *args, **fields: [tile for tile in drawn(*args, **fields) if not (tile.target == 1).any()],
    )
    model = nn.Conv2d(3, 1, 1)
    settings = FitSettings(epochs=1, tile_px=32, tiles_per_epoch=8)
    cpu = torch.device("cpu")
    found = fit(model, lesson, settings=settings, rng=np.random.default_rng(0), device=cpu, tracker=Silent())
    assert found.validation_slides
    assert (found.dice, found.unvalidated) == (None, (0,))
