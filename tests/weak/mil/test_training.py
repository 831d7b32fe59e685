"""Training of the MIL network on slide labels, and on what a person decided."""

from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray

from wsplf_cli import plugins
from wsplf_cli.networks.backbone import Backbone, small_trunk
from wsplf_cli.networks.encoder import TokenTrunk
from wsplf_cli.networks.inference import as_batch
from wsplf_cli.networks.mil import MilNetwork
from wsplf_cli.schema import Silent
from wsplf_cli.weak.mil.tile_sampling import sample_hard
from wsplf_cli.weak.mil.training import (
    Bag,
    MilSettings,
    contrast_loss,
    fit,
    known_layers,
    known_loss,
    score,
    steps_of,
    tiles_per_pass,
)


class NoiseTiles:
    """Tiles of pink noise; in a positive slide a few of them have dark dots."""

    def __init__(self, rng: np.random.Generator, *, count: int, dotted: int) -> None:
        self.tiles = rng.integers(170, 250, (count, 64, 64, 3), dtype=np.uint8)
        for tile in self.tiles[:dotted]:
            tile[4::8, 4::8] = tile[5::8, 4::8] = tile[4::8, 5::8] = tile[5::8, 5::8] = 20

    def __len__(self) -> int:
        return len(self.tiles)

    def read(self, indices: NDArray[np.integer]) -> NDArray[np.uint8]:
        return self.tiles[indices]


def cohort(seed: int, *, slides: int = 2) -> list[Bag]:
    rng = np.random.default_rng(seed)
    positive = [Bag(f"p{n}", NoiseTiles(rng, count=8, dotted=3), np.ones(1, np.float32)) for n in range(slides)]
    negative = [Bag(f"n{n}", NoiseTiles(rng, count=8, dotted=0), np.zeros(1, np.float32)) for n in range(slides)]
    return positive + negative


def network(seed: int = 0) -> MilNetwork:
    torch.manual_seed(seed)
    backbone = Backbone(small_trunk(), mean=(0.5,) * 3, std=(0.25,) * 3, adl=True)
    return MilNetwork(backbone, plugins.load("weak.heads", "gated-attention").build(backbone.channels, 1))


def train(seed: int, *, epochs: int = 4) -> MilNetwork:
    model = network(seed)
    settings = MilSettings(epochs=epochs, tiles_per_bag=8, backbone_rate=2e-3)
    rng = np.random.default_rng(seed)
    fit(model, cohort(0), settings=settings, rng=rng, track=Silent())
    return model


@pytest.fixture(scope="module")
def trained() -> dict[str, torch.Tensor]:
    """The weights of a network that has learned dots."""
    return train(0).state_dict()


def copy_of(weights: dict[str, torch.Tensor]) -> MilNetwork:
    model = network().eval()
    model.load_state_dict(weights)
    return model


def test_slide_labels_alone_teach_which_tiles_are_positive(trained) -> None:
    model = copy_of(trained)
    bag = cohort(7, slides=1)[0]
    tiles = as_batch(bag.tiles.read(np.arange(8)))
    with torch.no_grad():
        logits = model.cam(tiles).mean(dim=(1, 2, 3))
    assert logits[:3].min() > logits[3:].max()


@pytest.mark.slow
def test_same_seed_same_weights() -> None:
    first, second = train(3, epochs=1), train(3, epochs=1)
    for weight, again in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(weight, again)


def test_the_tracker_advances_as_often_as_announced() -> None:
    class Counter(Silent):
        steps = 0

        def advance(self, steps: int = 1, message: str = "") -> None:
            self.steps += steps

    counter, settings, bags = Counter(), MilSettings(epochs=1, tiles_per_bag=2, least_steps=3), cohort(0)
    fit(network(), bags, settings=settings, rng=np.random.default_rng(0), track=counter)
    assert counter.steps == steps_of(bags, settings) == 3


