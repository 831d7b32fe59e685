"""What tissue is made of: records for populations of cells, kinds of tissue and glands. Lengths in micrometres."""

from dataclasses import dataclass
from typing import Literal

BACKGROUND, STROMA, EPITHELIUM, LUMEN, LYMPHOID, FAT, NECROSIS, BLOOD = range(8)
STRUCTURES = ("background", "stroma", "epithelium", "lumen", "lymphoid", "fat", "necrosis", "blood")


@dataclass(frozen=True, slots=True)
class Cells:
    """One population of blobs in a kind of tissue.

    ``ink``: ``nucleus`` (counted in the label maps), ``debris`` (dark dust), ``red`` (blood cells) or ``clear``
    (vacuoles, mucin, fat). ``dark`` is the haematoxylin of a nucleus or the strength of another ink. ``band_um`` are
    the depths under the surface of the gland at which cells lie; ``cluster`` > 0 leaves them only where a smooth field
    exceeds it, in standard deviations.
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
    ink: Literal["nucleus", "debris", "red", "clear"] = "nucleus"


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of tissue: base stain (``h``, ``e``, ``red`` optical density), texture and cells.

    ``texture`` and ``fibre`` are relative amplitudes, ``gap`` the share of white slits between fibres, ``apical`` how
    much the haematoxylin of the cytoplasm fades over 20 um of depth, ``grain_um`` the size of its texture.
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
    """How glands or nests of one sort look and lie.

    ``radius_um`` (least, most), drawn log-uniformly; ``links`` circles per gland along a bent spine; ``wall_um`` the
    height of the epithelium (larger than the radius: solid); ``lumens`` one, or many (cribriform); ``content`` the
    kinds of which the lumen of a gland is one; ``aligned`` glands share a direction.
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
