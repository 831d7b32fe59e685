"""Segment Anything in the method: the CAM prompts it, its masks refine the CAM.

``refine`` slides windows over the foreground of a CAM and joins what a refiner says of them. ``refiners`` are the ways
to do so: SAM with the CAM, SAM only, superpixels, or the CAM itself; SAM is prompted there. ``embeddings`` are computed
once. ``tuning`` tunes SAM's mask decoder on given masks, ``rounds`` on masks that SAM made itself.
"""
