"""The MIL network: the CAM and the logits agree, and several passes are as one."""

import numpy as np
import pytest
import torch
from torch import nn

from wsplf_cli import plugins
from wsplf_cli.networks.backbone import Backbone, build_backbone, small_trunk
from wsplf_cli.networks.inference import as_batch
from wsplf_cli.networks.mil import MilNetwork


def network(seed: int = 0) -> MilNetwork:
    torch.manual_seed(seed)
    backbone = Backbone(small_trunk(), mean=(0.5,) * 3, std=(0.25,) * 3, adl=True)
    return MilNetwork(backbone, plugins.load("weak.heads", "gated-attention").build(backbone.channels, 1))


def test_the_mean_of_the_cam_of_a_tile_is_its_instance_logit() -> None:
    model = network().eval()
    tiles = as_batch(np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8))
    with torch.no_grad():
        ((output, cam),) = model.bags(tiles, [2])
        torch.testing.assert_close(cam.mean(dim=(2, 3)), output.instance_logits)
        torch.testing.assert_close(cam, model.cam(tiles))


def gradients(model: MilNetwork, *, most: int | None) -> tuple[list[torch.Tensor], torch.Tensor]:
    """The gradients and the bags' logits of one step of seven tiles, the same random numbers each time."""
    torch.manual_seed(2)
    tiles = torch.rand(7, 3, 64, 64)
    model.zero_grad()
    outputs = model.bags(tiles, [3, 4], max_tiles=most)
    torch.stack([output.bag_logits.sum() + cam.square().mean() for output, cam in outputs]).sum().backward()
    logits = torch.cat([output.bag_logits for output, _ in outputs])
    return [weight.grad.clone() for weight in model.parameters() if weight.grad is not None], logits


@pytest.mark.parametrize("drop_rate", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("most", [1, 3, 6])
def test_passes_give_the_gradients_of_a_single_one_also_with_adl(drop_rate: float, most: int) -> None:
    model = network().train()
    model.backbone.adl.drop_rate = drop_rate
    single, logits = gradients(model, most=None)
    passes, same = gradients(model, most=most)
    torch.testing.assert_close(logits, same, atol=1e-5, rtol=1e-4)
    assert len(single) == len(passes) > 10
    for one, other in zip(single, passes, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-3)


def test_the_coins_of_adl_fall_alike_in_all_passes_and_leave_the_generator_where_a_single_pass_does() -> None:
    model = network().train()
    model.backbone.adl.drop_rate = 0.5
    torch.manual_seed(5)
    model.bags(torch.rand(7, 3, 64, 64), [3, 4])
    expected = torch.rand(3)
    torch.manual_seed(5)
    model.bags(torch.rand(7, 3, 64, 64), [3, 4], max_tiles=2)
    torch.testing.assert_close(torch.rand(3), expected)


def test_passes_move_the_running_statistics_of_batch_normalisation_as_far_as_one_step() -> None:
    torch.manual_seed(0)
    backbone = build_backbone("resnet18")
    model = MilNetwork(backbone, plugins.load("weak.heads", "mean").build(backbone.channels, 1)).train()
    start = {key: value.clone() for key, value in model.state_dict().items()}
    tiles = torch.rand(1, 3, 64, 64).expand(6, -1, -1, -1)
    moved = []
    for most in (None, 2):
        model.load_state_dict(start)
        output, _ = model.bags(tiles, [6], max_tiles=most)[0]
        output.bag_logits.sum().backward()
        moved.append({key: value.clone() for key, value in model.state_dict().items() if "running_mean" in key})
    for key, value in moved[0].items():
        torch.testing.assert_close(value, moved[1][key], atol=1e-4, rtol=1e-3)
    assert all(norm.momentum == 0.1 for norm in backbone.modules() if isinstance(norm, nn.BatchNorm2d))


def test_each_pass_has_tiles_of_both_slides(monkeypatch: pytest.MonkeyPatch) -> None:
    model, passes = network().eval(), []
    monkeypatch.setattr(
        model.backbone, "forward", lambda tiles: passes.append(tiles[:, 0, 0, 0].tolist()) or maps(tiles)
    )

    def maps(tiles: torch.Tensor) -> torch.Tensor:
        return tiles[:, :1, ::8, ::8].expand(-1, model.backbone.channels, -1, -1)

    tiles = torch.arange(6.0).view(6, 1, 1, 1).expand(-1, 3, 64, 64)
    with torch.no_grad():
        outputs = model.bags(tiles, [3, 3], max_tiles=2)
        expected = model.bags(tiles, [3, 3])
    assert passes[:3] == [[0, 3], [1, 4], [2, 5]]
    for (_, cam), (_, other) in zip(outputs, expected, strict=True):
        torch.testing.assert_close(cam, other)
