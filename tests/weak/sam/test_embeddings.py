"""Embeddings of windows: computed once, and never mixed up."""

import numpy as np
import pytest
import torch

from wsplf_cli.cache import Store
from wsplf_cli.networks.sam import load_sam
from wsplf_cli.slides.open import open_slide
from wsplf_cli.slides.window import Window
from wsplf_cli.weak.sam.embeddings import Embedder, as_tensor


@pytest.fixture(scope="module")
def sam():
    return load_sam("tiny", checkpoint=None, device=torch.device("cpu"))


@pytest.fixture
def slide(tiny_slide):
    with open_slide(tiny_slide) as opened:
        yield opened


def window(slide, x_px0=300.0):
    return Window(slide, x_px0, 200.0, 256, 1.0)


def test_an_embedding_is_computed_once_for_all_epochs_and_runs(sam, slide, tmp_path):
    embed = Embedder(sam, Store(tmp_path, most_bytes=10**8))
    embedding = embed(window(slide))
    assert np.array_equal(embedding, embed(window(slide)))
    assert embed.computed == 1
    assert embedding.dtype == np.float16
    later = Embedder(sam.with_own_decoder(), Store(tmp_path, most_bytes=10**8))
    assert np.array_equal(embedding, later(window(slide)))
    assert later.computed == 0
    exact = sam.embed(window(slide).read())[0]
    assert torch.allclose(as_tensor(embedding, torch.device("cpu")), exact, atol=2e-2, rtol=1e-2)


def test_another_position_scale_or_encoder_is_another_embedding(sam, slide, tmp_path):
    embed = Embedder(sam, Store(tmp_path, most_bytes=10**8))
    embed(window(slide))
    embed(window(slide, x_px0=310.0))
    embed(Window(slide, 300.0, 200.0, 256, 2.0))
    assert embed.computed == 3
    other = load_sam("tiny", checkpoint=None, device=torch.device("cpu"))
    with torch.no_grad():
        next(iter(other.network.image_encoder.parameters())).add_(1e-3)
    of_other = Embedder(other, Store(tmp_path, most_bytes=10**8))
    of_other(window(slide))
    assert of_other.computed == 1