def reviewed(indices: NDArray[np.integer]) -> NDArray[np.float32]:
    """A person has rejected what is in the first three tiles of a slide and accepted what is in the fourth."""
    layers = np.zeros((len(indices), 2, 8, 8), np.float32)
    layers[indices < 3, 1] = 1
    layers[indices == 3, 0] = 1
    return layers


@pytest.mark.slow
def test_what_a_person_rejected_on_positive_slides_is_learned_as_negative() -> None:
    """Every positive slide has three tiles of dark dots, which a person rejects, and two of red dots."""
    margins = {}
    for known in (None, reviewed):
        bags = cohort(0)
        for bag in bags[:2]:
            tiles = bag.tiles.tiles
            tiles[3:5, 4::8, 4::8] = tiles[3:5, 5::8, 4::8] = tiles[3:5, 4::8, 5::8] = (210, 60, 60)
        bags = [replace(bag, known=known) for bag in bags[:2]] + bags[2:]
        model = network()
        settings = MilSettings(epochs=6, tiles_per_bag=8, backbone_rate=2e-3)
        fit(model, bags, settings=settings, rng=np.random.default_rng(0), track=Silent())
        batch = as_batch(bags[0].tiles.read(np.arange(8)))
        with torch.no_grad():
            logits = model.cam(batch).mean(dim=(1, 2, 3))
        margins[known is reviewed] = float(logits[3:5].mean() - logits[:3].mean())
    assert margins[False] < 0 < margins[True]


def test_known_instances_are_pushed_to_their_side_and_others_are_not() -> None:
    cam = torch.zeros(3, 1, 4, 4, requires_grad=True)
    known_loss(cam, torch.from_numpy(reviewed(np.array([2, 3, 4])))).backward()
    assert cam.grad is not None
    assert (cam.grad[0] > 0).all()
    assert (cam.grad[1] < 0).all()
    assert (cam.grad[2] == 0).all()


def test_where_nothing_is_known_the_loss_is_zero() -> None:
    assert known_layers(cohort(0)[:2], [np.arange(2), np.arange(2)]) is None
    assert known_loss(torch.randn(2, 1, 4, 4), None) == 0


def test_known_layers_of_bags_stand_in_their_order() -> None:
    first, second = cohort(0)[:2]
    known = Bag(second.entry_id, second.tiles, second.target, known=reviewed)
    layers = known_layers([first, known], [np.array([0, 1]), np.array([3, 5])])
    assert layers is not None
    assert layers.shape == (4, 2, 8, 8)
    assert layers.flatten(2).any(dim=2).tolist() == [[False, False], [False, False], [True, False], [False, False]]


def test_contrast_leaves_out_what_a_person_has_decided() -> None:
    cam = torch.zeros(3, 1, 4, 4)
    cam[0], cam[1] = 9.0, -9.0
    cam.requires_grad_()
    contrast_loss(cam, cohort(0)[0], torch.from_numpy(reviewed(np.array([2, 3, 4])))).backward()
    assert cam.grad is not None
    assert (cam.grad[:2] == 0).all()
    assert cam.grad[2].any()


def test_only_steps_of_large_tiles_are_split() -> None:
    whole = 2 * MilSettings(epochs=1).tiles_per_bag
    assert all(tiles_per_pass(side) >= whole for side in (64, 192, 224, 256))
    assert tiles_per_pass(512) == 6
    assert tiles_per_pass(10_000) == 1


def test_training_in_passes_ends_where_training_in_one_does() -> None:
    ends = []
    for most in (None, 5):
        model = network()
        settings = MilSettings(epochs=1, tiles_per_bag=4, least_steps=2, most_tiles_per_pass=most)
        generator = np.random.default_rng(0)
        torch.manual_seed(0)
        fit(model, cohort(0), settings=settings, rng=generator, track=Silent())
        ends.append(model.state_dict())
    for key, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][key], atol=1e-3, rtol=1e-2)


