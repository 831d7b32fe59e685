"""The gradient of dilated depthwise convolutions on a CPU, computed from parts that are fast there.

CPU libraries have no fast gradient for a depthwise convolution with gaps between its weights; for EfficientNet-Lite0 at
stride 16 it took a quarter to a half of a training step. The gradient of the input is a convolution of the same kind,
and that of each weight a sum of products. Values are those of the usual gradient, up to rounding.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class DilatedDepthwise(nn.Conv2d):
    """A dilated depthwise convolution of stride 1 that keeps the size. Weights are named as in ``nn.Conv2d``."""

    def forward(self, input: Tensor) -> Tensor:
        """Feature maps float [B, C, H, W] of feature maps [B, C, H, W]."""
        if input.is_cpu and torch.is_grad_enabled() and self.weight.requires_grad:
            output: Tensor = _Depthwise.apply(input, self.weight, self.dilation[0])
            return output
        return super().forward(input)


def with_fast_gradients(trunk: nn.Module) -> nn.Module:
    """The trunk, of which each dilated depthwise convolution is a ``DilatedDepthwise`` from now on."""
    for module in trunk.modules():
        if type(module) is nn.Conv2d and _is_replaceable(module):
            module.__class__ = DilatedDepthwise
    return trunk


def _is_replaceable(module: nn.Conv2d) -> bool:
    depthwise = module.groups == module.in_channels == module.out_channels > 1
    rows, columns = module.dilation
    square = rows == columns and module.kernel_size[0] == module.kernel_size[1]
    same_size = module.padding == (rows * (module.kernel_size[0] - 1) // 2,) * 2 and module.kernel_size[0] % 2 == 1
    plain = module.stride == (1, 1) and module.bias is None and module.padding_mode == "zeros"
    return depthwise and rows > 1 and square and same_size and plain


class _Depthwise(torch.autograd.Function):
    """The convolution with its gradients."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, weight: Tensor, dilation: int) -> Tensor:
        """Feature maps [B, C, H, W] with weights [C, 1, K, K]."""
        ctx.save_for_backward(maps, weight)
        ctx.dilation = dilation
        return _convolve(maps, weight, dilation)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """The gradients of maps and weight."""
        (gradient,) = gradients
        maps, weight = ctx.saved_tensors
        of_maps = of_weight = None
        if ctx.needs_input_grad[0]:
            of_maps = _convolve(gradient, weight.flip(2, 3), ctx.dilation)
        if ctx.needs_input_grad[1]:
            side, reach = weight.shape[-1], ctx.dilation * (weight.shape[-1] - 1) // 2
            padded = functional.pad(maps, (reach,) * 4)
            height, width = maps.shape[-2:]
            products = [
                (padded[..., row : row + height, column : column + width] * gradient).sum((0, 2, 3))
                for row in range(0, side * ctx.dilation, ctx.dilation)
                for column in range(0, side * ctx.dilation, ctx.dilation)
            ]
            of_weight = torch.stack(products, dim=1).view_as(weight)
        return of_maps, of_weight, None


def _convolve(maps: Tensor, weight: Tensor, dilation: int) -> Tensor:
    padding = dilation * (weight.shape[-1] - 1) // 2
    return functional.conv2d(maps, weight, None, 1, padding, dilation, weight.shape[0])
