"""Device and seeds."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from wsplf_cli.errors import ConfigError
from wsplf_cli.networks.device import autocast, peak_memory, pick_device, seed_everything, start_peak_memory


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


WATCHED = """
import numpy as np, torch
from wsplf_cli.networks.device import peak_memory, start_peak_memory
device = torch.device("cpu")
start_peak_memory(device)
before = peak_memory(device).host_bytes
large = np.ones(200_000_000, np.uint8)
high = peak_memory(device).host_bytes
assert high >= before + 150_000_000, (before, high)
assert peak_memory(device).gpu_bytes is None
del large
start_peak_memory(device)
assert peak_memory(device).host_bytes < high - 100_000_000
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells")
def test_the_peak_of_memory_is_that_since_the_last_start():
    # in a process of its own: the system takes memory from a large one, as this may be by now, at any time
    subprocess.run([sys.executable, "-c", WATCHED], check=True)


def test_where_the_system_does_not_tell_there_is_no_peak(monkeypatch, tmp_path):
    monkeypatch.setattr("wsplf_cli.networks.device._RESET", tmp_path / "nowhere" / "clear_refs")
    start_peak_memory(torch.device("cpu"))
    assert peak_memory(torch.device("cpu")).host_bytes is None
