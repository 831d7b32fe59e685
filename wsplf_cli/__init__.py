"""wsplf: weakly supervised pseudo-labels for whole-slide images, in and out of QuPath projects."""

__version__ = "0.4.0"
