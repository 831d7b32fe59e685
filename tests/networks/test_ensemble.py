import torch
from torch import nn

from wsplf_cli.networks.ensemble import Ensemble


def test_an_ensemble_gives_the_mean_of_the_logits_of_its_members():
    torch.manual_seed(0)
    members = [nn.Conv2d(3, 2, 3, padding=1) for _ in range(3)]
    tiles = torch.rand(2, 3, 8, 8)
    expected = sum(member(tiles) for member in members) / 3
    assert torch.allclose(Ensemble(members)(tiles), expected, atol=1e-6)
