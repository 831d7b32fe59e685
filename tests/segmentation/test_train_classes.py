"""Training on several classes: what each teaches, how they are balanced, and that they are learned apart."""

import numpy as np
import torch
from shapely import box
from torch import nn

from wsplf_cli.review.regions import ReviewRegions
from wsplf_cli.schema import Silent, TileGrid
from wsplf_cli.segmentation.cross_fit import assign_folds
from wsplf_cli.segmentation.sampling import (
    DECIDED_WEIGHT,
    FULL_WEIGHT,
    IGNORE,
    BalancedCropSampler,
    Blocks,
    ClassTargets,
    TrainingSlide,
    rasterise_targets,
)
from wsplf_cli.segmentation.train import FitSettings, fit, mean_loss, segmentation_loss

INKS = {"LUAD": (150, 60, 120), "LUSC": (110, 120, 210)}


def slide_of(name, *roles, group="", columns=2, colour=()):
    xy = np.array([[64 * column, 0] for column in range(columns)], np.int32)
    canvas = np.full((64, 64 * columns, 3), 215, np.uint8)
    for (left, top, right, bottom), ink in colour:
        canvas[top:bottom, left:right] = ink

    def read(indices):
        return np.stack([canvas[:, 64 * index : 64 * (index + 1)] for index in indices])

    grid = TileGrid(name, 64, 1.0, 64.0, xy, np.ones(columns, np.float32))
    return TrainingSlide(name, group or name, grid, read, roles)


def test_where_nobody_has_spoken_of_a_class_only_the_rejected_area_teaches_it():
    rejected = ClassTargets(False, ReviewRegions(negative=(box(0, 0, 20, 20),)), known=False)
    target, weight = rasterise_targets(rejected.regions, slide_of("a").grid, 0, known=False)
    assert (target[:20, :20] == 0).all()
    assert (weight[:20, :20] == DECIDED_WEIGHT).all()
    assert (target[22:, 22:] == IGNORE).all()
    assert slide_of("a", rejected).crop_kinds == [[frozenset({"rejected"}), frozenset()]]


def test_crops_are_as_often_of_one_class_as_of_the_other():
    first, second = (ReviewRegions(pending=((box(*bounds), 1.0),)) for bounds in ((5, 5, 40, 40), (70, 5, 100, 40)))
    common = [slide_of(f"a{n}", ClassTargets(True, first), ClassTargets(False), columns=3) for n in range(6)]
    rare = slide_of("b", ClassTargets(False), ClassTargets(True, second), columns=3)
    draw = BalancedCropSampler(Blocks([*common, rare]), side_px=32, rng=np.random.default_rng(0))
    crops = [crop.block for crop in draw(400)]
    shares = [np.mean([(crop.target[index] == 1).any() for crop in crops]) for index in (0, 1)]
    assert shares[1] > 0.7 * shares[0]


def test_every_network_has_polygons_of_each_class_to_learn_from():
    regions = ReviewRegions(pending=((box(0, 0, 9, 9), 1.0),))
    slides = [slide_of(f"a{n}", ClassTargets(True, regions), ClassTargets(False)) for n in range(8)]
    slides += [slide_of(f"b{n}", ClassTargets(False), ClassTargets(True, regions)) for n in range(2)]
    for seed in range(8):
        fold_of = assign_folds(slides, folds=3, rng=np.random.default_rng(seed))
        assert sorted(set(fold_of)) == [0, 1], "two patients have polygons of the second class"
        assert fold_of[8] != fold_of[9]


def test_the_loss_is_the_mean_over_classes_each_with_its_own_weights():
    logits = torch.randn(2, 2, 8, 8)
    target = torch.randint(0, 2, (2, 2, 8, 8), dtype=torch.uint8)
    weight = torch.full((2, 2, 8, 8), FULL_WEIGHT, dtype=torch.uint8)
    weight[:, 1] = DECIDED_WEIGHT
    target[:, 1, :4] = IGNORE
    each = [segmentation_loss(logits[:, n], target[:, n], weight=weight[:, n]) for n in (0, 1)]
    assert torch.isclose(mean_loss(logits, target, weight=weight), (each[0] + each[1]) / 2)


def test_training_separates_two_colours():
    bounds_of_slides = [
        ((10, 10, 50, 40), (70, 20, 110, 60)),
        ((5, 30, 45, 60), (80, 5, 120, 35)),
        ((12, 2, 52, 32), (66, 25, 106, 62)),
    ]
    slides = [
        slide_of(
            f"p{n}",
            *(ClassTargets(True, ReviewRegions(pending=((box(*bounds), 0.9),))) for bounds in pair),
            colour=[(pair[0], INKS["LUAD"]), (pair[1], INKS["LUSC"])],
        )
        for n, pair in enumerate(bounds_of_slides)
    ]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 1))
    settings = FitSettings(epochs=6, tile_px=32, window_px=64, batch_size=4, tiles_per_epoch=100, learning_rate=0.03)
    rng = np.random.default_rng(0)
    fit(model, slides, settings=settings, rng=rng, device=torch.device("cpu"), tracker=Silent())
    inks = torch.tensor([INKS["LUAD"], INKS["LUSC"], (215, 215, 215)]).float()[:, :, None, None] / 255
    with torch.no_grad():
        first, second, background = torch.sigmoid(model(inks.expand(3, 3, 9, 9)))[..., 4, 4]
    assert first[0] > first[1]
    assert second[1] > second[0]
    assert background.max() < min(first[0], second[1])
