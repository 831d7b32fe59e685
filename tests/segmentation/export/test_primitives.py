"""Layers for every ONNX reader compute what the layers that they replace compute."""

import pytest
import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm_act import GroupNormAct
from timm.layers.pool2d_same import AvgPool2dSame
from torch import nn

from wsplf_cli.segmentation.export.primitives import use_primitives


def group_norm(**options):
    layer = nn.GroupNorm(4, 8, **options)
    if layer.affine:
        nn.init.normal_(layer.weight)
        nn.init.normal_(layer.bias)
    return layer


LAYERS = {
    "group norm": group_norm,
    "group norm without weights": lambda: group_norm(affine=False),
    "group norm and activation": lambda: GroupNormAct(8, 2, act_layer=nn.ReLU),
    "same padding, kernel 3": lambda: Conv2dSame(8, 6, 3, stride=2),
    "same padding, kernel 5": lambda: Conv2dSame(8, 8, 5, stride=2, groups=8, bias=False),
    "same padding, kernel 3 x 5, dilated": lambda: Conv2dSame(8, 6, (3, 5), stride=2, dilation=2),
    "same padding, stride 4": lambda: Conv2dSame(8, 6, 7, stride=4),
    "same padding, kernel smaller than stride": lambda: Conv2dSame(8, 6, 1, stride=2),
    "mean with same padding": lambda: AvgPool2dSame(2, stride=1),
    "mean with same padding, stride 2": lambda: AvgPool2dSame(3, stride=2),
    "mean, rounded up": lambda: nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False),
    "clipped": nn.ReLU6,
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("size", [(16, 24), (32, 16)])
def test_a_replacement_computes_the_same(name, size):
    torch.manual_seed(0)
    layer = LAYERS[name]()
    network = nn.Sequential(layer).eval()
    features = 4 * torch.randn(2, 8, *size) + 2
    with torch.no_grad():
        expected = network(features)
        use_primitives(network, torch.zeros(1, 8, 16, 16))
        found = network(features)
    assert network[0] is not layer
    assert not any(isinstance(module, (nn.GroupNorm, Conv2dSame, AvgPool2dSame)) for module in network.modules())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_other_layers_stay():
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(2)]
    network = nn.Sequential(*layers).eval()
    use_primitives(network, torch.zeros(1, 3, 16, 16))
    assert list(network) == layers


def test_convolutions_have_odd_kernels_so_that_open_sizes_agree_in_opencv():
    network = nn.Sequential(Conv2dSame(3, 4, 3, stride=2), Conv2dSame(4, 4, 5, stride=2)).eval()
    use_primitives(network, torch.zeros(1, 3, 16, 16))
    assert [layer.kernel_size for layer in network] == [(5, 5), (7, 7)]
    assert [layer.padding for layer in network] == [(2, 2), (3, 3)]
