"""How tissue is built, in numbers that a network can be asked for: the sizes, shapes and order of nuclei and glands.

They are the parameters that a canvas was painted with; none of them says tumour or normal. Lengths are in pixels of
the canvas, logarithms of them where they span a wide range.
"""

import numpy as np
from numpy.typing import NDArray

from wsplf_cli.synthetic.glands import Plan
from wsplf_cli.synthetic.kinds import Cells, Glands, Kind

#: What is not to be told apart any more: the height of a wall, or the depth of a band of nuclei, in um.
_DEEPEST_UM = 60.0

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


def attributes(plan: Plan) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """The attributes of every pixel of a plan: ``codes`` uint8 [H, W] and ``table`` float32 [n, len(NAMES)].

    A pixel's attributes are ``table[codes]``; NaN where there is none, such as those of glands outside of glands. The
    lumen of a gland has the attributes of the gland.
    """
    sorts = list(dict.fromkeys(plan.sorts))
    rows = [_row(kind, None, plan.mpp) for kind in plan.kinds] + [_row(sort.kind, sort, plan.mpp) for sort in sorts]
    of_instance = np.array([0, *(len(plan.kinds) + sorts.index(sort) for sort in plan.sorts)], np.uint8)
    codes = np.where(plan.instance > 0, of_instance[plan.instance], plan.kind).astype(np.uint8)
    return codes, np.array(rows, np.float32)


def _row(kind: Kind, sort: Glands | None, mpp: float) -> list[float]:
    nuclei = next((cells for cells in kind.cells if cells.ink == "nucleus"), None)
    return [*_of_nuclei(nuclei, mpp), kind.texture, kind.fibre, kind.gap, kind.apical, *_of_glands(sort, nuclei, mpp)]


def _of_nuclei(nuclei: Cells | None, mpp: float) -> list[float]:
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


def _of_glands(sort: Glands | None, nuclei: Cells | None, mpp: float) -> list[float]:
    if sort is None or nuclei is None:
        return [np.nan] * 10
    goblet = max((cells.keep for cells in sort.kind.cells if cells.ink == "clear"), default=0.0)
    return [
        float(np.log(min(nuclei.band_um[1], _DEEPEST_UM) / mpp)),
        float(np.log(np.sqrt(sort.radius_um[0] * sort.radius_um[1]) / mpp)),
        float(np.log(min(sort.wall_um, _DEEPEST_UM) / mpp)),
        float(np.log(sort.gap_um / mpp)),
        sort.warp,
        sort.packing,
        sum(sort.links) / 2,
        float(sort.lumens == "many"),
        goblet,
        float(sort.cleft_um > 0),
    ]
