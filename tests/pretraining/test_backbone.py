"""Training of the small backbone: a few steps make loadable weights, and the losses are smallest for the truth."""

import numpy as np
import pytest
import torch

from wsplf_cli.networks.backbone import build_backbone
from wsplf_cli.pretraining import __main__ as command
from wsplf_cli.pretraining import backbone as trainer
from wsplf_cli.schema import Silent
from wsplf_cli.synthetic.attributes import NAMES
from wsplf_cli.synthetic.kinds import STRUCTURES


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The file that a few steps wrote, and their figures."""
    patch = pytest.MonkeyPatch()
    patch.setattr(trainer, "CANVAS_PX", 256)
    patch.setattr(trainer, "_generate_all", lambda seed, count, _: (trainer._generate((seed, n)) for n in range(count)))
    out = tmp_path_factory.mktemp("weights") / "backbone.safetensors"
    figures = trainer.pretrain(out, seed=3, steps=2, canvases=3, batch=2, tracker=Silent())
    yield out, figures
    patch.undo()


def test_a_few_steps_make_weights_that_load(trained):
    out, _ = trained
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    backbone = build_backbone("small", weights=out).eval()
    tiles = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        features = backbone(tiles)
        assert features.shape == (1, backbone.channels, 8, 8)
        assert not torch.allclose(features, build_backbone("small").eval()(tiles), atol=1e-2)


def test_figures_say_what_they_are_of(trained):
    _, figures = trained
    named = set(figures) - {"structure_accuracy", "nucleus_dice", "seconds"}
    assert (
        {"explained of texture", "explained of nucleus radius"} <= named <= {f"explained of {name}" for name in NAMES}
    )
    assert all(np.isfinite(value) for value in figures.values())
    assert 0 <= figures["structure_accuracy"] <= 1
    assert 0 <= figures["nucleus_dice"] <= 1
    assert figures["explained of texture"] <= 1


def test_attributes_are_learned_in_standard_deviations_over_all_canvases():
    rng = np.random.default_rng(0)
    layers = np.zeros((7, 4, 4), np.uint8)
    tables = [rng.normal(3, 2, (5, len(NAMES))).astype(np.float32) for _ in range(3)]
    tables[0][0, 4] = np.nan
    rows = np.concatenate(
        [canvas.table for canvas in trainer._standardised([trainer.Canvas(layers, t) for t in tables])]
    )
    assert np.isnan(rows).sum() == 1
    assert np.nanmean(rows, axis=0) == pytest.approx(0, abs=1e-5)
    assert np.nanstd(rows, axis=0) == pytest.approx(1, abs=1e-3)


def test_attributes_that_are_not_known_teach_nothing():
    built = torch.zeros(1, 2, 4, 4, requires_grad=True)
    targets = torch.ones(1, 2, 32, 32)
    targets[:, 1] = torch.nan
    value = trainer.attribute_loss(built, targets)
    assert value.item() == pytest.approx(0.5)
    value.backward()
    assert (built.grad[:, 0] != 0).all()
    assert (built.grad[:, 1] == 0).all()


def test_a_crop_without_any_known_attribute_is_no_loss():
    built = torch.zeros(1, 2, 4, 4, requires_grad=True)
    value = trainer.attribute_loss(built, torch.full((1, 2, 32, 32), torch.nan))
    value.backward()
    assert value.item() == 0
    assert (built.grad == 0).all()


def test_the_loss_is_least_where_the_reading_is_right():
    targets = torch.zeros(1, 3, 8, 8)
    targets[:, 0, :, 4:] = 2
    targets[:, 1:, :4] = torch.tensor([1.0, 3.0]).view(1, 2, 1, 1)
    right = torch.full((1, len(STRUCTURES) + 2, 2, 2), -9.0)
    right[:, 0, :, 0] = right[:, 2, :, 1] = right[:, -2, 0] = 9.0
    right[:, -1] = np.log(3.0)
    assert trainer.label_loss(right, targets).item() < 0.01
    for channel in (0, -2, -1):
        wrong = right.clone()
        wrong[:, channel] = -wrong[:, channel]
        assert trainer.label_loss(wrong, targets).item() > 0.5


def test_the_command_trains_the_backbone(tmp_path, monkeypatch):
    asked = {}
    monkeypatch.setattr(trainer, "pretrain", lambda out, **options: asked.update(out=out, **options) or {"seconds": 1})
    command.main(["backbone", "--seed", "4", "--out", str(tmp_path / "b.safetensors")])
    assert asked["seed"] == 4
    assert asked["out"].name == "b.safetensors"
