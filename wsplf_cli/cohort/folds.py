"""Folds by patient: no classifier is asked about a slide of a patient that it learned from."""

from collections.abc import Sequence

import numpy as np

from wsplf_cli.cohort.slide import CohortSlide


def fold_assignment(
    cohort: Sequence[CohortSlide], path_class: str, *, folds: int, rng: np.random.Generator
) -> dict[str, int]:
    """The fold of each entry id, 0 to ``folds`` - 1. Slides of one patient share a fold.

    Positive and negative patients are distributed evenly over the folds. There are fewer folds where a label has fewer
    patients than ``folds``, and a single fold where a label has fewer than two patients: then every classifier learns
    from every slide.
    """
    patients: dict[str, list[CohortSlide]] = {}
    for slide in cohort:
        patients.setdefault(slide.patient, []).append(slide)
    positive = [slides for slides in patients.values() if any(slide.is_positive(path_class) for slide in slides)]
    negative = [slides for slides in patients.values() if not any(slide.is_positive(path_class) for slide in slides)]
    count = min(folds, len(positive), len(negative))
    if count < 2:
        return {slide.entry.id: 0 for slide in cohort}
    fold_of: dict[str, int] = {}
    for group in (positive, negative):
        for rank, patient in enumerate(rng.permutation(len(group))):
            fold_of |= {slide.entry.id: rank % count for slide in group[patient]}
    return fold_of
