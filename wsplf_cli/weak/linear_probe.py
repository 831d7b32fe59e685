"""Linear probes: ridge logistic regression on dense features of a frozen backbone.

The ridge is strong. What separates two handfuls of slides in many weak features is mostly the slides themselves.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

#: Directions of most variance that are kept of each backbone, and how far their variances are equalised: 0 not at all,
#: 0.5 fully.
_KEPT_DIRECTIONS = 192
_EQUALISED = 0.25
#: Added to the standard deviation, so that a feature that hardly varies is not blown up.
_LEAST_SPREAD = 1e-3
#: Of each slide so many instances at most describe the variance of the cohort.
_BASIS_INSTANCES = 1000
#: The fit is finished when the gradient is smaller than this, or after so many steps.
_TOLERANCE = 1e-5
_MOST_STEPS = 200


@dataclass(frozen=True, slots=True)
class LinearProbe:
    """A linear classifier of instances: ``features @ weight + bias`` is the logit. ``weight`` float32 [D]."""

    weight: NDArray[np.float32]
    bias: float

    def __call__(self, features: NDArray[np.floating]) -> NDArray[np.float32]:
        """Logits float32 [N] of features [N, D]."""
        logits: NDArray[np.float32] = features.astype(np.float32) @ self.weight + np.float32(self.bias)
        return logits


def mean_probe(probes: Collection[LinearProbe]) -> LinearProbe:
    """The probe whose logits are the mean of those of some probes; at least one."""
    weight = np.stack([probe.weight for probe in probes]).mean(axis=0).astype(np.float32)
    return LinearProbe(weight, float(np.mean([probe.bias for probe in probes])))


@dataclass(frozen=True, slots=True)
class FeatureBasis:
    """Standardised features in the directions of most variance of the whole cohort.

    ``mean`` and ``spread`` are float32 [D], ``directions`` float32 [D, K]. Each backbone of several has directions of
    its own, as many as any other, so that none dominates by the number of its features.
    """

    mean: NDArray[np.float32]
    spread: NDArray[np.float32]
    directions: NDArray[np.float32]

    @classmethod
    def of(cls, features: Sequence[NDArray[np.floating]], *, blocks: Sequence[int] = ()) -> "FeatureBasis":
        """The basis of the features of each slide.

        Args:
            features: [N, D] of each slide.
            blocks: The channels of each backbone, whose features stand side by side for each neighbourhood; none for a
                single backbone.
        """
        sample = np.concatenate([part[:: max(1, len(part) // _BASIS_INSTANCES)] for part in features])
        sample = sample.astype(np.float32)
        scaler = StandardScaler().fit(sample)
        mean = np.asarray(scaler.mean_, np.float32)
        spread = np.asarray(scaler.scale_, np.float32) + np.float32(_LEAST_SPREAD)
        standardised = (sample - mean) / spread
        block_of = np.resize(np.repeat(np.arange(max(1, len(blocks))), blocks or 1), sample.shape[1])
        directions, variances = [], []
        for block in np.unique(block_of):
            of_block = standardised[:, block_of == block]
            pca = PCA(min(_KEPT_DIRECTIONS, *of_block.shape), svd_solver="covariance_eigh").fit(of_block)
            weights = np.zeros((sample.shape[1], len(pca.components_)), np.float32)
            weights[block_of == block] = pca.components_.T / np.maximum(pca.explained_variance_, 1e-4) ** _EQUALISED
            directions.append(weights)
            variances.append(pca.explained_variance_)
        falling = np.argsort(-np.concatenate(variances), kind="stable")
        return cls(mean, spread, np.concatenate(directions, axis=1)[:, falling])

    def reduce(self, features: NDArray[np.floating]) -> NDArray[np.float32]:
        """Features [N, D] to float32 [N, K]."""
        standardised = (features.astype(np.float32) - self.mean) / self.spread
        return np.asarray(standardised @ self.directions, np.float32)

    def expand(self, weight: NDArray[np.float32], bias: float) -> LinearProbe:
        """The probe of features that equals ``weight`` [K] and ``bias`` on reduced features."""
        return unscaled(LinearProbe((self.directions @ weight).astype(np.float32), bias), self.mean, self.spread)


def fit_labelled(
    features: Sequence[NDArray[np.float32]], labels: Sequence[NDArray[np.int8]], *, ridge: float
) -> LinearProbe:
    """A probe of the labelled instances of slides. Both labels weigh one half.

    An instance weighs less the more instances its slide has.

    Args:
        features: Reduced features [N, K] of each slide.
        labels: 1, -1, or 0 for instances that are left out, [N] of each slide.
        ridge: Weight of the squared norm.
    """
    labelled = [slide_labels != 0 for slide_labels in labels]
    kept_features = np.concatenate([part[kept] for part, kept in zip(features, labelled, strict=True)])
    positive = np.concatenate([part[kept] for part, kept in zip(labels, labelled, strict=True)]) > 0
    weight = np.concatenate([np.full(kept.sum(), 1.0 / max(1, len(kept))) for kept in labelled])
    mass = np.where(positive, weight[positive].sum(), weight[~positive].sum())
    return fit_logistic(kept_features, positive, 0.5 * weight / np.maximum(mass, 1e-9), ridge=ridge)


def fit_logistic(
    features: NDArray[np.float32], positive: NDArray[np.bool_], weight: NDArray[np.float64], *, ridge: float
) -> LinearProbe:
    """Ridge logistic regression: the least weighted cross-entropy plus half of ``ridge`` times the squared norm.

    Args:
        features: [N, K].
        positive: [N]; both labels occur.
        weight: [N], of the instances.
        ridge: Weight of the squared norm.
    """
    model = LogisticRegression(C=1.0 / ridge, tol=_TOLERANCE, max_iter=_MOST_STEPS)
    with threadpool_limits(1):  # a step is short: two threads wait for each other, and take three times as long
        model.fit(features, positive, sample_weight=weight)
    return LinearProbe(model.coef_[0].astype(np.float32), float(model.intercept_[0]))


def unscaled(probe: LinearProbe, mean: NDArray[np.float32], spread: NDArray[np.float32]) -> LinearProbe:
    """The probe of features that equals a probe of ``(features - mean) / spread``."""
    weight: NDArray[np.float32] = (probe.weight / spread).astype(np.float32)
    return LinearProbe(weight, float(probe.bias - mean @ weight))
