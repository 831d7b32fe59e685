"""Tuning of SAM's decoder on given masks, some of them wrong."""

import numpy as np
import pytest
import torch

from wsplf_cli.networks.sam import load_sam
from wsplf_cli.schema import Prompt
from wsplf_cli.weak.prompts import sampled, spread
from wsplf_cli.weak.sam.tuning import Example, TuneSettings, overlap_loss, robust_loss, target_of, tune


@pytest.fixture(scope="module")
def sam():
    return load_sam("tiny", checkpoint=None, device=torch.device("cpu"))


def square(top, left, side, *, size=64):
    mask = np.zeros((size, size), bool)
    mask[top : top + side, left : left + side] = True
    return mask


def example(sam, target, *, seed=0):
    rgb = np.random.default_rng(seed).integers(0, 256, (256, 256, 3), np.uint8)
    rgb[np.kron(target, np.ones((4, 4), bool))] //= 3
    embedding = sam.embed(rgb)[0].numpy().astype(np.float16)
    cam = np.where(target, np.float32(0.9), np.float32(0.05))
    return Example(lambda: embedding, cam, target, np.ones(target.shape, np.float32))


def iou(sam, window):
    (prompt,) = spread.build()(window.cam, np.random.default_rng(0))
    logits, _ = sam.logits(torch.from_numpy(window.embedding()).float(), [prompt], window_px=64)
    mask = logits[0, 0].detach().numpy() > 0
    return (mask & window.target).sum() / (mask | window.target).sum()


@pytest.mark.parametrize("robust", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_tuning_learns_the_masks_and_leaves_the_sam_that_it_started_from(sam, robust, recorder):
    examples = [example(sam, square(8 + 6 * n, 12 + 5 * n, 20), seed=n) for n in range(4)]
    before = {name: value.clone() for name, value in sam.network.state_dict().items()}
    tuned = sam.with_own_decoder()
    settings = TuneSettings(epochs=12, rate=1e-3, robust=robust)
    rng = np.random.default_rng(0)
    curve = tune(tuned, examples, strategy=spread.build(), settings=settings, rng=rng, track=recorder)
    assert recorder.steps == 12
    assert curve.loss[-1] < 0.7 * curve.loss[0]
    before_iou, after_iou = (np.mean([iou(network, window) for window in examples]) for network in (sam, tuned))
    assert 1 - after_iou < 0.8 * (1 - before_iou)
    assert all(torch.equal(value, before[name]) for name, value in sam.network.state_dict().items())
    assert tuned.network.image_encoder is sam.network.image_encoder
    assert tuned.encoder_digest() == sam.encoder_digest()


def test_a_window_that_prompts_nothing_teaches_nothing(sam, recorder):
    empty = Example(
        lambda: pytest.fail("not needed"), *(np.zeros((64, 64), kind) for kind in (np.float32, bool, np.float32))
    )
    tuned = sam.with_own_decoder()
    settings = TuneSettings(epochs=1)
    rng = np.random.default_rng(0)
    curve = tune(tuned, [empty], strategy=sampled.build(), settings=settings, rng=rng, track=recorder)
    assert np.isnan(curve.loss).all()
    assert recorder.steps == 1


def test_the_robust_loss_gives_way_where_a_confident_decoder_is_contradicted():
    logits = torch.full((1, 1, 8, 8), -6.0)
    logits[..., :4] = 6.0
    logits.requires_grad_()
    target = torch.zeros(1, 1, 8, 8)
    target[..., :4] = 1
    target[..., 7, 7] = 1  # one wrong pixel
    gradients = []
    for loss in (robust_loss, lambda *args: torch.nn.functional.binary_cross_entropy_with_logits(*args[:2])):
        loss(logits, target, torch.ones_like(target)).sum().backward()
        gradients.append(logits.grad[0, 0, 7, 7].abs().item())
        logits.grad = None
    assert gradients[0] < 0.1 * gradients[1]


@pytest.mark.parametrize("loss", [robust_loss, overlap_loss])
def test_pixels_of_no_weight_do_not_count(loss):
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 8, 8, generator=rng)
    target = (torch.rand(2, 1, 8, 8, generator=rng) > 0.5).float()
    weight = torch.ones_like(target)
    weight[..., :3] = 0
    other = logits.clone()
    other[..., :3] = -other[..., :3]
    assert torch.allclose(loss(logits, target, weight), loss(other, target, weight))
    assert loss(logits, target, weight).shape == (2, 4)


def test_a_prompt_for_one_component_learns_that_component_and_nothing_of_the_others():
    both = square(4, 4, 16) | square(40, 40, 16)
    window = Example(lambda: None, np.where(both, np.float32(0.9), np.float32(0)), both, np.ones((64, 64), np.float32))
    target, weight = target_of(Prompt(np.array([[10.5, 10.5]], np.float32), np.ones(1, np.int8)), window)
    assert np.array_equal(target, square(4, 4, 16))
    assert (weight[square(40, 40, 16)] == 0).all()
    assert (weight[~square(40, 40, 16)] == 1).all()
