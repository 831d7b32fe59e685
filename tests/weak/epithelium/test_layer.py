"""The layer that tells epithelium: shipped for small, else trained on synthetic tissue once and kept."""

import numpy as np
import pytest

from wsplf_cli.networks.backbone import build_backbone, build_dense
from wsplf_cli.networks.inference import on_arrays
from wsplf_cli.schema import Silent
from wsplf_cli.synthetic.kinds import BACKGROUND, EPITHELIUM, LUMEN, STROMA
from wsplf_cli.synthetic.tissue import SyntheticImage
from wsplf_cli.weak.epithelium import layer as training
from wsplf_cli.weak.epithelium.layer import epithelium_layer

LITE0 = "efficientnet-lite0"


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    return tmp_path / "caches" / "wsplf" / "epithelium"


@pytest.fixture
def few_canvases(monkeypatch):
    monkeypatch.setattr(training, "CANVAS_PX", 192)
    monkeypatch.setattr(training, "CANVASES", 6)


def test_beside_other_backbones_the_shipped_layer_uses_the_features_of_small_alone(cache_folder):
    small, joined = build_backbone().eval(), build_dense(f"{LITE0}+small").eval()
    shipped = epithelium_layer(small, mpp=1.0, tracker=Silent())
    layer = epithelium_layer(joined, mpp=1.0, tracker=Silent())
    features = np.random.default_rng(0).normal(size=(5, 3, joined.channels)).astype(np.float32)
    of_small = np.ascontiguousarray(features[:, :, -small.channels :]).reshape(5, -1)
    np.testing.assert_allclose(layer(features.reshape(5, -1)), shipped(of_small), rtol=1e-4, atol=1e-4)
    assert not cache_folder.exists()


def test_other_backbones_get_a_layer_when_it_is_first_needed_and_keep_it(cache_folder, few_canvases, recorder):
    backbone = build_backbone(LITE0).eval()
    layer = epithelium_layer(backbone, mpp=1.0, tracker=recorder)
    kept = list(cache_folder.iterdir())
    assert len(kept) == 1
    assert any("trained once" in line and str(kept[0]) in line for line in recorder.said)
    told = len(recorder.said)
    again = epithelium_layer(backbone, mpp=1.0, tracker=recorder)
    assert len(recorder.said) == told
    np.testing.assert_array_equal(layer.weight, again.weight)
    assert layer.bias == pytest.approx(again.bias)
    epithelium_layer(backbone, mpp=2.0, tracker=recorder)  # tiles of another mpp look different
    assert len(list(cache_folder.iterdir())) == 2


def test_a_damaged_layer_is_trained_again(cache_folder, few_canvases):
    backbone = build_backbone(LITE0).eval()
    layer = epithelium_layer(backbone, mpp=1.0, tracker=Silent())
    (path,) = cache_folder.iterdir()
    path.write_bytes(path.read_bytes()[:100])
    again = epithelium_layer(backbone, mpp=1.0, tracker=Silent())
    np.testing.assert_array_equal(layer.weight, again.weight)
    assert path.stat().st_size > 100


def test_a_cache_folder_that_cannot_be_written_costs_the_next_run_a_training(cache_folder, few_canvases, recorder):
    cache_folder.parent.parent.mkdir(parents=True)
    cache_folder.parent.write_text("a file where the folder should be")
    layer = epithelium_layer(build_backbone(LITE0).eval(), mpp=1.0, tracker=recorder)
    assert np.isfinite(layer.weight).all()
    assert any("the next run trains the layer again" in line for line in recorder.said)


@pytest.mark.slow
def test_a_layer_of_imagenet_features_separates_synthetic_epithelium(monkeypatch):
    monkeypatch.setattr(training, "CANVAS_PX", 256)
    trained = training.train(build_backbone(LITE0).eval(), seed=3, canvases=60, tracker=Silent())
    assert trained.auroc > 0.9
    assert trained.accuracy > 0.8


def test_the_fit_weights_the_informative_feature():
    rng = np.random.default_rng(0)
    features = rng.normal(3, 2, (400, 6)).astype(np.float16)
    instances = training.LabelledInstances(features, features[:, 1] > 4)
    layer = training.fit(instances)
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
    backbone = build_backbone().eval()
    infer = on_arrays(backbone, device=backbone.device)
    instances = training._sample_instances(infer, backbone.stride, image, np.random.default_rng(0))
    assert len(instances.epithelium) == 48
    assert instances.epithelium.sum() == 24
