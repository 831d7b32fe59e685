"""The places of a cohort's slides: sampled, learned from, and each slide judged by what did not learn from it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from wsplf_cli.cohort.run import for_each_entry
from wsplf_cli.cohort.slide import CohortSlide, folds_of, require_kinds
from wsplf_cli.networks.backbone import Backbone
from wsplf_cli.review.regions import known_area
from wsplf_cli.schema import Entry, EntryResult, Tracker
from wsplf_cli.weak.dense import DenseInference, Part, blocks_of, cells_of, infer_map, smooth
from wsplf_cli.weak.epithelium import learned_from
from wsplf_cli.weak.label_noise import search_mislabelled, suspects
from wsplf_cli.weak.linear_probe import CONTEXT_SIGMAS_PX, Instances, LinearProbe, learn, pool_context

#: Of a slide, and of all slides together, but for a few hundred of each.
PLACES_PER_SLIDE = 2500
MOST_PLACES = 400_000
LEAST_PLACES = 300
#: The linear classifiers cost little: each may learn from nearly all slides, and slides are dealt out several times.
FOLDS = 6
DEALINGS = 3
#: Up to so many slides, sets of them are left out on trial to find labels that do not fit (see ``search_mislabelled``).
FEW_SLIDES = 24
#: How often labels may be doubted, and trusted again.
MOST_PASSES = 3
#: Of all slides, so many of each kind are newly doubted in one pass, and so many at all.
_DOUBTED_SHARE = 0.05
_MOST_DOUBTED_SHARE = 0.15
#: Cells on a side of a region from which places are taken, and how many regions of a slide are looked at.
REGION = 256
MOST_REGIONS = 6
_MOST_VALUES = 64_000_000
"""Features of a region: of wide backbones the regions are smaller."""


@dataclass(frozen=True, slots=True)
class SampledInstances:
    """For each class the places of each entry id, whose features are the same for all classes.

    A slide that cannot be read has none; ``results`` says so.
    """

    places: Sequence[Mapping[str, Instances]]
    results: Sequence[EntryResult]


@dataclass(frozen=True, slots=True)
class FittedProbes:
    """The classifier of each entry id's places, and the entries whose label it doubts, with why.

    ``layer`` tells the epithelium that they are held to; None: they judge all tissue.
    """

    judges: Mapping[str, LinearProbe]
    suspects: Mapping[str, str]
    layer: LinearProbe | None = None


def sample_instances(
    views: Sequence[Sequence[CohortSlide]],
    backbone: Backbone,
    *,
    looking: Mapping[str, DenseInference],
    rng: np.random.Generator,
    tracker: Tracker,
) -> SampledInstances:
    """Look at places of all slides.

    Args:
        views: The slides as each class sees them, in the same order.
        backbone: In eval mode.
        looking: How each entry's slide is looked at.
        rng: Chooses places.
        tracker: Where progress is told.
    """
    by_id = {slide[0].entry.id: slide for slide in zip(*views, strict=True)}
    most = min(PLACES_PER_SLIDE, max(LEAST_PLACES, MOST_PLACES // len(by_id)))
    places: list[dict[str, Instances]] = [{} for _ in views]

    def take(entry: Entry) -> Mapping[str, float]:
        found = sample(by_id[entry.id], backbone, looking=looking[entry.id], most=most, rng=rng)
        for own, one in zip(places, found, strict=True):
            own[entry.id] = one
        return {}

    results = for_each_entry([one.entry for one in views[0]], take, tracker=tracker, name="places")
    return SampledInstances(places, results)


def fit_probes(
    prepared: Sequence[CohortSlide],
    places: Mapping[str, Instances],
    *,
    results: Sequence[EntryResult],
    layer: LinearProbe | None = None,
    rng: np.random.Generator,
    tracker: Tracker,
) -> FittedProbes:
    """Learn a class from slide labels, and find the slides whose label does not fit what is seen on them.

    Args:
        prepared: The slides as the class sees them; those without places are left out.
        places: Those of each entry id.
        results: Of the sampling.
        layer: Tells epithelium: only that is learned from. None: all tissue is.
        rng: Deals the slides out.
        tracker: Where progress is told.

    Raises:
        ProjectError: no slide of one of the kinds can be read.
    """
    usable = [one for one in prepared if one.entry.id in places]
    require_kinds(usable, results)
    tracker.start("classifiers of places", 1)
    dealt = [_dealt(usable, rng) for _ in range(DEALINGS)]
    taken = [places[one.entry.id] for one in usable]
    if layer is not None:
        taken, why_not = learned_from(taken, layer)
        if why_not:
            layer = None
            tracker.say(why_not)
    judges, doubts = cross_fit_with_label_noise(taken, dealt)
    tracker.advance(1, message=f"{len(doubts)} labels doubted")
    ids = [one.entry.id for one in usable]
    return FittedProbes(
        dict(zip(ids, judges, strict=True)), {ids[number]: why for number, why in doubts.items()}, layer
    )


def cross_fit_with_label_noise(
    places: Sequence[Instances], dealt: Sequence[NDArray[np.integer]]
) -> tuple[list[LinearProbe], dict[int, str]]:
    """A classifier for each slide, and the slides whose label is doubted (see ``suspects``): they teach nothing.

    Of many slides, those that look like the other kind: a wrong label makes the others doubtful, so that in each pass
    only the most doubtful slides of each kind are left out; then all are judged anew, and what was left out may be
    trusted again.
    """
    if len(places) <= FEW_SLIDES:
        odd = search_mislabelled(places, dealt, most=_most(len(places)))
        return learn([replace(one, trusted=number not in odd) for number, one in enumerate(places)], dealt), odd
    doubts: dict[int, str] = {}
    judges = learn(places, dealt)
    few = max(1, round(_DOUBTED_SHARE * len(places)))
    for _ in range(MOST_PASSES):
        found = suspects(
            [judge(one.features) for judge, one in zip(judges, places, strict=True)],
            positive=[one.positive for one in places],
            certain=[bool(one.known.any()) for one in places],
        )
        new = [number for number in found if number not in doubts]
        new = [
            number
            for kind in (True, False)
            for number in [number for number in new if places[number].positive is kind][:few]
        ]
        doubted = [number for number in found if number in doubts or number in new][: _most(len(places))]
        if set(doubted) == doubts.keys():
            break
        doubts = {number: found[number] for number in doubted}
        judges = learn([replace(one, trusted=number not in doubts) for number, one in enumerate(places)], dealt)
    return judges, doubts


def _most(slides: int) -> int:
    return max(1, round(_MOST_DOUBTED_SHARE * slides))


def cam(
    one: CohortSlide, backbone: Backbone, judges: Sequence[LinearProbe], looking: DenseInference
) -> NDArray[np.float32]:
    """Each classifier's logits of each place of a slide, float32 [C, rows, columns], NaN where there is no tissue.

    Means over neighbourhoods and the classifiers are linear: each width's share of the logit is looked at first, and
    averaged then. All classifiers look at once.
    """
    stacked = np.concatenate([judge.weight.reshape(len(CONTEXT_SIGMAS_PX), -1) for judge in judges])
    weights = torch.from_numpy(stacked).to(looking.device)

    def shares(tiles: Tensor) -> Tensor:
        features = backbone(tiles)
        with torch.autocast(looking.device.type, enabled=False):  # weights in half precision would move the logits
            return functional.conv2d(features.float(), weights[:, :, None, None])

    found = infer_map(one.slide(), one.tissue, shares, looking, channels=len(stacked))
    inside = ~np.isnan(found[0])
    logits = np.empty((len(judges), *inside.shape), np.float32)
    for own, judge, layers in zip(logits, judges, np.split(found, len(judges)), strict=True):
        parts = [smooth(layers[n : n + 1], inside, width=width)[0] for n, width in enumerate(_widths(looking))]
        own[:] = np.stack(parts).sum(axis=0) + np.float32(judge.bias)
    return logits


def sample(
    views: Sequence[CohortSlide],
    backbone: Backbone,
    *,
    looking: DenseInference,
    rng: np.random.Generator,
    most: int | None = None,
) -> list[Instances]:
    """Random places of a slide, about ``most`` (``PLACES_PER_SLIDE``), and what a person has said of them.

    ``views`` are the slide as each class sees it; the places of all have the same features.
    """
    most = PLACES_PER_SLIDE if most is None else most
    one = views[0]
    slide = one.slide()
    inside = cells_of(one.tissue, shape=looking.shape(slide), downsample=looking.downsample)
    regions = _regions(inside, _side(backbone.channels), rng)
    tissue = np.array([inside[region.slices].sum() for region in regions])
    features = [np.zeros((0, len(CONTEXT_SIGMAS_PX) * backbone.channels), np.float16)]
    known: list[list[NDArray[np.int8]]] = [[np.zeros(0, np.int8)] for _ in views]
    for region, share in zip(regions, tissue / max(1, tissue.sum()), strict=True):
        rows, columns = np.nonzero(inside[region.slices])
        chosen = rng.permutation(len(rows))[: round(most * share)]
        maps = infer_map(slide, one.tissue, backbone, looking, channels=backbone.channels, part=region)
        features.append(pool_context(maps, rows[chosen], columns[chosen], widths=_widths(looking)))
        for own, view in zip(known, views, strict=True):
            own.append(_known(view, region, looking.downsample)[rows[chosen], columns[chosen]])
    joined = np.concatenate(features)
    return [Instances(joined, view.positive, np.concatenate(own)) for own, view in zip(known, views, strict=True)]


def _dealt(prepared: Sequence[CohortSlide], rng: np.random.Generator) -> NDArray[np.intp]:
    fold_of = folds_of(prepared, folds=FOLDS, rng=rng)
    return np.array([fold_of[one.entry.id] for one in prepared], np.intp)


def _widths(looking: DenseInference) -> list[float]:
    """The widths of the neighbourhoods in cells."""
    return [width / looking.stride for width in CONTEXT_SIGMAS_PX]


def _side(channels: int) -> int:
    """Cells on a side of a region, so that its features fit into memory."""
    return int(min(REGION, np.sqrt(_MOST_VALUES / channels)))


def _regions(inside: NDArray[np.bool_], side: int, rng: np.random.Generator) -> list[Part]:
    """Squares that cover the tissue, or ``MOST_REGIONS`` of them, those with more tissue more often."""
    found = list(blocks_of(inside, side, Part(0, inside.shape[0], 0, inside.shape[1])))
    if len(found) <= MOST_REGIONS:
        return found
    tissue = np.array([inside[part.slices].sum() for part in found], float)
    chosen = rng.choice(len(found), size=MOST_REGIONS, replace=False, p=tissue / tissue.sum())
    return [found[number] for number in np.sort(chosen)]


def _known(one: CohortSlide, region: Part, downsample: float) -> NDArray[np.int8]:
    """What a person's review says of the cells of a region, int8: 1 the class, -1 not the class, 0 nothing."""
    decided, refused = known_area(
        one.review.regions,
        origin_px0=(region.left * downsample, region.top * downsample),
        downsample=downsample,
        size_px=(region.right - region.left, region.bottom - region.top),
    )
    return decided.astype(np.int8) - refused.astype(np.int8)
