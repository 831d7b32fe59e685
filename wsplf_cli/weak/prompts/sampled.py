"""The paper's prompts: 50 positive points drawn with the CAM as probability, no negative point, one prompt a tile."""

import numpy as np
from numpy.typing import NDArray

from wsplf_cli.schema import Prompt
from wsplf_cli.weak.prompts import FOREGROUND, Strategy

POINTS = 50


def build() -> Strategy:
    """The strategy."""
    return prompt


def prompt(cam: NDArray[np.float32], rng: np.random.Generator) -> list[Prompt]:
    """One prompt of 50 positive points where the CAM float32 [h, w] is foreground, or none."""
    rows, columns = np.nonzero(cam >= FOREGROUND)
    if len(rows) == 0:
        return []
    weight = cam[rows, columns].astype(np.float64)
    drawn = rng.choice(len(rows), size=POINTS, replace=len(rows) < POINTS, p=weight / weight.sum())
    points = np.stack([columns[drawn], rows[drawn]], axis=1) + 0.5
    return [Prompt(points_px=points.astype(np.float32), point_labels=np.ones(POINTS, np.int8))]