def test_a_frozen_encoder_is_left_as_it_is_and_its_head_learns() -> None:
    torch.manual_seed(0)
    encoder = timm.create_model("vit_tiny_patch16_224", depth=1, num_classes=0, dynamic_img_size=True)
    backbone = Backbone(TokenTrunk(encoder), mean=(0.5,) * 3, std=(0.25,) * 3, frozen=True)
    model = MilNetwork(backbone, plugins.load("weak.heads", "mean").build(backbone.channels, 1))
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    settings = MilSettings(epochs=5, tiles_per_bag=8, head_rate=2e-2, most_tiles_per_pass=8)
    fit(model, cohort(0), settings=settings, rng=np.random.default_rng(0), track=Silent())
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())
    bag = cohort(7, slides=1)[0]
    tiles = as_batch(bag.tiles.read(np.arange(8)))
    with torch.no_grad():
        logits = model.cam(tiles).mean(dim=(1, 2, 3))
    assert logits[:3].min() > logits[3:].max()


def large(seed: int, *, count: int = 90) -> list[Bag]:
    """One positive bag, whose only dotted tile is the last, and one negative bag."""
    rng = np.random.default_rng(seed)
    positive = NoiseTiles(rng, count=count, dotted=1)
    positive.tiles = np.ascontiguousarray(positive.tiles[::-1])
    return [
        Bag("p", positive, np.ones(1, np.float32)),
        Bag("n", NoiseTiles(rng, count=count, dotted=0), np.zeros(1, np.float32)),
    ]


def sampled_tiles(trained, monkeypatch: pytest.MonkeyPatch, *, score_above: int, score_most: int) -> list[list[int]]:
    """The tiles that each step takes of a positive bag, by a network that has learned dots before."""
    model, samples = copy_of(trained), []

    def recorded(logits: NDArray[np.float32], count: int, *, rng: np.random.Generator) -> NDArray[np.intp]:
        indices = sample_hard(logits, count, rng=rng)
        samples.append(indices.tolist())
        return indices

    monkeypatch.setattr("wsplf_cli.weak.mil.training.sample_hard", recorded)
    settings = MilSettings(
        epochs=3,
        tiles_per_bag=4,
        head_rate=1e-6,
        backbone_rate=1e-6,
        settle_epochs=1,
        least_steps=2,
        score_above=score_above,
        score_most=score_most,
    )
    rng = np.random.default_rng(0)
    fit(model, large(0), settings=settings, rng=rng, track=Silent())
    return samples[::2]  # the positive bag's, each before the negative one's


@pytest.mark.slow
def test_after_the_settle_epochs_the_likeliest_tile_of_a_large_slide_is_in_every_step(trained, monkeypatch) -> None:
    steps = sampled_tiles(trained, monkeypatch, score_above=80, score_most=90)
    assert len(steps) == 6
    assert [89 in step for step in steps[2:]] == [True] * 4
    monkeypatch.undo()
    steps = sampled_tiles(trained, monkeypatch, score_above=90, score_most=90)
    assert [89 in step for step in steps].count(True) < 4, "a slide of so few tiles is not scored"


@pytest.mark.slow
def test_scoring_part_of_a_slide_each_epoch_finds_the_likeliest_tile_in_its_turn(trained, monkeypatch) -> None:
    steps = sampled_tiles(trained, monkeypatch, score_above=80, score_most=45)
    assert all(89 in step for step in steps[-2:])


def test_scores_are_the_instance_logits_whatever_the_batches() -> None:
    model, bag = network().eval(), large(0, count=11)[0]
    indices = np.array([10, 3, 4, 5, 0])
    tiles = as_batch(bag.tiles.read(indices))
    with torch.no_grad():
        expected = model.cam(tiles).mean(dim=(1, 2, 3)).numpy()
    settings = MilSettings(epochs=1, tiles_per_bag=1, most_tiles_per_pass=1)
    scores = score(model, bag.tiles, indices, settings=settings)
    np.testing.assert_allclose(scores, expected, atol=1e-4)
