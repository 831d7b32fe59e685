"""The MIL classifier: a backbone that maps tiles, and a head that judges bags of them."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from wsplf_cli.networks.backbone import Backbone
from wsplf_cli.networks.bag import BagOutput, Head
from wsplf_cli.networks.cam import activation_map


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

    def bags(self, tiles: Tensor, sizes: Sequence[int], *, most: int | None = None) -> list[tuple[BagOutput, Tensor]]:
        """Several bags, one after another, ``sizes`` of each, to their outputs and their CAMs float [n, C, h, w].

        Args:
            tiles: Float [N, 3, H, W].
            sizes: How many tiles each bag has, N together.
            most: Tiles in one pass through the backbone; all by default. Of a pass nothing is kept but what the head
                sees: its inside is computed again for the gradient, at the cost of a third of the time. Outputs and
                gradients are those of a single pass, but for a network with batch normalisation, whose statistics
                are then those of a pass. Each pass has tiles of all bags, lest they tell one slide from another.
        """
        count = 1 if most is None else -(-len(tiles) // most)
        pooled, cams = self._look(tiles) if count == 1 else self._look_in_passes(tiles, count)
        parts = zip(torch.split(pooled, list(sizes)), torch.split(cams, list(sizes)), strict=True)
        return [(self.classifier(part), cam) for part, cam in parts]

    def cam(self, tiles: Tensor) -> Tensor:
        """Tiles float [B, 3, H, W] to logits float [B, C, h, w] whose mean is the instance logit."""
        return self._look(tiles)[1]

    def _look(self, tiles: Tensor) -> tuple[Tensor, Tensor]:
        """Tiles float [B, 3, H, W] to what the head sees of them, float [B, D], and their CAMs float [B, C, h, w]."""
        features = self.backbone(tiles).float()
        cams = activation_map(features, weight=self.classifier.weight, bias=self.classifier.bias)
        return features.mean(dim=(2, 3)), cams

    def _look_in_passes(self, tiles: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """As ``_look``, in so many passes."""
        places = [torch.arange(first, len(tiles), count, device=tiles.device) for first in range(count)]
        learns = torch.is_grad_enabled() and not self.backbone.frozen
        coins = torch.get_rng_state()
        found = []
        for place in places:
            torch.set_rng_state(coins)  # one coin of ADL for all tiles, as in a single pass
            if learns:
                found.append(checkpoint(self._look_in_part, tiles[place], 2 * count, use_reentrant=False))
            else:
                found.append(self._look(tiles[place]))
        back = torch.cat(places).argsort()
        pooled, cams = (torch.cat(values)[back] for values in zip(*found, strict=True))
        return pooled, cams

    def _look_in_part(self, tiles: Tensor, passes: int) -> tuple[Tensor, Tensor]:
        """As ``_look``, in one of so many passes, which together move a running mean as far as a single one."""
        norms = [module for module in self.backbone.modules() if isinstance(module, nn.BatchNorm2d)]
        with ExitStack() as stack:
            for norm in norms:
                if norm.momentum is not None:
                    stack.callback(setattr, norm, "momentum", norm.momentum)
                    norm.momentum = 1.0 - (1.0 - norm.momentum) ** (1.0 / passes)
            return self._look(tiles)


def as_batch(tiles: NDArray[np.uint8]) -> Tensor:
    """Tiles uint8 [N, H, W, 3] to float [N, 3, H, W] in 0..1."""
    return torch.from_numpy(np.ascontiguousarray(tiles.transpose(0, 3, 1, 2))).float().div_(255.0)
