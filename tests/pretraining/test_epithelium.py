"""Training of the epithelium layer: it learns the labels of synthetic tissue, the same for the same seed."""

from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from wsplf_cli.networks.backbone import build_backbone
from wsplf_cli.pretraining import epithelium as trainer
from wsplf_cli.schema import Silent
from wsplf_cli.synthetic.kinds import BACKGROUND, EPITHELIUM, LUMEN, STROMA
from wsplf_cli.synthetic.tissue import SyntheticImage
from wsplf_cli.weak.pooling import CONTEXT_SIGMAS_PX


@pytest.fixture
def few_canvases(monkeypatch):
    monkeypatch.setattr(trainer, "CANVAS_PX", 192)
    monkeypatch.setattr(
        trainer, "_generate_all", lambda seed, count: map(partial(trainer._generate, seed), range(count))
    )


def test_the_layer_fits_the_features_of_the_backbone_and_is_the_same_again(tmp_path, few_canvases):
    figures = [trainer.pretrain(tmp_path / name, seed=4, canvases=6, tracker=Silent()) for name in ("a", "b")]
    layer, again = (load_file(tmp_path / name) for name in ("a", "b"))
    assert layer["weight"].shape == (build_backbone().channels * len(CONTEXT_SIGMAS_PX),)
    assert layer["weight"].dtype == torch.float32
    assert layer["bias"].shape == (1,)
    assert torch.equal(layer["weight"], again["weight"])
    assert 0.5 < figures[0]["accuracy"] <= 1
    assert figures[0]["AUROC"] == figures[1]["AUROC"]


def test_the_fit_weights_the_informative_feature():
    rng = np.random.default_rng(0)
    features = rng.normal(3, 2, (400, 6)).astype(np.float16)
    instances = trainer.LabelledInstances(features, features[:, 1] > 4)
    layer = trainer.fit(instances)
    assert ((layer(features) > 0) == instances.epithelium).mean() > 0.95
    assert np.abs(layer.weight).argmax() == 1


def test_a_lumen_belongs_to_its_gland_and_glass_to_nothing():
    structure = np.full((64, 64), STROMA, np.uint8)
    structure[:, 32:] = EPITHELIUM
    structure[:32, 48:] = LUMEN
    structure[48:] = BACKGROUND
    instance = np.zeros((64, 64), np.int32)
    instance[:32, 32:] = 1
    shape = (64, 64)
    image = SyntheticImage(
        np.zeros((*shape, 3), np.uint8), np.zeros(shape, bool), np.zeros(shape, np.float32), structure, instance
    )
    instances = trainer._sample_instances(build_backbone().eval(), image, np.random.default_rng(0))
    assert len(instances.epithelium) == 48
    assert instances.epithelium.sum() == 24
