import numpy as np
import pytest

from wsplf_cli.weak.linear_probe import FeatureBasis, LinearProbe, fit_labelled, fit_logistic, unscaled


def test_a_probe_is_linear_and_takes_half_precision() -> None:
    probe = LinearProbe(np.array([1.0, -2.0], np.float32), 0.5)
    logits = probe(np.array([[3.0, 1.0], [0.0, 0.0]], np.float16))
    assert logits.dtype == np.float32
    assert logits.tolist() == [1.5, 0.5]


def test_a_probe_of_reduced_features_expands_to_the_same_logits() -> None:
    rng = np.random.default_rng(0)
    slides = [rng.normal(2, 3, (400, 12)).astype(np.float32) for _ in range(3)]
    basis = FeatureBasis.of(slides)
    weight = rng.normal(size=basis.directions.shape[1]).astype(np.float32)
    expected = basis.reduce(slides[0]) @ weight + 0.7
    np.testing.assert_allclose(basis.expand(weight, 0.7)(slides[0]), expected, atol=1e-3)


def test_each_backbone_has_directions_of_its_own() -> None:
    """Two neighbourhoods of a backbone with 2 channels beside one with 40, whose features are all alike."""
    rng = np.random.default_rng(1)
    narrow, wide = rng.normal(size=(500, 2, 2)), rng.normal(size=(500, 2, 1)) + 0.1 * rng.normal(size=(500, 2, 40))
    features = np.concatenate([narrow, wide], axis=2).reshape(500, 84).astype(np.float32)
    basis = FeatureBasis.of([features], blocks=(2, 40))
    of_narrow = np.tile(np.repeat([True, False], [2, 40]), 2)
    mixed = (basis.directions[of_narrow] != 0).any(axis=0) & (basis.directions[~of_narrow] != 0).any(axis=0)
    assert not mixed.any()
    assert (basis.directions[of_narrow] != 0).any(axis=0).sum() == 4
    variances = basis.reduce(features).var(axis=0)
    assert (np.diff(variances) <= 1e-3).all()  # the first directions are the best of all backbones
    np.testing.assert_allclose(basis.reduce(features).mean(axis=0), 0, atol=1e-2)


def test_both_labels_and_all_slides_weigh_alike_however_many_instances_they_have() -> None:
    """The first feature is constant: its logit is the bias, which is 0 where both labels weigh the same."""
    features = [np.zeros((count, 1), np.float32) for count in (900, 30, 50)]
    labels = [np.full(900, 1, np.int8), np.full(30, -1, np.int8), np.full(50, -1, np.int8)]
    probe = fit_labelled(features, labels, ridge=1.0)
    assert probe.bias == pytest.approx(0, abs=1e-4)


def test_instances_without_a_label_teach_nothing() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(300, 4)).astype(np.float32)
    labels = np.where(features[:, 0] > 0, 1, -1).astype(np.int8)
    labels[200:] = 0
    changed = features.copy()
    changed[200:] += 9
    first, second = (fit_labelled([inputs], [labels], ridge=1.0) for inputs in (features, changed))
    assert np.array_equal(first.weight, second.weight)
    assert first.bias == second.bias
    assert first.weight[0] > 5 * np.abs(first.weight[1:]).max()


def test_a_stronger_ridge_gives_smaller_weights() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(500, 3)).astype(np.float32)
    positive = features @ np.array([2.0, -1.0, 0.5]) + rng.normal(size=500) > 0
    weight = np.full(500, 1 / 500)
    weak, strong = (fit_logistic(features, positive, weight, ridge=ridge) for ridge in (1e-3, 1.0))
    assert np.corrcoef(weak.weight, [2.0, -1.0, 0.5])[0, 1] > 0.98
    assert np.linalg.norm(strong.weight) < 0.5 * np.linalg.norm(weak.weight)


def test_the_fit_has_the_least_loss() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(200, 2)).astype(np.float32)
    positive = features[:, 0] + rng.normal(size=200) > 0
    weight = rng.random(200) / 100
    probe = fit_logistic(features, positive, weight, ridge=0.1)

    def loss(coefficients, bias):
        logits = features @ coefficients + bias
        entropy = np.logaddexp(0, np.where(positive, -logits, logits))
        return float((weight * entropy).sum() + 0.05 * (coefficients**2).sum())

    least = loss(probe.weight, probe.bias)
    for step in ([0.01, 0, 0], [-0.01, 0, 0], [0, 0.01, 0], [0, -0.01, 0], [0, 0, 0.01], [0, 0, -0.01]):
        assert loss(probe.weight + np.array(step[:2]), probe.bias + step[2]) > least


def test_a_probe_of_standardised_features_becomes_one_of_the_features() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(3, 2, (50, 4)).astype(np.float32)
    mean, spread = features.mean(axis=0), features.std(axis=0)
    probe = LinearProbe(rng.normal(size=4).astype(np.float32), 0.3)
    expected = probe((features - mean) / spread)
    np.testing.assert_allclose(unscaled(probe, mean, spread)(features), expected, atol=1e-5)
