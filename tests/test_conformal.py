import numpy as np
import pytest

from wsplf_cli.conformal import guaranteed, highest_mean, patient_weights, patients_needed


@pytest.mark.parametrize(("alpha", "patients"), [(0.01, 99), (0.05, 19), (0.1, 9), (0.5, 1)])
def test_from_the_needed_number_of_patients_on_the_bound_is_alpha(alpha, patients):
    assert patients_needed(alpha) == patients
    for count in (patients, patients + 1, 10 * patients):
        assert guaranteed(highest_mean(alpha, patients=count), patients=count) == pytest.approx(alpha)


def test_with_fewer_patients_the_mean_is_alpha_and_the_bound_is_higher():
    assert highest_mean(0.01, patients=6) == 0.01
    assert guaranteed(0.01, patients=6) == pytest.approx(1.06 / 7)


def test_patients_weigh_alike_however_many_slides_they_have():
    weights, patients = patient_weights(["b", "a", "b", "b"])
    assert patients == 2
    assert weights.tolist() == pytest.approx([1 / 6, 1 / 2, 1 / 6, 1 / 6])


def test_the_bound_holds_on_average_for_a_new_patient():
    # losses of 40 patients: one in ten has a false polygon of a random peak that covers all of its tissue
    rng = np.random.default_rng(0)
    peaks = np.where(rng.random((4000, 40)) < 0.1, rng.random((4000, 40)), 0)
    most = highest_mean(0.05, patients=39)
    losses = []
    for *known, new in peaks:
        candidates = [0.0, *sorted(known), 1.0]
        chosen = next(peak for peak in candidates if np.mean(np.array(known) > peak) <= most)
        losses.append(new > chosen)
    assert np.mean(losses) < 0.05 + 3 * np.sqrt(0.05 / 4000)
