import numpy as np

from wsplf_cli.synthetic.stain import random_appearance, render


def test_stain_and_scanner_differ_between_slides():
    densities = tuple(np.full((8, 8), value, np.float32) for value in (0.5, 0.5, 0.0))
    means = [
        render(np.random.default_rng(0), densities, random_appearance(np.random.default_rng(k))).mean()
        for k in range(12)
    ]
    assert np.std(means) > 8
