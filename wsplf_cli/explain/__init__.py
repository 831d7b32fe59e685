"""Why a polygon was drawn: the facts of ``wsplf explain`` and its page. Nothing is written into the project.

In the order in which one reads it:

- ``subject``: the polygon that an id means, or what can still be said of an id.
- ``runs``: what the run that wrote it left in its folder.
- ``decisions``: what a person decided since.
- ``evidence``: the classifier at the polygon's peak, and the most alike instances on other slides.
- ``prediction``: the probabilities of a segmentation model in and around the polygon.
- ``confidence``: what the confidence is made of, in words.
- ``pictures``: the tissue with outline, CAM, SAM's masks and prompts.
- ``facts``: all of it for one polygon.
- ``page``: the HTML.
"""
