"""Random tissues from a wide prior, for generic canvases. There is no label such as tumour or normal here."""

from collections.abc import Callable

import numpy as np

from wsplf_cli.synthetic.kinds import (
    BACKGROUND,
    BLOOD,
    EPITHELIUM,
    FAT,
    LUMEN,
    LYMPHOID,
    NECROSIS,
    STROMA,
    Cells,
    Glands,
    Kind,
    Zone,
)

Rng = np.random.Generator


def random_zones(rng: Rng) -> list[Zone]:
    """The zones of a canvas, one to three."""
    count = int(rng.choice([1, 2, 3], p=[0.5, 0.35, 0.15]))
    makers: list[Callable[[Rng], Zone]] = [
        crypts,
        benign_glands,
        malignant_glands,
        nests,
        sheet,
        plain,
        lambda rng: Zone(lymphoid(rng)),
        lambda rng: Zone(fat(rng)),
        lambda rng: Zone(necrosis(rng)),
        lambda rng: Zone(Kind(BACKGROUND, 0.0, 0.0)),
    ]
    shares = np.array([0.22, 0.12, 0.22, 0.10, 0.06, 0.12, 0.04, 0.03, 0.04, 0.05])
    indices = rng.choice(len(makers), size=count, p=shares, replace=False)
    if count == 1 and indices[0] == len(makers) - 1:  # a canvas is not all background
        indices = np.array([0])
    return [makers[int(index)](rng) for index in indices]


def crypts(rng: Rng) -> Zone:
    """Benign crypts: a ring of small basal nuclei, goblet mucin, a cellular lamina propria."""
    wall = rng.uniform(15, 34)
    radius = wall + rng.uniform(2, 14)
    size = rng.uniform(1.7, 3.4)
    depth = rng.uniform(1.2, 2.2) * size
    vacuole = rng.uniform(2.5, 7)
    goblet = Cells(
        spacing_um=vacuole * rng.uniform(1.5, 2.1),
        radius_um=vacuole,
        spread=0.2,
        elongation=rng.uniform(1.0, 2.0),
        dark=rng.uniform(0.4, 0.9),
        orient="normal",
        band_um=(depth + size + 0.7 * vacuole, 1e9),
        keep=float(rng.choice([0.0, rng.uniform(0.3, 1.0)], p=[0.15, 0.85])),
        wobble=0.08,
        stain="clear",
    )
    kind = epithelium(
        rng, size=size, band=(0.6 * depth, depth + rng.uniform(0.5, 6.0)), spacing=size * rng.uniform(1.1, 1.8)
    )
    glands = Glands(
        Kind(
            EPITHELIUM, kind.h, kind.e, texture=kind.texture, apical=rng.uniform(0.2, 0.9), cells=(goblet, *kind.cells)
        ),
        radius_um=(radius * 0.8, radius * 1.2),
        content=contents(rng),
        links=(1, 2) if rng.random() < 0.6 else (2, 6),
        wall_um=wall,
        gap_um=rng.uniform(3, 22),
        packing=rng.uniform(0.95, 1.3),
        warp=rng.uniform(0.02, 0.15),
        cleft_um=rng.uniform(0, 2),
        aligned=True,
    )
    return Zone(cellular_stroma(rng), (glands,))


def benign_glands(rng: Rng) -> Zone:
    """Simple glands or ducts of one or two layers, spaced, in plain stroma."""
    size = rng.uniform(1.8, 3.6)
    wall = rng.uniform(8, 22)
    kind = epithelium(rng, size=size, band=(2.0, rng.uniform(5, wall - 2)), spacing=size * rng.uniform(1.4, 2.0))
    glands = Glands(
        kind,
        radius_um=(wall * 1.1, wall * rng.uniform(1.5, 4)),
        content=contents(rng),
        links=(1, int(rng.integers(2, 5))),
        wall_um=wall,
        gap_um=rng.uniform(6, 40),
        packing=rng.uniform(0.8, 1.3),
        warp=rng.uniform(0.05, 0.3),
        aligned=bool(rng.random() < 0.3),
    )
    return Zone(stroma(rng), (glands,))


def malignant_glands(rng: Rng) -> Zone:
    """Irregular crowded glands with several layers of large nuclei, often cribriform, dirty lumina."""
    size = rng.uniform(2.3, 5.2)
    wall = rng.uniform(14, 45)
    band = (rng.uniform(1.5, 4), wall * rng.uniform(0.5, 0.95))
    kind = epithelium(rng, size=size, band=band, spacing=size * rng.uniform(1.0, 1.7), pleomorphic=True)
    glands = Glands(
        kind,
        radius_um=(wall * 1.0, wall * rng.uniform(1.6, 4.5)),
        content=contents(rng),
        links=(1, int(rng.integers(2, 7))),
        wall_um=wall,
        lumens="many" if rng.random() < 0.3 else "one",
        gap_um=rng.uniform(2, 30),
        packing=rng.uniform(1.0, 1.6),
        warp=rng.uniform(0.1, 0.4),
        cleft_um=float(rng.choice([0, rng.uniform(1, 10)])),
        aligned=bool(rng.random() < 0.4),
    )
    return Zone(stroma(rng) if rng.random() < 0.7 else cellular_stroma(rng), (glands,))


