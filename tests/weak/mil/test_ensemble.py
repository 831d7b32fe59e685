"""An ensemble of MIL networks: one per fold, their logits on one scale."""

import numpy as np
import pytest

from wsplf_cli import plugins
from wsplf_cli.cohort.class_tracker import ClassTracker
from wsplf_cli.cohort.slide import prepare_cohort, tiles_of
from wsplf_cli.networks.backbone import build_backbone
from wsplf_cli.networks.mil import MilNetwork
from wsplf_cli.options import PseudolabelOptions
from wsplf_cli.recipes import Recipe
from wsplf_cli.weak.cam import dense_inference
from wsplf_cli.weak.mil.ensemble import MilEnsemble, centre_and_spread, fit_ensemble, network_map, on_one_scale

OPTIONS = PseudolabelOptions(mpp=2.0, recipe=Recipe(backbone_mode="fine-tuned", tile_px=64, epochs=1, folds=2))


def make_network():
    backbone = build_backbone("small")
    return MilNetwork(backbone, plugins.load("weak.heads", "mean").build(backbone.channels, 1))


@pytest.fixture
def cohort(make_entry, tiny_slide, memory_project, recorder):
    entries = [make_entry(f"{index}.tif", label=label, slide_path=tiny_slide) for index, label in enumerate(LABELS)]
    return prepare_cohort(memory_project(entries), entries, ["Tumor"], OPTIONS, recorder).slides


LABELS = [{"Tumor"}, set(), {"Tumor"}, set()]


def test_networks_of_other_scales_become_comparable():
    rng = np.random.default_rng(0)
    negatives = [rng.normal(0, 1, 5000).astype(np.float32) for _ in range(3)]
    centre, spread = centre_and_spread(negatives)
    other_centre, other_spread = centre_and_spread([logits * 7 + 3 for logits in negatives])
    assert (other_centre, other_spread) == pytest.approx((centre * 7 + 3, spread * 7), rel=1e-4)


def test_out_of_fold_logits_are_of_the_slides_own_fold_and_the_mean_is_of_all():
    rng = np.random.default_rng(0)
    fold_of = {"p": 0, "n": 0, "m": 1}
    plain = {entry_id: rng.normal(size=(20, 30)) for entry_id in fold_of}
    maps = {entry_id: np.stack([logits, 5 * logits + 2]).astype(np.float16) for entry_id, logits in plain.items()}
    ensemble = MilEnsemble(fold_of, [None, None])
    scaled = on_one_scale(["n", "m"], ensemble, maps)
    for entry_id, fold in fold_of.items():
        negative = "n" if fold == 0 else "m"
        centre, spread = centre_and_spread([maps[negative][fold].astype(np.float32).ravel()])
        expected = (maps[entry_id][fold].astype(np.float32) - centre) / spread
        np.testing.assert_allclose(scaled[entry_id][0], expected, atol=1e-4)
    np.testing.assert_allclose(scaled["p"][0], scaled["p"][1], atol=1.0)
    assert not np.array_equal(scaled["p"][0], scaled["p"][1])


def test_a_fold_without_a_negative_slide_is_scaled_by_all_of_them():
    maps = {entry_id: np.random.default_rng(0).normal(size=(2, 9, 9)).astype(np.float16) for entry_id in "pn"}
    scaled = on_one_scale(["n"], MilEnsemble({"p": 1, "n": 0}, [None, None]), maps)
    centre, spread = centre_and_spread([maps["n"][1].astype(np.float32).ravel()])
    np.testing.assert_allclose(scaled["p"][0], (maps["p"][1].astype(np.float32) - centre) / spread, atol=1e-4)


class Curves:
    def __init__(self):
        self.kept = {}

    def curve(self, name, *, x, y):
        self.kept[name] = {key: list(values) for key, values in y.items()}


def test_one_network_is_trained_for_each_fold_and_its_curve_is_kept(cohort, recorder):
    curves = Curves()
    ensemble = fit_ensemble(
        tiles_of(cohort),
        "Tumor",
        make_network,
        options=OPTIONS,
        rng=np.random.default_rng(0),
        tracker=ClassTracker(recorder, curves, ""),
    )
    assert set(ensemble.fold_of.values()) == {0, 1}
    assert len(ensemble.networks) == 2
    assert {name: len(losses) for name, losses in curves.kept["MIL loss"].items()} == {"fold 1": 1, "fold 2": 1}
    assert recorder.started[-1] == ("MIL", recorder.steps - len(cohort))
    slide = cohort[0]
    logits = network_map(slide, ensemble.networks[0], dense_inference(slide, ensemble.networks[0].backbone, OPTIONS))
    assert logits.shape[0] == 1
    assert 0 < np.isnan(logits).mean() < 1
