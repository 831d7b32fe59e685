"""Mean of all instance logits: every tile of a positive slide is taken for positive, as where there is no MIL."""

from torch import Tensor, nn

from wsplf_cli.networks.bag import BagOutput, InstanceHead


class Mean(InstanceHead):
    """The bag logit of a class is the mean over all tiles: what a classifier of tiles by their slide's label learns."""

    def forward(self, features: Tensor) -> BagOutput:
        """Features float [N, D] of one bag to its output."""
        logits = self.instance(features)
        return BagOutput(logits.mean(dim=0), logits, logits.new_full((len(logits),), 1.0 / len(logits)))


def build(in_features: int, classes: int) -> nn.Module:
    """The head for features of ``in_features`` and ``classes`` classes."""
    return Mean(in_features, classes)