def nests(rng: Rng) -> Zone:
    """Solid nests and cords."""
    size = rng.uniform(2.6, 5.5)
    kind = epithelium(
        rng, size=size, band=(1.0, 1e9), spacing=size * rng.uniform(1.5, 2.3), pleomorphic=bool(rng.random() < 0.6)
    )
    radius = float(np.exp(rng.uniform(np.log(10), np.log(120))))
    glands = Glands(
        kind,
        radius_um=(radius * 0.6, radius * 1.5),
        content=contents(rng),
        links=(1, int(rng.integers(2, 7))),
        wall_um=1e3 if rng.random() < 0.6 else radius * 0.8,
        gap_um=rng.uniform(3, 25),
        packing=rng.uniform(0.9, 1.6),
        warp=rng.uniform(0.1, 0.5),
        cleft_um=float(rng.choice([0, rng.uniform(1, 8)])),
    )
    return Zone(stroma(rng), (glands,))


def sheet(rng: Rng) -> Zone:
    """A sheet of cells without structure."""
    size = rng.uniform(2.5, 5.5)
    kind = epithelium(
        rng, size=size, band=(0.0, 1e9), spacing=size * rng.uniform(1.5, 2.6), pleomorphic=bool(rng.random() < 0.6)
    )
    return Zone(kind)


def plain(rng: Rng) -> Zone:
    """Stroma or muscle without glands."""
    return Zone(muscle(rng) if rng.random() < 0.35 else stroma(rng))


def epithelium(rng: Rng, *, size: float, band: tuple[float, float], spacing: float, pleomorphic: bool = False) -> Kind:
    """Epithelium with nuclei of mean radius ``size`` (um) and distance ``spacing`` (um) at depths ``band`` (um)."""
    ordered = band[1] < 1e8
    nuclei = Cells(
        spacing_um=spacing,
        radius_um=size,
        spread=rng.uniform(0.15, 0.32) if pleomorphic else rng.uniform(0.05, 0.15),
        elongation=rng.uniform(1.2, 3.0) if ordered else rng.uniform(1.05, 1.7),
        dark=rng.uniform(0.7, 1.9),
        dark_spread=rng.uniform(0.15, 0.35) if pleomorphic else rng.uniform(0.05, 0.2),
        vesicle=rng.uniform(0.1, 0.75),
        nucleolus=rng.uniform(0.2, 0.9) if pleomorphic and rng.random() < 0.6 else 0.0,
        band_um=band,
        orient="normal" if ordered else "random",
        wobble=rng.uniform(0.1, 0.3) if pleomorphic else rng.uniform(0.03, 0.15),
    )
    cells = [nuclei]
    if rng.random() < 0.4:
        cells.append(lymphocytes(rng, spacing=rng.uniform(14, 40)))
    return Kind(
        EPITHELIUM,
        h=rng.uniform(0.15, 0.7),
        e=rng.uniform(0.4, 1.0),
        texture=rng.uniform(0.08, 0.3),
        grain_um=rng.uniform(2, 6),
        apical=rng.uniform(0, 0.8),
        cells=tuple(cells),
    )


def lymphocytes(rng: Rng, *, spacing: float, cluster: float = 0.0) -> Cells:
    """Small round dark nuclei."""
    return Cells(
        spacing_um=spacing,
        radius_um=rng.uniform(1.6, 3.0),
        spread=0.15,
        elongation=rng.uniform(1.1, 1.6),
        dark=rng.uniform(1.2, 2.3),
        vesicle=rng.uniform(0, 0.3),
        cluster=cluster,
        wobble=0.06,
    )


def spindles(rng: Rng, *, spacing: float) -> Cells:
    """Long thin nuclei along the fibres."""
    return Cells(
        spacing_um=spacing,
        radius_um=rng.uniform(1.4, 2.8),
        spread=0.25,
        elongation=rng.uniform(2.0, 6),
        dark=rng.uniform(0.8, 1.7),
        vesicle=rng.uniform(0, 0.5),
        orient="fibre",
        wobble=0.12,
    )


def red_cells(rng: Rng) -> Cells:
    """Red blood cells in clusters."""
    return Cells(
        spacing_um=5.0,
        radius_um=2.8,
        spread=0.08,
        elongation=1.2,
        dark=rng.uniform(0.6, 1.2),
        cluster=rng.uniform(1.6, 2.6),
        cluster_um=rng.uniform(25, 80),
        keep=0.9,
        stain="red",
    )


