"""Slide labels to a linear classifier of places, on the features of a frozen backbone.

A slide with a few tumours is positive as a whole, so its label says little of each of its places. In rounds, the
places of a positive slide that look most like tumour are taken for tumour, those that look least like it for
background, the rest is left open, and all of a negative slide is background; as CLAM does with the tiles of one slide
(Lu et al. 2021), but a slide's places are judged by classifiers that did not see the slide, else each slide's own
stain would soon pass for tumour. A place is seen together with its pool_context, as means over neighbourhoods of
``CONTEXT_SIGMAS_PX``: small ones give the outline, large ones tell a gland among tumour from one among normal tissue.
Where the tumour is a large share of what is looked at, as the surplus over the negative ones tells, the likeliest few
places show one sort of it only, and a last round takes most of what is called by then for tumour. The larger the share
of tumour is, the less is the rest sure to be background, and the more of it is left open.

The ridge is strong: what separates two handfuls of slides in many weak features is mostly the slides.

There is no gradient through the backbone: a cohort takes seconds, and slides with a small tumour count as much as
those with a large one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from wsplf_cli.weak.prevalence import PrevalenceEstimate, estimate_prevalence

#: Standard deviations of the Gaussian neighbourhoods over which features are averaged, in pixels of a tile.
CONTEXT_SIGMAS_PX = (8.0, 32.0, 96.0)
#: Of a positive slide's open places, this share is taken for tumour and that one for background in each round.
TOP_SHARE = 0.02
BOTTOM_SHARE = 0.3
ROUNDS = 4
#: From this share of tumour on (less two standard errors) there is a last round: that share of the called places of a
#: slide is taken for tumour then, and at most that one of the others for background, with less of a ridge.
_RICH = 0.2
_CALLED_SHARE = 0.8
_OTHER_SHARE = 0.95
_LAST_RIDGE = 0.1
#: Directions of most variance that are kept, and how much they are evened out: 0 as they are, 0.5 all alike.
_KEPT = 192
_EVENED = 0.25
_RIDGE = 1.0
_STEPS = 40


@dataclass(frozen=True, slots=True)
class Instances:
    """Random places of one slide: ``features`` [N, D], and what its label or a person says.

    ``known`` int8 [N]: 1 where a person says it is the class, -1 where it is not, 0 elsewhere. A slide that is not
    ``trusted`` is judged and teaches nothing.
    """

    features: NDArray[np.floating]
    positive: bool
    known: NDArray[np.int8]
    trusted: bool = True


@dataclass(frozen=True, slots=True)
class LinearProbe:
    """A linear classifier of places: ``features @ weight + bias`` is its logit. ``weight`` float32 [D]."""

    weight: NDArray[np.float32]
    bias: float

    def __call__(self, features: NDArray[np.floating]) -> NDArray[np.float32]:
        """Logits float32 [N] of features [N, D]."""
        logits: NDArray[np.float32] = features.astype(np.float32) @ self.weight + np.float32(self.bias)
        return logits


def pool_context(
    maps: NDArray[np.float32],
    rows: NDArray[np.integer],
    columns: NDArray[np.integer],
    *,
    widths: Sequence[float],
) -> NDArray[np.float16]:
    """The features of places with their pool_context, float16 [N, len(widths) * D]: of each width the D means.

    Args:
        maps: Features float32 [D, h, w], NaN where there is no tissue.
        rows: Where the places are, [N].
        columns: Likewise.
        widths: Standard deviations of the neighbourhoods, in cells.
    """
    inside = ~np.isnan(maps[0])
    filled = np.where(inside, maps, np.float32(0))
    found = []
    for width in widths:
        down, across = (_blur(size, width) for size in inside.shape)
        weight = (down @ inside.astype(np.float32) @ across)[rows, columns]
        total = np.matmul(down, filled) @ across  # [D, h, w]
        found.append((total[:, rows, columns] / np.maximum(weight, 1e-6)).T.astype(np.float16))
    return np.concatenate(found, axis=1)


def _blur(size: int, width: float) -> NDArray[np.float32]:
    """The matrix [size, size] that takes Gaussian means along an axis, symmetric."""
    apart = np.abs(np.arange(size)[:, None] - np.arange(size)[None])
    weight = np.where(apart <= 4 * width, np.exp(-0.5 * (apart / width) ** 2), 0.0)
    normed: NDArray[np.float32] = (weight / (width * np.sqrt(2 * np.pi))).astype(np.float32)
    return normed


def learn(slides: Sequence[Instances], folds: Sequence[NDArray[np.integer]]) -> list[LinearProbe]:
    """For each slide a classifier of its places that did not learn from it, the mean over several dealings.

    It learned from other slides; what is guessed there of their places may come from classifiers that saw the slide.

    The classifiers have one scale: 0 is where tumour and background are as likely, both weighing one half in learning,
    and 1 is the spread of the places of negative slides (see ``spread``).

    Args:
        slides: At least one positive and one negative that are trusted.
        folds: One or more dealings of the slides, the fold of each [len(slides)]; slides of a fold are judged by a
            classifier of the other folds, or of all where there is one fold only.
    """
    basis = _Basis([one.features for one in slides])
    reduced = [basis.reduced(one.features) for one in slides]
    weights = np.zeros((len(slides), basis.directions.shape[1]), np.float32)
    biases = np.zeros(len(slides))
    for fold_of in folds:
        fitted = _rounds(slides, reduced, fold_of)
        unit = _middle_unit(slides, reduced, fold_of, fitted)
        for fold, (weight, bias) in fitted.items():
            own = fold_of == fold
            weights[own] += weight / (unit * len(folds))
            biases[own] += bias / (unit * len(folds))
    return [basis.judge(weight, bias) for weight, bias in zip(weights, biases, strict=True)]


def score_out_of_fold(
    features: Sequence[NDArray[np.float32]],
    slides: Sequence[Instances],
    fold_of: NDArray[np.integer],
) -> list[NDArray[np.float32]]:
    """The logits of each slide's places by a classifier that did not learn from it, on the scale of ``learn``.

    ``features`` [N, K] are those of the places in few directions (see ``few_directions``).
    """
    fitted = _rounds(slides, features, fold_of)
    unit = _middle_unit(slides, features, fold_of, fitted)
    return [own / unit for own in _score_out_of_fold(features, fitted, fold_of)]


def few_directions(slides: Sequence[Instances], *, kept: int) -> list[NDArray[np.float32]]:
    """The features of each slide's places in the ``kept`` directions of most variance, float32 [N, K]."""
    basis = _Basis([one.features for one in slides])
    return [basis.reduced(one.features)[:, :kept] for one in slides]


