"""One file is one segmentation model, from tiles float [B, 3, H, W] (RGB, 0..1) to logits float [B, C, H, W].

Each file has ``build(classes, *, pretrained=True, weights=None, **settings) -> torch.nn.Module``; with
``pretrained=False`` it reads no file, since all weights come from a checkpoint. ``settings(options)`` says which of
the options of ``wsplf train`` it is built with, ``weights(options)`` from which file it starts.
"""