def stroma(rng: Rng) -> Kind:
    """Fibrous stroma, dense or loose."""
    loose = rng.random() < 0.4
    cells = [spindles(rng, spacing=rng.uniform(5, 16))]
    if rng.random() < 0.5:
        cells.append(lymphocytes(rng, spacing=rng.uniform(7, 30), cluster=rng.uniform(0.3, 1.8)))
    if rng.random() < 0.5:
        cells.append(red_cells(rng))
    return Kind(
        STROMA,
        h=rng.uniform(0.02, 0.2),
        e=rng.uniform(0.25, 0.6) if loose else rng.uniform(0.4, 1.0),
        texture=rng.uniform(0.05, 0.2),
        grain_um=rng.uniform(2, 8),
        fibre=rng.uniform(0.15, 0.5),
        gap=rng.uniform(0.15, 0.5) if loose else rng.uniform(0.0, 0.15),
        cells=tuple(cells),
    )


def cellular_stroma(rng: Rng) -> Kind:
    """Lamina propria: loose, with many lymphocytes and plasma cells."""
    cells = [
        lymphocytes(rng, spacing=rng.uniform(4.5, 10)),
        spindles(rng, spacing=rng.uniform(7, 25)),
    ]
    if rng.random() < 0.5:
        cells.append(red_cells(rng))
    return Kind(
        STROMA,
        h=rng.uniform(0.05, 0.25),
        e=rng.uniform(0.3, 0.8),
        texture=rng.uniform(0.1, 0.3),
        grain_um=rng.uniform(3, 8),
        fibre=rng.uniform(0.05, 0.25),
        gap=rng.uniform(0.05, 0.5),
        cells=tuple(cells),
    )


def muscle(rng: Rng) -> Kind:
    """Smooth muscle: parallel, even, eosinophilic."""
    return Kind(
        STROMA,
        h=rng.uniform(0.03, 0.2),
        e=rng.uniform(0.6, 1.0),
        texture=rng.uniform(0.03, 0.1),
        fibre=rng.uniform(0.08, 0.2),
        gap=rng.uniform(0.0, 0.1),
        cells=(spindles(rng, spacing=rng.uniform(11, 22)),),
    )


def lymphoid(rng: Rng) -> Kind:
    """A lymphoid aggregate."""
    cells = lymphocytes(rng, spacing=rng.uniform(5.0, 6.5))
    return Kind(LYMPHOID, h=rng.uniform(0.1, 0.35), e=rng.uniform(0.15, 0.4), texture=0.2, grain_um=4, cells=(cells,))


def fat(rng: Rng) -> Kind:
    """Fat: large clear cells between thin walls."""
    radius = rng.uniform(14, 35)
    drops = Cells(
        spacing_um=radius * 1.8,
        radius_um=radius,
        spread=0.12,
        elongation=1.15,
        dark=0.98,
        dark_spread=0.0,
        wobble=0.1,
        stain="clear",
    )
    return Kind(FAT, h=0.05, e=rng.uniform(0.3, 0.6), texture=0.2, fibre=0.2, cells=(drops, spindles(rng, spacing=35)))


def necrosis(rng: Rng) -> Kind:
    """Necrosis: granular, eosinophilic, with nuclear dust."""
    dust = Cells(
        spacing_um=rng.uniform(5, 14),
        radius_um=rng.uniform(0.8, 1.8),
        spread=0.4,
        dark=rng.uniform(0.8, 1.8),
        cluster=rng.uniform(0.01, 0.8),
        wobble=0.3,
        stain="debris",
    )
    return Kind(
        NECROSIS,
        h=rng.uniform(0.05, 0.25),
        e=rng.uniform(0.5, 1.0),
        texture=rng.uniform(0.25, 0.5),
        grain_um=rng.uniform(3, 7),
        gap=rng.uniform(0, 0.3),
        cells=(dust,),
    )


def contents(rng: Rng) -> tuple[Kind, ...]:
    """What the lumina of one type of glands may hold: nothing, mucin, secretion, debris or blood."""
    dust = Cells(
        spacing_um=rng.uniform(6, 14),
        radius_um=rng.uniform(0.9, 2.4),
        spread=0.4,
        dark=rng.uniform(0.7, 1.8),
        cluster=rng.uniform(0.01, 1.0),
        cluster_um=40,
        wobble=0.3,
        stain="debris",
    )
    red = Cells(spacing_um=4.8, radius_um=2.8, spread=0.08, dark=rng.uniform(0.7, 1.2), keep=0.9, stain="red")
    empty = Kind(LUMEN, 0.01, 0.02, texture=0.5)
    mucin = Kind(LUMEN, rng.uniform(0.02, 0.15), rng.uniform(0.03, 0.15), texture=0.5, grain_um=6, fibre=0.4)
    secretion = Kind(LUMEN, 0.05, rng.uniform(0.2, 0.6), texture=0.2, grain_um=6)
    debris = Kind(
        LUMEN,
        rng.uniform(0.02, 0.1),
        rng.uniform(0.15, 0.5),
        texture=0.7,
        grain_um=5,
        gap=rng.uniform(0.1, 0.5),
        cells=(dust,),
    )
    blood = Kind(BLOOD, 0.0, 0.05, cells=(red,))
    kinds = [empty, mucin, secretion, debris, blood]
    indices = rng.choice(5, size=int(rng.integers(1, 4)), p=[0.35, 0.27, 0.08, 0.26, 0.04], replace=False)
    return tuple(kinds[int(index)] for index in indices)
