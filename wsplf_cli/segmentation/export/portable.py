"""A segmentation model as a network of few operators: RGB in 0..255 in, probabilities out, nothing else to do."""

import copy
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.jit._trace import TracerWarning
from torch.nn import functional

from wsplf_cli.errors import ConfigError
from wsplf_cli.networks.ensemble import members_of
from wsplf_cli.segmentation.checkpoint import Checkpoint
from wsplf_cli.segmentation.export.primitives import use_primitives
from wsplf_cli.segmentation.models.sam import SamSegmenter
from wsplf_cli.segmentation.models.unet import UNet

#: Largest difference of a probability from that of the network which counts as the same.
TOLERANCE = 1e-3


class PortableUNet(nn.Module):
    """A U-Net of convolutions, pooling and enlargements by whole numbers.

    Args:
        unet: The U-Net whose probabilities it has. It is copied.
    """

    def __init__(self, unet: UNet) -> None:
        super().__init__()
        unet = copy.deepcopy(unet).cpu().float().eval()
        backbone = unet.backbone
        strides = backbone.strides[::-1]
        self.stride = unet.stride
        self.trunk, self.joins, self.logits = backbone.trunk, unet.joins, unet.logits
        self.scales = [coarse / fine for coarse, fine in pairwise(strides)]
        self.last_scale = float(strides[-1])
        self.factor: Tensor
        self.shift: Tensor
        self.register_buffer("factor", 1 / (255 * backbone.std))
        self.register_buffer("shift", -backbone.mean / backbone.std)
        use_primitives(self, torch.zeros(1, 3, 2 * self.stride, 2 * self.stride))

    def forward(self, images: Tensor) -> Tensor:
        """Probabilities float [B, C, H, W] of RGB images float [B, 3, H, W] in 0..255; H and W multiples of stride."""
        return torch.sigmoid(self.logits_of(images))

    def logits_of(self, images: Tensor) -> Tensor:
        """The same before the sigmoid."""
        maps = self.trunk(images * self.factor + self.shift)[::-1]
        features = maps[0]
        for module, skip, scale in zip(self.joins, maps[1:], self.scales, strict=True):
            join: Any = module
            enlarged = _enlarged(join.coarse(features), scale)
            features = join.mix(functional.relu(join.norm(enlarged + join.fine(skip))))
        return _enlarged(self.logits(features), self.last_scale)


class PortableUNets(nn.Module):
    """The mean of the logits of several U-Nets, as probabilities.

    Args:
        unets: The U-Nets; at least one. Their strides may differ.
    """

    def __init__(self, unets: Sequence[PortableUNet]) -> None:
        super().__init__()
        self.unets = nn.ModuleList(unets)
        self.stride = math.lcm(*(unet.stride for unet in unets))

    def forward(self, images: Tensor) -> Tensor:
        """Probabilities float [B, C, H, W] of RGB images float [B, 3, H, W] in 0..255; H and W multiples of stride."""
        logits = cast(PortableUNet, self.unets[0]).logits_of(images)
        for unet in self.unets[1:]:
            logits = logits + cast(PortableUNet, unet).logits_of(images)
        return torch.sigmoid(logits / len(self.unets))


class PortableSam(nn.Module):
    """A SAM segmenter for one image, whose side is that of SAM's encoder; its masks have a quarter of that side.

    Args:
        segmenter: The segmenter whose probabilities it has. It is copied.
    """

    def __init__(self, segmenter: SamSegmenter) -> None:
        super().__init__()
        self.segmenter = copy.deepcopy(segmenter).cpu().float().eval()
        self.side_px = int(self.segmenter.network.image_encoder.img_size)

    def forward(self, image: Tensor) -> Tensor:
        """Logits float [1, C, S / 4, S / 4] of an RGB image float [1, 3, S, S] in 0..255."""
        network = self.segmenter.network
        tokens = self.segmenter.tokens
        embedding = network.image_encoder((image - network.pixel_mean) / network.pixel_std)
        no_mask = network.prompt_encoder.no_mask_embed.weight.view(1, -1, 1, 1)
        logits, _ = network.mask_decoder(
            image_embeddings=embedding,
            image_pe=network.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=tokens,
            dense_prompt_embeddings=no_mask.expand(len(tokens), -1, *embedding.shape[-2:]),
            multimask_output=False,
        )
        masks: Tensor = logits[:, 0][None]
        return masks


