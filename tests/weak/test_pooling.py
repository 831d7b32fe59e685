"""Means over Gaussian neighbourhoods of the tissue, for training and inference alike."""

import numpy as np
import pytest
from scipy import ndimage

from wsplf_cli.weak.pooling import masked_gaussian, pool_context


def test_context_is_the_mean_over_the_tissue_nearby_for_every_sigma() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(3, 40, 50)).astype(np.float32)
    inside = np.ones((40, 50), bool)
    inside[:, 30:] = False
    features[:, ~inside] = np.nan
    rows, columns = np.nonzero(inside)
    sigmas = (1.0, 4.0)
    pooled = pool_context(features, rows, columns, sigmas=sigmas)
    assert pooled.shape == (len(rows), 6)
    assert pooled.dtype == np.float16
    for index, sigma in enumerate(sigmas):
        weight = ndimage.gaussian_filter(inside.astype(float), sigma, mode="constant")
        for channel in range(3):
            total = ndimage.gaussian_filter(np.where(inside, features[channel], 0.0), sigma, mode="constant")
            np.testing.assert_allclose(pooled[:, 3 * index + channel], total[inside] / weight[inside], atol=2e-3)


def test_context_of_even_tissue_is_the_tissue_itself_up_to_its_edge() -> None:
    features = np.full((2, 20, 20), 3.0, np.float32)
    features[:, :7] = np.nan
    features[:, :, 15:] = np.nan
    rows, columns = np.nonzero(~np.isnan(features[0]))
    assert np.allclose(pool_context(features, rows, columns, sigmas=(1.0, 30.0)), 3.0, atol=2e-3)


def test_a_gaussian_takes_the_mean_of_tissue_nearby_and_nothing_from_elsewhere() -> None:
    logits = np.zeros((2, 30, 30), np.float32)
    logits[0, :, :10] = 8.0
    logits[1] = 3.0
    inside = np.ones((30, 30), bool)
    inside[:, 10:14] = False
    narrow, wide = (masked_gaussian(logits, inside, sigma=sigma) for sigma in (1.0, 5.0))
    assert np.isnan(narrow[:, ~inside]).all()
    np.testing.assert_allclose(wide[1, inside], 3.0, atol=1e-5)
    assert narrow[0, :, 0] == pytest.approx(8.0)
    assert narrow[0, :, 14].max() < 0.1 < wide[0, :, 14].min()


def test_a_cell_without_a_value_stays_without_one_and_counts_for_no_other() -> None:
    logits = np.full((1, 30, 30), 2.0, np.float32)
    logits[0, 5, 5] = np.nan
    smoothed = masked_gaussian(logits, np.ones((30, 30), bool), sigma=1.0)
    assert np.argwhere(np.isnan(smoothed[0])).tolist() == [[5, 5]]
    np.testing.assert_allclose(smoothed[~np.isnan(smoothed)], 2.0, atol=1e-5)


def test_training_and_inference_pool_alike() -> None:
    features = np.random.default_rng(0).normal(size=(2, 25, 30)).astype(np.float32)
    inside = np.ones((25, 30), bool)
    inside[:4, :9] = False
    features[:, ~inside] = np.nan
    rows, columns = np.nonzero(inside)
    pooled = pool_context(features, rows, columns, sigmas=(3.0,))
    smoothed = masked_gaussian(features, inside, sigma=3.0)
    np.testing.assert_allclose(pooled, smoothed[:, rows, columns].T, atol=2e-3)
