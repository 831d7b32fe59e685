"""What every MIL head returns for one bag, the tiles of one slide."""

from typing import NamedTuple, Protocol

from torch import Tensor


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
