import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import SwiGLUPacked
from torch import nn

from wsplf_cli import plugins
from wsplf_cli.errors import ConfigError
from wsplf_cli.networks.backbone import build_backbone
from wsplf_cli.networks.mil import MilNetwork
from wsplf_cli.segmentation.models import unet

NAME = "vit_tiny_patch16_224"
HUB = "hf-hub:clinic/encoder"


@pytest.fixture
def save(tmp_path: Path):
    """Writes the weights of a random ViT of two blocks as a hub's cache has them, with what its config.json says."""

    def write(architecture: str = NAME, *, said: dict | None = None, **arguments) -> nn.Module:
        torch.manual_seed(0)
        encoder = timm.create_model(architecture, depth=2, **arguments)
        nn.init.normal_(encoder.pos_embed)
        folder = tmp_path / "models--clinic--encoder"
        snapshot = folder / "snapshots" / "0123"
        snapshot.mkdir(parents=True)
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text("0123")
        content = {"architecture": architecture, "model_args": {"depth": 2, **(said or {})}}
        content["pretrained_cfg"] = {"mean": [0.7, 0.5, 0.7], "std": [0.2, 0.3, 0.2]}
        (snapshot / "config.json").write_text(json.dumps(content))
        save_file(encoder.state_dict(), snapshot / "model.safetensors")
        return encoder.eval()

    return write


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("wsplf went to the network"))


def tokens(encoder: nn.Module, tiles: torch.Tensor) -> torch.Tensor:
    """The map made by hand from all tokens, its channels of mean square 1 at each place."""
    mean, std = torch.tensor([0.7, 0.5, 0.7]), torch.tensor([0.2, 0.3, 0.2])
    normalised = (tiles - mean[:, None, None]) / std[:, None, None]
    found = encoder.forward_features(normalised)[:, encoder.num_prefix_tokens :]
    side = tiles.shape[-1] // encoder.patch_embed.patch_size[0]
    maps = found.movedim(1, -1).unflatten(-1, (side, side))
    return maps / maps.pow(2).mean(dim=1, keepdim=True).add(1e-6).sqrt()


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"init_values": 0.3, "reg_tokens": 4, "no_embed_class": True},
        {"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU, "mlp_ratio": 2.5 * 2},
    ],
    ids=["plain", "layer scale and registers", "gated"],
)
def test_the_map_is_made_of_the_patch_tokens_whatever_the_file_has_beside_them(save, arguments) -> None:
    encoder, tiles = save(**arguments), torch.rand(2, 3, 224, 224)
    backbone = build_backbone(HUB)
    assert (backbone.stride, backbone.channels) == (16, 192)
    with torch.no_grad():
        torch.testing.assert_close(backbone(tiles), tokens(encoder, tiles), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("architecture", ["vit_small_patch14_reg4_dinov2", "eva02_tiny_patch14_224"])
def test_tiles_whose_side_is_no_multiple_of_the_patch_are_enlarged(save, architecture) -> None:
    save(architecture)
    backbone = build_backbone(HUB)
    assert backbone.stride == 14
    tiles = torch.rand(1, 3, 84, 70)
    smaller = tiles[..., :75, :60].clone()
    tiles[..., 75:, :] = tiles[..., 74:75, :]
    tiles[..., 60:] = tiles[..., 59:60]
    assert backbone(smaller).shape == (1, backbone.channels, 6, 5)
    torch.testing.assert_close(backbone(smaller), backbone(tiles))


def test_an_encoder_is_found_by_its_name_with_a_file_of_weights(tmp_path: Path) -> None:
    encoder = timm.create_model(NAME, num_classes=3, img_size=96)
    torch.save({"model": encoder.state_dict()}, tmp_path / "weights.pth")
    backbone = build_backbone(NAME, weights=tmp_path / "weights.pth")
    torch.testing.assert_close(
        backbone.state_dict()["trunk.encoder.blocks.11.mlp.fc2.weight"],
        encoder.state_dict()["blocks.11.mlp.fc2.weight"],
    )
    assert backbone(torch.rand(1, 3, 64, 96)).shape == (1, 192, 4, 6)


def test_a_frozen_encoder_has_no_gradient_and_stays_in_eval_mode_while_the_head_learns(save) -> None:
    save()
    backbone = build_backbone(HUB)
    network = MilNetwork(backbone, plugins.load("weak.heads", "gated-attention").build(backbone.channels, 1)).train()
    assert network.head.training
    assert not any(module.training for module in backbone.trunk.modules())
    ((output, cam),) = network.bags(torch.rand(3, 3, 64, 64), [3])
    torch.testing.assert_close(cam.mean(dim=(2, 3)), output.instance_logits)
    output.bag_logits.sum().backward()
    assert all(weight.grad is None for weight in backbone.parameters())
    assert network.classifier.weight.grad is not None
    assert not backbone(torch.rand(1, 3, 32, 32)).requires_grad


@pytest.mark.parametrize(
    ("option", "hint"),
    [("adl", "set adl = false in the recipe"), ("high_frequency", "set high_frequency = false in the recipe")],
)
def test_what_needs_a_learning_backbone_is_refused_in_one_line(save, option, hint) -> None:
    save()
    with pytest.raises(ConfigError, match="is frozen") as caught:
        build_backbone(HUB, **{option: True})
    assert caught.value.hint == hint


def test_a_hub_name_is_looked_for_on_this_computer_only() -> None:
    with pytest.raises(ConfigError, match="wsplf downloads nothing") as caught:
        build_backbone("hf-hub:someone/nothing")
    assert "hf download someone/nothing" in caught.value.hint
    with pytest.raises(ConfigError, match="is not the name of a model"):
        build_backbone("hf-hub:a/b/c")


def test_a_hub_model_that_is_not_timms_is_refused(save, tmp_path: Path) -> None:
    save()
    settings = next(tmp_path.rglob("config.json"))
    settings.write_text(json.dumps({"model_type": "dinov2"}))
    with pytest.raises(ConfigError, match="is not a timm model"):
        build_backbone(HUB)
    settings.write_text("{")
    with pytest.raises(ConfigError, match="cannot read"):
        build_backbone(HUB)


def test_an_encoder_without_weights_or_with_those_of_another_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs its weights") as caught:
        build_backbone(NAME)
    assert "--backbone-weights" in caught.value.hint
    path = tmp_path / "weights.safetensors"
    state = timm.create_model(NAME).state_dict()
    for change in ({"decoder.weight": torch.zeros(1)}, {"patch_embed.proj.bias": torch.zeros(384)}):
        save_file(state | change, path)
        with pytest.raises(ConfigError, match="does not fit"):
            build_backbone(NAME, weights=path)


def test_the_unet_refuses_encoders_in_one_line() -> None:
    for name in (NAME, HUB):
        with pytest.raises(ConfigError, match="fine maps of a CNN"):
            unet.build(1, backbone=name)
