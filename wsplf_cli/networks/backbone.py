"""The backbone, which turns tiles into feature maps: ``small`` (its weights ship), a CNN, or a frozen encoder.

Several frozen backbones give their feature maps side by side (``JoinedBackbone``): networks that learned from different
images see different things.
"""

from collections.abc import Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any, Self, cast

import timm
import torch
from timm.layers.norm import GroupNorm
from torch import Tensor, nn
from torch.nn import functional

from wsplf_cli.errors import ConfigError
from wsplf_cli.networks import efficientnet, hub
from wsplf_cli.networks.adl import AttentionDropout
from wsplf_cli.networks.dilated import with_fast_gradients
from wsplf_cli.networks.encoder import is_encoder, token_trunk
from wsplf_cli.networks.state import load_state, read_state

SMALL = "small"
_SMALL_ASSET = "backbone_small.safetensors"
_MIN_STRIDE = 8
#: Between the names of backbones whose feature maps are set side by side.
JOIN = "+"
#: The name that stands for the default.
AUTO = "auto"
#: Beside others, a backbone sees a tile reduced by this factor where its features of slides are better at a larger mpp.
_SHRINK = {efficientnet.NAME: 2}


class DenseBackbone(nn.Module):
    """RGB tiles to one feature map of ``channels``, with ``stride`` pixels of the tile on a side of a cell."""

    channels: int
    stride: int
    #: Whether it stays in eval mode, without gradient.
    frozen: bool

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.buffers()).device

    @property
    def parts(self) -> Sequence["Backbone"]:
        """The backbones whose features the map holds, in the order of its channels."""
        raise NotImplementedError


class Backbone(DenseBackbone):
    """RGB tiles to one feature map: the trunk's stages from stride 8 on, each normalised, concatenated.

    Fine stages give the outline and deep ones the meaning. There are no weights between the trunk and the map, so
    every timm CNN can be used as it is, with a stride of 8. A patch-token encoder has a single map, whose ``stride``
    is the side of its patches, 14 or 16.

    Args:
        trunk: A timm model made with ``features_only=True``, or a ``TokenTrunk``.
        mean: Per-channel mean of the normalisation that the trunk's weights expect.
        std: Per-channel standard deviation, likewise.
        adl: Put an attention-based dropout layer after each of the last two stages.
        high_frequency: Give the trunk's first layer a fourth input channel, ``high_frequency`` of the tile. Its weights
            are zero at first, so that the trunk starts as without it.
        frozen: Keep the trunk as it is: always in eval mode, without gradient.
    """

    def __init__(
        self,
        trunk: nn.Module,
        *,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        adl: bool = False,
        high_frequency: bool = False,
        frozen: bool = False,
    ) -> None:
        super().__init__()
        assert not (frozen and (adl or high_frequency)), "a frozen trunk learns neither"
        self.frozen = frozen
        self.high_frequency = high_frequency
        if high_frequency:
            _widen_stem(trunk)
        self.trunk = trunk.to(memory_format=torch.channels_last)
        info = cast(Any, trunk).feature_info
        self.strides: list[int] = [int(value) for value in info.reduction()]
        self.pyramid_channels: list[int] = [int(value) for value in info.channels()]
        self._used_stages = [index for index, stride in enumerate(self.strides) if stride >= _MIN_STRIDE]
        self.stride = self.strides[self._used_stages[0]]
        self.channels = sum(self.pyramid_channels[index] for index in self._used_stages)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.adl = AttentionDropout()
        self.adl.requires_grad_(False)
        if adl:
            for name in list(info.module_name())[-2:]:
                trunk.get_submodule(name).register_forward_hook(lambda _module, _args, output: self.adl(output))
        if frozen:
            self.trunk.requires_grad_(False).eval()

    @property
    def parts(self) -> Sequence["Backbone"]:
        """The backbone itself."""
        return [self]

    def train(self, mode: bool = True) -> Self:
        """Set the mode, as for every module. A frozen trunk stays in eval mode."""
        super().train(mode)
        if self.frozen:
            self.trunk.eval()
        return self

    def pyramid(self, tiles: Tensor) -> list[Tensor]:
        """The trunk's maps of RGB tiles float [B, 3, H, W] in 0..1, finest first, with the strides ``strides``."""
        normalised = (tiles - self.mean) / self.std
        if self.high_frequency:
            normalised = torch.cat([normalised, high_frequency(tiles) / self.std.mean()], dim=1)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            maps: list[Tensor] = self.trunk(normalised.contiguous(memory_format=torch.channels_last))
        return maps

    def forward(self, tiles: Tensor) -> Tensor:
        """Features float [B, D, H / stride, W / stride] of RGB tiles float [B, 3, H, W] in 0..1."""
        maps = self.pyramid(tiles)
        size = maps[self._used_stages[0]].shape[-2:]
        levels = []
        for index in self._used_stages:
            scale = maps[index].pow(2).mean(dim=1, keepdim=True).add(1e-6).rsqrt()
            level = maps[index] * scale
            if level.shape[-2:] != size:
                level = functional.interpolate(level, size=size, mode="bilinear", align_corners=False)
            levels.append(level)
        return torch.cat(levels, dim=1)


