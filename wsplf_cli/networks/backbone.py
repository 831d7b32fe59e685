"""What turns tiles into feature maps: ``small``, whose weights ship with wsplf, any timm CNN, or a frozen encoder."""

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
from wsplf_cli.networks import hub
from wsplf_cli.networks.adl import AttentionDropout
from wsplf_cli.networks.encoder import is_encoder, token_trunk
from wsplf_cli.networks.state import load_state, read_state

SMALL = "small"
_SMALL_ASSET = "backbone_small.safetensors"
_FINEST_STRIDE = 8


class Backbone(nn.Module):
    """RGB tiles to one feature map: the trunk's stages from stride 8 on, each normalised, side by side.

    Fine stages give the outline and deep ones the meaning. There are no weights between the trunk and the map, so
    every timm CNN serves as it is, and the stride is 8. A patch-token encoder has a single map, whose ``stride`` is
    the side of its patches, 14 or 16.

    Args:
        trunk: A timm model made with ``features_only=True``, or a ``TokenTrunk``.
        mean: Per-channel mean of the normalisation that the trunk's weights expect.
        std: Per-channel standard deviation, likewise.
        adl: Put an attention-based dropout layer behind each of the last two stages.
        high_frequency: Give the trunk's first layer a fourth channel, ``high_frequency`` of the tile. Its weights
            begin at zero, so that the trunk starts as it would without.
        frozen: The trunk stays as it is: always in eval mode, without gradient.
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
        assert not (frozen and (adl or high_frequency)), "what is frozen learns nothing of either"
        self.frozen = frozen
        self.high_frequency = high_frequency
        if high_frequency:
            _widen_stem(trunk)
        self.trunk = trunk.to(memory_format=torch.channels_last)
        info = cast(Any, trunk).feature_info
        self.strides: list[int] = [int(value) for value in info.reduction()]
        self.pyramid_channels: list[int] = [int(value) for value in info.channels()]
        self.used = [index for index, stride in enumerate(self.strides) if stride >= _FINEST_STRIDE]
        self.stride = self.strides[self.used[0]]
        self.channels = sum(self.pyramid_channels[index] for index in self.used)
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

    def train(self, mode: bool = True) -> Self:
        """As for every module, but a frozen trunk stays in eval mode."""
        super().train(mode)
        if self.frozen:
            self.trunk.eval()
        return self

    def pyramid(self, tiles: Tensor) -> list[Tensor]:
        """Tiles float [B, 3, H, W] RGB in 0..1 to the trunk's maps, finest first (strides in ``strides``)."""
        normalised = (tiles - self.mean) / self.std
        if self.high_frequency:
            normalised = torch.cat([normalised, high_frequency(tiles) / self.std.mean()], dim=1)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            maps: list[Tensor] = self.trunk(normalised.contiguous(memory_format=torch.channels_last))
        return maps

    def forward(self, tiles: Tensor) -> Tensor:
        """Tiles float [B, 3, H, W] RGB in 0..1 to features float [B, D, H / stride, W / stride]."""
        maps = self.pyramid(tiles)
        size = maps[self.used[0]].shape[-2:]
        fused = []
        for index in self.used:
            scale = maps[index].pow(2).mean(dim=1, keepdim=True).add(1e-6).rsqrt()
            level = maps[index] * scale
            if level.shape[-2:] != size:
                level = functional.interpolate(level, size=size, mode="bilinear", align_corners=False)
            fused.append(level)
        return torch.cat(fused, dim=1)


def high_frequency(tiles: Tensor) -> Tensor:
    """The fine structure of tiles float [B, 3, H, W], float [B, 1, H, W]: what is left without the lowest frequencies.

    As in EP-SAM: of each channel's Fourier transform the central 2 x 2 coefficients are zeroed; the absolute value of
    the inverse, averaged over the channels.
    """
    spectrum = torch.fft.fft2(tiles.float())
    rows, columns = (torch.tensor([-1, 0], device=tiles.device) % size for size in tiles.shape[-2:])
    spectrum[..., rows[:, None], columns[None, :]] = 0
    fine: Tensor = torch.fft.ifft2(spectrum).abs().mean(dim=1, keepdim=True)
    return fine.to(tiles.dtype)


