"""A network as a function of arrays, for what slides windows over a slide."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsplf_cli.networks.device import autocast

ArrayFunction = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


def as_batch(tiles: NDArray[np.uint8]) -> Tensor:
    """Tiles uint8 [N, H, W, 3] to float [N, 3, H, W] in 0..1."""
    return torch.from_numpy(np.ascontiguousarray(tiles.transpose(0, 3, 1, 2))).float().div_(255.0)


def on_arrays(
    network: Callable[[Tensor], Tensor],
    *,
    device: torch.device,
    rotations: int = 1,
    activation: Callable[[Tensor], Tensor] | None = None,
) -> ArrayFunction:
    """The network as a function of windows uint8 [B, S, S, 3], RGB, to maps float32 [B, C, s, s].

    Args:
        network: Maps tiles float [B, 3, S, S] in 0..1 to [B, C, s, s]; in eval mode.
        device: Where the network is.
        rotations: Quarter turns over which the map is averaged (test-time augmentation), all in one pass; 1 for none.
        activation: Applied to the network's output, such as ``torch.sigmoid``.
    """

    @torch.inference_mode()
    def infer(windows: NDArray[np.uint8]) -> NDArray[np.float32]:
        upright = as_batch(windows).to(device)
        rotated = upright
        if rotations > 1:
            rotated = torch.cat([torch.rot90(upright, turn, (2, 3)) for turn in range(rotations)])
        with autocast(device):
            maps = network(rotated).float()
        if activation is not None:
            maps = activation(maps)
        if rotations > 1:
            aligned = [torch.rot90(part, -turn, (2, 3)) for turn, part in enumerate(maps.chunk(rotations))]
            maps = torch.stack(aligned).mean(dim=0)
        of_windows: NDArray[np.float32] = maps.cpu().numpy()
        return of_windows

    return infer
