"""Linear probes: ridge logistic regression on dense features of a frozen backbone.

The ridge is strong. What separates two handfuls of slides in many weak features is mostly the slides themselves.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

#: Directions of most variance that are kept, and how far their variances are equalised: 0 not at all, 0.5 fully.
_KEPT_DIRECTIONS = 192
_EQUALISED = 0.25
_STEPS = 40
#: Of each slide so many instances at most describe the variance of the cohort.
_BASIS_INSTANCES = 1000


@dataclass(frozen=True, slots=True)
class LinearProbe:
    """A linear classifier of instances: ``features @ weight + bias`` is the logit. ``weight`` float32 [D]."""

    weight: NDArray[np.float32]
    bias: float

    def __call__(self, features: NDArray[np.floating]) -> NDArray[np.float32]:
        """Logits float32 [N] of features [N, D]."""
        logits: NDArray[np.float32] = features.astype(np.float32) @ self.weight + np.float32(self.bias)
        return logits


@dataclass(frozen=True, slots=True)
class ReducedProbe:
    """A linear classifier of reduced features (see ``FeatureBasis``): ``weight`` float32 [K] and ``bias``."""

    weight: NDArray[np.float32]
    bias: float

    def __call__(self, reduced: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits float32 [N] of reduced features [N, K]."""
        logits: NDArray[np.float32] = reduced @ self.weight + self.bias
        return logits


class FeatureBasis:
    """Standardised features in the directions of most variance of the whole cohort."""

    def __init__(self, features: Sequence[NDArray[np.floating]]) -> None:
        sample = np.concatenate([part[:: max(1, len(part) // _BASIS_INSTANCES)] for part in features])
        sample = sample.astype(np.float32)
        self.mean = sample.mean(axis=0)
        self.spread = sample.std(axis=0) + np.float32(1e-3)
        standardised = (sample - self.mean) / self.spread
        variance, directions = np.linalg.eigh(standardised.T @ standardised / np.float32(len(standardised)))
        kept = np.argsort(-variance)[:_KEPT_DIRECTIONS]
        scale = np.maximum(variance[kept], 1e-4) ** _EQUALISED
        self.directions = (directions[:, kept] / scale).astype(np.float32)
        self.spread = self.spread.astype(np.float32)

    def reduce(self, features: NDArray[np.floating]) -> NDArray[np.float32]:
        """Features [N, D] to float32 [N, K]."""
        reduced: NDArray[np.float32] = ((features.astype(np.float32) - self.mean) / self.spread) @ self.directions
        return reduced

    def expand(self, weight: NDArray[np.float32], bias: float) -> LinearProbe:
        """The probe of features that equals ``weight`` [K] and ``bias`` on reduced features."""
        expanded: NDArray[np.float32] = ((self.directions @ weight) / self.spread).astype(np.float32)
        return LinearProbe(expanded, float(bias - self.mean @ expanded))


def fit_logistic(
    features: Sequence[NDArray[np.float32]], labels: Sequence[NDArray[np.int8]], *, ridge: float
) -> ReducedProbe:
    """Ridge logistic regression on the labelled instances of slides. Both labels weigh one half.

    An instance weighs less the more instances its slide has.

    Args:
        features: Reduced features [N, K] of each slide.
        labels: 1, -1, or 0 for instances that are left out, [N] of each slide.
        ridge: Weight of the squared norm.
    """
    labelled = [own_labels != 0 for own_labels in labels]
    inputs = torch.from_numpy(np.concatenate([part[kept] for part, kept in zip(features, labelled, strict=True)]))
    kept_labels = np.concatenate([part[kept] for part, kept in zip(labels, labelled, strict=True)])
    target = torch.from_numpy(kept_labels > 0).float()
    weights = [np.full(kept.sum(), 1.0 / max(1, len(kept)), np.float32) for kept in labelled]
    weight = torch.from_numpy(np.concatenate(weights))
    mass = torch.stack([(weight * (1 - target)).sum(), (weight * target).sum()]).clamp(min=1e-9)
    weight = weight * torch.where(target > 0, 0.5 / mass[1], 0.5 / mass[0])

    def cross_entropy(logits: Tensor) -> Tensor:
        return (weight * functional.binary_cross_entropy_with_logits(logits, target, reduction="none")).sum()

    return fit_ridge(inputs, cross_entropy, ridge=ridge, steps=_STEPS, history=8)


def fit_ridge(
    inputs: Tensor, loss_of: Callable[[Tensor], Tensor], *, ridge: float, steps: int, history: int
) -> ReducedProbe:
    """The weight [K] and bias whose logits of inputs [N, K] have the least loss plus ridge, by L-BFGS from zero."""
    weight = torch.zeros(inputs.shape[1], requires_grad=True)
    bias = torch.zeros(1, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=steps, history_size=history)

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = loss_of(inputs @ weight + bias) + 0.5 * ridge * weight.square().sum()
        torch.autograd.backward(loss)
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    return ReducedProbe(weight.detach().numpy(), float(bias.detach()))
