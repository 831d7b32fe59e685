"""Slide labels to a linear classifier of places, on the features of a frozen backbone.

A slide with a few tumours is positive as a whole, so its label says little of each of its places. In rounds, the
places of positive slides that no negative slide can explain are taken for tumour, the ordinary ones for background,
and the rest is left open until the next round. A slide's places are judged by classifiers that did not see the slide,
else each slide's own stain would soon pass for tumour. There is no gradient through the backbone: a cohort takes
seconds, and the many slides with a small tumour count as much as the few with a large one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from wsplf_cli.models.backbone import Backbone
from wsplf_cli.models.mil import as_batch
from wsplf_cli.runtime import autocast
from wsplf_cli.training.mil import TileSource

#: A place of a positive slide is taken for tumour from this chance of being tumour on, ...
SURE_TUMOUR = 0.9
#: ... and for background up to this one; between the two it is left open.
SURE_BACKGROUND = 0.2
ROUNDS = 3
PLACES_PER_SLIDE = 2500
TILES_PER_SLIDE = 80
_FOLDS = 3
_RIDGE = 0.3
_STEPS = 30
_BATCH = 8
#: Where bins of scores begin, as shares of all places: finer towards the top, where small tumours are.
_EDGES = np.unique(np.concatenate([np.linspace(0, 1, 41), 1 - np.geomspace(0.025, 0.001, 12)]))


@dataclass(frozen=True, slots=True)
class Places:
    """Features float32 [N, D] of random places of one slide, and whether the slide is positive."""

    features: NDArray[np.float32]
    positive: bool


@torch.no_grad()
def sample_places(
    backbone: Backbone, tiles: TileSource, *, rng: np.random.Generator, device: torch.device
) -> NDArray[np.float32]:
    """Features float32 [N, D] of random places of a slide, each averaged with its eight neighbours.

    ``backbone`` is in eval mode. Up to ``TILES_PER_SLIDE`` random tiles are read, and ``PLACES_PER_SLIDE`` of their
    places kept.
    """
    chosen = np.sort(rng.permutation(len(tiles))[:TILES_PER_SLIDE])
    per_tile = -(-PLACES_PER_SLIDE // len(chosen))
    found = []
    for first in range(0, len(chosen), _BATCH):
        with autocast(device):
            maps = backbone(as_batch(tiles.read(chosen[first : first + _BATCH])).to(device)).float()
        flat = smooth(maps).flatten(2).movedim(1, 2).cpu().numpy()  # [B, places, D]
        found += [tile[rng.permutation(len(tile))[:per_tile]] for tile in flat]
    features: NDArray[np.float32] = np.concatenate(found)
    return features


def smooth(maps: torch.Tensor) -> torch.Tensor:
    """Maps float [B, D, h, w], each place the mean of itself and its neighbours inside the map."""
    return functional.avg_pool2d(maps, 3, stride=1, padding=1, count_include_pad=False)


def learn(slides: Sequence[Places], *, rng: np.random.Generator) -> tuple[NDArray[np.float32], float]:
    """Weight float32 [D] and bias of the classifier after ``ROUNDS`` rounds: features @ weight + bias is its logit.

    Args:
        slides: At least one positive and one negative; every slide counts as much as the others of its kind.
        rng: Deals the slides out to those that judge them.
    """
    sample = np.concatenate([slide.features for slide in slides])
    centre, spread = sample.mean(axis=0), sample.std(axis=0) + np.float32(1e-3)
    features = [(slide.features - centre) / spread for slide in slides]
    positive = np.array([slide.positive for slide in slides])
    fold_of = _folds(positive, rng=rng)
    labels = [np.full(len(one), float(kind), np.float32) for one, kind in zip(features, positive, strict=True)]
    known = [np.ones(len(one), bool) for one in features]
    for _ in range(ROUNDS):
        scores = _scores_unseen(features, labels, known, fold_of=fold_of)
        low, high = sure_scores(
            [one for one, kind in zip(scores, positive, strict=True) if kind],
            [one for one, kind in zip(scores, positive, strict=True) if not kind],
        )
        for number in np.flatnonzero(positive):
            labels[number] = (scores[number] >= high).astype(np.float32)
            known[number] = (scores[number] >= high) | (scores[number] < low)
    weight, bias = _logistic(features, labels, known)
    scaled: NDArray[np.float32] = (weight / spread).astype(np.float32)
    return scaled, float(bias - centre @ scaled)


def sure_scores(
    positives: Sequence[NDArray[np.float32]], negatives: Sequence[NDArray[np.float32]]
) -> tuple[float, float]:
    """The score below which a place of a positive slide is background, and that from which it is tumour.

    By the local false discovery rate: of the places of positive slides with a score, that share is background which
    negative slides explain, whose places are spread as background is. How much of the tissue is tumour is taken from
    the largest surplus of positive slides above any score; the chance of tumour may not fall as the score rises.
    """
    edges = np.unique(np.quantile(np.concatenate([*positives, *negatives]), _EDGES))
    usual, found = (
        np.mean([np.histogram(one, edges)[0] / len(one) for one in slides], axis=0) for slides in (negatives, positives)
    )
    above = [np.append(np.cumsum(shares[::-1])[::-1], 0.0) for shares in (usual, found)]
    surplus = (above[1] - above[0]) / np.maximum(1.0 - above[0], 1e-3)
    share = float(surplus[above[0] <= 0.5].max())
    explained = (1.0 - share) * usual / np.maximum(found, 1e-9)
    tumour = np.maximum.accumulate(1.0 - np.clip(explained, 0.0, 1.0))
    background = np.flatnonzero(tumour <= SURE_BACKGROUND)
    sure = np.flatnonzero(tumour >= SURE_TUMOUR)
    high = edges[sure[0]] if len(sure) else edges[-2]
    low = edges[background[-1] + 1] if len(background) else edges[1]
    return float(min(low, high)), float(high)


def _folds(positive: NDArray[np.bool_], *, rng: np.random.Generator) -> NDArray[np.intp]:
    """The fold of each slide, dealt out evenly; all 0 where there are too few slides of a kind to hold any out."""
    fold_of = np.zeros(len(positive), np.intp)
    count = min(_FOLDS, int(positive.sum()), int((~positive).sum()))
    if count >= 2:
        for kind in (positive, ~positive):
            numbers = rng.permutation(np.flatnonzero(kind))
            fold_of[numbers] = np.arange(len(numbers)) % count
    return fold_of


def _scores_unseen(
    features: Sequence[NDArray[np.float32]],
    labels: Sequence[NDArray[np.float32]],
    known: Sequence[NDArray[np.bool_]],
    *,
    fold_of: NDArray[np.intp],
) -> list[NDArray[np.float32]]:
    """The scores of each slide's places, [N] per slide, by the classifier of the other folds."""
    folds = np.unique(fold_of)
    fitted = {}
    for fold in folds:
        chosen = np.flatnonzero((fold_of != fold) | (len(folds) == 1)).tolist()
        fitted[fold] = _logistic(
            [features[number] for number in chosen],
            [labels[number] for number in chosen],
            [known[number] for number in chosen],
        )
    return [one @ fitted[fold][0] + fitted[fold][1] for one, fold in zip(features, fold_of, strict=True)]


