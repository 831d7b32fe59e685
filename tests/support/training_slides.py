"""Slides to train on that are made of arrays, for the tests of sampling and training."""

import numpy as np

from wsplf_cli.review.regions import ReviewRegions
from wsplf_cli.schema import TileGrid
from wsplf_cli.segmentation.sampling import ClassTargets, TrainingSlide

SIDE = 64


def training_slide(name, *, regions=None, group="", positive=True, columns=2, colour=None):
    """A row of blocks of 64 pixels at 1 um; inside ``colour``, boxes in level-0 pixels, the slide is dark."""
    xy = np.array([[SIDE * column, 0] for column in range(columns)], np.int32)
    grid = TileGrid(name, SIDE, 1.0, float(SIDE), xy, np.ones(columns, np.float32))
    canvas = np.full((SIDE, SIDE * columns, 3), 215, np.uint8)
    for left, top, right, bottom in colour or []:
        canvas[top:bottom, left:right] = (120, 70, 140)

    def read(indices):
        return np.stack([canvas[:, SIDE * index : SIDE * (index + 1)] for index in indices])

    return TrainingSlide(name, group or name, grid, read, (ClassTargets(positive, regions or ReviewRegions()),))
