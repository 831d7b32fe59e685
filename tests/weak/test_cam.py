"""What judges the slides: which options it takes, and what it says of every slide."""

import numpy as np
import pytest
import torch

from wsplf_cli.errors import ConfigError
from wsplf_cli.networks.backbone import build_backbone
from wsplf_cli.networks.mil import MilNetwork
from wsplf_cli.options import PseudolabelOptions, TileOptions
from wsplf_cli.recipes import RECIPES
from wsplf_cli.settings import build
from wsplf_cli.weak import cam as _cams
from wsplf_cli.weak import method as stage
from wsplf_cli.weak.cam import Learnt
from wsplf_cli.weak.features import FittedProbes
from wsplf_cli.weak.linear_probe import LinearProbe


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"head": "mean"}, "--head mean"),
        ({"epochs": 3}, "--epochs 3"),
        ({"folds": 2}, "--folds 2"),
        ({"adl": False}, "--no-adl"),
        ({"contrast": False}, "--no-contrast"),
        ({"high_frequency": True}, "--high-frequency"),
    ],
)
def test_options_of_mil_networks_are_refused_where_none_are_trained(options, said):
    with pytest.raises(ConfigError, match=f"^{said} is of MIL networks") as caught:
        _cams.require_used(PseudolabelOptions(**options))
    assert "--classifier mil or both" in caught.value.hint
    for classifier in ("mil", "both"):
        _cams.require_used(PseudolabelOptions(classifier=classifier, **options))


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_uses_all_of_its_options(name):
    _cams.require_used(build(PseudolabelOptions, {"recipe": name}))


@pytest.mark.parametrize("tile_px", [32, 64, 100, 192, 513])
def test_blocks_are_large_enough_for_tiles_of_any_size(tile_px):
    side = _cams.block_side(tile_px)
    assert side % 32 == 0
    assert side >= max(256, 2 * tile_px)


def test_a_place_is_judged_by_the_mean_of_both_kinds_and_unseen_by_its_own_fold(
    make_entry, memory_project, tiny_slide, recorder
):
    entries = [make_entry(label=kind, slide_path=tiny_slide) for kind in ({"Tumor"}, set()) * 2]
    options = PseudolabelOptions(classifier="both", tiles=TileOptions(mpp=2.0, tile_px=64))
    prepared, _ = stage._tile(memory_project(entries), entries, options, recorder)
    fold_of = {one.entry.id: number % 2 for number, one in enumerate(prepared)}
    torch.manual_seed(0)
    committee, backbone = _committee(fold_of), build_backbone("small").eval()
    rng = np.random.default_rng(0)
    weights = rng.normal(0, 0.05, (4, 3 * backbone.channels)).astype(np.float32)
    judges = {one.entry.id: LinearProbe(weight, 0.3) for one, weight in zip(prepared, weights, strict=True)}
    places = {"judged": FittedProbes(judges, {}), "backbone": backbone}
    networks, places, both = (
        _look(prepared, learnt, options, recorder)
        for learnt in (Learnt(committee), Learnt(**places), Learnt(committee, **places))
    )
    assert [result.status for result in both[1]] == ["done"] * 4
    for one in prepared:
        for which in ("mean", "unseen"):
            first, second, mean = (
                getattr(looked[one.entry.id], which).logits[0] for looked, _ in (networks, places, both)
            )
            np.testing.assert_allclose((first + second) / 2, mean, rtol=1e-3, atol=1e-3)
            assert np.isfinite(mean[~np.isnan(mean)]).all()
    first, second = (networks[0][one.entry.id].unseen.logits for one in prepared[:2])
    assert not np.allclose(first, second, equal_nan=True), "the same slide, judged by other folds"
    means = [networks[0][one.entry.id].mean.logits for one in prepared[:2]]
    np.testing.assert_allclose(*means, atol=1e-3)


def _look(prepared, learnt, options, recorder):
    (looked,), results = _cams.look([prepared], [learnt], options=options, device=torch.device("cpu"), tracker=recorder)
    return looked, results


def _committee(fold_of):
    networks = []
    for _ in set(fold_of.values()):
        backbone = build_backbone("small").eval()
        networks.append(MilNetwork(backbone, torch.nn.Linear(backbone.channels, 1)).eval())
    return _cams.MilEnsemble(fold_of, networks)
