"""What a slide looks like: the colour, the sharpness and the texture of some tiles of its tissue.

The numbers do not depend on a trained model, so that slides can be compared with those that any model learned from
(``likeness``). They are those of tiles and not of the whole slide: a slide with much tumour has other means than one
with little, but its tiles are like tiles of others.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from wsplf_cli.errors import SlideError
from wsplf_cli.networks.augment import restain
from wsplf_cli.networks.backbone import Backbone, build_backbone
from wsplf_cli.networks.inference import as_batch
from wsplf_cli.schema import Entry, TileGrid, TissueMask
from wsplf_cli.slides.entry import slide_of
from wsplf_cli.slides.grid import make_grid, read_tiles

#: Tiles of a slide, and their side in pixels.
TILES, SIDE_PX = 32, 128
#: Tiles with this share of tissue are taken first; those with less only where there are too few of them.
GOOD_SHARE = 0.5
#: Version of these numbers: two slides can be compared where it is the same.
VERSION = 1

#: Mean optical density (base 10) from which on a pixel of a tile counts as tissue, and the least number of such pixels.
_TISSUE_DENSITY, _MIN_TISSUE_PX = 0.05, 400
#: The palest pixels of a tile by this share are pale tissue, the others, mostly nuclei, are dark tissue.
PALE_SHARE = 0.7
#: Standard deviations, in pixels, of the Gaussians between which structures are measured.
_SIGMAS_PX = (0.7, 1.4, 2.8, 5.6)
_BATCH = 8


@dataclass(frozen=True, slots=True)
class Appearance:
    """The appearance of N tiles of a slide, float32 arrays of one row per tile.

    Attributes:
        colour: [N, 6] logarithms: the optical density of dark and of pale tissue, and for each of the two the ratios
            of red to green and of blue to green.
        sharpness: [N, 4] logarithms of the contrast at one scale over that at the next coarser one, from the finest on.
            A blurred, enlarged or shrunken image has others.
        texture: [N, D] the mean over the tile of the deepest features of the backbone ``small``.
    """

    colour: NDArray[np.float32]
    sharpness: NDArray[np.float32]
    texture: NDArray[np.float32]

    def __len__(self) -> int:
        """The number of tiles."""
        return len(self.colour)


def describe_slide(entry: Entry, tissue: TissueMask, *, mpp: float, mpp_slide: float) -> Appearance:
    """The appearance of up to ``TILES`` tiles of a slide, always the same ones, on a CPU; without marker ink.

    Args:
        entry: The entry of the slide.
        tissue: Its tissue.
        mpp: Micrometres per pixel of the tiles.
        mpp_slide: Micrometres per pixel at level 0.

    Raises:
        SlideError: The slide cannot be read at all.
    """
    return describe_tiles(_read(entry, tissue, mpp=mpp, mpp_slide=mpp_slide))


def described_tiles(entry: Entry, tissue: TissueMask, *, mpp: float, mpp_slide: float) -> int:
    """How many tiles ``describe_slide`` reads."""
    places = _places(entry, tissue, mpp=mpp, mpp_slide=mpp_slide)
    return 0 if places is None else len(places[1])


def describe_tiles(tiles: NDArray[np.uint8]) -> Appearance:
    """The appearance of RGB tiles uint8 [N, S, S, 3]; those with hardly any tissue are left out."""
    densities = -np.log10((tiles.astype(np.float32) + 1) / 256)
    inside = densities.mean(axis=-1) > _TISSUE_DENSITY
    kept = inside.sum(axis=(1, 2)) >= _MIN_TISSUE_PX
    densities, inside = densities[kept], inside[kept]
    colour = [_colour(density[mask]) for density, mask in zip(densities, inside, strict=True)]
    sharpness = [_sharpness(density.mean(axis=-1), mask) for density, mask in zip(densities, inside, strict=True)]
    return Appearance(
        colour=np.array(colour, np.float32).reshape(-1, 6),
        sharpness=np.array(sharpness, np.float32).reshape(-1, len(_SIGMAS_PX)),
        texture=np.concatenate(list(_textures(tiles[kept]))),
    )


def restained(colour: NDArray[np.float32], *, draws: int, seed: int) -> NDArray[np.float32]:
    """``Appearance.colour`` [draws, N, 6] of a slide as other laboratories might have stained it, from that of N tiles.

    All tiles of a draw are stained alike.
    """
    strength, ratios = np.exp(colour[:, :2].T), np.exp(colour[:, 2:].reshape(-1, 2, 2).transpose(2, 1, 0))
    density = np.stack([ratios[0], np.ones_like(strength), ratios[1]])
    density *= strength / density.mean(axis=0)
    tiles = torch.from_numpy(10.0**-density).float().expand(draws, -1, -1, -1)
    anew = -restain(tiles, torch.Generator().manual_seed(seed)).clamp(min=1 / 256).log10().numpy()
    return _colour_of_stains(anew.transpose(0, 3, 2, 1))


def _read(entry: Entry, tissue: TissueMask, *, mpp: float, mpp_slide: float) -> NDArray[np.uint8]:
    """Tiles at random places of the tissue, uint8 [N, S, S, 3]; none where there is no tissue."""
    slide_of(entry)  # a slide that cannot be opened fails here, and not as one without tissue
    places = _places(entry, tissue, mpp=mpp, mpp_slide=mpp_slide)
    if places is None:
        return np.zeros((0, SIDE_PX, SIDE_PX, 3), np.uint8)
    grid, indices = places
    return read_tiles(entry, grid, indices, mask=tissue)


def _places(
    entry: Entry, tissue: TissueMask, *, mpp: float, mpp_slide: float
) -> tuple[TileGrid, NDArray[np.intp]] | None:
    """A grid, and the indices of the tiles in it that are described; None where there is no tissue."""
    try:
        grid = make_grid(
            entry.id, tissue, tile_px=SIDE_PX, mpp=mpp, mpp_slide=mpp_slide, min_tissue=0.0, overlap=GOOD_SHARE
        )
    except SlideError:
        return None
    shuffled = np.random.default_rng(0).permutation(len(grid.xy_px0))
    best_first = np.argsort(-np.minimum(grid.tissue[shuffled], GOOD_SHARE), kind="stable")
    return grid, np.sort(shuffled[best_first[:TILES]])


def _colour(density: NDArray[np.float32]) -> NDArray[np.float32]:
    """``Appearance.colour`` of a tile from the optical density of its tissue, float32 [pixels, 3]."""
    palest_first = density[np.argsort(density.mean(axis=1))]
    pale, dark = np.split(palest_first, [round(PALE_SHARE * len(density))])
    return _colour_of_stains(np.stack([dark.mean(axis=0), pale.mean(axis=0)]))


def _colour_of_stains(density: NDArray[np.float32]) -> NDArray[np.float32]:
    """``Appearance.colour`` [..., 6] from the mean optical density of dark and of pale tissue, float32 [..., 2, 3]."""
    stains = np.maximum(density, np.float32(1e-3))
    strength = np.log(stains.mean(axis=-1))
    ratios = np.log(stains[..., [0, 2]] / stains[..., [1]])
    return np.concatenate([strength, ratios.reshape(*ratios.shape[:-2], 4)], axis=-1)


def _sharpness(grey: NDArray[np.float32], tissue: NDArray[np.bool_]) -> NDArray[np.float32]:
    """``Appearance.sharpness`` of a tile from its mean optical density, float32 [S, S]."""
    layers = [grey, *(ndimage.gaussian_filter(grey, sigma) for sigma in _SIGMAS_PX)]
    differences = [fine - coarse for fine, coarse in pairwise(layers)]
    contrast = np.log([layer[tissue].std() + 1e-4 for layer in [*differences, layers[-1]]])
    ratios: NDArray[np.float32] = contrast[:-1] - contrast[1:]
    return ratios


@torch.inference_mode()
def _textures(tiles: NDArray[np.uint8]) -> Iterator[NDArray[np.float32]]:
    """``Appearance.texture`` in batches, one of which may be empty."""
    network = _network()
    depth = network.pyramid_channels[-1]
    for first in range(0, max(1, len(tiles)), _BATCH):
        batch = tiles[first : first + _BATCH]
        if not len(batch):
            yield np.zeros((0, depth), np.float32)
            continue
        yield network(as_batch(batch))[:, -depth:].mean(dim=(2, 3)).numpy()


@cache
def _network() -> Backbone:
    """The backbone ``small`` with the weights that ship, on the CPU: built once in a process.

    torch's random numbers go on as if it were not built, so that a training does not depend on which one built it.
    """
    with torch.random.fork_rng(devices=[]):
        return build_backbone().eval()
