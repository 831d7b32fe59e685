import pytest
import torch

from wsplf_cli.networks.adl import AttentionDropout


def test_eval_mode_is_the_identity() -> None:
    features = torch.rand(2, 3, 4, 4)
    assert AttentionDropout().eval()(features) is features


def test_drop_mask_hides_the_most_attended_place_only() -> None:
    features = torch.full((1, 2, 3, 3), 0.1)
    features[0, :, 1, 2] = 1.0
    dropped = AttentionDropout(drop_rate=1.0).train()(features)
    assert dropped[0, :, 1, 2].abs().sum() == 0
    dropped[0, :, 1, 2] = 1.0
    torch.testing.assert_close(dropped, features)


def test_importance_map_weights_by_the_sigmoid_of_the_attention() -> None:
    features = torch.randn(2, 4, 3, 3)
    weighted = AttentionDropout(drop_rate=0.0).train()(features)
    torch.testing.assert_close(weighted, features * torch.sigmoid(features.mean(dim=1, keepdim=True)))


def test_one_coin_for_the_whole_batch() -> None:
    torch.manual_seed(0)
    layer = AttentionDropout(drop_rate=0.5).train()
    features = torch.rand(8, 2, 4, 4) + 0.5
    for _ in range(20):
        zeros = (layer(features) == 0).flatten(1).any(dim=1)
        assert zeros.all() or not zeros.any()


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_gradient_passes(rate: float) -> None:
    features = torch.rand(1, 2, 4, 4, requires_grad=True)
    AttentionDropout(drop_rate=rate).train()(features).sum().backward()
    assert features.grad is not None
    assert features.grad.abs().sum() > 0
