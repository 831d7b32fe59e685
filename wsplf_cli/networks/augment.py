"""Augmentation of training tiles, so that a network learns the tissue and not the staining or the scanner.

Colour is changed in optical density, where stains add up: the strength and the tint of each stain, the gain of each
channel, and the background. All tiles of a batch are changed at once; one of 224 pixels takes under 3 ms on one core.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

# Optical density of haematoxylin, eosin and the residual (Ruifrok and Johnston 2001): one row per stain, columns RGB.
_STAINS = ((0.650, 0.704, 0.286), (0.072, 0.990, 0.105), (0.268, 0.570, 0.776))

_STAIN_SPREAD = 0.25
_TINT_SPREAD = 0.04
_GAIN_SPREAD = 0.10
_OVERALL_SPREAD = 0.20
_BACKGROUND_SPREAD = 0.04
_FOCUS_PROBABILITY = 0.3
_NOISE_PROBABILITY = 0.3
_MAX_NOISE = 0.03
_MIN_INTENSITY = 1.0 / 255.0


def augment(tiles: Tensor, masks: Tensor | None, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
    """A batch of tiles after random turns, flips and changes of stain and scanner, and its masks turned alike.

    Args:
        tiles: Float [B, 3, H, W], RGB in 0..1.
        masks: Any dtype [B, H, W] or [B, K, H, W], or None.
        generator: A CPU generator; the same seed gives the same batch.

    Returns:
        New tensors of the same shapes and dtypes, tiles clipped to 0..1. Quarter turns are left out unless H = W.
    """
    tiles, masks = turn(tiles, masks, generator)
    return rescan(restain(tiles, generator), generator), masks


def zoom(
    tiles: Tensor, masks: Tensor, generator: torch.Generator, *, side_px: int, most: float
) -> tuple[Tensor, Tensor]:
    """A random square of each tile and of its mask, enlarged or reduced by up to the factor ``most`` to one size.

    Nuclei and glands differ in size between patients, and so do pixel sizes between scanners.

    Args:
        tiles: Float [B, 3, S, S] with S at least ``most`` times ``side_px``, rounded.
        masks: Any dtype [B, K, S, S]; the nearest pixel is taken.
        generator: A CPU generator.
        side_px: Side of what is returned.
        most: At least 1.
    """
    side = tiles.shape[-1]
    factors = (torch.rand(len(tiles), generator=generator) * 2 - 1).mul(math.log(most)).exp().tolist()
    squares, square_masks = [], []
    for tile, mask, factor in zip(tiles, masks, factors, strict=True):
        square_px = min(side, round(side_px * factor))
        top, left = torch.randint(side - square_px + 1, (2,), generator=generator).tolist()
        part = slice(top, top + square_px), slice(left, left + square_px)
        size = (side_px, side_px)
        square = tile[None, :, *part]
        squares.append(functional.interpolate(square, size, mode="bilinear", align_corners=False, antialias=True))
        square_masks.append(functional.interpolate(mask[None, :, *part].float(), size, mode="nearest").to(mask.dtype))
    return torch.cat(squares), torch.cat(square_masks)


def turn(tiles: Tensor, masks: Tensor | None, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
    """Each tile and its mask in one of the eight orientations of a square, at random (of four where H and W differ)."""
    square = tiles.shape[-1] == tiles.shape[-2]
    orientations = torch.randint(8 if square else 4, (len(tiles),), generator=generator).tolist()
    turned = torch.stack([_oriented(*pair) for pair in zip(tiles, orientations, strict=True)])
    if masks is None:
        return turned, None
    return turned, torch.stack([_oriented(*pair) for pair in zip(masks, orientations, strict=True)])


def _oriented(image: Tensor, orientation: int) -> Tensor:
    """The image [..., H, W] flipped along x (bit 1) and y (bit 2), then transposed (bit 4)."""
    axes = [axis for bit, axis in ((1, -1), (2, -2)) if orientation & bit]
    image = image.flip(axes) if axes else image
    return image.transpose(-1, -2) if orientation & 4 else image


def restain(tiles: Tensor, generator: torch.Generator) -> Tensor:
    """Each tile as another laboratory might have stained it; float [B, 3, H, W] in 0..1, as the tiles.

    Scaling all optical densities is a gamma of the intensity, so gamma is part of it.
    """
    count = len(tiles)

    def uniform(width: float, *shape: int) -> Tensor:
        return (torch.rand((count, *shape), generator=generator) * 2 - 1) * width

    stains = torch.tensor(_STAINS)
    tinted = (stains + uniform(_TINT_SPREAD, 3, 3)) * uniform(_STAIN_SPREAD, 3, 1).exp()
    mixing = torch.linalg.inv(stains) @ tinted  # row vectors: density -> amounts of stain -> new density
    mixing = mixing * uniform(_GAIN_SPREAD, 1, 3).exp() * uniform(_OVERALL_SPREAD, 1, 1).exp()
    background = uniform(_BACKGROUND_SPREAD, 3, 1)
    density = tiles.clamp(min=_MIN_INTENSITY).log().neg().flatten(2)
    mixing = mixing.transpose(1, 2).to(tiles)
    new_density = torch.baddbmm(background.to(tiles), mixing, density)
    return new_density.neg_().exp_().clamp_(0.0, 1.0).view_as(tiles)


def rescan(tiles: Tensor, generator: torch.Generator) -> Tensor:
    """The tiles with some of them softer, sharper or noisier, as scanners differ; float [B, 3, H, W] in 0..1."""
    tiles = tiles.clone()
    selected = torch.rand(len(tiles), generator=generator) < _FOCUS_PROBABILITY
    strength = torch.rand(len(tiles), generator=generator) * 1.6 - 0.6  # below 0 sharper, above 0 softer
    if selected.any():
        originals = tiles[selected]
        soft = functional.avg_pool2d(functional.pad(originals, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
        tiles[selected] = torch.lerp(originals, soft, strength[selected].view(-1, 1, 1, 1).to(tiles)).clamp_(0.0, 1.0)
    selected = torch.rand(len(tiles), generator=generator) < _NOISE_PROBABILITY
    if selected.any():
        originals = tiles[selected]
        width = torch.rand(len(originals), generator=generator).view(-1, 1, 1, 1) * _MAX_NOISE
        noise = torch.randn(originals.shape, generator=generator) * width
        tiles[selected] = (originals + noise.to(tiles)).clamp_(0.0, 1.0)
    return tiles
