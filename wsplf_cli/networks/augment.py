"""What the training loops do to a batch of tiles so that the network learns tissue, not the stainer and the scanner.

Colour is changed in optical density, where stains add up: each stain's strength and tint, each channel's gain, and
the background. Everything works on the whole batch at once; a tile of 224 pixels takes under 3 ms on one core.
"""

import torch
from torch import Tensor
from torch.nn import functional

# Optical density of haematoxylin, eosin and what is left (Ruifrok and Johnston 2001), one stain a row, RGB columns.
_STAINS = ((0.650, 0.704, 0.286), (0.072, 0.990, 0.105), (0.268, 0.570, 0.776))

_STAIN_SPREAD = 0.25
_TINT_SPREAD = 0.04
_GAIN_SPREAD = 0.10
_OVERALL_SPREAD = 0.20
_BACKGROUND_SPREAD = 0.04
_FOCUS_SHARE = 0.3
_NOISE_SHARE = 0.3
_NOISE_MAX = 0.03
_DARKEST = 1.0 / 255.0


def augment(tiles: Tensor, masks: Tensor | None, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
    """A batch of tiles turned, flipped, restained and rescanned at random, and its masks turned alike.

    Args:
        tiles: Float [B, 3, H, W], RGB in 0..1.
        masks: Any dtype [B, H, W] or [B, K, H, W], or None.
        generator: A CPU generator; the same seed gives the same batch.

    Returns:
        New tensors of the same shapes and dtypes, tiles clipped to 0..1. Quarter turns need H = W; others are left out
        where it is not so.
    """
    tiles, masks = turn(tiles, masks, generator)
    return rescan(restain(tiles, generator), generator), masks


def turn(tiles: Tensor, masks: Tensor | None, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
    """Each tile and its mask flipped and turned by quarters, all eight ways alike (four where H and W differ)."""
    square = tiles.shape[-1] == tiles.shape[-2]
    ways = torch.randint(8 if square else 4, (len(tiles),), generator=generator).tolist()
    turned = torch.stack([_turn(tile, way) for tile, way in zip(tiles, ways, strict=True)])
    if masks is None:
        return turned, None
    return turned, torch.stack([_turn(mask, way) for mask, way in zip(masks, ways, strict=True)])


def _turn(image: Tensor, way: int) -> Tensor:
    axes = [axis for bit, axis in ((1, -1), (2, -2)) if way & bit]
    image = image.flip(axes) if axes else image
    return image.transpose(-1, -2) if way & 4 else image


def restain(tiles: Tensor, generator: torch.Generator) -> Tensor:
    """Each tile as another laboratory might have stained it: float [B, 3, H, W] in 0..1 to the same.

    Scaling all optical density is a gamma of the intensity, so gamma is part of it.
    """
    count = len(tiles)

    def spread(width: float, *shape: int) -> Tensor:
        return (torch.rand((count, *shape), generator=generator) * 2 - 1) * width

    stains = torch.tensor(_STAINS)
    tinted = (stains + spread(_TINT_SPREAD, 3, 3)) * spread(_STAIN_SPREAD, 3, 1).exp()
    mixing = torch.linalg.inv(stains) @ tinted  # row vectors: density -> amounts of stain -> new density
    mixing = mixing * spread(_GAIN_SPREAD, 1, 3).exp() * spread(_OVERALL_SPREAD, 1, 1).exp()
    background = spread(_BACKGROUND_SPREAD, 3, 1)
    density = tiles.clamp(min=_DARKEST).log().neg().flatten(2)
    mixing = mixing.transpose(1, 2).to(tiles)
    changed = torch.baddbmm(background.to(tiles), mixing, density)
    return changed.neg_().exp_().clamp_(0.0, 1.0).view_as(tiles)


def rescan(tiles: Tensor, generator: torch.Generator) -> Tensor:
    """Some tiles softer, sharper or noisier, as scanners differ: float [B, 3, H, W] in 0..1 to the same."""
    tiles = tiles.clone()
    chosen = torch.rand(len(tiles), generator=generator) < _FOCUS_SHARE
    strength = torch.rand(len(tiles), generator=generator) * 1.6 - 0.6  # below 0 sharper, above 0 softer
    if chosen.any():
        some = tiles[chosen]
        soft = functional.avg_pool2d(functional.pad(some, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
        tiles[chosen] = torch.lerp(some, soft, strength[chosen].view(-1, 1, 1, 1).to(tiles)).clamp_(0.0, 1.0)
    chosen = torch.rand(len(tiles), generator=generator) < _NOISE_SHARE
    if chosen.any():
        some = tiles[chosen]
        width = torch.rand(len(some), generator=generator).view(-1, 1, 1, 1) * _NOISE_MAX
        noise = torch.randn(some.shape, generator=generator) * width
        tiles[chosen] = (some + noise.to(tiles)).clamp_(0.0, 1.0)
    return tiles
