"""Folds by patient: no classifier is asked about a slide of a patient that it learned from."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold

from wsplf_cli.cohort.slide import CohortSlide
from wsplf_cli.schema import Entry

#: Random splits that are tried until both labels are left outside of every fold.
_TRIES = 20


def fold_assignment(
    cohort: Sequence[CohortSlide], path_class: str, *, folds: int, rng: np.random.Generator
) -> dict[str, int]:
    """The fold of each entry id, 0 to ``folds`` - 1. Slides of one patient share a fold.

    Positive and negative slides are distributed evenly over the folds, and the slides outside of a fold hold both
    labels. There are fewer folds where a label has fewer patients than ``folds``, and a single fold where a label has
    fewer than two patients: then every classifier learns from every slide (see ``missing_for_folds``).
    """
    labels = np.array([slide.is_positive(path_class) for slide in cohort], np.int8)
    patients = np.array([slide.patient for slide in cohort])
    for count in range(min(folds, *_patients_of_labels(cohort, path_class)), 1, -1):
        for _ in range(_TRIES):
            fold_of = split_by_patient(labels, patients, count=count, seed=int(rng.integers(2**31)))
            if all(len(np.unique(labels[fold_of != fold])) == 2 for fold in range(count)):
                return {slide.entry.id: int(fold) for slide, fold in zip(cohort, fold_of, strict=True)}
    return {slide.entry.id: 0 for slide in cohort}


def missing_for_folds(cohort: Sequence[CohortSlide], path_class: str) -> str:
    """What a cohort lacks so that classifiers can be held out by patient; empty where it lacks nothing."""
    positive, negative = _patients_of_labels(cohort, path_class)
    if min(positive, negative) >= 2:
        return ""
    return (
        "two patients with a positive slide and two with negative slides only are needed; there are"
        f" {positive} and {negative}"
    )


def unknown_patients(entries: Sequence[Entry]) -> str:
    """What follows for slides whose patient is not known, for people; empty where all patients are known."""
    unknown = sum(not entry.patient for entry in entries)
    if not unknown:
        return ""
    which = "no slide names its patient" if unknown == len(entries) else f"{unknown} slides name no patient"
    return f"{which}: each of them counts as a patient of its own"


def _patients_of_labels(cohort: Sequence[CohortSlide], path_class: str) -> tuple[int, int]:
    """How many patients have a positive slide, and how many have negative slides only."""
    positive = {slide.patient for slide in cohort if slide.is_positive(path_class)}
    return len(positive), len({slide.patient for slide in cohort} - positive)


def split_by_patient(
    labels: NDArray[np.integer], patients: NDArray[np.str_], *, count: int, seed: int
) -> NDArray[np.intp]:
    """The fold of each slide, int [slides], in a random split by patient; labels are spread over the folds."""
    splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    fold_of = np.zeros(len(labels), np.intp)
    for fold, (_, in_fold) in enumerate(splitter.split(labels, labels, patients)):
        fold_of[in_fold] = fold
    return fold_of
