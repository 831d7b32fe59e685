"""Conformal risk control: what the mean loss of some patients says of a new one (Angelopoulos et al., ICLR 2024).

A loss lies in 0..1, falls while a threshold rises, and patients weigh alike. For a new patient who is exchangeable with
the n patients whose mean loss is at most r at a threshold chosen for that, the expected loss is at most
(n r + 1) / (n + 1).
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def patients_needed(alpha: float) -> int:
    """The number of patients from which on ``alpha`` itself can be guaranteed."""
    return math.ceil(1 / alpha - 1 - 1e-9)


def highest_mean(alpha: float, *, patients: int) -> float:
    """The mean loss that so many patients are held to, so that the bound is ``alpha``.

    With fewer than ``patients_needed`` no mean gives that bound, and it is ``alpha`` itself.
    """
    return ((patients + 1) * alpha - 1) / patients if patients >= patients_needed(alpha) else alpha


def guaranteed(mean: float, *, patients: int) -> float:
    """The bound on the expected loss of a new patient, where so many patients were held to that mean."""
    return min(1.0, (patients * mean + 1) / (patients + 1))


def patient_weights(patients: Sequence[str]) -> tuple[NDArray[np.float64], int]:
    """The weight of each slide so that patients weigh alike, float64 [slides], sum 1; and the number of patients."""
    names, of_patient = np.unique(patients, return_inverse=True)
    return 1 / (len(names) * np.bincount(of_patient)[of_patient]), len(names)