class JoinedBackbone(DenseBackbone):
    """The feature maps of several backbones side by side, on the grid of the finest. It is never trained.

    Args:
        backbones: Two or more.
        shrink: For each the pixels of the tile on a side of a pixel that it sees: 2 where it sees the tile at half its
            size, so at twice its mpp.
    """

    def __init__(self, backbones: Sequence[Backbone], *, shrink: Sequence[int]) -> None:
        super().__init__()
        self.backbones = nn.ModuleList(backbones)
        self.shrink = list(shrink)
        self.channels = sum(backbone.channels for backbone in backbones)
        self._strides = [backbone.stride * factor for backbone, factor in zip(backbones, shrink, strict=True)]
        self.stride = min(self._strides)
        self.frozen = True
        self.requires_grad_(False).eval()

    @property
    def parts(self) -> Sequence[Backbone]:
        """The backbones."""
        return [cast(Backbone, backbone) for backbone in self.backbones]

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode."""
        return super().train(False)

    def forward(self, tiles: Tensor) -> Tensor:
        """Features float [B, channels, H / stride, W / stride] of RGB tiles float [B, 3, H, W] in 0..1."""
        rows, columns = (-(-side // self.stride) for side in tiles.shape[-2:])
        maps = []
        for backbone, factor, stride in zip(self.backbones, self.shrink, self._strides, strict=True):
            features = backbone(tiles if factor == 1 else functional.avg_pool2d(tiles, factor, ceil_mode=True))
            if stride != self.stride:  # an encoder's last patches may lie partly outside of the tile
                scale = stride / self.stride
                features = functional.interpolate(features, scale_factor=scale, mode="bilinear", align_corners=False)
            maps.append(features[..., :rows, :columns])
        return torch.cat(maps, dim=1)


def high_frequency(tiles: Tensor) -> Tensor:
    """The tiles without their lowest frequencies: float [B, 1, H, W] of tiles float [B, 3, H, W].

    As in EP-SAM: the central 2 x 2 coefficients of each channel's Fourier transform are set to zero. The result is the
    absolute value of the inverse transform, averaged over the channels.
    """
    spectrum = torch.fft.fft2(tiles.float())
    rows, columns = (torch.tensor([-1, 0], device=tiles.device) % size for size in tiles.shape[-2:])
    spectrum[..., rows[:, None], columns[None, :]] = 0
    fine: Tensor = torch.fft.ifft2(spectrum).abs().mean(dim=1, keepdim=True)
    return fine.to(tiles.dtype)


def _widen_stem(trunk: nn.Module) -> None:
    """Give the trunk's first convolution a fourth input channel whose weights are zero, in place."""
    name, first = next((name, module) for name, module in trunk.named_modules() if isinstance(module, nn.Conv2d))
    wide = nn.Conv2d(
        first.in_channels + 1,
        first.out_channels,
        kernel_size=cast(tuple[int, int], first.kernel_size),
        stride=cast(tuple[int, int], first.stride),
        padding=cast(Any, first.padding),
        bias=first.bias is not None,
    )
    with torch.no_grad():
        wide.weight.zero_()
        wide.weight[:, :-1] = first.weight
        if first.bias is not None and wide.bias is not None:
            wide.bias.copy_(first.bias)
    parent, _, attribute = name.rpartition(".")
    setattr(trunk.get_submodule(parent), attribute, wide)


