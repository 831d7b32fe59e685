"""Tumour looked for in epithelium alone: where that can be told, what is learned from, and what is drawn."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from wsplf_cli.weak.dense import DenseInference

from wsplf_cli.errors import ConfigError
from wsplf_cli.metrics import auroc
from wsplf_cli.networks.backbone import build_backbone
from wsplf_cli.options import PseudolabelOptions
from wsplf_cli.pretraining import epithelium as trainer
from wsplf_cli.weak import epithelium as stage
from wsplf_cli.weak.linear_probe import Instances, LinearProbe

#: Tells epithelium by the first feature.
LAYER = LinearProbe(np.array([1.0, 0.0], np.float32), 0.0)
LOOKING = DenseInference(1.0, 1.0, block_px=256, stride=8, device=torch.device("cpu"))


def options(**given):
    return replace(PseudolabelOptions(), **given)


def test_epithelium_is_told_with_the_shipped_backbone():
    layer, said = stage.layer_of(options())
    assert layer is not None
    assert layer.weight.shape == (3 * build_backbone().channels,)
    assert "--within tissue" in said
    assert stage.layer_of(options(within="epithelium"))[0] is not None


def test_all_tissue_is_looked_at_where_it_is_asked_for_and_where_nothing_else_is_possible(tmp_path):
    assert stage.layer_of(options(within="tissue")) == (None, "")
    assert stage.layer_of(options(classifier="mil")) == (None, "")
    for other in (options(backbone="resnet18"), options(backbone_weights=tmp_path / "own.safetensors")):
        layer, said = stage.layer_of(other)
        assert layer is None
        assert "all tissue" in said


@pytest.mark.parametrize("given", [{"backbone": "resnet18"}, {"classifier": "mil"}])
def test_epithelium_that_cannot_be_told_is_refused(given):
    with pytest.raises(ConfigError, match="--within epithelium") as caught:
        stage.layer_of(options(within="epithelium", **given))
    assert caught.value.hint


def test_the_shipped_layer_tells_painted_epithelium(monkeypatch):
    monkeypatch.setattr(trainer, "CANVAS_PX", 256)
    layer, _ = stage.layer_of(options())
    backbone = build_backbone().eval()
    found = [trainer._places(backbone, trainer._paint(77, n), np.random.default_rng(n)) for n in range(8)]
    logits = np.concatenate([layer(one.features) for one in found])
    truth = np.concatenate([one.epithelium for one in found])
    assert auroc(logits.tolist(), truth.tolist()) > 0.93


def slide(share, *, positive=True, known=None, count=400):
    """Instances of which a share is epithelium."""
    features = np.full((count, 2), -4.0, np.float16)
    features[: round(share * count), 0] = 4.0
    return Instances(features, positive, np.zeros(count, np.int8) if known is None else known)


def test_only_epithelium_and_what_people_spoke_of_is_learned_from():
    known = np.zeros(400, np.int8)
    known[-5:] = -1
    some, why_not = stage.learned_from([slide(0.3, known=known), slide(0.1, positive=False)], LAYER)
    assert why_not == ""
    assert [len(one.features) for one in some] == [125, 40]
    assert (some[0].features[:120, 0] == 4).all()
    assert (some[0].known[-5:] == -1).all()


def test_all_tissue_is_learned_from_where_positive_slides_hold_hardly_any_epithelium():
    cohort = [slide(0.002), slide(0.005), slide(0.5, positive=False)]
    some, why_not = stage.learned_from(cohort, LAYER)
    assert "hardly any epithelium" in why_not
    assert [len(one.features) for one in some] == [400] * 3


def test_all_tissue_is_learned_from_where_people_drew_around_stroma():
    known = np.zeros(400, np.int8)
    known[80:180] = 1  # 40 of epithelium, 60 of stroma
    _, why_not = stage.learned_from([slide(0.3, known=known), slide(0.3, positive=False)], LAYER)
    assert "people drew" in why_not
    known[150:] = 0
    assert stage.learned_from([slide(0.35, known=known), slide(0.3, positive=False)], LAYER)[1] == ""


def maps(side=40):
    """Logits of tumour, 1 everywhere, of epithelium 3 on the left half and -4 on the right; a lake of glass."""
    tumour = np.ones((side, side), np.float32)
    epithelium = np.full((side, side), -4.0, np.float32)
    epithelium[:, : side // 2] = 3.0
    tumour[:5, :5] = epithelium[:5, :5] = np.nan
    return tumour, epithelium


def test_nothing_outside_epithelium_is_called():
    tumour, epithelium = maps()
    held = stage.restrict_to_epithelium(tumour, epithelium, LOOKING)
    assert held.dtype == np.float32
    assert (np.isnan(held) == np.isnan(tumour)).all()
    assert held[20, 10] == pytest.approx(1.0, abs=1e-5)
    assert held[:, 20:] == pytest.approx(np.full((40, 20), -1.75))


def test_logits_of_epithelium_are_joined_with_those_of_the_epithelium_around():
    tumour, epithelium = maps()
    tumour[10:30, 20:] = 9.0  # of stroma: it must not count
    tumour[20, 10] = -1.0
    held = stage.restrict_to_epithelium(tumour, epithelium, LOOKING)
    assert held[20, 10] == pytest.approx(0.0, abs=0.05)
    assert held[20, 12] == pytest.approx(1.0, abs=0.05)
