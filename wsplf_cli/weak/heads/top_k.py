"""Mean of the highest instance logits (Campanella et al., Nature Medicine 2019, with k a share of the bag)."""

import math

import torch
from torch import Tensor, nn

from wsplf_cli.networks.bag import BagOutput, InstanceHead


class TopK(InstanceHead):
    """The bag logit of a class is the mean over the tiles in the top share for that class.

    ``attention`` is the share of each tile in the bag logits, averaged over the classes.
    """

    def __init__(self, in_features: int, classes: int, *, share: float = 0.1) -> None:
        super().__init__(in_features, classes)
        self.share = share

    def forward(self, features: Tensor) -> BagOutput:
        """Features float [N, D] of one bag to its output."""
        logits = self.instance(features)
        count = max(1, math.ceil(self.share * len(logits)))
        top = torch.topk(logits, count, dim=0)
        chosen = torch.zeros_like(logits).scatter(0, top.indices, 1.0 / count)
        return BagOutput(top.values.mean(dim=0), logits, chosen.mean(dim=1))


def build(in_features: int, classes: int) -> nn.Module:
    """The head for features of ``in_features`` and ``classes`` classes."""
    return TopK(in_features, classes)