def _logistic(
    features: Sequence[NDArray[np.float32]], labels: Sequence[NDArray[np.float32]], known: Sequence[NDArray[np.bool_]]
) -> tuple[NDArray[np.float32], np.float32]:
    """Ridge logistic regression on the known places: weight [D] and bias. Both labels weigh one half."""
    inputs = torch.from_numpy(np.concatenate([one[kept] for one, kept in zip(features, known, strict=True)]))
    target = torch.from_numpy(np.concatenate([one[kept] for one, kept in zip(labels, known, strict=True)]))
    size = torch.from_numpy(np.concatenate([np.full(kept.sum(), 1.0 / len(kept), np.float32) for kept in known]))
    mass = torch.stack([(size * (1 - target)).sum(), (size * target).sum()]).clamp(min=1e-9)
    size = size * torch.where(target > 0, 0.5 / mass[1], 0.5 / mass[0])
    weight = torch.zeros(inputs.shape[1], requires_grad=True)
    bias = torch.zeros(1, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=_STEPS, history_size=8)

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        entropy = functional.binary_cross_entropy_with_logits(inputs @ weight + bias, target, reduction="none")
        value = (size * entropy).sum() + 0.5 * _RIDGE * weight.square().sum()
        torch.autograd.backward(value)
        return value

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    return weight.detach().numpy(), np.float32(bias.item())
