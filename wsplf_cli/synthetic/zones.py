"""The zones of the slides of a cohort: normal tissue, tumour, and distractors, which are dark without being tumour.

Normal tissue and tumour differ as in H&E: in tumour, nuclei are larger, more crowded and more varied, and lie in nests,
sheets and irregular glands. The amount of stain is nearly the same, so that no colour threshold separates them.
"""

import numpy as np

from wsplf_cli.synthetic import prior
from wsplf_cli.synthetic.kinds import EPITHELIUM, LUMEN, LYMPHOID, STROMA, Cells, Glands, Kind, Zone

Rng = np.random.Generator

EMPTY = Kind(LUMEN, 0.02, 0.04, texture=0.5, grain_um=6)
MUCIN = Kind(LUMEN, 0.10, 0.12, texture=0.4, grain_um=6, fibre=0.3)


def normal_zones(rng: Rng) -> list[Zone]:
    """The zones of normal tissue: mucosa twice, ducts, fibrous stroma, muscle, fat."""
    return [mucosa(rng), mucosa(rng), ducts(rng), Zone(fibrous(rng)), Zone(prior.muscle(rng)), Zone(prior.fat(rng))]


def mucosa(rng: Rng, *, dark: float = 1.5) -> Zone:
    """Crypts with goblet cells, a ring of small basal nuclei, and a cellular stroma between them."""
    size = rng.uniform(2.3, 2.8)
    wall = rng.uniform(20, 28)
    goblet = Cells(
        spacing_um=rng.uniform(8, 11),
        radius_um=rng.uniform(4.0, 5.5),
        spread=0.15,
        elongation=1.5,
        dark=rng.uniform(0.6, 0.85),
        orient="normal",
        band_um=(11.0, 1e9),
        keep=rng.uniform(0.4, 0.9),
        wobble=0.06,
        stain="clear",
    )
    nuclei = Cells(
        spacing_um=size * 1.55,
        radius_um=size,
        spread=0.08,
        elongation=1.8,
        dark=dark * rng.uniform(0.92, 1.08),
        band_um=(2.5, 6.5),
        orient="normal",
        wobble=0.06,
    )
    kind = Kind(EPITHELIUM, h=0.34, e=0.6, texture=0.1, apical=0.25, cells=(goblet, nuclei))
    glands = Glands(
        kind,
        radius_um=(wall + 4, wall + 16),
        content=(EMPTY, MUCIN),
        links=(1, int(rng.integers(2, 4))),
        wall_um=wall,
        gap_um=rng.uniform(6, 14),
        packing=1.15,
        warp=0.08,
        aligned=True,
    )
    return Zone(lamina(rng), (glands,))


def dark_glands(rng: Rng) -> Zone:
    """Benign glands that stain dark: crowded small nuclei in two layers, orderly. A distractor."""
    size = rng.uniform(2.2, 2.6)
    nuclei = Cells(
        spacing_um=size * 1.5,
        radius_um=size,
        spread=0.08,
        elongation=1.8,
        dark=rng.uniform(1.9, 2.3),
        band_um=(2.0, 10.0),
        orient="normal",
        wobble=0.06,
    )
    kind = Kind(EPITHELIUM, h=0.55, e=0.6, texture=0.1, cells=(nuclei,))
    glands = Glands(
        kind, radius_um=(20, 34), content=(EMPTY,), wall_um=18, gap_um=6, packing=1.2, warp=0.1, links=(1, 2)
    )
    return Zone(lamina(rng), (glands,))


def ducts(rng: Rng) -> Zone:
    """Small glands with one layer of nuclei, spaced in stroma."""
    size = rng.uniform(2.4, 2.9)
    nuclei = Cells(
        spacing_um=size * 1.8, radius_um=size, spread=0.08, dark=1.5, band_um=(3.0, 6.0), orient="normal", wobble=0.06
    )
    kind = Kind(EPITHELIUM, h=0.3, e=0.65, texture=0.1, apical=0.2, cells=(nuclei,))
    glands = Glands(
        kind, radius_um=(14, 34), content=(EMPTY, MUCIN), links=(1, 3), wall_um=12, gap_um=rng.uniform(8, 20), warp=0.15
    )
    return Zone(fibrous(rng), (glands,))


