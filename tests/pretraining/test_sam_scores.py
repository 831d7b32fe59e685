"""The measure of a SAM on synthetic windows."""

import numpy as np
import torch

from wsplf_cli.pretraining import sam_scores
from wsplf_cli.pretraining.targets import MAP_PX, Target, generate_windows
from wsplf_cli.schema import TileMask


def square(first, last):
    mask = np.zeros((MAP_PX, MAP_PX), bool)
    mask[first:last, first:last] = True
    return mask


def test_measure_reports_points_and_cams(monkeypatch):
    class Perfect:
        """Answers with the right mask of the only target."""

        def embed(self, rgb):
            return torch.zeros(1)

        def prompt(self, embedding, prompts, *, window_px, mask_input):
            return [[TileMask(mask=square(10, 30), score=1.0)] * 3]

    windows = generate_windows(1, seed=(3,))
    only = Target(mask=square(10, 30), parts=square(10, 30).astype(int))
    monkeypatch.setattr(sam_scores, "choose_target", lambda rng, tissue, instance: only)
    monkeypatch.setattr(sam_scores, "generate_windows", lambda count, *, seed: windows[:1])
    figures = sam_scores.evaluate(Perfect(), seed=0)
    assert figures["points 3+0"] == figures["box"] == figures["CAM, best of three"] == figures["CAM as mask"] == 1.0
    assert 0.3 < figures["CAM itself"] < 1.0
