import copy

import pytest
import torch
from torch import nn

from wsplf_cli.networks.state import average_weights, weights_digest


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))


def test_the_average_forgets_faster_in_the_first_steps_and_never_below_its_decay():
    model = network()
    averaged = average_weights(model, decay=0.6, warm_up=3)
    expected = model[0].weight.detach().clone()
    for step in range(1, 10):
        with torch.no_grad():
            model[0].weight.add_(1.0)
        averaged.update_parameters(model)
        expected = expected.lerp(model[0].weight.detach(), 1 - min(0.6, step / (step + 3)))
        torch.testing.assert_close(averaged.module[0].weight.detach(), expected)


def test_statistics_of_batch_normalisation_are_averaged_and_counts_are_copied():
    model = network()
    averaged = average_weights(model, decay=0.5)
    model(torch.rand(2, 3, 4, 4))
    averaged.update_parameters(model)
    assert averaged.module[1].num_batches_tracked == 1
    moved = model[1].running_mean * (1 - 1 / 11)
    torch.testing.assert_close(averaged.module[1].running_mean, moved)
    assert not averaged.module.training


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_before_the_first_step_the_average_is_the_network(decay):
    model = network()
    averaged = average_weights(model, decay=decay)
    assert all(torch.equal(value, averaged.module.state_dict()[key]) for key, value in model.state_dict().items())


def test_the_digest_is_that_of_the_weights():
    torch.manual_seed(0)
    first = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    same = copy.deepcopy(first)
    assert weights_digest(first) == weights_digest(same)
    with torch.no_grad():
        same[0].bias[0] += 1e-6
    assert weights_digest(first) != weights_digest(same)