def lamina(rng: Rng) -> Kind:
    """Cellular stroma: plasma cells and lymphocytes."""
    round_cells = Cells(
        spacing_um=rng.uniform(6.2, 8.0),
        radius_um=2.4,
        spread=0.12,
        elongation=1.15,
        dark=1.6,
        vesicle=0.2,
        wobble=0.06,
    )
    spindle = prior.spindles(rng, spacing=18)
    return Kind(
        STROMA, h=0.14, e=0.5, texture=0.2, grain_um=5, fibre=0.15, gap=0.12, cells=(round_cells, spindle, _red(rng))
    )


def fibrous(rng: Rng) -> Kind:
    """Fibrous stroma with some lymphocytes."""
    lymphocytes = Cells(spacing_um=9, radius_um=2.4, spread=0.1, dark=1.7, cluster=rng.uniform(0.6, 1.4), wobble=0.06)
    return Kind(
        STROMA,
        h=0.1,
        e=rng.uniform(0.6, 0.8),
        texture=0.12,
        grain_um=5,
        fibre=0.25,
        gap=rng.uniform(0.02, 0.2),
        cells=(prior.spindles(rng, spacing=rng.uniform(9, 14)), lymphocytes, _red(rng)),
    )


def aggregate(rng: Rng) -> Zone:
    """A lymphoid aggregate: small dark nuclei, densely. A distractor."""
    cells = Cells(
        spacing_um=5.2,
        radius_um=2.35,
        spread=0.1,
        elongation=1.12,
        dark=rng.uniform(1.7, 2.1),
        vesicle=0.15,
        wobble=0.06,
    )
    return Zone(Kind(LYMPHOID, h=0.25, e=0.3, texture=0.2, grain_um=4, cells=(cells,)))


def tumour(rng: Rng) -> Zone:
    """Tumour: nests, crowded irregular glands or a sheet of large, varied nuclei, with little stroma."""
    size = rng.uniform(4.5, 5.2)
    pattern = int(rng.integers(3))
    nuclei = Cells(
        spacing_um=size * rng.uniform(1.75, 1.95),
        radius_um=size,
        spread=0.2,
        elongation=rng.uniform(1.3, 1.7),
        dark=rng.uniform(1.15, 1.35),
        dark_spread=0.22,
        vesicle=rng.uniform(0.35, 0.5),
        nucleolus=0.5,
        band_um=(1.5, 1e9),
        orient="random" if pattern else "normal",
        wobble=0.2,
    )
    kind = Kind(EPITHELIUM, h=0.26, e=0.58, texture=0.12, grain_um=4, cells=(nuclei,))
    radius = rng.uniform(28, 42) if pattern == 0 else rng.uniform(40, 70)
    glands = Glands(
        kind,
        radius_um=(radius * 0.7, radius * 1.5),
        content=(EMPTY, prior.necrosis(rng)) if pattern == 0 else (EMPTY,),
        links=(1, 4),
        wall_um=(25.0, 22.0, 1e3)[pattern],
        lumens="many" if pattern == 1 else "one",
        gap_um=rng.uniform(3, 6),
        packing=1.7,
        warp=0.3,
    )
    between = Cells(spacing_um=size * 2.1, radius_um=size * 0.95, spread=0.2, elongation=1.6, dark=1.2, vesicle=0.35)
    ground = Kind(STROMA, h=0.16, e=0.6, texture=0.15, grain_um=5, fibre=0.2, gap=0.05, cells=(between,))
    return Zone(ground, (glands,))


def _red(rng: Rng) -> Cells:
    """Red blood cells in clusters."""
    return Cells(
        spacing_um=5.0, radius_um=2.8, spread=0.08, dark=rng.uniform(0.6, 1.1), cluster=2.2, cluster_um=40, stain="red"
    )
