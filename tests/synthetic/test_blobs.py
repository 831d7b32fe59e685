import numpy as np
import pytest

from wsplf_cli.synthetic.blobs import Blobs, rasterise_blobs


def test_a_stamped_ellipse_has_its_area_and_place():
    one = np.ones(1, np.float32)
    blobs = Blobs(np.array([[40.3, 20.6]], np.float32), 9 * one, 4 * one, 0 * one, 0 * one)
    canvas = np.zeros(60 * 80, np.float32)
    for part in rasterise_blobs(np.random.default_rng(0), blobs, (60, 80)):
        np.add.at(canvas, part.index, part.cover)
    canvas = canvas.reshape(60, 80)
    rows, columns = np.mgrid[:60, :80]
    assert canvas.sum() == pytest.approx(np.pi * 9 * 4, rel=0.05)
    assert (canvas * columns).sum() / canvas.sum() == pytest.approx(40.3, abs=0.1)
    assert (canvas * rows).sum() / canvas.sum() == pytest.approx(20.6, abs=0.1)


def test_blobs_at_the_border_are_cut_off_not_wrapped_round():
    one = np.ones(2, np.float32)
    blobs = Blobs(np.array([[0, 10], [-30, 10]], np.float32), 5 * one, 5 * one, 0 * one, 0 * one)
    index = np.concatenate([part.index for part in rasterise_blobs(np.random.default_rng(0), blobs, (20, 40))])
    assert (index % 40).max() <= 6
