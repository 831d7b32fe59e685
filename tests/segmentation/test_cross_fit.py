import numpy as np
import pytest
import torch
from shapely import box
from torch import nn
from training_slides import training_slide

from wsplf_cli.networks.ensemble import Ensemble, members_of
from wsplf_cli.networks.side_by_side import networks_at_once
from wsplf_cli.review.regions import ReviewRegions
from wsplf_cli.schema import Silent
from wsplf_cli.segmentation import cross_fit as module
from wsplf_cli.segmentation.cross_fit import assign_folds, cross_fit
from wsplf_cli.segmentation.sampling import Blocks
from wsplf_cli.segmentation.train import FitSettings, predict_block

PLACES = [(10, 10, 50, 40), (70, 20, 110, 60), (5, 30, 45, 60), (80, 5, 120, 35)]


def lesson(positives=4, negatives=4):
    slides = [
        training_slide(f"p{n}", regions=ReviewRegions(pending=((box(*place), 0.9),)), colour=[place])
        for n, place in enumerate(PLACES[:positives])
    ]
    return [*slides, *(training_slide(f"n{n}", positive=False) for n in range(negatives))]


def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 1, 1))


def run(slides, *, build=build, **changes):
    fields = {
        "tile_px": 32,
        "window_px": 64,
        "batch_size": 4,
        "tiles_per_epoch": 100,
        "learning_rate": 0.03,
        "folds": 3,
    }
    settings = FitSettings(6, **(fields | changes))
    rng = np.random.default_rng(0)
    return cross_fit(build, slides, settings=settings, rng=rng, device=torch.device("cpu"), tracker=Silent())


def test_the_model_is_one_more_network_where_a_segmenter_says_so(monkeypatch):
    learned = []
    fit = module.fit

    def recorded_fit(network, slides, **rest):
        learned.append((network, {slide.group for slide in slides}))
        return fit(network, slides, **rest)

    monkeypatch.setattr(module, "fit", recorded_fit)
    result = run(lesson(4, 2), one_network=True)
    assert [len(groups) for _, groups in learned] == [4, 4, 4, 6]
    assert result.network is learned[-1][0]
    assert len(result.losses) == 1
    assert len(result.held_out) == 6


@pytest.mark.parametrize("folds", [1, 4])
def test_networks_that_are_trained_at_the_same_time_get_the_same_weights(folds):
    def ensemble():
        return Ensemble([build() for _ in range(4)])

    weights = []
    before = torch.get_num_threads()
    try:
        for at_once in (1, 2):
            torch.set_num_threads(at_once)  # one for each network
            assert networks_at_once([build()] * 4, device=torch.device("cpu")) == at_once
            model = run(lesson(), build=ensemble, folds=folds).network
            weights.append(model.state_dict())
    finally:
        torch.set_num_threads(before)
    for name, values in weights[0].items():
        assert torch.equal(values, weights[1][name])


def test_the_largest_networks_are_trained_first_and_losses_stay_in_order(monkeypatch):
    sizes = iter([8, 16, 8, 32])
    learned = []
    fit = module.fit

    def recorded_fit(network, slides, **rest):
        learned.append(network[0].out_channels)
        return [float(network[0].out_channels)] * len(fit(network, slides, **rest))

    def of_a_size():
        width = next(sizes)
        return nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 1, 1))

    monkeypatch.setattr(module, "fit", recorded_fit)
    monkeypatch.setattr(module, "networks_at_once", lambda *_, **__: 1)
    result = run(lesson(), build=lambda: Ensemble([of_a_size() for _ in range(4)]), folds=4)
    assert learned == [32, 16, 8, 8]
    assert [losses[0] for losses in result.losses] == [8, 16, 8, 32]


