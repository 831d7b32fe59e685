import numpy as np
import pytest

from wsplf_cli.synthetic import regions


@pytest.mark.parametrize("share", [0.03, 0.1, 0.25])
@pytest.mark.parametrize("seed", [0, 1])
def test_tumour_covers_the_share_of_the_tissue_that_was_asked_for(share, seed):
    rng = np.random.default_rng(seed)
    tissue = regions.tissue_level(rng, (2048, 2048), share=0.6)
    level = regions.tumour_level(rng, tissue, share=share, pieces=1 + seed, holes=2, mpp=1.0)
    assert ((level > 0) & (tissue > 0)).sum() / (tissue > 0).sum() == pytest.approx(share, rel=0.05)
    polygons = regions.outline(level)
    assert polygons.is_valid
    largest = max(polygons.geoms, key=lambda polygon: polygon.area)
    assert largest.buffer(-50).area > 0


def test_large_tumours_have_holes_of_normal_tissue():
    rng = np.random.default_rng(2)
    tissue = regions.tissue_level(rng, (2048, 2048), share=0.6)
    polygons = regions.outline(regions.tumour_level(rng, tissue, share=0.3, pieces=1, holes=2, mpp=1.0))
    holes = [hole for polygon in polygons.geoms for hole in polygon.interiors]
    assert holes
    mask = regions.rasterise_polygons((2048, 2048), polygons)
    assert mask.sum() == pytest.approx(polygons.area, rel=0.01)
