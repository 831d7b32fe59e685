"""Instances that a run keeps, in the features that its linear probes used, and the search for the most alike ones."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsplf_cli.weak.linear_probe import FeatureBasis, LinearProbe
from wsplf_cli.weak.self_training import Instances, feature_basis

#: Bytes of the instances of a class that a run keeps. With more slides, fewer instances of each are kept.
MOST_BYTES = 8_000_000
_BYTES_PER_VALUE = 2


@dataclass(frozen=True, slots=True)
class KeptInstances:
    """Instances of the slides of a run, for one class.

    Args:
        basis: Turns features of the backbone with their context into those that the probes were fitted in.
        entry_ids: The slides.
        slide_of: int32 [N], the index in ``entry_ids``.
        centres_px0: float32 [N, 2], (x, y) in level-0 pixels.
        features: float16 [N, K], in the basis.
        logits: float32 [N], each of the probe that did not learn from the slide.
    """

    basis: FeatureBasis
    entry_ids: tuple[str, ...]
    slide_of: NDArray[np.int32]
    centres_px0: NDArray[np.float32]
    features: NDArray[np.float16]
    logits: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Alike:
    """An instance that is like another: its cosine ``similarity`` -1..1, and its out-of-fold logit."""

    entry_id: str
    centre_px0: tuple[float, float]
    similarity: float
    logit: float


def keep_instances(
    entry_ids: Sequence[str],
    slides: Sequence[Instances],
    probes: Sequence[LinearProbe],
    *,
    most_bytes: int = MOST_BYTES,
) -> KeptInstances | None:
    """Instances to keep of each slide: half of them those with the highest logits, half spread over the others.

    None where the instances do not say where they are.

    Args:
        entry_ids: The slides.
        slides: The instances that the probes were fitted on.
        probes: The out-of-fold probe of each slide.
        most_bytes: Bytes of features to keep.
    """
    if any(slide.centres_px0 is None for slide in slides):
        return None
    basis = feature_basis(slides)
    most = max(2, most_bytes // (_BYTES_PER_VALUE * basis.directions.shape[1] * len(slides)))
    slide_of, centres_px0, features, logits = [], [], [], []
    for index, (slide, probe) in enumerate(zip(slides, probes, strict=True)):
        assert slide.centres_px0 is not None
        scores = probe(slide.features)
        chosen = _highest_and_spread(scores, most=most)
        slide_of.append(np.full(len(chosen), index, np.int32))
        centres_px0.append(slide.centres_px0[chosen])
        features.append(basis.reduce(slide.features[chosen]).astype(np.float16))
        logits.append(scores[chosen])
    return KeptInstances(
        basis,
        tuple(entry_ids),
        np.concatenate(slide_of),
        np.concatenate(centres_px0),
        np.concatenate(features),
        np.concatenate(logits),
    )


def most_alike(
    query: NDArray[np.float32],
    kept: KeptInstances,
    entry_ids: Sequence[str],
    *,
    count: int,
    apart_px0: Callable[[str], float],
) -> list[Alike]:
    """The instances with the highest cosine similarity, from as many slides as there are.

    A slide gives a second one only where there are fewer slides than ``count``, and then from another neighbourhood.

    Args:
        query: Features float32 [K] in the basis.
        kept: The instances to search.
        entry_ids: The slides to search.
        count: Instances to return; fewer where there are not as many.
        apart_px0: For a slide, the least distance between two instances of it.
    """
    allowed = np.isin(kept.slide_of, [index for index, entry_id in enumerate(kept.entry_ids) if entry_id in entry_ids])
    rows = np.flatnonzero(allowed)
    features = kept.features[rows].astype(np.float32)
    norms = np.linalg.norm(features, axis=1) * max(float(np.linalg.norm(query)), 1e-9)
    similarity = features @ query / np.maximum(norms, 1e-9)
    order = np.argsort(-similarity, kind="stable").tolist()
    chosen: list[int] = []
    for several_of_a_slide in (False, True):
        for position in order:
            if len(chosen) == count:
                break
            row = int(rows[position])
            of_slide = [other for other in chosen if kept.slide_of[other] == kept.slide_of[row]]
            least = apart_px0(kept.entry_ids[kept.slide_of[row]])
            near = any(np.linalg.norm(kept.centres_px0[other] - kept.centres_px0[row]) < least for other in of_slide)
            if not near and (several_of_a_slide or not of_slide):
                chosen.append(row)
    similarity_of: Mapping[int, float] = dict(zip(rows.tolist(), similarity.tolist(), strict=True))
    instances = [
        Alike(
            kept.entry_ids[kept.slide_of[row]],
            (float(kept.centres_px0[row, 0]), float(kept.centres_px0[row, 1])),
            similarity_of[row],
            float(kept.logits[row]),
        )
        for row in chosen
    ]
    return sorted(instances, key=lambda alike: -alike.similarity)


def _highest_and_spread(scores: NDArray[np.float32], *, most: int) -> NDArray[np.intp]:
    """Indices of at most ``most`` instances: the highest half by score, and every n-th of the others."""
    if len(scores) <= most:
        return np.arange(len(scores))
    ranked = np.argsort(-scores, kind="stable")
    highest, others = ranked[: most // 2], np.sort(ranked[most // 2 :])
    spread = np.linspace(0, len(others) - 1, most - most // 2).astype(np.intp)
    return np.sort(np.concatenate([highest, others[spread]]))
