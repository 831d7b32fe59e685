"""EP-SAM's CAM: each tile with its own scale and threshold."""

import numpy as np

from wsplf_cli.weak.tile_scale import PERCENTILE, tile_cam


def test_every_tile_is_mostly_foreground_however_it_compares_with_others():
    rng = np.random.default_rng(0)
    logits = np.sort(rng.normal(0.5, 0.2, (40, 40)).astype(np.float32), axis=1)
    logits[:, 20:] += 50  # the other tile is far above
    cam = tile_cam(logits, side=20)
    for part in (cam[:20, :20], cam[:20, 20:]):
        assert abs((part >= 0.5).mean() - (1 - PERCENTILE / 100)) < 0.1
        assert part.max() == 1.0
    assert cam.dtype == np.float32


def test_a_tile_of_a_low_mean_is_background_where_that_is_asked_for_and_glass_always():
    logits = np.full((20, 40), -1, np.float32)
    logits[:, 20:] = np.nan
    logits[3, 3] = 5
    assert not (tile_cam(logits, side=20, least=0) >= 0.5).any()
    logits[:10, 20:30] = np.linspace(1, 2, 100).reshape(10, 10)
    cam = tile_cam(logits, side=20, least=0)
    assert (cam[:10, 20:30] >= 0.5).any()
    assert not cam[np.isnan(logits)].any()
    everywhere = tile_cam(np.sort(np.random.default_rng(0).normal(-9, 1, (20, 20)).astype(np.float32)), side=20)
    assert (everywhere >= 0.5).mean() > 0.5


def test_specks_are_removed_and_a_flat_tile_has_no_foreground():
    logits = np.full((20, 20), 0.1, np.float32)
    logits[10, 10] = 1
    assert not (tile_cam(logits, side=20) >= 0.5).any()
    assert not tile_cam(np.ones((8, 8), np.float32), side=8).any()
