"""A trained model for other programs: ONNX, TorchScript, or a folder as on the Hugging Face Hub, each with its card.

``write.py`` writes an export, ``formats`` has one file for each format, ``card.py`` the model card. ``portable.py``
turns a segmentation model into a network of few operators, which other programs have: RGB float32 [B, 3, H, W] in
0..255 goes in, the probability of each class float32 [B, C, H, W] comes out. ``onnx_model.py`` reads an ONNX file
again, for ``wsplf segment``.
"""
