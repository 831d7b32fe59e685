"""``torchscript``: a network that PyTorch runs without wsplf, from Python or C++; any height, width and batch."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsplf_cli import files
from wsplf_cli.errors import ConfigError
from wsplf_cli.segmentation.checkpoint import CONFIG, Checkpoint
from wsplf_cli.segmentation.export.portable import (
    TOLERANCE,
    Contract,
    PortableSam,
    largest_difference,
    portable_unet,
    unets_of,
    without_tracing_warnings,
)
from wsplf_cli.segmentation.models.sam import SamSegmenter

FILE = "model.pt"


class AnySizeUNet(nn.Module):
    """A traced U-Net for any height and width: the last row and column are repeated up to a multiple of its stride."""

    def __init__(self, network: Callable[[Tensor], Tensor], *, stride: int) -> None:
        super().__init__()
        self.network = network
        self.stride = stride

    def forward(self, images: Tensor) -> Tensor:
        """Probabilities float [B, C, H, W] of RGB images float [B, 3, H, W] in 0..255."""
        height, width = images.shape[2], images.shape[3]
        below = (self.stride - height % self.stride) % self.stride
        right = (self.stride - width % self.stride) % self.stride
        padded = functional.pad(images, (0, right, 0, below), mode="replicate")
        return self.network(padded)[:, :, :height, :width]


class AnySizeSam(nn.Module):
    """A traced SAM segmenter for images of any size: each is resized to the side of SAM's encoder."""

    def __init__(self, network: Callable[[Tensor], Tensor], *, side_px: int) -> None:
        super().__init__()
        self.network = network
        self.side_px = side_px

    def forward(self, images: Tensor) -> Tensor:
        """Probabilities float [B, C, H, W] of RGB images float [B, 3, H, W] in 0..255."""
        height, width = images.shape[2], images.shape[3]
        side = [self.side_px, self.side_px]
        resized = functional.interpolate(images, side, mode="bilinear", align_corners=False, antialias=True)
        logits = torch.cat([self.network(image.unsqueeze(0)) for image in resized.unbind(0)])
        return torch.sigmoid(functional.interpolate(logits, [height, width], mode="bilinear", align_corners=False))


def write(network: nn.Module, checkpoint: Checkpoint, path: Path) -> list[str]:
    """Write the network, with config.json inside, and compare it with the network.

    Raises:
        ConfigError: The network cannot be exported, or the export computes something else.
        OSError: The folder cannot be written.
    """
    stream = io.BytesIO()
    with without_tracing_warnings():
        scripted, contract = _scripted(network, checkpoint)
        torch.jit.save(scripted, stream, _extra_files={CONFIG: files.json_text(checkpoint)})
        sides = [*contract.sides_px(checkpoint.tile_px), checkpoint.tile_px + 3]
        difference = max(largest_difference(scripted, network, side_px=side, batch=2) for side in sides)
    if difference > TOLERANCE:
        raise ConfigError(f"TorchScript gives other probabilities, by {difference:.2g}", hint="--format hf")
    files.write_bytes(path, stream.getvalue())
    sizes = ", ".join(map(str, sides))
    return [f"TorchScript gives the network's probabilities: largest difference {difference:.1g} at {sizes} px"]


@torch.no_grad()
def _scripted(network: nn.Module, checkpoint: Checkpoint) -> tuple[Any, Contract]:
    """The network as TorchScript, and the images that it takes."""
    any_size: nn.Module
    if unets_of(network):
        unet = portable_unet(network, checkpoint)
        traced = torch.jit.trace(unet.requires_grad_(False), torch.zeros(1, 3, 2 * unet.stride, 2 * unet.stride))
        any_size, contract = AnySizeUNet(traced, stride=unet.stride), Contract(unet.stride)
    elif isinstance(network, SamSegmenter):
        sam = PortableSam(network)
        traced = torch.jit.trace(sam.requires_grad_(False), torch.zeros(1, 3, sam.side_px, sam.side_px))
        any_size, contract = AnySizeSam(traced, side_px=sam.side_px), Contract(32)
    else:
        raise ConfigError(f"the segmenter {checkpoint.plugin} cannot be exported to TorchScript", hint="--format hf")
    return torch.jit.script(any_size.eval()), contract
