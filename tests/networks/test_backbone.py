from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from wsplf_cli.errors import ConfigError
from wsplf_cli.networks.backbone import Backbone, build_backbone, high_frequency, small_trunk


def random_small(*, adl: bool = False) -> Backbone:
    torch.manual_seed(0)
    return Backbone(small_trunk(), mean=(0.5,) * 3, std=(0.25,) * 3, adl=adl)


def test_features_have_stride_8_and_the_stated_channels() -> None:
    backbone = random_small()
    assert backbone.stride == 8
    assert backbone(torch.rand(2, 3, 64, 96)).shape == (2, backbone.channels, 8, 12)


def test_shipped_weights_load_and_tell_nuclei_from_nothing() -> None:
    backbone = build_backbone("small").eval()
    white = torch.ones(1, 3, 64, 64)
    dotted = white.clone()
    dotted[:, :, ::8, ::8] = 0.2
    with torch.no_grad():
        assert not torch.allclose(backbone(white), backbone(dotted), atol=1e-2)


def test_adl_acts_in_training_only() -> None:
    torch.manual_seed(1)
    backbone, plain = random_small(adl=True), random_small()
    tiles = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(backbone.eval()(tiles), plain.eval()(tiles))
        assert not torch.allclose(backbone.train()(tiles), plain.train()(tiles))


def test_any_timm_cnn_serves() -> None:
    backbone = build_backbone("resnet18")
    assert backbone(torch.rand(1, 3, 64, 64)).shape[1:] == (backbone.channels, 8, 8)


@pytest.mark.parametrize("name", ["resnet_18", "swin_tiny_patch4_window7_224"])
def test_unknown_and_unfit_backbones_are_refused_in_one_line(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_backbone(name)
    assert name in caught.value.message
    assert caught.value.hint


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"conv1.weight": torch.zeros(1)}, path)
    with pytest.raises(ConfigError, match="does not fit"):
        build_backbone("small", weights=path)


def test_missing_and_broken_weight_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no backbone weights"):
        build_backbone("small", weights=tmp_path / "none.safetensors")
    for name in ("broken.safetensors", "broken.pth"):
        (tmp_path / name).write_bytes(b"not weights")
        with pytest.raises(ConfigError, match="can be read"):
            build_backbone("small", weights=tmp_path / name)


def test_high_frequency_is_blind_to_flat_colour_and_slow_gradients_and_sees_edges() -> None:
    flat = torch.full((1, 3, 32, 32), 0.7)
    assert high_frequency(flat).max() < 1e-5
    edges = flat.clone()
    edges[:, :, ::4] = 0.1
    assert high_frequency(edges).shape == (1, 1, 32, 32)
    assert high_frequency(edges).mean() > 0.1


@pytest.mark.parametrize("name", ["small", "resnet18"])
def test_the_high_frequency_channel_changes_nothing_before_training_and_learns(name: str) -> None:
    torch.manual_seed(0)
    without = build_backbone(name).eval()
    torch.manual_seed(0)
    with_it = build_backbone(name, high_frequency=True).eval()
    tiles = torch.rand(2, 3, 64, 64)
    assert torch.allclose(without(tiles), with_it(tiles), atol=1e-4)
    with_it(tiles).square().sum().backward()
    wide = [weight for weight in with_it.trunk.parameters() if weight.ndim == 4 and weight.shape[1] == 4]
    assert len(wide) == 1
    assert wide[0].grad is not None
    assert wide[0].grad[:, 3].abs().max() > 0
