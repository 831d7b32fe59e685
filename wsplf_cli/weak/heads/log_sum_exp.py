"""Log-sum-exp of the instance logits, between their mean and their maximum (Pinheiro and Collobert, CVPR 2015)."""

import math

import torch
from torch import Tensor, nn

from wsplf_cli.networks.bag import BagOutput, InstanceHead

#: As in the paper; it has not been tuned here.
SHARPNESS = 5.0


class LogSumExp(InstanceHead):
    """The bag logit of a class is ``(logsumexp(sharpness * logits) - log N) / sharpness`` over its N tiles.

    A sharpness towards 0 gives the mean of the logits, a high one their maximum: tiles whose logits differ by less
    than 1 / sharpness share the bag's label. The logit of one tile far above the others counts less
    ``log N / sharpness``. ``attention`` is the share of each tile in the gradient, averaged over the classes.
    """

    def __init__(self, in_features: int, classes: int, *, sharpness: float = SHARPNESS) -> None:
        super().__init__(in_features, classes)
        self.sharpness = sharpness

    def forward(self, features: Tensor) -> BagOutput:
        """Features float [N, D] of one bag to its output."""
        logits = self.instance(features)
        sharp = self.sharpness * logits
        pooled = (torch.logsumexp(sharp, dim=0) - math.log(len(logits))) / self.sharpness
        return BagOutput(pooled, logits, torch.softmax(sharp, dim=0).mean(dim=1))


def build(in_features: int, classes: int) -> nn.Module:
    """The head for features of ``in_features`` and ``classes`` classes."""
    return LogSumExp(in_features, classes)