def _middle_unit(
    slides: Sequence[Instances],
    reduced: Sequence[NDArray[np.float32]],
    fold_of: NDArray[np.integer],
    fitted: dict[int, tuple[NDArray[np.float32], float]],
) -> np.float32:
    """The middle spread of a dealing's classifiers, by which their logits are divided."""
    return np.float32(np.median([_unit(slides, reduced, fold_of, fold, own) for fold, own in fitted.items()]))


def _unit(
    slides: Sequence[Instances],
    reduced: Sequence[NDArray[np.float32]],
    fold_of: NDArray[np.integer],
    fold: int,
    fitted: tuple[NDArray[np.float32], float],
) -> float:
    """The spread of a fold's classifier on the negative slides that it did not see; on all where there is none."""
    weight, bias = fitted
    trusted = [number for number, one in enumerate(slides) if one.trusted and not one.positive]
    unseen = [number for number in trusted if fold_of[number] == fold]
    return spread([reduced[number] @ weight + bias for number in unseen or trusted])


def spread(negatives: Sequence[NDArray[np.float32]]) -> float:
    """From the middle to the upper end of the logits of one classifier on negative slides, their 95th percentile.

    Logits are divided by the middle spread of a dealing's classifiers: one alone rests on few slides. Where they are 0
    stays: the few negative slides that a classifier did not learn from say less of its centre than what it learned.
    """
    pooled = np.concatenate(negatives)
    middle, high = np.quantile(pooled, (0.5, 0.95)) if pooled.size else (0.0, 1.0)
    return float(max(high - middle, 1e-3))


