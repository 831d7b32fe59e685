"""One file for each architecture of the segmentation model.

A model computes logits float [B, C, H, W] of RGB tiles float [B, 3, H, W] in 0..1. Each file has
``build(classes, *, pretrained=True, weights=None, **settings) -> torch.nn.Module``; with ``pretrained=False`` it reads
no file, because all weights come from a checkpoint. ``settings(options)`` gives the arguments of ``build`` that follow
from the options of ``wsplf train``, ``weights(options)`` the file that it starts from.
"""
