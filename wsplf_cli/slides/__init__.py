"""Slides: opening and reading them, the tissue on them, and the grid of tiles over it. No torch here.

``open.py`` opens a slide and reads any region at any scale; ``properties.py`` reads what the slide's file says.
``entry.py`` gives the slide and the pixel size of an entry of a project. ``transforms.py`` reads images that QuPath
derives from a slide. ``direct.py`` reads a slide's file past all this, to prove that it is read right. ``tissue.py``
finds the tissue, ``grid.py`` lays tiles over it and reads them.
"""
