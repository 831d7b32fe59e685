"""A slide of a cohort, for the tests of the method."""

import numpy as np
import pytest

from wsplf_cli.cohort.slide import CohortSlide
from wsplf_cli.review.memory import Review
from wsplf_cli.schema import TileGrid, TissueMask


@pytest.fixture
def slide(make_entry, tiny_slide):
    """A slide of 1024 x 768 pixels at 0.5 um per pixel, with cells of 8 pixels."""

    def make(label, *, regions=None, **fields):
        entry = make_entry("a.tif", label=label, slide_path=tiny_slide, **fields)
        grid = TileGrid(entry.id, 64, 1.0, 64.0, np.zeros((0, 2), np.int32), np.zeros(0, np.float32))
        review = Review(entry.id, (), regions or {})
        return CohortSlide(entry, 0.5, TissueMask(np.ones((96, 128), bool), 8.0), grid, review)

    return make
