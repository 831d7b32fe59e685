"""The CAM of a slide: which classifiers it comes from, out of fold and on average."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from wsplf_cli.cohort.slide import prepare_cohort
from wsplf_cli.networks.backbone import build_backbone
from wsplf_cli.networks.mil import MilNetwork
from wsplf_cli.options import PseudolabelOptions
from wsplf_cli.recipes import Recipe
from wsplf_cli.weak.cam import Classifiers, FittedProbes, compute_cams, dense_inference, window_side
from wsplf_cli.weak.features import FeatureMaps
from wsplf_cli.weak.linear_probe import LinearProbe
from wsplf_cli.weak.mil.ensemble import MilEnsemble

OPTIONS = PseudolabelOptions(mpp=2.0, recipe=Recipe(backbone_mode="both", tile_px=64))


@pytest.fixture
def cohort(make_entry, memory_project, tiny_slide, recorder):
    entries = [make_entry(label=label, slide_path=tiny_slide) for label in ({"Tumor"}, set()) * 2]
    return prepare_cohort(memory_project(entries), entries, ["Tumor"], OPTIONS, recorder).slides


@pytest.fixture(scope="module")
def backbone():
    return build_backbone("small").eval()


def probes_of(cohort, backbone, *, seed=0, epithelium=None):
    weights = np.random.default_rng(seed).normal(0, 0.05, (len(cohort), 3 * backbone.channels)).astype(np.float32)
    probes = {slide.entry.id: LinearProbe(weight, 0.3) for slide, weight in zip(cohort, weights, strict=True)}
    return FittedProbes(probes, {}, epithelium)


def ensemble_of(fold_of):
    networks = []
    for _ in set(fold_of.values()):
        backbone = build_backbone("small").eval()
        networks.append(MilNetwork(backbone, torch.nn.Linear(backbone.channels, 1)).eval())
    return MilEnsemble(fold_of, networks)


@pytest.mark.parametrize("tile_px", [32, 64, 100, 192, 513])
def test_windows_are_large_enough_for_tiles_of_any_size(tile_px):
    side = window_side(tile_px)
    assert side % 32 == 0
    assert side >= max(256, 2 * tile_px)


def test_the_inference_follows_the_options(cohort, backbone):
    options = PseudolabelOptions(mpp=2.0, recipe=Recipe(tile_px=200, tta=4))
    inference = dense_inference(cohort[0], backbone, options)
    assert (inference.mpp, inference.mpp_slide, inference.stride, inference.rotations) == (2.0, 0.5, 8, 4)
    assert inference.window_px == 416


def test_with_both_classifiers_the_cam_is_their_mean_and_networks_are_out_of_fold(cohort, backbone, recorder):
    fold_of = {slide.entry.id: index % 2 for index, slide in enumerate(cohort)}
    torch.manual_seed(0)
    ensemble, probes = ensemble_of(fold_of), probes_of(cohort, backbone)
    networks_only, probes_only, both = (
        compute_cams(cohort, {"Tumor": classifiers}, OPTIONS, recorder)
        for classifiers in (
            Classifiers(ensemble=ensemble),
            Classifiers(probes, FeatureMaps(backbone)),
            Classifiers(probes, FeatureMaps(backbone), ensemble),
        )
    )
    assert [result.status for result in both[1]] == ["done"] * 4
    ids = [slide.entry.id for slide in cohort]
    for entry_id in ids:
        for kind in ("mean", "out_of_fold"):
            of_networks, of_probes, mean = (
                getattr(logits["Tumor"][entry_id], kind).values for logits, _ in (networks_only, probes_only, both)
            )
            np.testing.assert_allclose((of_networks + of_probes) / 2, mean, rtol=1e-3, atol=1e-3)
            assert np.isfinite(mean[~np.isnan(mean)]).all()
    first, second = (networks_only[0]["Tumor"][entry_id] for entry_id in ids[:2])
    assert not np.allclose(first.out_of_fold.values, second.out_of_fold.values, equal_nan=True), "one slide, two folds"
    np.testing.assert_allclose(first.mean.values, second.mean.values, atol=1e-3)
    alone = probes_only[0]["Tumor"][ids[0]]
    assert alone.mean is alone.out_of_fold, "the probes of a slide are all out of fold"


def test_classes_have_their_own_logits_from_one_pass_of_the_backbone(cohort, backbone, recorder):
    calls = []
    hook = backbone.register_forward_hook(lambda *args: calls.append(1))
    classifiers = {
        name: Classifiers(probes_of(cohort, backbone, seed=seed), FeatureMaps(backbone))
        for seed, name in enumerate(("Tumor", "Stroma"))
    }
    logits, _ = compute_cams(cohort[:1], classifiers, OPTIONS, recorder)
    passes = len(calls)
    single, _ = compute_cams(cohort[:1], {"Stroma": classifiers["Stroma"]}, OPTIONS, recorder)
    hook.remove()
    assert len(calls) == 2 * passes
    entry_id = cohort[0].entry.id
    stroma = logits["Stroma"][entry_id].mean.values
    np.testing.assert_allclose(stroma, single["Stroma"][entry_id].mean.values, atol=1e-4)
    assert not np.allclose(stroma, logits["Tumor"][entry_id].mean.values, equal_nan=True)


def test_probes_that_are_restricted_to_epithelium_are_low_elsewhere(cohort, backbone, recorder):
    no_epithelium = LinearProbe(np.zeros(3 * backbone.channels, np.float32), -8.5)
    maps = []
    for probe in (None, no_epithelium):
        fitted = replace(probes_of(cohort, backbone), epithelium=probe)
        classifiers = Classifiers(fitted, FeatureMaps(backbone))
        assert classifiers.search_in == ("tissue" if probe is None else "epithelium")
        logits, _ = compute_cams(cohort[:1], {"Tumor": classifiers}, OPTIONS, recorder)
        maps.append(logits["Tumor"][cohort[0].entry.id].mean.values)
    free, restricted = maps
    assert (np.isnan(free) == np.isnan(restricted)).all()
    assert np.nanmax(free) > -3
    assert np.nanmax(restricted) == pytest.approx(-4)


def test_a_slide_that_cannot_be_read_has_no_logits(cohort, backbone, recorder):
    lost = replace(cohort[1].entry, slide_path=None, problem="a.tif: gone")
    cohort = [cohort[0], replace(cohort[1], entry=lost)]
    classifiers = {"Tumor": Classifiers(probes_of(cohort, backbone), FeatureMaps(backbone))}
    logits, results = compute_cams(cohort, classifiers, OPTIONS, recorder)
    assert [result.status for result in results] == ["done", "failed"]
    assert set(logits["Tumor"]) == {cohort[0].entry.id}