def test_no_network_learns_from_a_slide_that_it_is_measured_on(monkeypatch):
    learned, learners, measured = [], [], []
    fit, measure = module.fit, module._measure

    def recorded_fit(network, slides, **rest):
        learned.append({slide.group for slide in slides})
        learners.append(network)
        return fit(network, slides, **rest)

    def recorded_measure(out, slide, indices, network, **options):
        assert slide.group not in learned[learners.index(network)]
        measured.append(slide.group)
        measure(out, slide, indices, network, **options)

    monkeypatch.setattr(module, "fit", recorded_fit)
    monkeypatch.setattr(module, "_measure", recorded_measure)
    result = run(lesson(), tiles_per_epoch=8)
    assert result.folds == 3
    assert len(learned) == 3
    assert sorted(measured) == sorted(slide.group for slide in lesson())
    for group in {slide.group for slide in lesson()}:
        assert sum(group in of_network for of_network in learned) == 2, "a network leaves out what it is measured on"
    assert len(members_of(result.network)) == 3


def test_the_class_is_found_out_of_fold_and_by_the_model():
    result = run(lesson())
    assert not result.network.training
    assert result.point.dice > 0.7
    assert [len(losses) for losses in result.losses] == [6, 6, 6]
    assert sorted(result.held_out) == sorted(slide.name for slide in lesson())
    assert result.point.bounds[0].patients == 4
    assert result.pending


@pytest.mark.parametrize(("folds", "expected"), [(3, "ABA"), (2, "AB"), (1, "AB")])
def test_the_networks_of_an_ensemble_take_turns_and_all_are_trained(folds, expected):
    def ensemble():
        first, second = build(), build()
        first.kind, second.kind = "A", "B"
        return Ensemble([first, second])

    result = run(lesson(), build=ensemble, folds=folds, tiles_per_epoch=8)
    assert "".join(network.kind for network in members_of(result.network)) == expected
    assert len(result.losses) == len(expected)
    assert len({tuple(losses) for losses in result.losses}) == len(expected)
    assert not result.network.training


def test_where_folds_are_fewer_than_networks_a_fold_is_predicted_by_several():
    result = run(lesson(), build=lambda: Ensemble([build() for _ in range(3)]), folds=2, tiles_per_epoch=8)
    assert (len(members_of(result.network)), result.folds) == (3, 2)
    assert sorted(result.held_out) == sorted(slide.name for slide in lesson())


def test_one_patient_with_polygons_gives_a_model_without_validation():
    result = run(lesson(positives=1), tiles_per_epoch=8)
    assert (result.folds, result.point.dice, result.held_out) == (0, None, ())
    assert result.point.bounds == (None,)
    assert result.point.threshold == 0.5


def test_one_fold_is_none():
    assert run(lesson(), folds=1, tiles_per_epoch=8).folds == 0


@pytest.mark.parametrize("window_px", [64, 32])
def test_a_block_is_predicted_window_by_window(window_px):
    network = nn.Conv2d(3, 1, 3, padding=1)
    block = Blocks(lesson())(0, 0)
    with torch.no_grad():
        tiles = torch.from_numpy(block.rgb).permute(2, 0, 1)[None, :, :window_px, :window_px].float() / 255
        expected = torch.sigmoid(network(tiles))[0].numpy()
    found = predict_block(network, block, window_px=window_px, device=torch.device("cpu"))
    assert found.shape == (1, 64, 64)
    assert np.allclose(found[:, :window_px, :window_px], expected, atol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_patients_are_held_out_whole_and_positive_and_negative_ones_are_spread(seed):
    regions = ReviewRegions(pending=((box(0, 0, 9, 9), 1.0),))
    slides = [training_slide(f"p{n}", regions=regions, group=f"P{n // 2}") for n in range(12)]
    slides += [training_slide(f"n{n}", positive=False, group=f"N{n // 2}") for n in range(12)]
    fold_of = assign_folds(slides, folds=3, rng=np.random.default_rng(seed))
    assert all(fold_of[index] == fold_of[index + 1] for index in range(0, 24, 2))
    assert [sorted(np.bincount(fold_of[part])) for part in (slice(12), slice(12, 24))] == [[4, 4, 4], [4, 4, 4]]


def test_a_rare_kind_of_slide_is_no_obstacle():
    regions = ReviewRegions(pending=((box(0, 0, 9, 9), 1.0),))
    slides = [training_slide(f"p{n}", regions=regions) for n in range(4)] + [training_slide("n", positive=False)]
    assert sorted(np.bincount(assign_folds(slides, folds=2, rng=np.random.default_rng(0)))) == [2, 3]
