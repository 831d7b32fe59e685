import numpy as np
import pytest

from wsplf_cli.synthetic.attributes import NAMES, attributes
from wsplf_cli.synthetic.glands import empty_layout, fill_zone
from wsplf_cli.synthetic.kinds import EPITHELIUM, LUMEN, STROMA, Cells, Glands, Kind, Zone
from wsplf_cli.synthetic.tissue import random_layout

NUCLEI = Cells(spacing_um=8.0, radius_um=3.0, elongation=1.5, orient="normal", band_um=(0.0, 12.0))
GROUND = Kind(STROMA, h=0.1, e=0.5, fibre=0.4, cells=(Cells(spacing_um=20.0, radius_um=2.0),))
HOLLOW = Kind(LUMEN, h=0.0, e=0.05)
WALL = Kind(EPITHELIUM, h=0.3, e=0.3, texture=0.2, cells=(NUCLEI,))
GLANDS = Glands(WALL, radius_um=(40.0, 60.0), content=(HOLLOW,), wall_um=15.0, links=(1, 3))


@pytest.fixture(scope="module")
def layout():
    made = empty_layout((300, 320), 1.0)
    everywhere = np.ones((300, 320), bool)
    fill_zone(np.random.default_rng(0), made, zone=Zone(GROUND, (GLANDS,)), where=everywhere)
    return made


def of(layout, name):
    """One attribute of every pixel."""
    codes, table = attributes(layout)
    return table[codes][..., NAMES.index(name)]


def test_every_pixel_has_a_row_of_all_attributes(layout):
    codes, table = attributes(layout)
    assert codes.shape == (300, 320)
    assert codes.dtype == np.uint8
    assert table.dtype == np.float32
    assert table.shape[1] == len(NAMES) == len(set(NAMES))
    assert codes.max() < len(table)


def test_attributes_of_glands_are_unknown_outside_of_glands(layout):
    inside = layout.instance > 0
    assert inside.any()
    assert not inside.all()
    for name in ("gland radius", "gland wall", "gland packing", "cleft", "band of nuclei"):
        assert (np.isnan(of(layout, name)) == ~inside).all()
    for name in ("nucleus spacing", "texture", "fibre"):
        assert not np.isnan(of(layout, name)).any()


def test_a_lumen_has_the_attributes_of_its_gland(layout):
    lumen = layout.kind == layout.index(HOLLOW)
    wall = layout.kind == layout.index(WALL)
    assert lumen.any()
    codes, _ = attributes(layout)
    assert len(np.unique(codes[lumen | wall])) == 1


def test_attributes_are_what_was_painted(layout):
    inside = layout.instance > 0
    assert of(layout, "nucleus radius")[inside] == pytest.approx(np.log(3.0))
    assert of(layout, "nucleus radius")[~inside] == pytest.approx(np.log(2.0))
    assert of(layout, "nuclei upright")[inside] == pytest.approx(1.0)
    assert of(layout, "nuclei upright")[~inside] == pytest.approx(0.0)
    assert of(layout, "gland radius")[inside] == pytest.approx(np.log(np.sqrt(40 * 60)), rel=1e-5)
    assert of(layout, "gland links")[inside] == pytest.approx(2.0)
    assert of(layout, "gland wall")[inside] == pytest.approx(np.log(15.0), rel=1e-5)


def test_lengths_are_in_pixels_of_the_canvas():
    coarse = empty_layout((150, 160), 2.0)
    everywhere = np.ones((150, 160), bool)
    fill_zone(np.random.default_rng(0), coarse, zone=Zone(GROUND, (GLANDS,)), where=everywhere)
    inside = coarse.instance > 0
    assert of(coarse, "gland wall")[inside] == pytest.approx(np.log(7.5), rel=1e-5)


def test_tissue_without_nuclei_or_glands_says_nothing_of_them():
    bare = empty_layout((20, 20), 1.0)
    fill_zone(np.random.default_rng(0), bare, zone=Zone(HOLLOW), where=np.ones((20, 20), bool))
    assert np.isnan(of(bare, "nucleus radius")).all()
    assert np.isnan(of(bare, "gland radius")).all()
    assert not np.isnan(of(bare, "texture")).any()


@pytest.mark.parametrize("seed", range(3))
def test_plans_of_the_prior_have_attributes(seed):
    made = random_layout(np.random.default_rng(seed), (200, 200), 1.0)
    codes, table = attributes(made)
    assert codes.max() < len(table)
    assert (np.isnan(table[codes][..., NAMES.index("gland radius")]) | (made.instance > 0)).all()
    assert np.isfinite(table[~np.isnan(table)]).all()
