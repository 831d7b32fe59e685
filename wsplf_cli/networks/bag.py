"""What every MIL head returns for one bag, the tiles of one slide."""

from typing import NamedTuple, Protocol

from torch import Tensor, nn


class BagOutput(NamedTuple):
    """``bag_logits`` [C], ``instance_logits`` [N, C], ``attention`` [N], which sums to 1."""

    bag_logits: Tensor
    instance_logits: Tensor
    attention: Tensor


class Head(Protocol):
    """A MIL head: callable on features [N, D], with the affine instance classifier open to view."""

    weight: Tensor
    bias: Tensor

    def __call__(self, features: Tensor) -> BagOutput:
        """Features float [N, D] of one bag to its output."""


class InstanceHead(nn.Module):
    """What the heads share: ``instance``, the affine classifier of features of ``in_features``, open to view."""

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