def small_trunk() -> nn.Module:
    """The trunk of ``small``: timm's resnet10t with half the width, group norm and stride 16; 1.23 million weights.

    It has group norm because a step has tiles of few slides: batch statistics would reveal the slide to the network.
    """
    trunk: nn.Module = timm.create_model(
        "resnet10t",
        pretrained=False,
        features_only=True,
        norm_layer=partial(GroupNorm, num_groups=4),
        stem_width=16,
        channels=(32, 64, 128, 256),
        output_stride=16,
    )
    return trunk


def build_backbone(
    name: str = SMALL,
    *,
    weights: Path | None = None,
    pretrained: bool = True,
    adl: bool = False,
    high_frequency: bool = False,
    output_stride: int = 16,
) -> Backbone:
    """The backbone of that name.

    Args:
        name: ``small``; ``efficientnet-lite0``; a timm CNN such as ``resnet50``, which is trained; a timm patch-token
            encoder such as ``vit_large_patch16_224``, which is frozen; or ``hf-hub:OWNER/NAME``, either of them with
            its weights, from the cache on this computer.
        weights: A safetensors file, or a PyTorch state dict (read with ``weights_only``). Without it, ``small`` takes
            the weights that ship with wsplf, ``efficientnet-lite0`` those of ImageNet that a dependency brings, and a
            timm CNN starts from random ones. Nothing is ever downloaded.
        pretrained: False for a CNN whose weights are all loaded afterwards: no weights are read.
        adl: Put an attention-based dropout layer after the last two stages of a CNN.
        high_frequency: Give a CNN the high frequencies of a tile as a fourth channel.
        output_stride: The largest stride of a timm CNN; ``small`` has 16.

    Raises:
        ConfigError: There is no such network, the weights do not fit, or an option has no effect on a frozen encoder.
    """
    if JOIN in name:
        raise ConfigError(
            f"backbone {name}: several backbones side by side are frozen and cannot be trained",
            hint=f"--backbone {efficientnet.NAME}, or one of the others",
        )
    if name == SMALL:
        trunk = small_trunk()
        if pretrained:
            path = weights or Path(str(files("wsplf_cli") / "assets" / _SMALL_ASSET))
            load_state(trunk, read_state(path), path)
        return Backbone(trunk, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), adl=adl, high_frequency=high_frequency)
    architecture, arguments, statistics = efficientnet.ARCHITECTURE if name == efficientnet.NAME else name, {}, {}
    if name.startswith(hub.PREFIX):
        model = hub.find_cached(name)
        architecture, arguments, statistics = model.architecture, dict(model.arguments), dict(model.statistics)
        weights = weights or model.weights
    if architecture not in timm.list_models():
        similar = ", ".join(timm.list_models(f"*{architecture[:6]}*")[:5]) or "small, resnet18, resnet50"
        raise ConfigError(
            f"unknown backbone {architecture!r}",
            hint=f"choose small, {efficientnet.NAME} or a timm model, such as: {similar}",
        )
    mean, std = _normalisation(architecture)
    mean, std = statistics.get("mean", mean), statistics.get("std", std)
    if is_encoder(architecture):
        _refuse_training(name, adl=adl, high_frequency=high_frequency)
        encoder = token_trunk(architecture, weights=weights, arguments=arguments)
        return Backbone(encoder, mean=mean, std=std, frozen=True)
    trunk = _cnn(architecture, output_stride=output_stride)
    if pretrained and weights is not None:
        load_state(trunk, read_state(weights), weights)
    elif pretrained and name == efficientnet.NAME:
        load_state(trunk, *efficientnet.imagenet_state())
    return Backbone(trunk, mean=mean, std=std, adl=adl, high_frequency=high_frequency)


