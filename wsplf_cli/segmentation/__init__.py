"""The segmentation model: trained on reviewed and pending polygons, applied to whole slides.

``sampling.py`` draws the training crops, ``train.py`` is the training loop, ``checkpoint.py`` stores a model,
``predict.py`` applies it to a slide. ``models/`` holds one file for each architecture.
"""