def _widen_stem(trunk: nn.Module) -> None:
    """Give the trunk's first convolution a fourth input channel with weights of zero, in place."""
    name, first = next((name, one) for name, one in trunk.named_modules() if isinstance(one, nn.Conv2d))
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
    parent, _, own = name.rpartition(".")
    setattr(trunk.get_submodule(parent), own, wide)


def small_trunk() -> nn.Module:
    """The trunk of ``small``: timm's resnet10t at half width, group norm, stride 16; 1.23 million weights.

    Group norm, since a step sees few slides: batch statistics would tell the network which slide it looks at.
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
    name: str = SMALL, *, weights: Path | None = None, adl: bool = False, high_frequency: bool = False
) -> Backbone:
    """The backbone of that name.

    Args:
        name: ``small``; a timm CNN such as ``resnet50``, which learns; a timm patch-token encoder such as
            ``vit_large_patch16_224``, which is frozen; or ``hf-hub:OWNER/NAME``, one of both with its weights, from
            the cache on this computer.
        weights: Weights for it: a safetensors file, or a PyTorch state dict (read with ``weights_only``). Without,
            ``small`` takes the weights that ship with wsplf and a timm CNN starts from random ones: nothing is
            ever downloaded.
        adl: Put an attention-based dropout layer behind the last two stages of a CNN.
        high_frequency: Show a CNN the fine structure of a tile as a fourth channel.

    Raises:
        ConfigError: no such network, weights that do not fit it, or an encoder that should have what needs learning.
    """
    if name == SMALL:
        trunk = small_trunk()
        path = weights or Path(str(files("wsplf_cli") / "assets" / _SMALL_ASSET))
        load_state(trunk, read_state(path), path)
        return Backbone(trunk, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), adl=adl, high_frequency=high_frequency)
    architecture, arguments, statistics = name, {}, {}
    if name.startswith(hub.PREFIX):
        found = hub.cached(name)
        architecture, arguments, statistics = found.architecture, dict(found.arguments), dict(found.statistics)
        weights = weights or found.weights
    if architecture not in timm.list_models():
        close = ", ".join(timm.list_models(f"*{architecture[:6]}*")[:5]) or "small, resnet18, resnet50"
        raise ConfigError(f"unknown backbone {architecture!r}", hint=f"choose small or a timm model, such as: {close}")
    mean, std = _normalisation(architecture)
    mean, std = statistics.get("mean", mean), statistics.get("std", std)
    if is_encoder(architecture):
        for given, what, hint in (
            (adl, "attention-based dropout", "--no-adl"),
            (high_frequency, "the high-frequency channel", "leave --high-frequency out"),
        ):
            if given:
                raise ConfigError(f"backbone {name} is frozen, so that {what} has no effect in it", hint=hint)
        frozen = token_trunk(architecture, weights=weights, arguments=arguments)
        return Backbone(frozen, mean=mean, std=std, frozen=True)
    trunk = _cnn(architecture)
    if weights is not None:
        load_state(trunk, read_state(weights), weights)
    return Backbone(trunk, mean=mean, std=std, adl=adl, high_frequency=high_frequency)


def is_frozen(name: str) -> bool:
    """Whether the backbone of that name is a patch-token encoder, which learns nothing.

    Raises:
        ConfigError: a model of the hub that is not on this computer.
    """
    return is_encoder(hub.cached(name).architecture if name.startswith(hub.PREFIX) else name)


def _cnn(architecture: str) -> nn.Module:
    try:
        trunk: nn.Module = timm.create_model(architecture, pretrained=False, features_only=True, output_stride=16)
    except (RuntimeError, TypeError, NotImplementedError, ValueError, AttributeError, AssertionError) as error:
        raise ConfigError(
            f"backbone {architecture!r} is neither a CNN with feature maps nor an encoder of patches of tiles of any"
            f" size ({error})",
            hint="choose small, resnet18, resnet50 or vit_small_patch16_224",
        ) from error
    return trunk


def _normalisation(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    config = timm.get_pretrained_cfg(name)
    if config is None:
        return (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
    return tuple(config.mean), tuple(config.std)
