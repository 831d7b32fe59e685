import numpy as np
import pytest
import torch

from wsplf_cli.weak.linear_probe import FeatureBasis, LinearProbe, fit_logistic, fit_ridge


def test_a_probe_is_linear_and_takes_half_precision() -> None:
    probe = LinearProbe(np.array([1.0, -2.0], np.float32), 0.5)
    logits = probe(np.array([[3.0, 1.0], [0.0, 0.0]], np.float16))
    assert logits.dtype == np.float32
    assert logits.tolist() == [1.5, 0.5]


def test_a_probe_of_reduced_features_expands_to_the_same_logits() -> None:
    rng = np.random.default_rng(0)
    slides = [rng.normal(2, 3, (400, 12)).astype(np.float32) for _ in range(3)]
    basis = FeatureBasis(slides)
    weight = rng.normal(size=basis.directions.shape[1]).astype(np.float32)
    expected = basis.reduce(slides[0]) @ weight + 0.7
    np.testing.assert_allclose(basis.expand(weight, 0.7)(slides[0]), expected, atol=1e-3)


def test_both_labels_and_all_slides_weigh_alike_however_many_instances_they_have() -> None:
    """The first feature is constant: its logit is the bias, which is 0 where both labels weigh the same."""
    features = [np.zeros((count, 1), np.float32) for count in (900, 30, 50)]
    labels = [np.full(900, 1, np.int8), np.full(30, -1, np.int8), np.full(50, -1, np.int8)]
    probe = fit_logistic(features, labels, ridge=1.0)
    assert probe.bias == pytest.approx(0, abs=1e-4)


def test_instances_without_a_label_teach_nothing() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(300, 4)).astype(np.float32)
    labels = np.where(features[:, 0] > 0, 1, -1).astype(np.int8)
    labels[200:] = 0
    changed = features.copy()
    changed[200:] += 9
    first, second = (fit_logistic([inputs], [labels], ridge=1.0) for inputs in (features, changed))
    assert np.array_equal(first.weight, second.weight)
    assert first.bias == second.bias
    assert first.weight[0] > 5 * np.abs(first.weight[1:]).max()


def test_a_stronger_ridge_gives_smaller_weights() -> None:
    inputs = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    target = inputs @ torch.tensor([2.0, -1.0, 0.5])

    def loss(logits):
        return (logits - target).square().mean()

    exact, shrunk = (fit_ridge(inputs, loss, ridge=ridge, steps=50, history=8) for ridge in (0.0, 5.0))
    np.testing.assert_allclose(exact.weight, [2.0, -1.0, 0.5], atol=1e-3)
    assert np.linalg.norm(shrunk.weight) < 0.5 * np.linalg.norm(exact.weight)
