import numpy as np
import pytest
import torch

from wsplf_cli.cache import Store
from wsplf_cli.networks.sam import load_sam
from wsplf_cli.slides.open import open_slide
from wsplf_cli.weak.prompts import spread
from wsplf_cli.weak.sam import refiners
from wsplf_cli.weak.sam.embeddings import Embedder, as_tensor
from wsplf_cli.weak.sam.refine import Window


@pytest.fixture(scope="module")
def sam():
    return load_sam("tiny", checkpoint=None, device=torch.device("cpu"))


@pytest.fixture
def slide(tiny_slide):
    with open_slide(tiny_slide) as opened:
        yield opened


def window(slide, x_px0=300.0):
    return Window(slide, x_px0, 200.0, 256, 1.0)


def half():
    cam = np.zeros((256, 256), np.float32)
    cam[60:200, 40:150] = 0.9
    return cam


@pytest.mark.parametrize("name", refiners.NAMES)
def test_every_refiner_votes_in_the_window_and_the_same_again(name, sam, slide):
    built = refiners.build(name, sam=sam, embed=Embedder(sam, Store(None, most_bytes=0)), strategy=spread.build())
    assert built.side_px == 256
    first, second = (built(window(slide), half(), np.random.default_rng(0)) for _ in range(2))
    for layer in (first.vote, first.score, first.count):
        assert layer.shape == (256, 256)
        assert layer.dtype == np.float32
    assert first.vote.min() >= 0
    assert first.vote.max() <= 1
    assert np.array_equal(first.vote, second.vote)
    assert (first.count.max() > 0) == name.startswith("sam")
    nothing = built(window(slide), np.zeros((256, 256), np.float32), np.random.default_rng(0))
    assert nothing.vote.max() == 0


def test_no_refiner_is_the_cam_itself():
    cam = half()
    assert refiners.CamAlone(256)(None, cam, np.random.default_rng(0)).vote is cam


def test_superpixels_follow_the_edge_that_the_cam_misses():
    class Halves:
        def read(self, x, y, *, size_px, downsample):
            rgb = np.full((*size_px, 3), 240, np.uint8)
            rgb[:, :128] = (120, 40, 130)
            return rgb

    cam = np.zeros((256, 256), np.float32)
    cam[:, :133] = 0.9  # five pixels too far
    vote = refiners.Superpixels(256)(Window(Halves(), 0, 0, 256, 1.0), cam, np.random.default_rng(0)).vote >= 0.5
    assert np.abs(vote.sum(axis=1) - 128).max() <= 2


def test_an_embedding_is_computed_once_for_all_epochs_and_runs(sam, slide, tmp_path):
    first = Embedder(sam, Store(tmp_path, most_bytes=10**8))
    made = first(window(slide))
    assert np.array_equal(made, first(window(slide)))
    assert first.computed == 1
    assert made.dtype == np.float16
    later = Embedder(sam.with_own_decoder(), Store(tmp_path, most_bytes=10**8))
    assert np.array_equal(made, later(window(slide)))
    assert later.computed == 0
    exact = sam.embed(window(slide).read())[0]
    assert torch.allclose(as_tensor(made, torch.device("cpu")), exact, atol=2e-2, rtol=1e-2)


def test_another_place_scale_or_encoder_is_another_embedding(sam, slide, tmp_path):
    embed = Embedder(sam, Store(tmp_path, most_bytes=10**8))
    embed(window(slide))
    embed(window(slide, x_px0=310.0))
    embed(Window(slide, 300.0, 200.0, 256, 2.0))
    assert embed.computed == 3
    other = load_sam("tiny", checkpoint=None, device=torch.device("cpu"))
    with torch.no_grad():
        next(iter(other.network.image_encoder.parameters())).add_(1e-3)
    changed = Embedder(other, Store(tmp_path, most_bytes=10**8))
    changed(window(slide))
    assert changed.computed == 1


def test_share_in_cam_is_what_the_paper_selects_by():
    cam = half()
    assert refiners.share_in_cam(cam >= 0.5, cam) == 1
    assert refiners.share_in_cam(np.ones_like(cam, bool), cam) == pytest.approx((cam >= 0.5).mean())
    assert refiners.share_in_cam(np.zeros_like(cam, bool), cam) == 0
