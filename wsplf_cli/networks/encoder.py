"""Frozen patch-token encoders (vision transformers, such as those of pathology), with their tokens as a feature map."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import timm
from timm.layers.mlp import SwiGLUPacked
from timm.models import FeatureInfo, eva, vision_transformer
from torch import Tensor, nn
from torch.nn import functional

from wsplf_cli.errors import ConfigError
from wsplf_cli.networks.state import load_state, read_state

#: The modules of timm whose models cut a tile of any size into patches and keep one token for each patch. Their filters
#: convert published weights: they change names to timm's and fit position embeddings to its grid.
_CHECKPOINT_FILTERS: Mapping[str, Any] = {
    "vision_transformer": vision_transformer.checkpoint_filter_fn,
    "eva": eva.checkpoint_filter_fn,
}
#: Weights that a file may hold beside those of the encoder: classifiers, and the token that masks patches in training.
_IGNORED_PREFIXES = ("head", "mask_token")


class TokenTrunk(nn.Module):
    """A vision transformer as a trunk with a single map: the normalised patch tokens of its last block.

    Class and register tokens are dropped. A tile whose side is no multiple of the patch size is enlarged by repeating
    its last row and column.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.patch_px = int(cast(Any, encoder).patch_embed.patch_size[0])
        self.last = len(cast(Any, encoder).blocks) - 1
        channels = int(cast(Any, encoder).embed_dim)
        self.feature_info = FeatureInfo(
            [{"num_chs": channels, "reduction": self.patch_px, "module": f"encoder.blocks.{self.last}"}], (0,)
        )

    def forward(self, tiles: Tensor) -> list[Tensor]:
        """One map float [B, D, ceil(H / patch_px), ceil(W / patch_px)] of normalised tiles float [B, 3, H, W]."""
        right, below = (-tiles.shape[-1] % self.patch_px, -tiles.shape[-2] % self.patch_px)
        if right or below:
            tiles = functional.pad(tiles, (0, right, 0, below), mode="replicate")
        maps: list[Tensor] = cast(Any, self.encoder).forward_intermediates(
            tiles, indices=[self.last], norm=True, intermediates_only=True
        )
        return maps


def is_encoder(architecture: str) -> bool:
    """Whether timm's model of that name is a patch-token encoder that takes tiles of any size."""
    return _module(architecture) is not None


def _module(architecture: str) -> str | None:
    """The module of timm that defines a patch-token encoder; None for other models."""
    return next((module for module in _CHECKPOINT_FILTERS if architecture in timm.list_models(module=module)), None)


def token_trunk(architecture: str, *, weights: Path | None, arguments: Mapping[str, Any]) -> TokenTrunk:
    """The encoder with its weights.

    Where the weights reveal the architecture (layer scale, register tokens, gated MLP, position embedding of the class
    token), that overrides timm's defaults for the name: the published encoders of pathology differ in this.

    Args:
        architecture: Name that timm knows, such as ``vit_large_patch16_224``.
        weights: Its weights. They are required: a frozen encoder with random weights is of no use.
        arguments: Further arguments of timm's model.

    Raises:
        ConfigError: There are no weights, or they do not fit.
    """
    if weights is None:
        raise ConfigError(
            f"backbone {architecture} is a frozen encoder, which needs its weights",
            hint="--backbone-weights FILE, or --backbone hf-hub:OWNER/NAME for a model in the local cache",
        )
    module = _module(architecture)
    assert module is not None, architecture
    state = read_state(weights)
    revealed = _arguments_from_weights(state) if module == "vision_transformer" else {}
    all_arguments = {**arguments, **revealed, "num_classes": 0, "dynamic_img_size": True}
    try:
        encoder = timm.create_model(architecture, pretrained=False, **all_arguments)
        state = _CHECKPOINT_FILTERS[module](state, encoder)
    except (RuntimeError, TypeError, ValueError, KeyError, AttributeError, AssertionError) as error:
        raise ConfigError(
            f"{weights} does not fit {architecture} ({error})", hint="name the encoder that the weights were made for"
        ) from error
    unexpected = sorted(
        key for key in state if not key.startswith(_IGNORED_PREFIXES) and key not in encoder.state_dict()
    )
    if unexpected:
        raise ConfigError(
            f"{weights} does not fit {architecture}: {len(unexpected)} weights that it does not have"
            f" (first: {unexpected[0]})",
            hint="name the encoder that the weights were made for with --backbone",
        )
    load_state(encoder, state, weights)
    return TokenTrunk(encoder)


def _arguments_from_weights(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments of timm's VisionTransformer that follow from the names and shapes of its weights."""
    arguments: dict[str, Any] = {}
    if "blocks.0.ls1.gamma" in state:
        arguments["init_values"] = 1e-5  # adds a layer scale; its values come from the file
    for key in ("reg_token", "register_tokens"):
        if key in state:
            arguments["reg_tokens"] = state[key].shape[1]
    positions = state.get("pos_embed")
    if positions is not None and "cls_token" in state and math.isqrt(positions.shape[1]) ** 2 == positions.shape[1]:
        arguments["no_embed_class"] = True
    first, second = (state.get(f"blocks.0.mlp.{name}.weight") for name in ("fc1", "fc2"))
    if first is not None and second is not None and first.shape[0] == 2 * second.shape[1]:
        arguments |= {"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU, "mlp_ratio": first.shape[0] / first.shape[1]}
    return arguments
