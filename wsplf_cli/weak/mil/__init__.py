"""The fine-tuned way: MIL networks trained through the backbone on bags of tiles.

``training`` fits one network to slide labels, ``tile_sampling`` chooses the tiles of a bag, ``ensemble`` trains one
network per fold and puts their logits on one scale.
"""