def build_dense(
    name: str = SMALL, *, weights: Path | None = None, adl: bool = False, high_frequency: bool = False
) -> DenseBackbone:
    """The backbone of that name, or several side by side: names with ``+`` between them.

    Args:
        name: One name or several, each as in ``build_backbone``; or ``auto``: ``small+efficientnet-lite0``, but
            ``small`` where its weights are given.
        weights: As in ``build_backbone``. Of several backbones, the one that has no weights of its own takes them.
        adl: As in ``build_backbone``; several backbones side by side are frozen.
        high_frequency: Likewise.

    Raises:
        ConfigError: There is no such network, the weights do not fit, or an option has no effect on frozen backbones.
    """
    weights_of = backbone_names(name, weights)
    if len(weights_of) == 1:
        ((name, weights),) = weights_of.items()
        return build_backbone(name, weights=weights, adl=adl, high_frequency=high_frequency)
    _refuse_training(name, adl=adl, high_frequency=high_frequency)
    backbones = [build_backbone(part, weights=of_part) for part, of_part in weights_of.items()]
    return JoinedBackbone(backbones, shrink=[_SHRINK.get(part, 1) for part in weights_of])


def backbone_names(name: str, weights: Path | None) -> dict[str, Path | None]:
    """The backbones that a name with ``+``, or ``auto``, stands for, in order, each with its file of weights.

    Raises:
        ConfigError: The names are not different, or it is not clear which one the weights are for.
    """
    if name == AUTO:
        name = SMALL if weights is not None else f"{SMALL}{JOIN}{efficientnet.NAME}"
    names = name.split(JOIN)
    if len(names) == 1:
        return {name: weights}
    if "" in names or len(set(names)) < len(names):
        raise ConfigError(
            f"--backbone {name} does not name different backbones", hint=f"--backbone {SMALL}{JOIN}{efficientnet.NAME}"
        )
    without = [part for part in names if part not in (SMALL, efficientnet.NAME) and not part.startswith(hub.PREFIX)]
    if weights is not None and len(without) != 1:
        raise ConfigError(
            f"--backbone-weights: {len(without) or 'none'} of the backbones {name} takes weights from a file",
            hint="name one model of timm: small, efficientnet-lite0 and models of the hub have their own weights",
        )
    return {part: weights if part in without else None for part in names}


def _refuse_training(name: str, *, adl: bool, high_frequency: bool) -> None:
    """Refuse what has no effect on a frozen backbone."""
    for asked, feature, hint in (
        (adl, "attention-based dropout", "set adl = false in the recipe"),
        (high_frequency, "the high-frequency channel", "set high_frequency = false in the recipe"),
    ):
        if asked:
            raise ConfigError(f"backbone {name} is frozen, so {feature} has no effect in it", hint=hint)


def is_frozen(name: str) -> bool:
    """Whether the backbone of that name is never trained: a patch-token encoder, or several backbones side by side.

    Raises:
        ConfigError: It is a model of the hub that is not on this computer.
    """
    if JOIN in name:
        return True
    return is_encoder(hub.find_cached(name).architecture if name.startswith(hub.PREFIX) else name)


def _cnn(architecture: str, *, output_stride: int) -> nn.Module:
    """A CNN of timm with random weights, as a trunk of that stride."""
    try:
        trunk: nn.Module = timm.create_model(
            architecture, pretrained=False, features_only=True, output_stride=output_stride
        )
    except (RuntimeError, TypeError, NotImplementedError, ValueError, AttributeError, AssertionError) as error:
        raise ConfigError(
            f"backbone {architecture!r} is neither a CNN with feature maps nor a patch-token encoder for tiles of"
            f" any size ({error})",
            hint="choose small, resnet18, resnet50 or vit_small_patch16_224",
        ) from error
    return with_fast_gradients(trunk)


def _normalisation(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel that timm's weights of that name expect."""
    config = timm.get_pretrained_cfg(name)
    if config is None:
        return (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
    return tuple(config.mean), tuple(config.std)
