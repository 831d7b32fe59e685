"""Device and seeds."""

import numpy as np
import pytest
import torch

from wsplf_cli.errors import ConfigError
from wsplf_cli.runtime import autocast, pick_device, seed_everything


def test_auto_is_cuda_or_cpu():
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_a_device_that_is_not_there_is_a_clear_error(name, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=f"--device {name}") as caught:
        pick_device(name)
    assert caught.value.hint == "--device auto"


def test_unknown_device_is_a_clear_error():
    with pytest.raises(ConfigError, match="unknown device"):
        pick_device("tpu")


def test_the_same_seed_gives_the_same_numbers_everywhere():
    def draw():
        rng = seed_everything(7)
        return rng.random(), torch.rand(1).item(), np.random.random()  # noqa: NPY002

    assert draw() == draw()
    assert seed_everything(8).random() != draw()[0]


def test_autocast_changes_nothing_on_the_cpu():
    with autocast(torch.device("cpu")):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
