import numpy as np

from wsplf_cli.synthetic.threshold import best_threshold


def test_best_threshold_finds_the_channel_that_gives_tumour_away():
    rng = np.random.default_rng(0)
    truth = np.zeros((64, 64), bool)
    truth[10:30, 20:50] = True
    tissue = np.ones((64, 64), bool)
    tissue[:5] = False
    rgb = rng.integers(100, 200, (64, 64, 3)).astype(np.uint8)
    rgb[..., 2] = np.where(truth, 60, 90) + rng.integers(0, 20, (64, 64))
    rgb[:5, :, 2] = 50
    best = best_threshold([rgb, rgb], [truth, np.zeros_like(truth)], [tissue, tissue], mpp=2.0)
    assert (best.channel, best.above) == ("blue", False)
    assert best.mean_dice > 0.99
    mask = best.mask(rgb, tissue, mpp=2.0)
    assert 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) > 0.98
    assert not mask[:5].any()
