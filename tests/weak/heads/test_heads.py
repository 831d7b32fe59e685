"""The contract of every file in ``weak/heads``."""

import pytest
import torch

from wsplf_cli import plugins
from wsplf_cli.networks.bag import BagOutput
from wsplf_cli.networks.cam import activation_map
from wsplf_cli.weak.heads.log_sum_exp import LogSumExp

HEADS = plugins.names("weak.heads")


def build(name: str, *, classes: int = 2) -> torch.nn.Module:
    torch.manual_seed(0)
    return plugins.load("weak.heads", name).build(16, classes).eval()


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("count", [1, 7])
def test_shapes_also_for_a_single_tile(name: str, count: int) -> None:
    output: BagOutput = build(name)(torch.randn(count, 16))
    assert output.bag_logits.shape == (2,)
    assert output.instance_logits.shape == (count, 2)
    assert output.attention.shape == (count,)
    assert output.attention.sum().item() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("name", HEADS)
def test_gradient_reaches_the_input(name: str) -> None:
    features = torch.randn(5, 16, requires_grad=True)
    build(name)(features).bag_logits.sum().backward()
    assert features.grad is not None
    assert features.grad.abs().sum() > 0


@pytest.mark.parametrize("name", HEADS)
def test_order_of_tiles_does_not_matter(name: str) -> None:
    head, features = build(name), torch.randn(9, 16)
    order = torch.randperm(9)
    original, permuted = head(features), head(features[order])
    torch.testing.assert_close(original.bag_logits, permuted.bag_logits)
    torch.testing.assert_close(original.attention[order], permuted.attention)


@pytest.mark.parametrize("name", HEADS)
def test_mean_of_the_unclipped_cam_is_the_instance_logit(name: str) -> None:
    head, maps = build(name), torch.randn(4, 16, 6, 5)
    cam = activation_map(maps, weight=head.weight, bias=head.bias)
    torch.testing.assert_close(cam.mean(dim=(2, 3)), head(maps.mean(dim=(2, 3))).instance_logits)


def test_log_sum_exp_lies_between_mean_and_maximum_as_its_sharpness_says() -> None:
    features = torch.randn(9, 16)
    pooled = {}
    for sharpness in (1e-3, 5.0, 1e3):
        torch.manual_seed(0)
        head = LogSumExp(16, 2, sharpness=sharpness)
        pooled[sharpness] = head(features).bag_logits
    logits = head(features).instance_logits
    torch.testing.assert_close(pooled[1e-3], logits.mean(dim=0), atol=1e-3, rtol=0)
    torch.testing.assert_close(pooled[1e3], logits.amax(dim=0), atol=1e-2, rtol=0)
    assert (pooled[5.0] > logits.mean(dim=0)).all()
    assert (pooled[5.0] < logits.amax(dim=0)).all()


def test_attention_of_log_sum_exp_is_the_share_in_the_gradient() -> None:
    head, features = build("log_sum_exp", classes=1), torch.randn(6, 16)
    output: BagOutput = head(features)
    (share,) = torch.autograd.grad(output.bag_logits.sum(), output.instance_logits)
    torch.testing.assert_close(share[:, 0], output.attention)
