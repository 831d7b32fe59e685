from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from wsplf_cli.errors import ConfigError
from wsplf_cli.networks.backbone import Backbone, build_backbone, build_dense, high_frequency, is_frozen, small_trunk
from wsplf_cli.networks.state import weights_digest


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


JOINED = "small+efficientnet-lite0"


def test_backbones_side_by_side_give_the_features_of_each() -> None:
    tiles = torch.rand(2, 3, 96, 128)
    joined = build_dense(JOINED).eval()
    small, lite0 = build_backbone("small").eval(), build_backbone("efficientnet-lite0").eval()
    assert (joined.channels, joined.stride) == (small.channels + lite0.channels, 8)
    assert [part.channels for part in joined.parts] == [small.channels, lite0.channels]
    with torch.no_grad():
        features = joined(tiles)
        torch.testing.assert_close(features[:, : small.channels], small(tiles))
        halved = torch.nn.functional.interpolate(tiles, scale_factor=0.5, mode="area")
        of_lite0 = torch.nn.functional.avg_pool2d(features[:, small.channels :], 2)
        correlation = torch.corrcoef(torch.stack([of_lite0.flatten(), lite0(halved).flatten()]))[0, 1]
    assert correlation > 0.95  # enlarged and reduced again


def test_auto_is_the_two_backbones_whose_weights_need_no_download(tmp_path: Path) -> None:
    assert weights_digest(build_dense("auto")) == weights_digest(build_dense(JOINED))
    state = {name: value.contiguous() for name, value in random_small().trunk.state_dict().items()}
    save_file(state, tmp_path / "own.safetensors")
    own = build_dense("auto", weights=tmp_path / "own.safetensors")
    assert own.channels == build_backbone("small").channels


def test_backbones_of_other_strides_share_the_grid_of_the_finest(tmp_path: Path) -> None:
    encoder = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    save_file(encoder.state_dict(), tmp_path / "vit.safetensors")
    joined = build_dense("small+vit_tiny_patch16_224", weights=tmp_path / "vit.safetensors")
    for side in (96, 88):  # 88 is no multiple of 16
        assert joined(torch.rand(1, 3, side, side)).shape == (1, 448 + 192, side // 8, side // 8)


def test_backbones_side_by_side_stay_in_eval_mode_without_gradient() -> None:
    joined = build_dense(JOINED).train()
    assert joined.frozen
    assert not any(module.training for module in joined.modules())
    assert not any(weight.requires_grad for weight in joined.parameters())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("small+", {}, "does not name different backbones"),
        ("small+small", {}, "does not name different backbones"),
        (JOINED, {"weights": Path("own.safetensors")}, "none of the backbones"),
        ("small+resnet18+resnet34", {"weights": Path("own.safetensors")}, "2 of the backbones"),
        (JOINED, {"adl": True}, "is frozen"),
        (JOINED, {"high_frequency": True}, "is frozen"),
        ("small+resnet_18", {}, "unknown backbone 'resnet_18'"),
    ],
)
def test_backbones_that_cannot_be_set_side_by_side_are_refused(
    name: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        build_dense(name, **options)  # type: ignore[arg-type]
    assert caught.value.hint


def test_a_network_that_is_trained_takes_one_backbone() -> None:
    with pytest.raises(ConfigError, match="side by side are frozen"):
        build_backbone(JOINED)
    assert is_frozen(JOINED)
    assert not is_frozen("small")
