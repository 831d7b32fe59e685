"""The linear probes of a class: folds, the area that is searched, self-training and suspected labels in one call."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wsplf_cli.cohort.folds import fold_assignment, missing_for_folds
from wsplf_cli.cohort.slide import CohortSlide
from wsplf_cli.schema import Tracker
from wsplf_cli.weak.cam import FittedProbes
from wsplf_cli.weak.epithelium.search import SearchArea, restrict_instances
from wsplf_cli.weak.kept.alike import keep_instances
from wsplf_cli.weak.label_noise import cross_fit_with_label_noise
from wsplf_cli.weak.self_training import DEFAULT, Instances, SelfTraining, can_hold_out

#: Linear probes are quick to fit: each may learn from nearly all slides, and slides are assigned to folds repeatedly.
FOLDS = 6
REPEATS = 3


@dataclass(frozen=True, slots=True)
class ProbeSettings:
    """Only instances in the area ``search`` are learned from, by ``training``."""

    search: SearchArea
    training: SelfTraining = DEFAULT


def fit_probes(
    cohort: Sequence[CohortSlide],
    path_class: str,
    instances: Sequence[Instances],
    settings: ProbeSettings,
    *,
    rng: np.random.Generator,
    tracker: Tracker,
) -> FittedProbes:
    """Linear probes of one class for every slide, out of fold where that is possible, and suspected label errors.

    Args:
        cohort: The slides.
        path_class: The class.
        instances: Those of each slide.
        settings: Where instances are learned from, and how.
        rng: Assigns patients to folds.
        tracker: Where progress is shown.
    """
    tracker.start("linear probes", 1)
    fold_assignments = []
    for _ in range(REPEATS):
        fold_of = fold_assignment(cohort, path_class, folds=FOLDS, rng=rng)
        fold_assignments.append(np.array([fold_of[slide.entry.id] for slide in cohort], np.intp))
    epithelium = settings.search.probe
    if epithelium is not None:
        instances, reason = restrict_instances(instances, epithelium)
        if reason:
            epithelium = None
            tracker.say(reason)
    held_out = [fold_of for fold_of in fold_assignments if can_hold_out(instances, fold_of)]
    in_sample = ""
    if not held_out:
        in_sample = missing_for_folds(cohort, path_class) or "outside of a fold, a label has no instances to learn from"
        tracker.say(
            f"warning: the classifiers learn from the slides that they score ({in_sample}): figures of these slides are"
            " too good, and no label is suspected"
        )
        held_out = [np.zeros(len(cohort), np.intp)]
    probes, suspected = cross_fit_with_label_noise(instances, held_out, settings.training)
    tracker.advance(1, message=f"{len(suspected)} suspected label errors")
    ids = [slide.entry.id for slide in cohort]
    return FittedProbes(
        dict(zip(ids, probes, strict=True)),
        {ids[index]: reason for index, reason in suspected.items()},
        epithelium,
        in_sample,
        keep_instances(ids, instances, probes),
    )
