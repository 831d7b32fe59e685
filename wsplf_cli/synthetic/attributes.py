"""Attributes of synthetic tissue that a network can learn: sizes, shapes and arrangement of nuclei and glands.

They are the parameters that a canvas was generated with. None of them says tumour or normal. Lengths are in pixels of
the canvas, as logarithms where they span a wide range.
"""

import numpy as np
from numpy.typing import NDArray

from wsplf_cli.synthetic.glands import Layout
from wsplf_cli.synthetic.kinds import Cells, Glands, Kind

#: Heights of a wall and depths of a band of nuclei are clipped to this, in um: larger ones look alike.
_MAX_DEPTH_UM = 60.0

NAMES = (
    "nucleus spacing",
    "nucleus radius",
    "nucleus radius spread",
    "nucleus elongation",
    "nucleus vesicle",
    "nucleolus",
    "nuclei upright",
    "texture",
    "fibre",
    "gap between fibres",
    "apical fading",
    "band of nuclei",
    "gland radius",
    "gland wall",
    "gap between glands",
    "gland warp",
    "gland packing",
    "gland links",
    "many lumens",
    "goblet cells",
    "cleft",
)


def attributes(layout: Layout) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """The attributes of every pixel of a layout, as ``codes`` uint8 [H, W] and ``table`` float32 [n, len(NAMES)].

    A pixel's attributes are ``table[codes]``. An attribute that a pixel does not have is NaN, such as those of glands
    outside of glands. The lumen of a gland has the attributes of the gland.
    """
    gland_types = list(dict.fromkeys(layout.gland_types))
    rows = [_row(kind, None, layout.mpp) for kind in layout.kinds] + [
        _row(gland_type.kind, gland_type, layout.mpp) for gland_type in gland_types
    ]
    code_of_gland = [len(layout.kinds) + gland_types.index(gland_type) for gland_type in layout.gland_types]
    code_of_instance = np.array([0, *code_of_gland], np.uint8)
    codes = np.where(layout.instance > 0, code_of_instance[layout.instance], layout.kind).astype(np.uint8)
    return codes, np.array(rows, np.float32)


def _row(kind: Kind, gland_type: Glands | None, mpp: float) -> list[float]:
    """The attributes of one kind of tissue, or of one type of glands, in the order of NAMES."""
    nuclei = next((cells for cells in kind.cells if cells.stain == "nucleus"), None)
    return [
        *_of_nuclei(nuclei, mpp),
        kind.texture,
        kind.fibre,
        kind.gap,
        kind.apical,
        *_of_glands(gland_type, nuclei, mpp),
    ]


def _of_nuclei(nuclei: Cells | None, mpp: float) -> list[float]:
    """The seven attributes of nuclei."""
    if nuclei is None:
        return [np.nan] * 7
    return [
        float(np.log(nuclei.spacing_um / mpp)),
        float(np.log(nuclei.radius_um / mpp)),
        nuclei.spread,
        float(np.log(nuclei.elongation)),
        nuclei.vesicle,
        nuclei.nucleolus,
        float(nuclei.orient == "normal"),
    ]


def _of_glands(gland_type: Glands | None, nuclei: Cells | None, mpp: float) -> list[float]:
    """The ten attributes of glands."""
    if gland_type is None or nuclei is None:
        return [np.nan] * 10
    goblet = max((cells.keep for cells in gland_type.kind.cells if cells.stain == "clear"), default=0.0)
    return [
        float(np.log(min(nuclei.band_um[1], _MAX_DEPTH_UM) / mpp)),
        float(np.log(np.sqrt(gland_type.radius_um[0] * gland_type.radius_um[1]) / mpp)),
        float(np.log(min(gland_type.wall_um, _MAX_DEPTH_UM) / mpp)),
        float(np.log(gland_type.gap_um / mpp)),
        gland_type.warp,
        gland_type.packing,
        sum(gland_type.links) / 2,
        float(gland_type.lumens == "many"),
        goblet,
        float(gland_type.cleft_um > 0),
    ]
