"""Layers of a network, replaced by ones that every ONNX reader has, with the same outputs.

OpenCV reads a network whose height and width are open only if no operator computes with shapes. Group norm, pooling and
convolutions with TensorFlow's "same" padding would. The replacements need inputs whose sides are multiples of the
network's stride.
"""

from typing import cast

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.pool2d_same import AvgPool2dSame
from torch import Tensor, nn
from torch.nn import functional


class GroupNormByConvolution(nn.Module):
    """Group norm made of global means, and of 1 x 1 convolutions that average the channels of each group.

    Args:
        norm: The group norm whose outputs it has.
    """

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        channels, width = norm.num_channels, norm.num_channels // norm.num_groups
        averaging = torch.kron(torch.eye(norm.num_groups), torch.full((width, width), 1 / width))
        self.average = nn.Conv2d(channels, channels, 1, bias=False)
        self.average.weight = nn.Parameter(averaging[:, :, None, None])
        weight = torch.ones(channels) if norm.weight is None else norm.weight.detach()
        bias = torch.zeros(channels) if norm.bias is None else norm.bias.detach()
        self.weight = nn.Parameter(weight.view(1, -1, 1, 1).clone())
        self.bias = nn.Parameter(bias.view(1, -1, 1, 1).clone())
        self.eps = norm.eps

    def forward(self, features: Tensor) -> Tensor:
        """The normalised features, float [B, C, H, W]."""
        centred: Tensor = features - self.average(functional.adaptive_avg_pool2d(features, 1))
        variance = self.average(functional.adaptive_avg_pool2d(centred * centred, 1))
        normalised: Tensor = centred / torch.sqrt(variance + self.eps) * self.weight + self.bias
        return normalised


class ClippedRelu(nn.Module):
    """The linear unit that is clipped at 0 and 6, without ONNX's Clip, which OpenCV 4.6 does not read."""

    def forward(self, features: Tensor) -> Tensor:
        """The clipped features."""
        return functional.relu(features) - functional.relu(features - 6)


@torch.no_grad()
def use_primitives(network: nn.Module, example: Tensor) -> None:
    """Replace, in place, the layers of a network in eval mode that not every ONNX reader has.

    Args:
        network: The network.
        example: An input of it, which shows how many channels each layer gets.
    """
    channels = _channels_of_pools(network, example)
    for parent in list(network.modules()):
        for name, layer in list(parent.named_children()):
            replacement = _replacement(layer, channels.get(layer, 0))
            if replacement is not None:
                setattr(parent, name, replacement)


def _replacement(layer: nn.Module, channels: int) -> nn.Module | None:
    """The layer that takes the place of another one; None where it can stay."""
    if isinstance(layer, nn.GroupNorm):
        after = [module for name, module in layer.named_children() if name in ("drop", "act")]  # timm's GroupNormAct
        return nn.Sequential(GroupNormByConvolution(layer), *after)
    if isinstance(layer, nn.ReLU6):
        return ClippedRelu()
    if isinstance(layer, Conv2dSame):
        kernel, padding = _same_kernel(layer.weight, stride=layer.stride, dilation=layer.dilation)
        return _convolution(kernel, layer.bias, stride=layer.stride, padding=padding, groups=layer.groups)
    if isinstance(layer, AvgPool2dSame):
        rows, columns = cast(tuple[int, int], layer.kernel_size)
        mean = torch.full((channels, 1, rows, columns), 1 / (rows * columns))
        stride = cast(tuple[int, int], layer.stride)
        kernel, padding = _same_kernel(mean, stride=stride, dilation=(1, 1))
        return _convolution(kernel, None, stride=stride, padding=padding, groups=channels)
    if isinstance(layer, nn.AvgPool2d) and layer.ceil_mode:
        return nn.AvgPool2d(layer.kernel_size, layer.stride, layer.padding, count_include_pad=layer.count_include_pad)
    return None


def _same_kernel(
    kernel: Tensor, *, stride: tuple[int, ...], dilation: tuple[int, ...]
) -> tuple[Tensor, tuple[int, int]]:
    """The kernel of odd size for padding that is the same on both sides, and that padding.

    TensorFlow's padding has one row or column more at the end. A larger kernel with zeros computes the same. Its size
    is odd, because OpenCV derives the shapes of a network with open sizes as if they were 0. Dilation becomes zeros
    between the weights.
    """
    padding, margins = [], []
    for size, step, spread in zip(kernel.shape[-2:], stride, dilation, strict=True):
        span = (size - 1) * spread
        before = max(span + 1 - step, 0) // 2
        padding.append(max(before, span - before))
        margins.append((padding[-1] - before, padding[-1] + before - span))
    (top, bottom), (left, right) = margins
    rows, columns = ((size - 1) * spread + 1 for size, spread in zip(kernel.shape[-2:], dilation, strict=True))
    dense = kernel.new_zeros(*kernel.shape[:2], rows, columns)
    dense[..., :: dilation[0], :: dilation[1]] = kernel
    return functional.pad(dense, (left, right, top, bottom)), (padding[0], padding[1])


def _convolution(
    kernel: Tensor, bias: Tensor | None, *, stride: tuple[int, ...], padding: tuple[int, int], groups: int
) -> nn.Conv2d:
    rows, columns = kernel.shape[-2:]
    layer = nn.Conv2d(
        kernel.shape[1] * groups,
        kernel.shape[0],
        (rows, columns),
        stride=(stride[0], stride[1]),
        padding=padding,
        groups=groups,
        bias=bias is not None,
    )
    layer.weight = nn.Parameter(kernel.detach().clone())
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone())
    return layer


def _channels_of_pools(network: nn.Module, example: Tensor) -> dict[nn.Module, int]:
    """The number of channels that each pooling layer gets."""
    channels: dict[nn.Module, int] = {}

    def remember(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        channels[layer] = int(inputs[0].shape[1])

    hooks = [
        layer.register_forward_pre_hook(remember) for layer in network.modules() if isinstance(layer, nn.AvgPool2d)
    ]
    network(example)
    for hook in hooks:
        hook.remove()
    return channels
