"""Gated attention (Ilse, Tomczak and Welling, ICML 2018) over affine instance logits."""

import torch
from torch import Tensor, nn

from wsplf_cli.networks.bag import BagOutput, InstanceHead


class GatedAttention(InstanceHead):
    """The bag logit is the attention-weighted mean of the instance logits, so that a CAM explains it."""

    def __init__(self, in_features: int, classes: int, *, hidden: int = 64) -> None:
        super().__init__(in_features, classes)
        self.value = nn.Linear(in_features, hidden)
        self.gate = nn.Linear(in_features, hidden)
        self.score = nn.Linear(hidden, 1)

    def forward(self, features: Tensor) -> BagOutput:
        """Features float [N, D] of one bag to its output."""
        gated = torch.tanh(self.value(features)) * torch.sigmoid(self.gate(features))
        attention = torch.softmax(self.score(gated)[:, 0], dim=0)
        logits = self.instance(features)
        return BagOutput(attention @ logits, logits, attention)


def build(in_features: int, classes: int) -> nn.Module:
    """The head for features of ``in_features`` and ``classes`` classes."""
    return GatedAttention(in_features, classes)
