"""The interface of every MIL head: the features of one bag (the tiles of one slide) in, logits and attention out."""

from typing import NamedTuple, Protocol

from torch import Tensor, nn


class BagOutput(NamedTuple):
    """``bag_logits`` [C], ``instance_logits`` [N, C], ``attention`` [N], which sums to 1."""

    bag_logits: Tensor
    instance_logits: Tensor
    attention: Tensor


class Head(Protocol):
    """A MIL head: callable on features [N, D]; ``weight`` and ``bias`` are those of its affine instance classifier."""

    weight: Tensor
    bias: Tensor

    def __call__(self, features: Tensor) -> BagOutput:
        """The output for the features float [N, D] of one bag."""


class InstanceHead(nn.Module):
    """The base of all heads: ``instance``, the affine classifier of instances with ``in_features`` features."""

    def __init__(self, in_features: int, classes: int) -> None:
        super().__init__()
        self.instance = nn.Linear(in_features, classes)

    @property
    def weight(self) -> Tensor:
        """Float [C, D] of the instance classifier."""
        return self.instance.weight

    @property
    def bias(self) -> Tensor:
        """Float [C] of the instance classifier."""
        return self.instance.bias
