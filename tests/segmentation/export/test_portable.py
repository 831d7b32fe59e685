"""A portable network gives the network's probabilities, from RGB in 0..255."""

import pytest
import torch
from exported_models import SIDES_PX, described, images, probabilities, random_unet
from torch import nn

from wsplf_cli.errors import ConfigError
from wsplf_cli.networks.ensemble import Ensemble
from wsplf_cli.segmentation.export import portable
from wsplf_cli.segmentation.export.portable import Contract, largest_difference, portable_unet
from wsplf_cli.segmentation.models import unet


@pytest.mark.parametrize(
    "backbone", ["small", "resnet18", pytest.param("tf_efficientnet_lite0", marks=pytest.mark.slow)]
)
def test_a_unet_keeps_its_probabilities_and_its_weights(backbone):
    model = random_unet(backbone=backbone)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    network = portable_unet(model, described())
    for side in SIDES_PX:
        batch = images(side)
        expected = probabilities(model, batch)
        with torch.no_grad():
            found = network(batch).numpy()
        assert expected.std() > 0.01
        assert abs(found - expected).max() < 1e-4
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_an_ensemble_is_the_mean_of_the_logits_of_its_networks():
    torch.manual_seed(3)
    other = random_unet()
    nn.init.normal_(other.logits.weight)
    ensemble = Ensemble([random_unet(), other]).eval()
    batch = images(64)
    with torch.no_grad():
        found = portable_unet(ensemble, described())(batch).numpy()
    assert abs(found - probabilities(ensemble, batch)).max() < 1e-4
    assert abs(found - probabilities(other, batch)).max() > 0.01


def test_networks_of_two_strides_take_sides_that_are_multiples_of_both():
    torch.manual_seed(3)
    models = [
        unet.build(1, pretrained=False, backbone=name, output_stride=32) for name in ("small", "efficientnet-lite0")
    ]
    for model in models:
        nn.init.normal_(model.logits.weight)
    ensemble = Ensemble(models).eval()
    network = portable_unet(ensemble, described())
    assert network.stride == 32
    batch = images(160)
    with torch.no_grad():
        found = network(batch).numpy()
    assert abs(found - probabilities(ensemble, batch)).max() < 1e-4


def test_a_backbone_that_would_compute_something_else_is_refused(monkeypatch):
    monkeypatch.setattr(portable, "use_primitives", lambda network, example: nn.init.ones_(network.logits.weight))
    with pytest.raises(ConfigError, match="probabilities would differ by") as caught:
        portable_unet(random_unet(), described())
    assert caught.value.hint == "--format hf"


def test_a_backbone_whose_maps_do_not_fit_is_refused(monkeypatch):
    model = random_unet()
    monkeypatch.setattr(portable, "use_primitives", lambda network, example: setattr(network, "scales", [1, 1, 1, 1]))
    with pytest.raises(ConfigError, match="the backbone small cannot be exported"):
        portable_unet(model, described())


def test_sides_to_compare_are_three_multiples_of_the_stride():
    assert Contract(16).sides_px(192) == [32, 80, 192]
    assert Contract(16).sides_px(100) == [32, 80, 112]
    assert Contract(32).sides_px(64) == [64, 96, 160]
    assert Contract(64, only_px=64).sides_px(64) == [64]


def test_the_largest_difference_is_found():
    def network(tiles):
        return torch.logit(tiles[:, :1].clamp(0.01, 0.99))

    def exported(batch):
        found = torch.sigmoid(network(batch / 255))
        found[..., 5, 7] += 0.25
        return found

    assert largest_difference(exported, network, side_px=32) == pytest.approx(0.25, abs=1e-5)
