"""Everything built of torch that knows no slide and no project, only arrays and tensors.

``backbone.py``: tiles to feature maps, by a small CNN, any timm CNN or a frozen encoder (``encoder.py``: vision
transformers; ``hub.py``: models in the local cache of the Hugging Face hub). ``adl.py``: the attention-based dropout
layer. ``mil.py``: backbone and MIL head in one network; ``bag.py``: what every head takes and returns; ``cam.py``: the
class activation map. ``sam.py``: Segment Anything. ``augment.py``: random changes of training tiles. ``state.py``:
weights in and out of networks, and their average. ``weights.py``: the weights files that wsplf knows (no torch).
``device.py``: device, seeds, mixed precision and peak memory.
"""
