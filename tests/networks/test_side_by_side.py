"""Networks that are trained at the same time."""

import threading
import time

import pytest
import torch
from torch import nn

from wsplf_cli.networks import side_by_side as module
from wsplf_cli.networks.side_by_side import networks_at_once, side_by_side
from wsplf_cli.schema import Silent

CPU = torch.device("cpu")


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def until_stopped(tracker):
    """Work that only its tracker ends."""
    ends = time.monotonic() + 30
    while time.monotonic() < ends:
        tracker.advance(1)
        time.sleep(0.001)
    return "never stopped"


def test_as_many_networks_are_trained_at_once_as_there_are_threads(two_threads):
    networks = [nn.Linear(1, 1) for _ in range(4)]
    assert networks_at_once(networks, device=CPU) == 2
    assert networks_at_once(networks[:1], device=CPU) == 1
    assert networks_at_once(networks, device=torch.device("cuda")) == 1


@pytest.mark.parametrize(("rate", "expected"), [(0.0, 2), (0.1, 1)])
def test_networks_with_dropout_are_trained_one_after_the_other(two_threads, rate, expected):
    assert networks_at_once([nn.Sequential(nn.Linear(1, 1), nn.Dropout(rate))] * 2, device=CPU) == expected


def test_results_come_in_order_from_work_at_the_same_time(two_threads, recorder):
    meeting = threading.Barrier(2, timeout=30)

    def work(number, tracker):
        meeting.wait()  # breaks where there is one at a time
        tracker.say(f"number {number}, {torch.get_num_threads()} thread")
        return number * 10

    assert side_by_side(work, range(4), at_once=2, tracker=recorder) == [0, 10, 20, 30]
    assert sorted(recorder.said) == [f"number {number}, 1 thread" for number in range(4)]
    assert torch.get_num_threads() == 2


def test_the_last_ones_wait_for_the_others_and_share_all_cores(two_threads):
    threads_of = {}

    def work(number, tracker):
        time.sleep(0.05 * (number == 8))
        threads_of[number] = torch.get_num_threads()
        return number

    assert side_by_side(work, [8, 7, 6, 5, 4], at_once=2, tracker=Silent()) == [8, 7, 6, 5, 4]
    assert list(threads_of)[-1] == 4
    assert threads_of == {8: 1, 7: 1, 6: 1, 5: 1, 4: 2}


def test_one_at_a_time_needs_no_thread():
    assert (
        side_by_side(lambda number, _: threading.current_thread(), range(2), at_once=1, tracker=Silent())
        == [threading.main_thread()] * 2
    )


def test_an_error_ends_the_others_and_is_raised(two_threads):
    def work(number, tracker):
        if number == 1:
            raise ValueError("broken")
        return until_stopped(tracker)

    began = time.monotonic()
    with pytest.raises(ValueError, match="broken"):
        side_by_side(work, range(3), at_once=2, tracker=Silent())
    assert time.monotonic() - began < 20
    assert torch.get_num_threads() == 2


def test_an_interruption_ends_all(two_threads, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "wait", interrupted)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        side_by_side(lambda number, tracker: until_stopped(tracker), range(3), at_once=2, tracker=Silent())
    assert time.monotonic() - began < 20
