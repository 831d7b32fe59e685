"""Several networks of one architecture as one: the mean of their logits."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Ensemble(nn.Module):
    """The mean of the logits of its members, float [B, C, H, W].

    Args:
        members: Networks that take the same tensors and return logits of one shape; at least one.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, tiles: Tensor) -> Tensor:
        """Logits of RGB tiles float [B, 3, H, W] in 0..1."""
        return torch.stack([member(tiles) for member in self.members]).mean(dim=0)


def mean_of(networks: Sequence[nn.Module]) -> nn.Module:
    """The ensemble of the networks in eval mode; the network itself where there is one."""
    return (networks[0] if len(networks) == 1 else Ensemble(networks)).eval()


def members_of(network: nn.Module) -> list[nn.Module]:
    """The members of an ensemble, or the network itself."""
    return list(network.members) if isinstance(network, Ensemble) else [network]
