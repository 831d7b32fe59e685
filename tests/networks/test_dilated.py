import copy

import pytest
import torch
from torch import nn

from wsplf_cli.networks.backbone import build_backbone
from wsplf_cli.networks.dilated import DilatedDepthwise, with_fast_gradients


def depthwise(*, side: int = 5, dilation: int = 2, channels: int = 6, stride: int = 1) -> nn.Conv2d:
    torch.manual_seed(0)
    padding = dilation * (side - 1) // 2
    return nn.Conv2d(channels, channels, side, stride, padding, dilation, groups=channels, bias=False)


def gradients(layer: nn.Module, maps: torch.Tensor) -> list[torch.Tensor]:
    maps = maps.clone().requires_grad_()
    output = layer(maps)
    return [output, *torch.autograd.grad((output * torch.cos(output)).sum(), [maps, *layer.parameters()])]


@pytest.mark.parametrize("side", [3, 5])
@pytest.mark.parametrize("dilation", [2, 4])
@pytest.mark.parametrize("size", [(8, 8), (7, 11), (2, 3)])
def test_outputs_and_gradients_are_those_of_the_convolution(side: int, dilation: int, size: tuple[int, int]) -> None:
    plain = depthwise(side=side, dilation=dilation).double()
    fast = with_fast_gradients(nn.Sequential(copy.deepcopy(plain)))
    assert isinstance(fast[0], DilatedDepthwise)
    maps = torch.rand(2, 6, *size, dtype=torch.float64)
    for expected, value in zip(gradients(plain, maps), gradients(fast, maps), strict=True):
        torch.testing.assert_close(value, expected)


def test_weights_alone_have_a_gradient_where_the_maps_have_none() -> None:
    fast = with_fast_gradients(nn.Sequential(depthwise()))
    maps = torch.rand(1, 6, 8, 8)
    fast(maps).sum().backward()
    assert next(fast.parameters()).grad is not None
    with torch.no_grad():
        torch.testing.assert_close(fast(maps), depthwise()(maps))


@pytest.mark.parametrize(
    "layer",
    [
        depthwise(dilation=1),
        depthwise(stride=2),
        nn.Conv2d(6, 6, 3, padding=2, dilation=2, bias=False),
        nn.Conv2d(6, 6, 3, padding=2, dilation=2, groups=6),
        nn.Conv2d(6, 6, 3, padding=1, dilation=2, groups=6, bias=False),
    ],
)
def test_other_convolutions_stay_as_they_are(layer: nn.Conv2d) -> None:
    assert type(with_fast_gradients(nn.Sequential(layer))[0]) is nn.Conv2d


def test_a_cnn_at_a_finer_stride_has_them_and_keeps_the_names_of_its_weights() -> None:
    fine = build_backbone("efficientnet-lite0", pretrained=False, output_stride=16)
    coarse = build_backbone("efficientnet-lite0", pretrained=False, output_stride=32)
    assert sum(isinstance(module, DilatedDepthwise) for module in fine.modules()) == 4
    assert not any(isinstance(module, DilatedDepthwise) for module in coarse.modules())
    assert fine.state_dict().keys() == coarse.state_dict().keys()