class _Basis:
    """Features in the directions of most variance of the whole cohort."""

    def __init__(self, features: Sequence[NDArray[np.floating]]) -> None:
        sample = np.concatenate([one[:: max(1, len(one) // 1000)] for one in features]).astype(np.float32)
        self.centre = sample.mean(axis=0)
        self.spread = sample.std(axis=0) + np.float32(1e-3)
        even = (sample - self.centre) / self.spread
        variance, directions = np.linalg.eigh(even.T @ even / np.float32(len(even)))
        kept = np.argsort(-variance)[:_KEPT]
        self.directions = (directions[:, kept] / np.maximum(variance[kept], 1e-4) ** _EVENED).astype(np.float32)
        self.spread = self.spread.astype(np.float32)

    def reduced(self, features: NDArray[np.floating]) -> NDArray[np.float32]:
        """Features [N, D] to float32 [N, K]."""
        found: NDArray[np.float32] = ((features.astype(np.float32) - self.centre) / self.spread) @ self.directions
        return found

    def judge(self, weight: NDArray[np.float32], bias: float) -> LinearProbe:
        """The classifier of features that is ``weight`` [K] and ``bias`` on reduced ones."""
        own: NDArray[np.float32] = ((self.directions @ weight) / self.spread).astype(np.float32)
        return LinearProbe(own, float(bias - self.centre @ own))


def _rounds(
    slides: Sequence[Instances], reduced: Sequence[NDArray[np.float32]], fold_of: NDArray[np.integer]
) -> dict[int, tuple[NDArray[np.float32], float]]:
    """The classifier of each fold after ``ROUNDS`` rounds and the last one, weight [K] and bias."""
    labels = [_first_labels(one) for one in slides]
    fitted = _fit_folds(slides, reduced, labels, fold_of)
    for _ in range(ROUNDS):
        scores = _score_out_of_fold(reduced, fitted, fold_of)
        for number, one in enumerate(slides):
            if one.positive:
                labels[number] = _instance_pseudo_labels(scores[number], one.known)
        fitted = _fit_folds(slides, reduced, labels, fold_of)
    scores = _score_out_of_fold(reduced, fitted, fold_of)
    seen = _prevalence_where_rich(slides, scores)
    if seen is None:
        return fitted
    for number, one in enumerate(slides):
        if one.positive:
            labels[number] = _prevalence_pseudo_labels(scores[number], one.known, seen)
    return _fit_folds(slides, reduced, labels, fold_of, ridge=_LAST_RIDGE)


def _score_out_of_fold(
    reduced: Sequence[NDArray[np.float32]],
    fitted: dict[int, tuple[NDArray[np.float32], float]],
    fold_of: NDArray[np.integer],
) -> list[NDArray[np.float32]]:
    """The logits of each slide's places, [N] per slide, by the classifier of its fold."""
    return [one @ fitted[fold][0] + fitted[fold][1] for one, fold in zip(reduced, fold_of.tolist(), strict=True)]


def _prevalence_where_rich(
    slides: Sequence[Instances], scores: Sequence[NDArray[np.float32]]
) -> PrevalenceEstimate | None:
    """The surplus of the positive slides where tumour is no small share of them, else None."""
    positives, negatives = (
        [own for own, one in zip(scores, slides, strict=True) if one.trusted and one.positive is kind and own.size]
        for kind in (True, False)
    )
    if not positives or not negatives or estimate_prevalence(positives, negatives, errors=2.0).share < _RICH:
        return None
    return estimate_prevalence(positives, negatives, errors=1.0)


def _first_labels(places: Instances) -> NDArray[np.int8]:
    """The slide's label for each place, 1 or -1, where a person has not said otherwise."""
    own = np.full(len(places.features), 1 if places.positive else -1, np.int8)
    return np.where(places.known == 0, own, places.known)


def _instance_pseudo_labels(scores: NDArray[np.float32], known: NDArray[np.int8]) -> NDArray[np.int8]:
    """Labels int8 [N] of a positive slide's places, 0 where it is left open."""
    free = int((known == 0).sum())
    return _label_extremes(scores, known, lowest=round(BOTTOM_SHARE * free), highest=max(1, round(TOP_SHARE * free)))


def _prevalence_pseudo_labels(
    scores: NDArray[np.float32], known: NDArray[np.int8], seen: PrevalenceEstimate
) -> NDArray[np.int8]:
    """Labels int8 [N] of a positive slide's places: most of what is called tumour, and most of the rest."""
    free = int((known == 0).sum())
    called = int((scores[known == 0] >= seen.edges[seen.best]).sum())
    highest = max(round(_CALLED_SHARE * called), round(0.01 * free), 1)
    others = min(_OTHER_SHARE, 1 - seen.share**2)
    return _label_extremes(scores, known, lowest=round(others * (free - called)), highest=highest)


def _label_extremes(
    scores: NDArray[np.float32], known: NDArray[np.int8], *, lowest: int, highest: int
) -> NDArray[np.int8]:
    """What is known, and of the other places -1 for so many with the lowest scores, 1 for so many with the highest."""
    labels = known.copy()
    free = np.flatnonzero(known == 0)
    ranked = free[np.argsort(scores[free], kind="stable")]
    labels[ranked[:lowest]] = -1
    labels[ranked[-highest:]] = 1
    return labels


def _fit_folds(
    slides: Sequence[Instances],
    reduced: Sequence[NDArray[np.float32]],
    labels: Sequence[NDArray[np.int8]],
    fold_of: NDArray[np.integer],
    *,
    ridge: float = _RIDGE,
) -> dict[int, tuple[NDArray[np.float32], float]]:
    folds = np.unique(fold_of)
    trusted = np.array([one.trusted for one in slides])
    fitted = {}
    for fold in folds:
        others = np.flatnonzero(trusted & ((fold_of != fold) | (len(folds) == 1))).tolist()
        fitted[int(fold)] = _logistic(
            [reduced[number] for number in others], [labels[number] for number in others], ridge=ridge
        )
    return fitted


def _logistic(
    features: Sequence[NDArray[np.float32]], labels: Sequence[NDArray[np.int8]], *, ridge: float
) -> tuple[NDArray[np.float32], float]:
    """Ridge logistic regression on the places with a label: weight [K] and bias. Both labels weigh one half.

    A place weighs less the more places its slide has.
    """
    chosen = [own != 0 for own in labels]
    inputs = torch.from_numpy(np.concatenate([one[kept] for one, kept in zip(features, chosen, strict=True)]))
    target = torch.from_numpy(np.concatenate([own[kept] for own, kept in zip(labels, chosen, strict=True)]) > 0).float()
    shares = [np.full(kept.sum(), 1.0 / max(1, len(kept)), np.float32) for kept in chosen]
    size = torch.from_numpy(np.concatenate(shares))
    mass = torch.stack([(size * (1 - target)).sum(), (size * target).sum()]).clamp(min=1e-9)
    size = size * torch.where(target > 0, 0.5 / mass[1], 0.5 / mass[0])

    def entropy(logits: Tensor) -> Tensor:
        return (size * functional.binary_cross_entropy_with_logits(logits, target, reduction="none")).sum()

    return fit_ridge(inputs, entropy, ridge=ridge, steps=_STEPS, history=8)


def fit_ridge(
    inputs: Tensor, loss_of: Callable[[Tensor], Tensor], *, ridge: float, steps: int, history: int
) -> tuple[NDArray[np.float32], float]:
    """The weight [K] and the bias whose logits of inputs [N, K] have the least loss and ridge, by L-BFGS from zero."""
    weight = torch.zeros(inputs.shape[1], requires_grad=True)
    bias = torch.zeros(1, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=steps, history_size=history)

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = loss_of(inputs @ weight + bias) + 0.5 * ridge * weight.square().sum()
        torch.autograd.backward(value)
        return value

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    return weight.detach().numpy(), float(bias.detach())
