"""Synthetic H&E-like tissue and slides with exact truth, for the demo, the tests and the shipped weights.

Images, from the parts to the whole: ``noise.py`` random fields, ``kinds.py`` the records of cells, tissue and glands,
``prior.py`` random tissues, ``zones.py`` the tissues of demo slides, ``glands.py`` the layout of zones and glands on a
canvas, ``blobs.py`` nuclei as pixels, ``stain.py`` stain and scanner, ``tissue.py`` the image of a layout,
``attributes.py`` the numbers that a network learns of it. Slides: ``regions.py`` outlines of tissue and tumour,
``slide.py`` one slide, ``pyramid.py`` its file, ``cohort.py`` a cohort, ``threshold.py`` a colour baseline.
"""
