"""The contract of every refiner, and what each does besides."""

import numpy as np
import pytest
import torch

from wsplf_cli.cache import Store
from wsplf_cli.networks.sam import load_sam
from wsplf_cli.options import PseudolabelOptions
from wsplf_cli.settings import options as options_of
from wsplf_cli.slides.open import open_slide
from wsplf_cli.slides.window import Window
from wsplf_cli.weak.prompts import spread
from wsplf_cli.weak.sam import refiners
from wsplf_cli.weak.sam.embeddings import Embedder

NAMES = options_of(PseudolabelOptions)["refiner"].accepted


@pytest.fixture(scope="module")
def sam():
    return load_sam("tiny", checkpoint=None, device=torch.device("cpu"))


@pytest.fixture
def slide(tiny_slide):
    with open_slide(tiny_slide) as opened:
        yield opened


def rectangle():
    cam = np.zeros((256, 256), np.float32)
    cam[60:200, 40:150] = 0.9
    return cam


@pytest.mark.parametrize("name", NAMES)
def test_every_refiner_gives_probabilities_of_the_window_and_the_same_again(name, sam, slide):
    refiner = refiners.build(name, sam=sam, embed=Embedder(sam, Store(None, most_bytes=0)), strategy=spread.build())
    assert refiner.side_px == 256
    window = Window(slide, 300.0, 200.0, 256, 1.0)
    cam = rectangle()
    first, second = (refiner(window, cam, refiner.prompts(cam, np.random.default_rng(0))) for _ in range(2))
    for layer in (first.probability, first.score, first.count):
        assert layer.shape == (256, 256)
        assert layer.dtype == np.float32
    assert first.probability.min() >= 0
    assert first.probability.max() <= 1
    assert np.array_equal(first.probability, second.probability)
    assert (first.count.max() > 0) == name.startswith("sam")
    assert bool(first.masks) == name.startswith("sam")
    assert sum((mask.mask.mask for mask in first.masks if mask.used), np.zeros((256, 256))) == pytest.approx(
        first.count
    )
    nothing = np.zeros((256, 256), np.float32)
    empty = refiner(window, nothing, refiner.prompts(nothing, np.random.default_rng(0)))
    assert empty.probability.max() == 0


def test_without_a_refiner_the_probability_is_the_cam_itself():
    cam = rectangle()
    assert refiners.CamOnly(256)(None, cam, []).probability is cam


def test_superpixels_follow_the_edge_that_the_cam_misses():
    class TwoColours:
        def read(self, x, y, *, size_px, downsample):
            rgb = np.full((*size_px, 3), 240, np.uint8)
            rgb[:, :128] = (120, 40, 130)
            return rgb

    cam = np.zeros((256, 256), np.float32)
    cam[:, :133] = 0.9  # five pixels too far
    refined = refiners.Superpixels(256)(Window(TwoColours(), 0, 0, 256, 1.0), cam, np.random.default_rng(0))
    assert np.abs((refined.probability >= 0.5).sum(axis=1) - 128).max() <= 2


def test_share_in_cam_is_what_the_paper_selects_by():
    cam = rectangle()
    assert refiners.share_in_cam(cam >= 0.5, cam) == 1
    assert refiners.share_in_cam(np.ones_like(cam, bool), cam) == pytest.approx((cam >= 0.5).mean())
    assert refiners.share_in_cam(np.zeros_like(cam, bool), cam) == 0