class SamTile(nn.Module):
    """A SAM segmenter for one tile of a fixed size, which is enlarged to the side of SAM's encoder.

    Args:
        sam: The network at the encoder's size.
        tile_px: Side of the tile, at most that of the encoder.
    """

    def __init__(self, sam: PortableSam, *, tile_px: int) -> None:
        super().__init__()
        self.sam = sam
        self.tile_px = tile_px

    def forward(self, image: Tensor) -> Tensor:
        """Probabilities float [1, C, S, S] of an RGB image float [1, 3, S, S] in 0..255."""
        side = (self.sam.side_px, self.sam.side_px)
        if self.tile_px != self.sam.side_px:
            image = functional.interpolate(image, side, mode="bilinear", align_corners=False)
        size = (self.tile_px, self.tile_px)
        return torch.sigmoid(functional.interpolate(self.sam(image), size, mode="bilinear", align_corners=False))


@dataclass(frozen=True, slots=True)
class Contract:
    """What an exported network takes: images whose sides are multiples of ``multiple_px``, in batches of any size.

    With ``only_px`` it takes one image at a time, and only of that side.
    """

    multiple_px: int
    only_px: int | None = None

    def sides_px(self, tile_px: int) -> list[int]:
        """Three sides of a window, to compare the network with an export of it."""
        if self.only_px is not None:
            return [self.only_px]
        multiple = self.multiple_px
        return sorted({2 * multiple, 5 * multiple, multiple * max(3, math.ceil(tile_px / multiple))})


def unets_of(network: nn.Module) -> list[UNet]:
    """The U-Nets whose mean a network is; none where it is something else."""
    return [member for member in members_of(network) if isinstance(member, UNet)]


def portable_unet(network: nn.Module, checkpoint: Checkpoint) -> PortableUNets:
    """A U-Net, or an ensemble of some, as a network of few operators, compared with it on random images.

    Raises:
        ConfigError: Its backbone cannot be written so.
    """
    message = f"the backbone {checkpoint.settings.get('backbone', '')} cannot be exported to ONNX or TorchScript"
    try:
        portable = PortableUNets([PortableUNet(unet) for unet in unets_of(network)])
        sides = Contract(portable.stride).sides_px(checkpoint.tile_px)
        difference = max(largest_difference(portable, network, side_px=side) for side in sides)
    except RuntimeError as error:
        first = str(error).splitlines()[0]
        raise ConfigError(f"{message}: {first}", hint="--format hf") from error
    if difference > TOLERANCE / 10:
        raise ConfigError(f"{message}: its probabilities would differ by {difference:.2g}", hint="--format hf")
    return portable


@torch.no_grad()
def largest_difference(exported: Any, network: nn.Module, *, side_px: int, batch: int = 1) -> float:
    """The largest difference of the probabilities of an export from those of the network, on random images.

    Args:
        exported: Maps float32 [B, 3, H, W] in 0..255 to probabilities; tensors.
        network: Maps float32 [B, 3, H, W] in 0..1 to logits.
        side_px: Side of the images.
        batch: Number of images.
    """
    generator = torch.Generator().manual_seed(side_px)
    coarse = torch.rand(batch, 3, max(2, side_px // 16), max(2, side_px // 16), generator=generator)
    smooth = functional.interpolate(coarse, (side_px, side_px), mode="bilinear", align_corners=False)
    noise = torch.rand(batch, 3, side_px, side_px, generator=generator)
    images = (0.8 * smooth + 0.2 * noise) * 255
    return float((exported(images) - torch.sigmoid(network(images / 255))).abs().max())


@contextmanager
def without_tracing_warnings() -> Iterator[None]:
    """Leave out PyTorch's warnings of tracing: that sizes become constants, and that torch.export will replace it.

    What torch.export writes is not read by OpenCV, nor by programs that read TorchScript today.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message=r".*torch\.jit\..* is deprecated")
        warnings.filterwarnings("ignore", category=TracerWarning)
        yield


def _enlarged(features: Tensor, scale: float) -> Tensor:
    if scale == 1:
        return features
    return functional.interpolate(features, scale_factor=scale, mode="bilinear", align_corners=False)
