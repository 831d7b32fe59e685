"""The MIL classifier: a backbone that computes feature maps of tiles, and a head that classifies bags of tiles."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from wsplf_cli.networks import distributed
from wsplf_cli.networks.backbone import DenseBackbone
from wsplf_cli.networks.bag import BagOutput, Head
from wsplf_cli.networks.cam import activation_map


class MilNetwork(nn.Module):
    """A backbone and a MIL head. The input of the head is the mean of each tile's feature map."""

    def __init__(self, backbone: DenseBackbone, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    @property
    def classifier(self) -> Head:
        """The head, typed by the interface that all heads have."""
        return cast(Head, self.head)

    def bags(
        self, tiles: Tensor, sizes: Sequence[int], *, max_tiles: int | None = None
    ) -> list[tuple[BagOutput, Tensor]]:
        """For each bag its output and the CAMs of its n tiles, float [n, C, h, w].

        Args:
            tiles: Float [N, 3, H, W], the tiles of one bag after those of another.
            sizes: The number of tiles of each bag, N in total.
            max_tiles: Tiles in one pass through the backbone; all by default. With several passes the activations
                inside the backbone are not stored but computed again for the gradient, which takes a third more time.
                Outputs and gradients are those of a single pass, except with batch normalisation, whose statistics are
                then those of each pass. Each pass has tiles of all bags, so that its statistics are not of one slide.

        Of several processes (see ``distributed``), each passes its share of the tiles through the backbone.
        """
        count, share = len(tiles), distributed.share_of(len(tiles))
        most = -(-count // distributed.process_count())
        passes = 1 if max_tiles is None else -(-most // max_tiles)
        tiles = tiles[share]
        pooled, cams = self._forward(tiles) if passes == 1 else self._forward_in_passes(tiles, passes)
        pooled, cams = distributed.gather(pooled, count), distributed.gather(cams, count)
        of_bags = zip(torch.split(pooled, list(sizes)), torch.split(cams, list(sizes)), strict=True)
        return [(self.classifier(features), bag_cams) for features, bag_cams in of_bags]

    def forward(
        self, tiles: Tensor, sizes: Sequence[int], *, max_tiles: int | None = None
    ) -> list[tuple[BagOutput, Tensor]]:
        """``bags``, for wrappers that only call a network."""
        return self.bags(tiles, sizes, max_tiles=max_tiles)

    def cam(self, tiles: Tensor) -> Tensor:
        """The CAMs of tiles float [B, 3, H, W]: logits float [B, C, h, w] whose mean is the tile's instance logit."""
        return self._forward(tiles)[1]

    def _forward(self, tiles: Tensor) -> tuple[Tensor, Tensor]:
        """The pooled features float [B, D] of tiles float [B, 3, H, W], and their CAMs float [B, C, h, w]."""
        features = self.backbone(tiles).float()
        cams = activation_map(features, weight=self.classifier.weight, bias=self.classifier.bias)
        return features.mean(dim=(2, 3)), cams

    def _forward_in_passes(self, tiles: Tensor, passes: int) -> tuple[Tensor, Tensor]:
        """The result of ``_forward``, computed in several passes."""
        indices = [torch.arange(first, len(tiles), passes, device=tiles.device) for first in range(passes)]
        with_gradient = torch.is_grad_enabled() and not self.backbone.frozen
        rng_state = torch.get_rng_state()
        outputs = []
        for of_pass in indices:
            torch.set_rng_state(rng_state)  # ADL decides the same for all tiles, as in a single pass
            if with_gradient:
                # the backward pass runs each forward pass again, so batch statistics are updated twice
                outputs.append(checkpoint(self._forward_in_part, tiles[of_pass], 2 * passes, use_reentrant=False))
            else:
                outputs.append(self._forward(tiles[of_pass]))
        original_order = torch.cat(indices).argsort()
        pooled, cams = (torch.cat(tensors)[original_order] for tensors in zip(*outputs, strict=True))
        return pooled, cams

    def _forward_in_part(self, tiles: Tensor, passes: int) -> tuple[Tensor, Tensor]:
        """``_forward`` of one of several passes, which together change a running mean as much as a single pass."""
        norms = [module for module in self.backbone.modules() if isinstance(module, nn.BatchNorm2d)]
        with ExitStack() as stack:
            for norm in norms:
                if norm.momentum is not None:
                    stack.callback(setattr, norm, "momentum", norm.momentum)
                    norm.momentum = 1.0 - (1.0 - norm.momentum) ** (1.0 / passes)
            return self._forward(tiles)
