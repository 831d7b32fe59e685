import numpy as np
import pytest
import torch

from wsplf_cli.models.backbone import build_backbone
from wsplf_cli.training.places import Places, learn, sample_places, sure_scores


def cohort(share: float, *, seed: int = 0, slides: int = 6, stain: float = 0.3):
    """Places of ``slides`` positive and as many negative slides: tumour moves the first feature, stain the others."""
    rng = np.random.default_rng(seed)
    made, truths = [], []
    for number in range(2 * slides):
        positive = number < slides
        truth = (rng.random(1500) < share) & positive
        features = rng.normal(0, 1, (1500, 12)) + rng.normal(0, stain, 12) * (np.arange(12) > 0)
        features[:, 0] += 4 * truth
        made.append(Places(features.astype(np.float32), positive))
        truths.append(truth)
    return made, truths


@pytest.mark.parametrize("share", [0.03, 0.3])
def test_tumour_is_told_from_the_rest_by_slide_labels_alone(share: float) -> None:
    places, truths = cohort(share)
    weight, bias = learn(places, rng=np.random.default_rng(1))
    for one, truth in zip(places, truths, strict=True):
        scores = one.features @ weight + bias
        if one.positive:
            assert np.median(scores[truth]) > np.quantile(scores[~truth], 0.95)


def test_the_same_seed_gives_the_same_classifier() -> None:
    places, _ = cohort(0.1)
    first, second = (learn(places, rng=np.random.default_rng(7)) for _ in range(2))
    assert np.array_equal(first[0], second[0])
    assert first[1] == second[1]


def test_one_slide_of_each_kind_is_enough() -> None:
    places, truths = cohort(0.2, slides=1)
    weight, bias = learn(places, rng=np.random.default_rng(0))
    scores = places[0].features @ weight + bias
    assert scores[truths[0]].mean() > scores[~truths[0]].mean()


@pytest.mark.parametrize("share", [0.05, 0.4])
def test_sure_scores_enclose_what_is_open(share: float) -> None:
    rng = np.random.default_rng(0)
    negatives = [rng.normal(0, 1, 4000).astype(np.float32) for _ in range(5)]
    truths = [rng.random(4000) < share for _ in range(5)]
    positives = [(rng.normal(0, 1, 4000) + 3 * truth).astype(np.float32) for truth in truths]
    low, high = sure_scores(positives, negatives)
    scores, truth = np.concatenate(positives), np.concatenate(truths)
    assert low < high
    assert truth[scores >= high].mean() > 0.9
    assert truth[scores < low].mean() < 0.1


def test_slides_that_do_not_differ_leave_little_that_is_sure_tumour() -> None:
    rng = np.random.default_rng(0)
    same = [rng.normal(0, 1, 4000).astype(np.float32) for _ in range(8)]
    _, high = sure_scores(same[:4], same[4:])
    assert np.mean([(one >= high).mean() for one in same]) < 0.05


class Tiles:
    def __init__(self, count: int) -> None:
        self.tiles = np.random.default_rng(0).integers(0, 255, (count, 64, 64, 3), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self.tiles)

    def read(self, indices):
        return self.tiles[indices]


@pytest.mark.parametrize("count", [1, 30])
def test_places_are_features_of_the_backbone(count: int) -> None:
    backbone = build_backbone("small").eval()
    features = sample_places(backbone, Tiles(count), rng=np.random.default_rng(0), device=torch.device("cpu"))
    assert features.dtype == np.float32
    assert features.shape[1] == backbone.channels
    assert features.shape[0] == min(count * 64, 30 * 64)
    assert np.isfinite(features).all()
