"""The class activation map of an affine instance head: the head applied at every location instead of to the mean."""

from torch import Tensor


def activation_map(features: Tensor, *, weight: Tensor, bias: Tensor) -> Tensor:
    """The CAM of tiles, unclipped: its mean over a tile is the tile's instance logit.

    Args:
        features: Float [B, D, h, w], the maps whose mean over h and w went into the head.
        weight: Float [C, D] of the head's instance classifier.
        bias: Float [C] of it. It is included, so that the mean is the logit itself.

    Returns:
        Float [B, C, h, w] logits.
    """
    logits: Tensor = (features.movedim(1, -1) @ weight.T + bias).movedim(-1, 1)
    return logits
