"""The components of synthetic tissue: populations of cells, kinds of tissue, glands and zones. Lengths are in um."""

from dataclasses import dataclass
from typing import Literal

BACKGROUND, STROMA, EPITHELIUM, LUMEN, LYMPHOID, FAT, NECROSIS, BLOOD = range(8)
STRUCTURES = ("background", "stroma", "epithelium", "lumen", "lymphoid", "fat", "necrosis", "blood")


@dataclass(frozen=True, slots=True)
class Cells:
    """One population of cells, or of cell-like blobs, in a kind of tissue.

    ``stain``: ``nucleus`` (counted in the label maps), ``debris`` (dark dust), ``red`` (blood cells) or ``clear``
    (vacuoles, mucin, fat). ``dark`` is the haematoxylin of a nucleus or the strength of another stain. ``band_um`` is
    the range of depths under the surface of the gland at which cells lie. ``cluster`` > 0 keeps them only where a
    smooth field exceeds this number of standard deviations. ``keep`` is the share of the cells that is kept.
    """

    spacing_um: float
    radius_um: float
    spread: float = 0.12
    elongation: float = 1.25
    dark: float = 1.4
    dark_spread: float = 0.15
    vesicle: float = 0.25
    nucleolus: float = 0.0
    band_um: tuple[float, float] = (0.0, 1e9)
    keep: float = 1.0
    orient: Literal["random", "normal", "fibre"] = "random"
    cluster: float = 0.0
    cluster_um: float = 60.0
    wobble: float = 0.12
    stain: Literal["nucleus", "debris", "red", "clear"] = "nucleus"


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of tissue: its base stain (optical densities ``h``, ``e``, ``red``), texture and cells.

    ``texture`` and ``fibre`` are relative amplitudes, ``grain_um`` is the grain size of the texture, ``gap`` the share
    of white slits between fibres, and ``apical`` the share of the cytoplasm's haematoxylin that is lost over 20 um of
    depth.
    """

    structure: int
    h: float
    e: float
    red: float = 0.0
    texture: float = 0.12
    grain_um: float = 3.0
    fibre: float = 0.0
    gap: float = 0.0
    apical: float = 0.0
    cells: tuple[Cells, ...] = ()


@dataclass(frozen=True, slots=True)
class Glands:
    """One type of glands or nests: their shape, wall and content.

    ``radius_um`` (smallest, largest) is drawn log-uniformly. A gland consists of ``links`` (fewest, most) circles along
    a bent spine. ``wall_um`` is the height of the epithelium; a gland with a smaller radius is solid. ``lumens`` is
    one, or many (cribriform). The content of a lumen is one of ``content``. ``aligned`` glands share a direction.
    """

    kind: Kind
    radius_um: tuple[float, float]
    content: tuple[Kind, ...]
    links: tuple[int, int] = (1, 3)
    wall_um: float = 20.0
    lumens: Literal["one", "many"] = "one"
    gap_um: float = 6.0
    packing: float = 1.0
    warp: float = 0.15
    cleft_um: float = 0.0
    aligned: bool = False


@dataclass(frozen=True, slots=True)
class Zone:
    """A part of a canvas: the ground tissue, and the glands that lie in it."""

    ground: Kind
    glands: tuple[Glands, ...] = ()
