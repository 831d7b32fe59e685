"""The attention-based dropout layer (Choe and Shim, CVPR 2019), which EP-SAM puts into a classifier's last stages."""

import torch
from torch import Tensor, nn


class AttentionDropout(nn.Module):
    """In training mode hides the locations with the highest attention, or weights all of them; identity in eval mode.

    The attention is the mean over channels, one map per tile. One random number per forward pass decides for the whole
    batch. With probability ``drop_rate``, locations above ``threshold`` times the map's maximum are set to zero, which
    makes the network use more than the most discriminative part. Otherwise the features are weighted by the sigmoid of
    the attention. The layer has no parameters.

    Args:
        drop_rate: Probability of the drop mask, 0..1 (0.75 in the papers).
        threshold: Share of the maximum above which a location is dropped, 0..1 (0.8 in the paper of EP-SAM).
    """

    def __init__(self, *, drop_rate: float = 0.75, threshold: float = 0.8) -> None:
        super().__init__()
        self.drop_rate = drop_rate
        self.threshold = threshold

    def forward(self, features: Tensor) -> Tensor:
        """Features float [B, D, h, w] to the same shape."""
        if not self.training:
            return features
        attention = features.mean(dim=1, keepdim=True)
        if torch.rand(()) < self.drop_rate:
            limit = self.threshold * attention.amax(dim=(2, 3), keepdim=True)
            return features * (attention < limit).to(features.dtype)
        return features * torch.sigmoid(attention)
