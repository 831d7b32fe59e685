"""The MIL classifier: a backbone that maps tiles, and a head that judges bags of them."""

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wsplf_cli.models.backbone import Backbone
from wsplf_cli.models.bag import BagOutput, Head
from wsplf_cli.models.cam import activation_map


class MilNetwork(nn.Module):
    """A backbone and a MIL head; the head sees the mean of each tile's feature map."""

    def __init__(self, backbone: Backbone, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    @property
    def classifier(self) -> Head:
        """The head, as what every head has."""
        return cast(Head, self.head)

    def bags(self, tiles: Tensor, sizes: Sequence[int]) -> list[tuple[BagOutput, Tensor]]:
        """Several bags, one after another, ``sizes`` of each, to their outputs and their CAMs float [n, C, h, w].

        ``tiles`` is float [N, 3, H, W].
        """
        features = self.backbone(tiles).float()
        cams = activation_map(features, weight=self.classifier.weight, bias=self.classifier.bias)
        pooled = features.mean(dim=(2, 3))
        parts = zip(torch.split(pooled, list(sizes)), torch.split(cams, list(sizes)), strict=True)
        return [(self.classifier(part), cam) for part, cam in parts]

    def cam(self, tiles: Tensor) -> Tensor:
        """Tiles float [B, 3, H, W] to logits float [B, C, h, w] whose mean is the instance logit."""
        features = self.backbone(tiles).float()
        return activation_map(features, weight=self.classifier.weight, bias=self.classifier.bias)


def as_batch(tiles: NDArray[np.uint8]) -> Tensor:
    """Tiles uint8 [N, H, W, 3] to float [N, 3, H, W] in 0..1."""
    return torch.from_numpy(np.ascontiguousarray(tiles.transpose(0, 3, 1, 2))).float().div_(255.0)
