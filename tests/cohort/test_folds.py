"""Folds: a patient is never split, and both labels are spread evenly."""

import numpy as np
import pytest

from wsplf_cli.cohort.folds import fold_assignment, missing_for_folds, unknown_patients
from wsplf_cli.cohort.slide import CohortSlide
from wsplf_cli.schema import TileGrid, TissueMask


@pytest.fixture
def slide(make_entry):
    def make(*, positive, patient=""):
        entry = make_entry(label={"Tumor"} if positive else set(), metadata={"patient": patient} if patient else {})
        grid = TileGrid(entry.id, 64, 1.0, 64.0, np.zeros((0, 2), np.int32), np.zeros(0, np.float32))
        return CohortSlide(entry, 1.0, TissueMask(np.ones((4, 4), bool), 8.0), grid)

    return make


def assignment(cohort, *, folds=3, seed=0):
    return fold_assignment(cohort, "Tumor", folds=folds, rng=np.random.default_rng(seed))


@pytest.mark.parametrize("seed", range(20))
def test_slides_of_one_patient_share_a_fold(slide, seed):
    rng = np.random.default_rng(seed)
    cohort = [slide(positive=bool(rng.random() < 0.5), patient=f"P{rng.integers(8)}") for _ in range(30)]
    fold_of = assignment(cohort, seed=seed)
    assert set(fold_of) == {entry.entry.id for entry in cohort}
    for patient in {cohort_slide.patient for cohort_slide in cohort}:
        folds = {fold_of[cohort_slide.entry.id] for cohort_slide in cohort if cohort_slide.patient == patient}
        assert len(folds) == 1


def test_a_slide_without_a_patient_is_a_patient_of_its_own(slide):
    cohort = [slide(positive=index < 6) for index in range(12)]
    assert len({cohort_slide.patient for cohort_slide in cohort}) == 12
    assert set(assignment(cohort).values()) == {0, 1, 2}


def test_both_labels_are_spread_evenly_over_the_folds(slide):
    cohort = [slide(positive=index < 7) for index in range(16)]
    fold_of = assignment(cohort)
    for positive in (True, False):
        ids = [entry.entry.id for entry in cohort if entry.is_positive("Tumor") is positive]
        counts = np.bincount([fold_of[entry_id] for entry_id in ids], minlength=3)
        assert counts.max() - counts.min() <= 1


def test_there_are_no_more_folds_than_patients_of_a_label(slide):
    cohort = [slide(positive=index < 2) for index in range(9)]
    assert set(assignment(cohort, folds=6).values()) == {0, 1}


@pytest.mark.parametrize("positives", [1, 8])
def test_where_a_label_has_a_single_patient_there_is_one_fold(slide, positives):
    cohort = [slide(positive=index < positives) for index in range(9)]
    assert set(assignment(cohort).values()) == {0}
    both = [slide(positive=True, patient="P"), slide(positive=True, patient="P"), *cohort[-1:], slide(positive=False)]
    assert set(assignment(both).values()) == {0}


def test_a_patient_with_a_positive_slide_counts_as_positive(slide):
    cohort = [slide(positive=index < 2, patient=f"P{index % 2}") for index in range(4)]
    cohort += [slide(positive=False) for _ in range(2)]
    fold_of = assignment(cohort, folds=2)
    assert {fold_of[cohort_slide.entry.id] for cohort_slide in cohort[:2]} == {0, 1}
    assert {fold_of[cohort_slide.entry.id] for cohort_slide in cohort[4:]} == {0, 1}


@pytest.mark.parametrize("seed", range(60))
def test_both_labels_are_left_outside_of_every_fold(slide, seed):
    rng = np.random.default_rng(seed)
    cohort = [
        slide(positive=bool(rng.random() < 0.5), patient=f"P{patient}")
        for patient in range(rng.integers(3, 7))
        for _ in range(rng.integers(1, 9))
    ]
    fold_of = assignment(cohort, folds=6, seed=seed)
    for fold in set(fold_of.values()) if len(set(fold_of.values())) > 1 else ():
        others = {one.is_positive("Tumor") for one in cohort if fold_of[one.entry.id] != fold}
        assert others == {True, False}


def test_two_and_two_slides_of_four_patients_are_held_out_one_by_one(slide):
    cohort = [slide(positive=index < 2, patient=f"P{index}") for index in range(4)]
    assert missing_for_folds(cohort, "Tumor") == ""
    fold_of = list(assignment(cohort, folds=6).values())
    assert set(fold_of[:2]) == set(fold_of[2:]) == {0, 1}


def test_what_is_missing_for_folds_is_said(slide):
    cohort = [slide(positive=True, patient="P"), slide(positive=True, patient="P"), *(slide(positive=False),) * 3]
    assert missing_for_folds(cohort, "Tumor") == (
        "two patients with a positive slide and two with negative slides only are needed; there are 1 and 1"
    )


def test_slides_without_a_patient_are_named(slide, make_entry):
    named, unnamed = slide(positive=True, patient="P").entry, slide(positive=True).entry
    assert unknown_patients([named]) == ""
    assert unknown_patients([named, unnamed]).startswith("1 slides name no patient")
    assert unknown_patients([unnamed]).startswith("no slide names its patient")
    assert make_entry(metadata={"Patient ": " P7 "}).patient == "P7"


def test_the_same_generator_gives_the_same_folds(slide):
    cohort = [slide(positive=index < 6) for index in range(12)]
    assert assignment(cohort, seed=1) == assignment(cohort, seed=1)
    assert any(assignment(cohort, seed=1) != assignment(cohort, seed=seed) for seed in range(2, 6))
