"""Folds by patient: no classifier is asked about a slide of a patient that it learned from."""

from collections.abc import Sequence

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from wsplf_cli.cohort.slide import CohortSlide


def fold_assignment(
    cohort: Sequence[CohortSlide], path_class: str, *, folds: int, rng: np.random.Generator
) -> dict[str, int]:
    """The fold of each entry id, 0 to ``folds`` - 1. Slides of one patient share a fold.

    Positive and negative slides are distributed evenly over the folds. There are fewer folds where a label has fewer
    patients than ``folds``, and a single fold where a label has fewer than two patients: then every classifier learns
    from every slide.
    """
    labels = np.array([slide.is_positive(path_class) for slide in cohort], np.int8)
    patients = np.array([slide.patient for slide in cohort])
    positive = set(patients[labels == 1])
    count = min(folds, len(positive), len(set(patients) - positive))
    if count < 2:
        return {slide.entry.id: 0 for slide in cohort}
    splitter = StratifiedGroupKFold(count, shuffle=True, random_state=int(rng.integers(2**31)))
    fold_of: dict[str, int] = {}
    for fold, (_, in_fold) in enumerate(splitter.split(labels, labels, patients)):
        fold_of |= {cohort[index].entry.id: fold for index in in_fold}
    return fold_of
