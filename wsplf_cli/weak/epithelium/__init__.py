"""Epithelium: where tumour is searched for.

``search`` says where, restricts instances and logits to it. ``layer`` gives the linear layer that tells epithelium with
the features of a backbone: the shipped one, or one that it trains on synthetic tissue and keeps for later runs.
"""
