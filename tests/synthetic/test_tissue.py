import numpy as np
import pytest

from wsplf_cli.synthetic import zones
from wsplf_cli.synthetic.glands import empty_layout, fill_zone
from wsplf_cli.synthetic.kinds import LUMEN, STRUCTURES
from wsplf_cli.synthetic.tissue import random_layout, render_layout, stain_densities


def generic_image(seed, *, shape, mpp):
    rng = np.random.default_rng(seed)
    return render_layout(rng, random_layout(rng, shape, mpp))


def zone_densities(zone, *, seed):
    rng = np.random.default_rng(seed)
    layout = empty_layout((400, 400), 1.0)
    fill_zone(rng, layout, zone=zone(rng), where=np.ones((400, 400), bool))
    return layout, stain_densities(rng, layout)


@pytest.mark.parametrize("seed", range(6))
def test_generic_tissue_comes_with_matching_label_maps(seed):
    image = generic_image(seed, shape=(120, 160), mpp=0.8)
    assert image.rgb.shape == (120, 160, 3)
    assert image.rgb.dtype == image.structure.dtype == np.uint8
    assert image.instance.dtype == np.int32
    assert image.nucleus_radius_um.dtype == np.float32
    assert (image.nuclei == (image.nucleus_radius_um > 0)).all()
    assert image.structure.max() < len(STRUCTURES)
    assert (image.instance[(image.structure == LUMEN)] > 0).all()


def test_generic_tissue_is_the_same_for_the_same_seed_and_differs_for_another():
    first, again, other = (generic_image(seed, shape=(96, 96), mpp=1.0) for seed in (5, 5, 6))
    assert (first.rgb == again.rgb).all()
    assert (first.instance == again.instance).all()
    assert (first.rgb != other.rgb).any()


def test_nuclei_are_darker_than_what_is_around_them():
    layout, densities = zone_densities(zones.mucosa, seed=1)
    assert densities.h[densities.nuclei].mean() > 2.5 * densities.h[~densities.nuclei].mean()
    assert 0.05 < densities.nuclei.mean() < 0.5
    assert len(layout.gland_types) > 5


def test_tumour_has_larger_nuclei_than_normal_tissue_but_about_as_much_dye():
    radii, dye = {}, {}
    for name, zone in (("tumour", zones.tumour), ("mucosa", zones.mucosa)):
        samples = [zone_densities(zone, seed=seed)[1] for seed in range(4)]
        radii[name] = np.mean([densities.nucleus_radius_um[densities.nuclei].mean() for densities in samples])
        dye[name] = np.mean([densities.h.mean() for densities in samples])
    assert radii["tumour"] > 1.5 * radii["mucosa"]
    assert dye["tumour"] < 1.5 * dye["mucosa"]
