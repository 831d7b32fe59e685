import numpy as np
import pytest
import torch
from shapely import box
from torch import nn
from training_slides import training_slide

from wsplf_cli.schema import Silent
from wsplf_cli.segmentation.sampling import DECIDED_WEIGHT, FULL_WEIGHT, IGNORE, ReviewRegions
from wsplf_cli.segmentation.train import FitSettings, fit, segmentation_loss


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
    fields = {
        "epochs": 4,
        "tile_px": 32,
        "window_px": 64,
        "batch_size": 4,
        "tiles_per_epoch": 100,
        "learning_rate": 0.03,
    }
    settings = FitSettings(**(fields | changes))
    rng = np.random.default_rng(seed)
    return model, fit(model, slides, settings=settings, rng=rng, device=torch.device("cpu"), tracker=Silent())


def test_training_learns_and_leaves_the_model_ready_to_predict(lesson):
    model, losses = _fit(lesson)
    assert len(losses) == 4
    assert losses[-1] < 0.7 * losses[0]
    assert not model.training


def test_same_seed_gives_the_same_weights(lesson):
    first, second = (_fit(lesson, epochs=1)[0].state_dict() for _ in range(2))
    assert all(torch.equal(value, second[key]) for key, value in first.items())


def test_steps_are_those_of_all_epochs_of_one_network():
    assert FitSettings(3, 32, 64, tiles_per_epoch=10, batch_size=4).steps == 9
