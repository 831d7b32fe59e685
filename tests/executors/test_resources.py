"""How many workers and threads there is room for."""

import os

import pytest
import torch

from wsplf_cli.executors import resources


@pytest.fixture
def machine(monkeypatch):
    """A machine of given cores, free memory and GPUs."""

    def make(cores, free_gb, gpus):
        monkeypatch.setattr(resources, "cores", lambda: cores)
        monkeypatch.setattr(resources, "free_bytes", lambda: None if free_gb is None else int(free_gb * 1e9))
        monkeypatch.setattr(resources, "gpus", lambda: gpus)

    return make


@pytest.mark.parametrize(
    ("cores", "free_gb", "gpus", "workers"),
    [(8, 64, 0, 8), (8, 6.5, 0, 3), (8, 1, 0, 1), (8, None, 0, 8), (64, 500, 2, 8), (4, 500, 2, 4), (1, 500, 0, 1)],
)
def test_auto_is_bounded_by_cores_memory_and_gpus(machine, cores, free_gb, gpus, workers):
    machine(cores, free_gb, gpus)
    assert resources.automatic_workers() == workers


@pytest.mark.parametrize(("idle", "threads"), [((10.0, 10.0), 1), ((10.0, 10.21), 1), ((10.0, 10.78), 4), ((0, 99), 4)])
def test_idle_cores_are_those_that_had_nothing_to_do(monkeypatch, idle, threads):
    seconds = iter(idle)
    monkeypatch.setattr(resources, "_idle_seconds", lambda: next(seconds))
    monkeypatch.setattr(resources, "cores", lambda: 4)
    assert resources.idle_cores() == threads


def test_where_nobody_tells_what_is_idle_all_cores_are_taken(monkeypatch):
    monkeypatch.setattr(resources, "_idle_seconds", lambda: None)
    monkeypatch.setattr(resources, "cores", lambda: 4)
    assert resources.idle_cores() == 4


@pytest.fixture
def threads_as_before(monkeypatch):
    before = torch.get_num_threads()
    for name in resources._THREADS:
        monkeypatch.setenv(name, os.environ.get(name, "1"))
    yield
    torch.set_num_threads(before)
    resources.threadpool_limits(1)


@pytest.mark.usefixtures("threads_as_before")
def test_a_busy_machine_gets_one_thread_unless_the_user_says_how_many(monkeypatch):
    monkeypatch.setattr(resources, "cores", lambda: 4)
    monkeypatch.setattr(resources, "idle_cores", lambda: 3)
    monkeypatch.setattr(resources, "_CHOSEN", True)
    torch.set_num_threads(1)
    resources.take_idle_cores()
    assert torch.get_num_threads() == 1
    monkeypatch.setattr(resources, "_CHOSEN", False)
    resources.take_idle_cores()
    assert torch.get_num_threads() == 3
    assert os.environ["OMP_NUM_THREADS"] == "3"


def test_each_worker_sees_one_of_the_gpus_in_turn(monkeypatch):
    for number, seen in ((1, "3"), (2, "1"), (3, "3")):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,3")
        resources.use_one_gpu(number)
        assert os.environ["CUDA_VISIBLE_DEVICES"] == seen


def test_this_machine_has_cores_and_memory():
    assert resources.cores() >= 1
    free = resources.free_bytes()
    assert free is None or free > 10**7
