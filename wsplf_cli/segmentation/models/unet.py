"""A U-Net: a small decoder of convolutions and group norm fuses the backbone's feature maps, coarsest first."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsplf_cli.errors import ConfigError
from wsplf_cli.networks.backbone import JOIN, SMALL, Backbone, backbone_names, build_backbone
from wsplf_cli.networks.encoder import is_encoder
from wsplf_cli.networks.ensemble import Ensemble
from wsplf_cli.networks.hub import PREFIX
from wsplf_cli.options import TrainOptions

#: Channels of the decoder at a stride, and at all other strides.
_WIDTHS = {2: 16, 4: 32, 8: 48}
_DEFAULT_WIDTH = 64
_GROUPS = 8

#: Side of the windows that are predicted at once, in tiles of the training: context costs nothing then.
WINDOW_TILES = 2
#: Whether a model is one network, and not the mean of those of the folds.
ONE_NETWORK = False


class UNet(nn.Module):
    """Segmentation logits from the pyramid of a backbone; any height and width.

    The logits are computed at the backbone's finest stride (2 for most CNNs) and enlarged. A finer level would not make
    outlines more exact, and would cost as much as all the others.

    Args:
        backbone: Encoder with ``pyramid``, ``strides`` and ``pyramid_channels``.
        classes: Number of output channels.
    """

    def __init__(self, backbone: Backbone, *, classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.stride = max(backbone.strides)
        levels = list(zip(backbone.strides, backbone.pyramid_channels, strict=True))[::-1]
        width = levels[0][1]
        self.joins = nn.ModuleList()
        for stride, channels in levels[1:]:
            self.joins.append(_Join(width, channels, out=_WIDTHS.get(stride, _DEFAULT_WIDTH)))
            width = _WIDTHS.get(stride, _DEFAULT_WIDTH)
        self.logits = nn.Conv2d(width, classes, 1)
        # all probabilities start below 0.5, because the class is rarer than background
        nn.init.zeros_(self.logits.weight)
        assert self.logits.bias is not None
        nn.init.constant_(self.logits.bias, -1.0)

    def forward(self, tiles: Tensor) -> Tensor:
        """Logits float [B, C, H, W] of RGB tiles float [B, 3, H, W] in 0..1."""
        height, width = tiles.shape[-2:]
        padded = _pad(tiles, self.stride).contiguous(memory_format=torch.channels_last)
        maps = self.backbone.pyramid(padded)[::-1]
        features = maps[0]
        for join, skip in zip(self.joins, maps[1:], strict=True):
            features = join(features, skip)
        logits = functional.interpolate(
            self.logits(features), size=padded.shape[-2:], mode="bilinear", align_corners=False
        )
        return logits[..., :height, :width]


class _Join(nn.Module):
    """Coarse features, enlarged to the size of a finer map, and that map, fused by one convolution."""

    def __init__(self, coarse: int, fine: int, *, out: int) -> None:
        super().__init__()
        self.coarse = nn.Conv2d(coarse, out, 1, bias=False)
        self.fine = nn.Conv2d(fine, out, 1, bias=False)
        self.norm = nn.GroupNorm(_GROUPS, out)
        self.mix = nn.Sequential(
            nn.Conv2d(out, out, 3, padding=1, bias=False), nn.GroupNorm(_GROUPS, out), nn.ReLU(inplace=True)
        )

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        # the 1 x 1 convolution comes before the enlargement: the result is the same, the cost a quarter
        enlarged = self.coarse(coarse)
        if enlarged.shape[-2:] != fine.shape[-2:]:
            enlarged = functional.interpolate(enlarged, size=fine.shape[-2:], mode="bilinear", align_corners=False)
        mixed: Tensor = self.mix(functional.relu(self.norm(enlarged + self.fine(fine))))
        return mixed


def _pad(tiles: Tensor, stride: int) -> Tensor:
    """Tiles with their last row and column repeated up to a multiple of the stride."""
    height, width = tiles.shape[-2:]
    below, right = -height % stride, -width % stride
    return functional.pad(tiles, (0, right, 0, below), mode="replicate") if below or right else tiles


def build(
    classes: int,
    *,
    pretrained: bool = True,
    backbone: str = SMALL,
    weights: Path | None = None,
    output_stride: int = 16,
) -> UNet | Ensemble:
    """A U-Net for that many classes; of several encoders the mean of a U-Net of each.

    Args:
        classes: Number of output channels.
        pretrained: Start the encoders from weights; False when all weights come from a checkpoint.
        backbone: Encoder: ``small``, or any timm CNN; several with ``+`` between them. Patch-token encoders have no
            fine maps.
        weights: Weights file of the encoder, or of the one of several that has no weights of its own; without it,
            ``small`` starts from the shipped weights, ``efficientnet-lite0`` from those of ImageNet, others at random.
        output_stride: The largest stride of the encoders but ``small``. Convolutions with larger ones are much faster.

    Raises:
        ConfigError: There is no such CNN, or the weights do not fit it.
    """
    unets = [
        _unet(classes, name, weights=of_name, pretrained=pretrained, output_stride=output_stride)
        for name, of_name in backbone_names(backbone, weights).items()
    ]
    return unets[0] if len(unets) == 1 else Ensemble(unets)


def _unet(classes: int, backbone: str, *, weights: Path | None, pretrained: bool, output_stride: int) -> UNet:
    if is_encoder(backbone) or backbone.startswith(PREFIX):
        raise ConfigError(
            f"--backbone {backbone}: the unet needs the fine maps of a CNN of timm",
            hint="--backbone small or resnet50, with --backbone-weights FILE",
        )
    encoder = build_backbone(backbone, weights=weights, pretrained=pretrained, output_stride=output_stride)
    return UNet(encoder, classes=classes).to(memory_format=torch.channels_last)


def settings(options: TrainOptions) -> dict[str, Any]:
    """The settings that a checkpoint needs to build this model again.

    Raises:
        ConfigError: An option of the other segmenter was given, which would have no effect.
    """
    if options.sam_checkpoint is not None or options.sam != TrainOptions().sam:
        raise ConfigError("--sam and --sam-checkpoint have no effect on the unet", hint="add --segmenter sam")
    return {"backbone": JOIN.join(backbone_names(options.backbone, options.backbone_weights)), "output_stride": 32}


def weights(options: TrainOptions) -> Path | None:
    """The file that the encoder starts from."""
    return options.backbone_weights
