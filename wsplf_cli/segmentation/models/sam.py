"""Segment Anything without prompts: a learned token for each class replaces the prompt."""

from pathlib import Path
from typing import Any

import torch
from segment_anything import sam_model_registry
from torch import Tensor, nn
from torch.nn import functional

from wsplf_cli.errors import ConfigError
from wsplf_cli.networks.sam import load_sam
from wsplf_cli.networks.tiny_sam import build_tiny
from wsplf_cli.options import TrainOptions

#: Side of the windows that are predicted at once, in tiles of the training.
WINDOW_TILES = 1
#: Whether a model is one network, and not the mean of those of the folds: SAM's encoder is large.
ONE_NETWORK = True


class SamSegmenter(nn.Module):
    """SAM's mask decoder, trained, on its frozen image encoder.

    A tile whose size is not that of the encoder is resized to it, and its logits are resized back. So a model should be
    applied to tiles of the size that it was trained on.

    Args:
        network: A ``segment_anything`` network.
        classes: Number of output channels.
    """

    network: Any

    def __init__(self, network: nn.Module, *, classes: int) -> None:
        super().__init__()
        self.network = network
        self.network.requires_grad_(False)
        self.network.mask_decoder.requires_grad_(True)
        # the scale of SAM's own prompt embeddings
        self.tokens = nn.Parameter(torch.randn(classes, 1, int(self.network.prompt_encoder.embed_dim)))

    def forward(self, tiles: Tensor) -> Tensor:
        """Logits float [B, C, H, W] of RGB tiles float [B, 3, H, W] in 0..1."""
        side = int(self.network.image_encoder.img_size)
        window = tiles
        if tiles.shape[-2:] != (side, side):
            window = functional.interpolate(tiles, (side, side), mode="bilinear", antialias=True)
        with torch.no_grad():
            embeddings = self.network.image_encoder((window * 255 - self.network.pixel_mean) / self.network.pixel_std)
        positions = self.network.prompt_encoder.get_dense_pe()
        no_mask = self.network.prompt_encoder.no_mask_embed.weight.view(1, -1, 1, 1)
        no_mask = no_mask.expand(len(self.tokens), -1, *embeddings.shape[-2:])
        logits = []
        for embedding in embeddings:  # SAM's decoder takes many prompts but only one image
            mask_logits, _ = self.network.mask_decoder(
                image_embeddings=embedding[None],
                image_pe=positions,
                sparse_prompt_embeddings=self.tokens,
                dense_prompt_embeddings=no_mask,
                multimask_output=False,
            )
            logits.append(mask_logits[:, 0])
        return functional.interpolate(torch.stack(logits), tiles.shape[-2:], mode="bilinear", align_corners=False)


def build(classes: int, *, pretrained: bool = True, weights: Path | None = None, sam: str = "tiny") -> SamSegmenter:
    """A SAM segmenter for that many classes.

    Args:
        classes: Number of output channels.
        pretrained: Start from weights; False when all weights come from a checkpoint.
        weights: SAM checkpoint; without it, ``tiny`` starts from the shipped weights.
        sam: ``tiny``, ``vit_b``, ``vit_l`` or ``vit_h``.

    Raises:
        ConfigError: The model needs a checkpoint, or the checkpoint is of another model.
    """
    if pretrained:
        network: nn.Module = load_sam(sam, checkpoint=weights, device=torch.device("cpu")).network
    else:
        network = build_tiny() if sam == "tiny" else sam_model_registry[sam]()
    return SamSegmenter(network, classes=classes)


def settings(options: TrainOptions) -> dict[str, Any]:
    """The settings that a checkpoint needs to build this model again.

    Raises:
        ConfigError: An option of the other segmenter was given, which would have no effect.
    """
    if options.backbone_weights is not None or options.backbone != TrainOptions().backbone:
        raise ConfigError("--backbone and --backbone-weights have no effect on sam", hint="add --segmenter unet")
    return {"sam": options.sam}


def weights(options: TrainOptions) -> Path | None:
    """The file that training starts from, or None for the shipped weights."""
    return options.sam_checkpoint
