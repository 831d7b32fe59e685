"""Training of the epithelium layer that ships: the same file for the same seed, with its scores."""

import torch
from safetensors.torch import load_file

from wsplf_cli.networks.backbone import build_backbone
from wsplf_cli.pretraining import epithelium as trainer
from wsplf_cli.schema import Silent
from wsplf_cli.weak.epithelium import layer as training
from wsplf_cli.weak.pooling import CONTEXT_SIGMAS_PX


def test_the_layer_fits_the_features_of_the_backbone_and_is_the_same_again(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "CANVAS_PX", 192)
    figures = [trainer.pretrain(tmp_path / name, seed=4, canvases=6, tracker=Silent()) for name in ("a", "b")]
    layer, again = (load_file(tmp_path / name) for name in ("a", "b"))
    assert layer["weight"].shape == (build_backbone().channels * len(CONTEXT_SIGMAS_PX),)
    assert layer["weight"].dtype == torch.float32
    assert layer["bias"].shape == (1,)
    assert torch.equal(layer["weight"], again["weight"])
    assert 0.5 < figures[0]["accuracy"] <= 1
    assert figures[0]["AUROC"] == figures[1]["AUROC"]
